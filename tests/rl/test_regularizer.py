"""Penalties against hand arithmetic, and against divergences by enumeration over a vocabulary of five, in float64."""

import math
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from omegaconf import OmegaConf
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from rlhf.config import RegularizerConfig
from rlhf.errors import ConfigError
from rlhf.rl.regularizer import REGULARIZERS, Coefficient

CONF = Path(__file__).parents[2] / "conf" / "regularizer"

POLICY = torch.tensor([0.3, -1.2, 0.8, 0.0, -0.5], dtype=torch.float64)
REFERENCE = torch.tensor([-0.4, 0.6, 0.1, -0.9, 0.2], dtype=torch.float64)

LOG_2, LOG_4_3 = math.log(2), math.log(4 / 3)

# D = log p - log q. For p = 1/2, q = 1/4: D = log 2, exp(-D) = 1/2, p/m = (1/2)/(3/8) = 4/3.
# For p = 1/4, q = 1/2: D = -log 2, exp(-D) = 2, q/m = 4/3. For p = q = 1/5: D = 0.
BY_HAND = {
    "none": (0.0, 0.0, 0.0),
    "kl": (LOG_2, -LOG_2, 0.0),
    "clamped_kl": (LOG_2, 0.0, 0.0),
    "js": (LOG_4_3 / 2, LOG_4_3 / 2, 0.0),
    "bregman": (1 / 2 - 1 + LOG_2, 2 - 1 - LOG_2, 0.0),
    "squared_error": (LOG_2**2 / 2, LOG_2**2 / 2, 0.0),
    "negative_kl": (-LOG_2, LOG_2, 0.0),
}
# The limits for D = 80 and D = -80; exp(-80) counts for nothing beside 80.
FAR = {
    "none": (0.0, 0.0),
    "kl": (80.0, -80.0),
    "clamped_kl": (80.0, 0.0),
    "js": (LOG_2 / 2, LOG_2 / 2),
    "bregman": (79.0, math.exp(80)),
    "squared_error": (3200.0, 3200.0),
    "negative_kl": (-80.0, 80.0),
}


def penalty(name: str, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> Tensor:
    """The penalty of every token of the vocabulary."""
    return REGULARIZERS[name](policy.log_softmax(-1), reference.log_softmax(-1))


def expected(name: str, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> float:
    return (policy.softmax(-1) * penalty(name, policy, reference)).sum().item()


def kl(first: Tensor, second: Tensor) -> Tensor:
    return kl_divergence(Categorical(logits=first), Categorical(logits=second))


def js(first: Tensor, second: Tensor) -> Tensor:
    mixture = ((first.softmax(-1) + second.softmax(-1)) / 2).log()
    return (kl(first, mixture) + kl(second, mixture)) / 2


def policy_gradient(name: str) -> Tensor:
    """Of the expected penalty in the policy's logits, the penalty taken as a given reward: sum p(a) r(a) d log p(a)."""
    logits = POLICY.clone().requires_grad_()
    weights = (POLICY.softmax(-1) * penalty(name)).detach()
    (weights * logits.log_softmax(-1)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def gradient(divergence: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(divergence, logits)[0]


def divergence_gradient(name: str) -> Tensor:
    logits = POLICY.clone().requires_grad_()
    both = {"forward": kl(REFERENCE, logits), "reverse": kl(logits, REFERENCE), "js": js(logits, REFERENCE)}
    return gradient(both[name], logits)


@pytest.mark.parametrize("name", BY_HAND)
def test_penalty_by_hand(name: str) -> None:
    logprobs = torch.tensor([1 / 2, 1 / 4, 1 / 5], dtype=torch.float64).log()
    ref_logprobs = torch.tensor([1 / 4, 1 / 2, 1 / 5], dtype=torch.float64).log()
    wanted = torch.tensor(BY_HAND[name], dtype=torch.float64)
    torch.testing.assert_close(REGULARIZERS[name](logprobs, ref_logprobs), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("name", "sign"), [("kl", 1), ("bregman", 1), ("negative_kl", -1), ("none", 0)])
def test_expectation_is_that_multiple_of_kl(name: str, sign: int) -> None:
    assert expected(name) == pytest.approx(sign * kl(POLICY, REFERENCE).item(), abs=1e-14)


def test_clamped_expectation_exceeds_kl_by_the_mass_of_negative_log_ratios() -> None:
    probabilities, log_ratio = POLICY.softmax(-1), POLICY.log_softmax(-1) - REFERENCE.log_softmax(-1)
    excess = sum(p.item() * -d.item() for p, d in zip(probabilities, log_ratio, strict=True) if d < 0)
    assert excess > 0.1
    assert expected("clamped_kl") == pytest.approx(kl(POLICY, REFERENCE).item() + excess, abs=1e-14)


def test_squared_error_is_kl_to_second_order() -> None:
    # E[exp(-D)] = 1 makes E[D] = E[D^2]/2 - E[D^3]/6 + ..., so ten times nearer the gap shrinks a thousandfold.
    def gap(step: float) -> float:
        near = REFERENCE + step * (POLICY - REFERENCE)
        return abs(expected("squared_error", near) - kl(near, REFERENCE).item())

    assert gap(0.003) / gap(0.0003) == pytest.approx(1000, rel=0.1)


def test_js_expectation_is_not_the_divergence_but_larger_near_the_reference_and_smaller_far_from_it() -> None:
    assert expected("js") > 1.2 * js(POLICY, REFERENCE).item()
    assert expected("js", 20 * POLICY) < 0.8 * js(20 * POLICY, REFERENCE).item()


def test_js_is_half_the_clamped_log_ratios_to_the_mixture() -> None:
    p, q = POLICY.softmax(-1), REFERENCE.softmax(-1)
    m = (p + q) / 2
    wanted = ((p / m).log().relu() + (q / m).log().relu()) / 2
    torch.testing.assert_close(penalty("js"), wanted, rtol=1e-12, atol=1e-15)


def test_js_is_even_and_bounded() -> None:
    zero, log_ratio = torch.zeros(101, dtype=torch.float64), torch.linspace(-50, 50, 101, dtype=torch.float64)
    values = REGULARIZERS["js"](log_ratio, zero)
    torch.testing.assert_close(values, values.flip(0), rtol=1e-12, atol=0)
    assert values.min() == values[50] == 0
    assert values.max() <= LOG_2 / 2
    assert values.max() == pytest.approx(LOG_2 / 2, abs=1e-12)


@pytest.mark.parametrize("name", ["clamped_kl", "js", "bregman", "squared_error"])
def test_never_negative(name: str) -> None:
    assert penalty(name).min() >= 0


@pytest.mark.parametrize(("name", "sign"), [("kl", 1), ("negative_kl", -1)])
def test_policy_gradient_of_the_log_ratio_is_exactly_that_of_kl(name: str, sign: int) -> None:
    torch.testing.assert_close(policy_gradient(name), sign * divergence_gradient("reverse"), rtol=0, atol=1e-15)


def test_policy_gradient_of_bregman_is_that_of_the_difference_of_both_kls() -> None:
    wanted = divergence_gradient("reverse") - divergence_gradient("forward")
    torch.testing.assert_close(policy_gradient("bregman"), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "divergence", "largest"),
    [("clamped_kl", "reverse", 0.97), ("squared_error", "reverse", 0.5), ("js", "js", 0.5)],
)
def test_policy_gradient_is_biased(name: str, divergence: str, largest: float) -> None:
    cosine = torch.cosine_similarity(policy_gradient(name), divergence_gradient(divergence), dim=0)
    assert cosine < largest


def test_no_penalty_has_no_gradient() -> None:
    assert not policy_gradient("none").any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAR)
def test_far_log_ratios_stay_finite_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    logprobs, ref_logprobs = torch.tensor([0.0, -80.0], dtype=dtype), torch.tensor([-80.0, 0.0], dtype=dtype)
    values = REGULARIZERS[name](logprobs, ref_logprobs)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(values.double(), torch.tensor(FAR[name], dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_difference_is_taken_in_float32() -> None:
    logprobs, ref_logprobs = torch.tensor([-80.0]).bfloat16(), torch.tensor([-0.0625]).bfloat16()
    assert REGULARIZERS["kl"](logprobs, ref_logprobs).item() == -79.9375  # bfloat16 would round it to -80


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_any_one_shape_but_not_two(name: str, shape: tuple[int, ...]) -> None:
    assert REGULARIZERS[name](torch.zeros(shape), torch.ones(shape)).shape == shape
    with pytest.raises(TypeCheckError):
        REGULARIZERS[name](torch.zeros(shape), torch.ones((5, *shape)))


def test_config_and_files_name_the_same_regularizers() -> None:
    with pytest.raises(ConfigError, match="choose one of") as refused:
        regularizer_config(name="unheard_of")
    assert set(str(refused.value).split("choose one of ")[1].split(", ")) == REGULARIZERS.keys()
    assert {path.stem: OmegaConf.load(path)["name"] for path in CONF.glob("*.yaml")} == {
        name: name for name in REGULARIZERS
    }


def regularizer_config(name: str = "kl", controller: str = "constant") -> RegularizerConfig:
    return RegularizerConfig(name=name, coef=0.1, controller=controller, target_kl=0.05, horizon=2000)


def test_constant_coefficient_never_moves() -> None:
    coefficient = Coefficient(0.1, regularizer_config())
    for true_kl in (0.0, 0.05, 10.0):
        coefficient.update(true_kl, 256)
    assert coefficient.value == 0.1


@pytest.mark.parametrize(
    ("true_kl", "factor"),
    [
        (0.05, 1.0),  # on target
        (0.055, 1.0128),  # 10 % above: 1 + 0.1 x 256 / 2000
        (0.045, 0.9872),  # 10 % below
        (0.06, 1.0256),  # 20 % above: 1 + 0.2 x 0.128, the most there is
        (5.0, 1.0256),
        (0.0, 0.9744),  # 1 - 0.2 x 0.128
    ],
)
def test_adaptive_coefficient_by_hand(true_kl: float, factor: float) -> None:
    coefficient = Coefficient(0.1, regularizer_config(controller="adaptive"))
    coefficient.update(true_kl, 256)
    assert coefficient.value == pytest.approx(0.1 * factor, rel=1e-12)
    coefficient.update(true_kl, 256)
    assert coefficient.value == pytest.approx(0.1 * factor**2, rel=1e-12)
