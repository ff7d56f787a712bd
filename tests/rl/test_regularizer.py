"""Every form in every placement, by enumeration in float64, against divergences written anew.

A sampled form is judged by its expectation under the policy, and by the expected gradient in the policy's logits that
each placement gives: in one state with a vocabulary of five, and over all responses of a small policy. What
configuration allows, the coefficient and forms of the user's own are below.
"""

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from rlhf.config import rl
from rlhf.config.rl import FOLLOWED, FULL, OWN, REFUSED_IN_LOSS, SAMPLED, ZERO, RegularizerConfig, followed, left_out
from rlhf.errors import ConfigError
from rlhf.regularizers import FULL_FORMS, SAMPLED_FORMS, full_alpha, full_forward_kl, full_kl
from rlhf.rl.advantage import generalized_advantages, token_rewards
from rlhf.rl.loss import policy_loss
from rlhf.rl.regularizer import Coefficient, Regularizer, custom_form
from tests.configure import configure

CONF = Path(__file__).parents[2] / "conf" / "regularizer"
HERE = "tests.rl.test_regularizer"
LOG_2, LOG_4_3 = math.log(2), math.log(4 / 3)
PLACEMENTS = ("reward", "loss", "both")

POLICY = torch.tensor([0.3, -1.2, 0.8, 0.0, -0.5], dtype=torch.float64)
REFERENCE = torch.tensor([-0.4, 0.6, 0.1, -0.9, 0.2], dtype=torch.float64)
OLD = torch.tensor([0.9, -0.1, -0.7, 0.5, -1.0], dtype=torch.float64)
PAIRS = {"near": (POLICY, REFERENCE), "far": (4 * OLD, 3 * POLICY)}
"""Logits of policy and reference."""


def settings(**changed: Any) -> RegularizerConfig:
    base = {"name": "kl", "placement": "reward", "coef": 0.1, "strength": 1.0, "schedule": "constant", "end_coef": 0.0}
    base |= {"target_kl": 0.05, "horizon": 2000, "alpha": 0.5, "function": None}
    return RegularizerConfig(**(base | changed))


def refusal(key: str, **changed: Any) -> str:
    """What is said of the key that is refused."""
    with pytest.raises(ConfigError, match=rf"^regularizer\.{key}=") as refused:
        settings(**changed)
    return str(refused.value)


# ---- Divergences of policy and reference, from their logits; independent of the code under test. -------------------


def kl(first: Tensor, second: Tensor) -> Tensor:
    return kl_divergence(Categorical(logits=first), Categorical(logits=second))


def middle(first: Tensor, second: Tensor) -> Tensor:
    return ((first.softmax(-1) + second.softmax(-1)) / 2).log()


def js(first: Tensor, second: Tensor) -> Tensor:
    return (kl(first, middle(first, second)) + kl(second, middle(first, second))) / 2


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    return (first.softmax(-1) - second.softmax(-1)).abs().sum(-1) / 2


def one_sided_kl(first: Tensor, second: Tensor) -> Tensor:
    """The sum of p log(p/q) - p + q over the tokens that the policy has made likelier."""
    p, q = first.softmax(-1), second.softmax(-1)
    return torch.where(p > q, p * (p / q).log() - p + q, 0.0).sum(-1)


def clamped(first: Tensor, second: Tensor) -> Tensor:
    return (first.softmax(-1) * (first.softmax(-1) / second.softmax(-1)).log().relu()).sum(-1)


def half_square(first: Tensor, second: Tensor) -> Tensor:
    return (first.softmax(-1) * (first.log_softmax(-1) - second.log_softmax(-1)) ** 2).sum(-1) / 2


def published_js(first: Tensor, second: Tensor) -> Tensor:
    """1/2 [relu(log p - log m) + relu(log q - log m)] of the sampled token: arXiv 2309.09055."""
    p, q = first.softmax(-1), second.softmax(-1)
    m = (p + q) / 2
    return (p * ((p / m).log().relu() + (q / m).log().relu())).sum(-1) / 2


def published_js_loss(first: Tensor, second: Tensor) -> Tensor:
    """The form's derivative in D is sign(D) sigmoid(-|D|) / 2, that is min(p, q) / (p + q) / 2 with the sign of D."""
    p, q = first.softmax(-1), second.softmax(-1)
    return (p * (torch.sign(p - q) * torch.minimum(p, q) / (p + q) / 2).detach()).sum(-1)


def js_unbiased_loss(first: Tensor, second: Tensor) -> Tensor:
    """The form's derivative in D is -u (log 2 - s(D)) / 2, the rest cancelling: -q/p log(q/m) / 2."""
    p, q = first.softmax(-1), second.softmax(-1)
    return -(p * (q / p * (2 * q / (p + q)).log() / 2).detach()).sum(-1)


Divergence = Callable[[Tensor, Tensor], Tensor]


class Facts(NamedTuple):
    """What a form's expectation is, and of what its expected gradient in the reward and in the loss is the gradient."""

    expectation: Divergence
    reward: Divergence
    loss: Divergence


def nothing(p: Tensor, q: Tensor) -> Tensor:
    return 0 * kl(p, q)


# The product rule ties the columns: the gradient of the expectation is that of the reward plus that of the loss.
FACTS = {
    "none": Facts(nothing, nothing, nothing),
    "dropout_only": Facts(nothing, nothing, nothing),
    "kl": Facts(kl, kl, nothing),
    "clamped_kl": Facts(clamped, one_sided_kl, total_variation),
    "squared_error": Facts(half_square, lambda p, q: half_square(p, q) - kl(p, q), kl),
    "bregman": Facts(kl, lambda p, q: kl(p, q) - kl(q, p), lambda p, q: kl(q, p)),
    "js": Facts(published_js, lambda p, q: published_js(p, q) - published_js_loss(p, q), published_js_loss),
    "js_unbiased": Facts(js, lambda p, q: js(p, q) - js_unbiased_loss(p, q), js_unbiased_loss),
    "js_exact": Facts(lambda p, q: kl(p, middle(p, q)) / 2, js, lambda p, q: -kl(q, middle(p, q)) / 2),
    "forward_kl": Facts(nothing, lambda p, q: kl(q, p), lambda p, q: -kl(q, p)),
    "negative_kl": Facts(lambda p, q: -kl(p, q), lambda p, q: -kl(p, q), nothing),
}


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    """Zero where the value is constant."""
    return torch.autograd.grad(value + 0 * logits.sum(), logits)[0]


def divergence_gradient(divergence: Divergence, policy: Tensor, reference: Tensor) -> Tensor:
    logits = policy.clone().requires_grad_()
    return gradient(divergence(logits, reference), logits)


def penalty(name: str, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> Tensor:
    """That of every token of the vocabulary."""
    return SAMPLED_FORMS[name](policy.log_softmax(-1), reference.log_softmax(-1))


def expectation(name: str, policy: Tensor, reference: Tensor) -> Tensor:
    return (policy.softmax(-1) * penalty(name, policy, reference)).sum()


def reward_gradient(name: str, policy: Tensor, reference: Tensor) -> Tensor:
    """The policy gradient of a given penalty: sum p(a) penalty(a) grad log p(a)."""
    logits = policy.clone().requires_grad_()
    weights = policy.softmax(-1) * penalty(name, policy, reference)
    return gradient((weights * logits.log_softmax(-1)).sum(), logits)


def loss_and_gradient(name: str, policy: Tensor, reference: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """The expected loss over tokens of the old policy, and its gradient; for forms too that configuration refuses."""
    logits = policy.clone().requires_grad_()
    regularizer = Regularizer(SAMPLED_FORMS[name], None, in_reward=False, in_loss=True)
    logprobs = [distribution.log_softmax(-1) for distribution in (logits, old, reference)]
    loss = (old.softmax(-1) * regularizer.loss(*logprobs, torch.full_like(policy, math.nan))).sum()
    return loss.detach(), gradient(loss, logits)


def placed(name: str, placement: str) -> Regularizer:
    """Also where configuration refuses it."""
    return Regularizer(SAMPLED_FORMS[name], None, in_reward=placement != "loss", in_loss=placement != "reward")


def trained_token(name: str, placement: str, policy: Tensor, reference: Tensor, old: Tensor) -> Tensor:
    """The expected gradient as PPO makes it of responses of one token, all of an older policy's, unclipped."""
    logits, regularizer = policy.clone().requires_grad_(), placed(name, placement)
    logprobs, old_logprobs, ref_logprobs = (each.log_softmax(-1)[:, None] for each in (logits, old, reference))
    penalties, mask = penalty(name, old, reference)[:, None], torch.ones(5, 1, dtype=torch.bool)
    rewards = token_rewards(torch.zeros(5).double(), penalties, mask, 1.0 if regularizer.in_reward else 0.0)
    advantages = generalized_advantages(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)[0]
    loss = policy_loss(logprobs, old_logprobs, advantages, mask, clip=1e9).loss
    loss = loss + regularizer.loss(logprobs, old_logprobs, ref_logprobs, torch.full_like(penalties, math.nan))
    return gradient((old.softmax(-1)[:, None] * loss).sum(), logits)


def equal(actual: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(actual, wanted, rtol=1e-11, atol=1e-13)


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-13)


# ---- Sampled forms. ------------------------------------------------------------------------------------------------

# For p = 1/2, q = 1/4: D = log 2, u = 1/2, p/m = 4/3, q/m = 2/3. For p = 1/4, q = 1/2: D = -log 2, u = 2, p/m = 2/3,
# q/m = 4/3. For p = q = 1/5: D = 0, u = 1. And log(2/3) = log(4/3) - log 2.
BY_HAND = {
    "none": (0.0, 0.0, 0.0),
    "dropout_only": (0.0, 0.0, 0.0),
    "kl": (LOG_2, -LOG_2, 0.0),
    "clamped_kl": (LOG_2, 0.0, 0.0),
    "squared_error": (LOG_2**2 / 2, LOG_2**2 / 2, 0.0),
    "bregman": (1 / 2 - 1 + LOG_2, 2 - 1 - LOG_2, 0.0),
    "js": (LOG_4_3 / 2, LOG_4_3 / 2, 0.0),
    "js_unbiased": (LOG_4_3 / 2 + (LOG_4_3 - LOG_2) / 4, (LOG_4_3 - LOG_2) / 2 + LOG_4_3, 0.0),
    "js_exact": (LOG_4_3 / 2, (LOG_4_3 - LOG_2) / 2, 0.0),
    "forward_kl": (1 / 2, -1.0, 0.0),
    "negative_kl": (-LOG_2, LOG_2, 0.0),
}


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_penalty_by_hand(name: str) -> None:
    logprobs = torch.tensor([1 / 2, 1 / 4, 1 / 5], dtype=torch.float64).log()
    ref_logprobs = torch.tensor([1 / 4, 1 / 2, 1 / 5], dtype=torch.float64).log()
    wanted = torch.tensor(BY_HAND[name], dtype=torch.float64)
    torch.testing.assert_close(SAMPLED_FORMS[name](logprobs, ref_logprobs), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_a_sampled_form_s_expectation_and_its_gradient_by_placement(name: str, pair: str) -> None:
    policy, reference = PAIRS[pair]
    expected, *halves = FACTS[name]
    by_reward, by_loss = (divergence_gradient(half, policy, reference) for half in halves)
    close(expectation(name, policy, reference), expected(policy, reference))
    for old in (policy, OLD):  # the policy's own tokens, or an older policy's
        loss, found = loss_and_gradient(name, policy, reference, old)
        close(loss, expected(policy, reference))
        close(found, by_loss)
    close(reward_gradient(name, policy, reference), by_reward)
    close(trained_token(name, "reward", policy, reference, old=policy), by_reward)
    close(trained_token(name, "loss", policy, reference, old=policy), by_loss)
    both = trained_token(name, "both", policy, reference, old=policy)
    close(both, divergence_gradient(expected, policy, reference))
    close(both, by_reward + by_loss)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_later_passes_keep_the_rollout_s_penalties_in_the_reward_and_renew_them_in_the_loss(
    name: str, pair: str
) -> None:
    policy, reference = PAIRS[pair]
    logits, penalties = policy.clone().requires_grad_(), penalty(name, OLD, reference)
    wanted = gradient((logits.softmax(-1) * penalties).sum(), logits)
    close(trained_token(name, "reward", policy, reference, old=OLD), wanted)
    wanted = wanted + divergence_gradient(FACTS[name].loss, policy, reference)
    close(trained_token(name, "both", policy, reference, old=OLD), wanted)


QUANTITIES = {
    rl.KL: kl,
    rl.FORWARD_KL: lambda p, q: kl(q, p),
    rl.JS: js,
    rl.NEGATIVE_KL: lambda p, q: -kl(p, q),
    rl.MIXTURE_KL: lambda p, q: kl(p, middle(p, q)) / 2,
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_followed_names_what_the_gradient_is_of_or_that_it_is_of_nothing_named(
    name: str, placement: str, pair: str
) -> None:
    found = trained_token(name, placement, *PAIRS[pair], old=PAIRS[pair][0])
    named = QUANTITIES | {OWN: FACTS[name].expectation, ZERO: nothing}
    right = {phrase for phrase, of in named.items() if equal(found, divergence_gradient(of, *PAIRS[pair]))}
    phrase = followed(name, placement)
    if phrase is None:
        assert right <= {ZERO}  # noise alone, or biased
    elif phrase == ZERO:
        assert right == {ZERO, OWN}
    else:
        assert phrase in right
        assert phrase != OWN or right == {OWN}  # a name where there is one


@pytest.mark.parametrize("name", FULL)
def test_followed_names_the_divergence_of_a_full_form(name: str) -> None:
    named = QUANTITIES | {rl.ALPHA: amari(0.5)}
    found = full(name, POLICY, REFERENCE)
    assert [phrase for phrase, of in named.items() if equal(found, of(POLICY, REFERENCE))] == [followed(name, "loss")]
    assert (followed(name, "reward"), followed(name, "both")) == (None, followed(name, "loss"))


@pytest.mark.parametrize(
    ("name", "placement", "share"),
    [
        *[("kl", "reward", 1), ("kl", "loss", 0), ("kl", "both", 1), ("forward_kl", "reward", 1)],
        *[("squared_error", "reward", 0), ("squared_error", "loss", 1), ("squared_error", "both", 1)],
        *[("bregman", "reward", 0), ("bregman", "loss", 1), ("bregman", "both", 1)],
        *[("js_unbiased", "reward", 0), ("js_unbiased", "loss", 1 / 4), ("js_unbiased", "both", 1 / 4)],
        *[("js_exact", "reward", 1 / 4), ("js_exact", "both", 1 / 8)],  # of JS and of half of it
        *[("js", "reward", 0)],
    ],
)
def test_near_the_reference_what_is_even_in_the_log_ratio_has_no_pull_as_a_reward(
    name: str, placement: str, share: float
) -> None:
    # What pulls back turns round with the displacement: half the difference of the gradients on both sides.
    def pull(name: str, placement: str) -> Tensor:
        sides = [REFERENCE + step * (POLICY - REFERENCE) for step in (1e-3, -1e-3)]
        ahead, behind = (trained_token(name, placement, side, REFERENCE, old=side) for side in sides)
        return (ahead - behind) / 2

    whole = pull("kl", "reward")
    assert (pull(name, placement) @ whole / (whole @ whole)).item() == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(
    ("placement", "name", "divergence", "largest"),
    [
        *[("reward", "clamped_kl", kl, 0.97), ("reward", "squared_error", kl, 0.0), ("reward", "js", js, 0.0)],
        *[("reward", "js_unbiased", js, 0.0), ("loss", "clamped_kl", kl, 0.97), ("loss", "js", js, 0.97)],
        ("loss", "js_unbiased", js, 0.97),
    ],
)
def test_biased_gradients_point_elsewhere(placement: str, name: str, divergence: Divergence, largest: float) -> None:
    found = trained_token(name, placement, POLICY, REFERENCE, old=POLICY)
    wanted = divergence_gradient(divergence, POLICY, REFERENCE)
    assert torch.cosine_similarity(found, wanted, dim=0) < largest


def test_clamped_expectation_exceeds_kl_by_the_mass_of_negative_log_ratios() -> None:
    probabilities, log_ratio = POLICY.softmax(-1), POLICY.log_softmax(-1) - REFERENCE.log_softmax(-1)
    excess = sum(p.item() * -d.item() for p, d in zip(probabilities, log_ratio, strict=True) if d < 0)
    assert excess > 0.1
    assert expectation("clamped_kl", POLICY, REFERENCE).item() == pytest.approx(kl(POLICY, REFERENCE).item() + excess)


def test_squared_error_is_kl_to_second_order() -> None:
    # E[u] = 1 makes E[D] = E[D^2]/2 - E[D^3]/6 + ..., so ten times nearer the gap shrinks a thousandfold.
    def gap(step: float) -> float:
        near = REFERENCE + step * (POLICY - REFERENCE)
        return abs(expectation("squared_error", near, REFERENCE) - kl(near, REFERENCE)).item()

    assert gap(0.003) / gap(0.0003) == pytest.approx(1000, rel=0.1)


def test_js_expectation_is_not_the_divergence_but_larger_near_the_reference_and_smaller_far_from_it() -> None:
    assert expectation("js", POLICY, REFERENCE) > 1.2 * js(POLICY, REFERENCE)
    assert expectation("js", 20 * POLICY, REFERENCE) < 0.8 * js(20 * POLICY, REFERENCE)


def test_js_is_even_and_bounded() -> None:
    zero, log_ratio = torch.zeros(101, dtype=torch.float64), torch.linspace(-50, 50, 101, dtype=torch.float64)
    values = SAMPLED_FORMS["js"](log_ratio, zero)
    torch.testing.assert_close(values, values.flip(0), rtol=1e-12, atol=0)
    assert values.min() == values[50] == 0
    assert values.max() <= LOG_2 / 2
    assert values.max() == pytest.approx(LOG_2 / 2, abs=1e-12)


@pytest.mark.parametrize("name", ["clamped_kl", "squared_error", "bregman", "js"])
def test_never_negative(name: str) -> None:
    assert penalty(name).min() >= 0


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_any_one_shape_but_not_two(name: str, shape: tuple[int, ...]) -> None:
    assert SAMPLED_FORMS[name](torch.zeros(shape), torch.ones(shape)).shape == shape
    with pytest.raises(TypeCheckError):
        SAMPLED_FORMS[name](torch.zeros(shape), torch.ones((5, *shape)))


# ---- Over the full vocabulary. -------------------------------------------------------------------------------------


def amari(alpha: float) -> Divergence:
    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return (1 - (p.softmax(-1) ** alpha * q.softmax(-1) ** (1 - alpha)).sum(-1)) / (alpha * (1 - alpha))

    return divergence


def created(name: str, placement: str = "loss", **changed: Any) -> Regularizer:
    return Regularizer.create(settings(name=name, placement=placement, **changed))


def full(name: str, policy: Tensor, reference: Tensor, alpha: float = 0.5) -> Tensor:
    """From logits, by the regularizer that is configured."""
    form = created(name, alpha=alpha).full
    assert form is not None
    return form(policy.log_softmax(-1), reference.log_softmax(-1))


FULL_CASES = [
    pytest.param("full_kl", 0.5, kl, id="full_kl"),
    pytest.param("full_forward_kl", 0.5, lambda p, q: kl(q, p), id="full_forward_kl"),
    pytest.param("full_js", 0.5, js, id="full_js"),
    pytest.param("full_alpha", 1.0, kl, id="full_alpha-1"),
    pytest.param("full_alpha", 0.0, lambda p, q: kl(q, p), id="full_alpha-0"),
    *(
        pytest.param("full_alpha", alpha, amari(alpha), id=f"full_alpha-{alpha}")
        for alpha in (0.01, 0.3, 0.5, 1.5, 2.0)
    ),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("name", "alpha", "divergence"), FULL_CASES)
def test_full_form_and_its_gradient(name: str, alpha: float, divergence: Divergence, pair: str) -> None:
    policy, reference = PAIRS[pair]
    logits = policy.clone().requires_grad_()
    found = full(name, logits, reference, alpha)
    torch.testing.assert_close(found, divergence(logits, reference), rtol=1e-10, atol=0)
    wanted = divergence_gradient(divergence, policy, reference)
    torch.testing.assert_close(gradient(found, logits), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "alpha", "_"), FULL_CASES)
def test_full_form_is_zero_where_the_distributions_agree_and_positive_elsewhere(
    name: str, alpha: float, _: Divergence
) -> None:
    assert abs(full(name, POLICY, POLICY + 3, alpha).item()) < 1e-13
    assert min(full(name, POLICY, POLICY + 0.01 * row, alpha).item() for row in torch.eye(5)) > 1e-7


def test_full_forms_give_one_value_a_state() -> None:
    policy, reference = torch.stack([POLICY, OLD, REFERENCE]), torch.stack([REFERENCE, POLICY, OLD])
    for name in FULL_FORMS:
        together = full(name, policy[None], reference[None])
        assert together.shape == (1, 3)
        close(together[0], torch.stack([full(name, *row) for row in zip(policy, reference, strict=True)]))


@pytest.mark.parametrize(("end", "inwards", "limit"), [(1, -1, full_kl), (0, 1, full_forward_kl)])
def test_alpha_divergence_comes_near_both_kls(end: int, inwards: int, limit: Callable[..., Tensor]) -> None:
    policy, reference = POLICY.log_softmax(-1), REFERENCE.log_softmax(-1)
    wanted = limit(policy, reference).item()
    near, nearer = (full_alpha(policy, reference, end + inwards * step).item() - wanted for step in (0.01, 0.001))
    assert 1e-5 < abs(near) < 0.01 * wanted
    assert near / nearer == pytest.approx(10, rel=0.02)  # the gap is proportional to the distance from the limit
    assert full_alpha(policy, reference, float(end)).item() == wanted


def test_alpha_divergence_at_one_half_is_four_times_the_squared_hellinger_distance() -> None:
    # H^2 = sum (sqrt p - sqrt q)^2 / 2 = 1 - sum sqrt(pq). For p = (1/2, 1/2), q = (9/10, 1/10): sum sqrt(pq) =
    # (3 + 1) / sqrt 20 = 2 / sqrt 5, so that 4 H^2 = 4 - 8 / sqrt 5.
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    assert full_alpha(p, q, 0.5).item() == pytest.approx(4 - 8 / math.sqrt(5), rel=1e-13)
    assert full_alpha(q, p, 0.5).item() == pytest.approx(4 - 8 / math.sqrt(5), rel=1e-13)
    distance = (POLICY.softmax(-1).sqrt() - REFERENCE.softmax(-1).sqrt()).square().sum() / 2
    close(full("full_alpha", POLICY, REFERENCE), 4 * distance)


def test_full_js_is_symmetric_and_at_most_log_2() -> None:
    close(full("full_js", POLICY, REFERENCE), full("full_js", REFERENCE, POLICY))
    far = torch.tensor([30.0, -30.0], dtype=torch.float64)
    assert LOG_2 - 1e-12 < full("full_js", far, -far).item() <= LOG_2


# ---- Whole responses: up to three tokens of a vocabulary of three, one of them EOS; each state has its own logits. ---

EOS, LONGEST = 2, 3
PREFIXES = [prefix for length in range(LONGEST) for prefix in product(range(EOS), repeat=length)]
TEXTS = [(*prefix, EOS) for prefix in PREFIXES] + list(product(range(EOS), repeat=LONGEST))
MASK = torch.tensor([[t < len(text) for t in range(LONGEST)] for text in TEXTS])
RESPONSES = torch.tensor([[*text, 0, 0][:LONGEST] for text in TEXTS])
STATES = torch.tensor([[PREFIXES.index(text[:t]) if t < len(text) else 0 for t in range(LONGEST)] for text in TEXTS])
PROCESS, REF_PROCESS = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
"""Logits of the next token, one row a state."""
SCORES = torch.randn(15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def token_logprobs(process: Tensor) -> Tensor:
    return process.log_softmax(-1)[STATES].gather(-1, RESPONSES[..., None]).squeeze(-1) * MASK


def response_probabilities(process: Tensor) -> Tensor:
    return token_logprobs(process).sum(1).exp()


def test_these_are_all_responses() -> None:
    assert len(set(TEXTS)) == len(TEXTS) == 15
    assert response_probabilities(PROCESS).sum().item() == pytest.approx(1, abs=1e-14)


def along_responses(divergence: Divergence) -> Divergence:
    """The expected sum of a divergence over the states that the policy comes to."""

    def expected(policy: Tensor, reference: Tensor) -> Tensor:
        by_state = divergence(policy, reference)
        return (response_probabilities(policy) * (by_state[STATES] * MASK).sum(1)).sum()

    return expected


def state_by_state(divergence: Divergence) -> Divergence:
    """The same, the states taken as given."""

    def expected(policy: Tensor, reference: Tensor) -> Tensor:
        sums = (divergence(policy, reference)[STATES] * MASK).sum(1)
        return (response_probabilities(policy).detach() * sums).sum()

    return expected


def response_kl(policy: Tensor, reference: Tensor) -> Tensor:
    p, q = response_probabilities(policy), response_probabilities(reference)
    return (p * (p / q).log()).sum()


def penalty_of_responses(name: str) -> Divergence:
    """The expected sum of a sampled form's penalties over a response."""

    def expected(policy: Tensor, reference: Tensor) -> Tensor:
        penalties = SAMPLED_FORMS[name](token_logprobs(policy), token_logprobs(reference)) * MASK
        return (response_probabilities(policy) * penalties.sum(1)).sum()

    return expected


def trained_gradient(
    regularizer: Regularizer,
    whole_response: bool = False,
    process: Tensor = PROCESS,
    scores: Tensor = 0 * SCORES,
    coef: float = 1.0,
) -> Tensor:
    """The expected gradient of policy loss and penalty, as PPO makes them of all responses, without a value.

    Each token's advantage is what follows it, or with `whole_response` the sum over the response.
    """
    process = process.clone().requires_grad_()
    logprobs, ref_logprobs = token_logprobs(process), token_logprobs(REF_PROCESS)
    divergence = torch.zeros_like(logprobs)
    if regularizer.full is not None:
        divergence = regularizer.full(process.log_softmax(-1)[STATES], REF_PROCESS.log_softmax(-1)[STATES]) * MASK
    penalties = divergence if regularizer.sampled is None else regularizer.sampled(logprobs, ref_logprobs)
    rewards = token_rewards(scores, penalties.detach(), MASK, coef if regularizer.in_reward else 0.0)
    advantages = generalized_advantages(rewards, torch.zeros_like(rewards), MASK, gamma=1.0, lam=1.0)[0]
    if whole_response:
        advantages = rewards.sum(1, keepdim=True).expand(15, LONGEST) * MASK
    loss = policy_loss(logprobs, logprobs.detach(), advantages, MASK, clip=0.2).loss
    loss = loss + coef * regularizer.loss(logprobs, logprobs.detach(), ref_logprobs, divergence)
    return gradient((logprobs.sum(1).exp().detach()[:, None] * loss * MASK).sum(), process)


def process_gradient(divergence: Divergence) -> Tensor:
    return divergence_gradient(divergence, PROCESS, REF_PROCESS)


@pytest.mark.parametrize("whole_response", [False, True])
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_both_is_the_whole_gradient_of_a_sampled_form_s_expectation(name: str, whole_response: bool) -> None:
    found = trained_gradient(placed(name, "both"), whole_response)
    close(found, process_gradient(penalty_of_responses(name)))
    close(found, process_gradient(along_responses(FACTS[name].expectation)))


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_each_half_leaves_out_the_other(name: str) -> None:
    expectation, reward, loss = FACTS[name]
    in_each_state, in_the_loss = process_gradient(state_by_state(reward)), process_gradient(state_by_state(loss))
    whole, of_states = process_gradient(along_responses(expectation)), process_gradient(state_by_state(expectation))
    found = trained_gradient(placed(name, "reward"))
    close(found, in_each_state + whole - of_states)  # what its expectation is in the states that follow
    close(found, whole - in_the_loss)
    close(trained_gradient(placed(name, "loss")), in_the_loss)


WHOLE = {"none": PLACEMENTS, "dropout_only": PLACEMENTS, "kl": ("reward", "both"), "negative_kl": ("reward", "both")}
"""The placements that leave nothing out; of every other form only both."""


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_left_out_says_nothing_where_the_gradient_is_whole(name: str, placement: str) -> None:
    whole = placement in WHOLE.get(name, ("both",))
    wanted = process_gradient(along_responses(FACTS[name].expectation))
    assert equal(trained_gradient(placed(name, placement)), wanted) == whole
    assert (left_out(name, placement) is None) == whole


@pytest.mark.parametrize("name", FULL)
def test_full_forms_leave_something_out_but_in_both(name: str) -> None:
    wanted = process_gradient(along_responses(lambda p, q: full(name, p, q)))
    for placement in PLACEMENTS:
        form = created(name).full
        regularizer = Regularizer(None, form, in_reward=placement != "loss", in_loss=placement != "reward")
        assert equal(trained_gradient(regularizer), wanted) == (placement == "both")
        assert (left_out(name, placement) is None) == (placement == "both")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("clamped_kl", "the gradient of the penalty itself"),
        ("js", "the gradient of the penalty itself"),
        ("squared_error", "the gradient of KL(policy, reference)"),
        ("bregman", "the gradient of KL(reference, policy)"),
    ],
)
def test_a_reward_leaves_out_what_the_loss_follows(name: str, wanted: str) -> None:
    assert left_out(name, "reward") == wanted
    assert left_out(name, "loss") == "how the policy's choices change what is sampled"


def after_ascent(name: str, placement: str, coef: float) -> tuple[float, float]:
    """The responses' KL, and score - coef x penalties against the reference's, of a policy that started there."""
    process, regularizer = REF_PROCESS.clone(), placed(name, placement)
    for _ in range(400):
        process -= 0.5 / coef * trained_gradient(regularizer, process=process, scores=SCORES, coef=coef)
    gained = (response_probabilities(process) - response_probabilities(REF_PROCESS)) @ SCORES
    penalties = penalty_of_responses(name)(process, REF_PROCESS)
    return response_kl(process, REF_PROCESS).item(), (gained - coef * penalties).item()


@pytest.mark.parametrize(
    ("name", "placement"),
    [("kl", "reward"), ("squared_error", "both"), ("bregman", "both"), ("js_unbiased", "both"), ("js_exact", "reward")],
)
def test_a_heavy_penalty_that_is_followed_holds_the_policy_and_the_objective_rises(name: str, placement: str) -> None:
    divergence, objective = after_ascent(name, placement, coef=30.0)
    assert divergence < 0.05
    assert objective > 0.001


@pytest.mark.parametrize(("name", "holds"), [("squared_error", False), ("js", False), ("clamped_kl", True)])
def test_a_heavy_penalty_in_the_reward_that_is_not_followed_costs_more_than_it_gains(name: str, holds: bool) -> None:
    divergence, objective = after_ascent(name, "reward", coef=30.0)
    assert divergence < 0.05 if holds else divergence > 0.5
    assert objective < -0.5


def test_both_is_the_gradient_of_the_responses_kl_and_the_loss_alone_is_not() -> None:
    wanted = process_gradient(response_kl)
    close(process_gradient(along_responses(kl)), wanted)  # the chain rule
    close(trained_gradient(created("full_kl", "both")), wanted)
    alone = trained_gradient(created("full_kl", "loss"))
    close(alone, process_gradient(state_by_state(kl)))
    close(alone[3:], wanted[3:])  # the last token's choice leads nowhere
    assert (alone[0] - wanted[0]).abs().max() > 0.05


@pytest.mark.parametrize(("name", "alpha", "divergence"), FULL_CASES)
def test_both_counts_the_states_that_follow(name: str, alpha: float, divergence: Divergence) -> None:
    close(trained_gradient(created(name, "both", alpha=alpha)), process_gradient(along_responses(divergence)))
    close(trained_gradient(created(name, "loss", alpha=alpha)), process_gradient(state_by_state(divergence)))


@pytest.mark.parametrize("whole_response", [False, True])
def test_sampled_kl_as_a_reward_is_the_gradient_of_the_responses_kl(whole_response: bool) -> None:
    close(trained_gradient(created("kl", "reward"), whole_response), process_gradient(response_kl))


@pytest.mark.parametrize(
    ("sampled", "placement", "full_form"),
    # forward_kl's expectation in the states that follow is 0: it counts each state alone
    [("squared_error", "loss", "full_kl"), ("forward_kl", "reward", "full_forward_kl")],
)
def test_a_sampled_form_may_be_a_full_form_in_the_loss(sampled: str, placement: str, full_form: str) -> None:
    close(trained_gradient(created(sampled, placement)), trained_gradient(created(full_form, "loss")))


def test_js_exact_as_a_reward_follows_js_in_each_state_and_half_of_it_in_those_that_follow() -> None:
    def half(p: Tensor, q: Tensor) -> Tensor:
        return kl(p, middle(p, q)) / 2

    def followed(p: Tensor, q: Tensor) -> Tensor:
        return state_by_state(js)(p, q) + along_responses(half)(p, q) - state_by_state(half)(p, q)

    close(trained_gradient(created("js_exact", "reward")), process_gradient(followed))


# ---- Far from the reference. ---------------------------------------------------------------------------------------

FAR_U = math.exp(80)
# At D = 80 and D = -80: the value, and the derivative in log p. exp(-80) counts for nothing.
FAR = {
    "none": ((0.0, 0.0), (0.0, 0.0)),
    "dropout_only": ((0.0, 0.0), (0.0, 0.0)),
    "kl": ((80.0, -80.0), (1.0, 1.0)),
    "clamped_kl": ((80.0, 0.0), (1.0, 0.0)),
    "squared_error": ((3200.0, 3200.0), (80.0, -80.0)),
    "bregman": ((79.0, FAR_U), (1.0, -FAR_U)),
    "js": ((LOG_2 / 2, LOG_2 / 2), (0.0, 0.0)),
    "js_unbiased": ((LOG_2 / 2, FAR_U * LOG_2 / 2), (0.0, -FAR_U * LOG_2 / 2)),
    "js_exact": ((LOG_2 / 2, (LOG_2 - 80) / 2), (0.0, 1 / 2)),
    "forward_kl": ((1.0, -FAR_U), (0.0, FAR_U)),
    "negative_kl": ((-80.0, 80.0), (-1.0, -1.0)),
}
LOWEST = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative tolerances of gradients, which have the precision of what they are of."""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_far_log_ratios_stay_finite_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    logprobs, ref_logprobs = torch.tensor([0.0, -80.0], dtype=dtype), torch.tensor([-80.0, 0.0], dtype=dtype)
    values = SAMPLED_FORMS[name](logprobs, ref_logprobs)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(values.double(), torch.tensor(FAR[name][0], dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", LOWEST)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_far_log_ratios_in_the_loss_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    logprobs = torch.tensor([0.0, -80.0], dtype=dtype, requires_grad=True)
    ref_logprobs = torch.tensor([-80.0, 0.0], dtype=dtype)
    regularizer = Regularizer(SAMPLED_FORMS[name], None, in_reward=False, in_loss=True)
    loss = regularizer.loss(logprobs, logprobs.detach(), ref_logprobs, torch.zeros(2, dtype=dtype))
    torch.testing.assert_close(loss.detach().double(), torch.tensor(FAR[name][0]).double(), rtol=1e-5, atol=0)
    wanted = torch.tensor(FAR[name][1]).double()
    torch.testing.assert_close(gradient(loss.sum(), logprobs).double(), wanted, rtol=LOWEST[dtype], atol=1e-6)


# Of the derivative in D: of D^2 / 2 it is D, of u - 1 + D it is 1 - u, of log(p/m) / 2 it is q / (p + q) / 2, of 1 - u
# it is u. What has a corner there may have any slope between its sides'.
SLOPE_AT_0 = {"none": 0.0, "dropout_only": 0.0, "kl": 1.0, "squared_error": 0.0, "bregman": 0.0, "js_unbiased": 0.0}
SLOPE_AT_0 |= {"js_exact": 1 / 4, "forward_kl": 1.0, "negative_kl": -1.0}
CORNER_AT_0 = {"clamped_kl": (0, 1), "js": (-1 / 4, 1 / 4)}


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_the_first_update_starts_at_the_reference_with_a_finite_gradient(name: str) -> None:
    logprobs = torch.tensor([-0.5, -20.0], requires_grad=True)
    regularizer = Regularizer(SAMPLED_FORMS[name], None, in_reward=False, in_loss=True)
    loss = regularizer.loss(logprobs, *[logprobs.detach()] * 3)
    assert loss.tolist() == [0, 0]
    lowest, highest = CORNER_AT_0.get(name) or (SLOPE_AT_0[name], SLOPE_AT_0[name])
    for slope in gradient(loss.sum(), logprobs).tolist():
        assert lowest - 1e-6 <= slope <= highest + 1e-6


@pytest.mark.parametrize("dtype", LOWEST)
@pytest.mark.parametrize(
    ("name", "alpha", "wanted"),
    [
        ("full_kl", 0.5, 80.0),
        ("full_forward_kl", 0.5, 80.0),
        ("full_js", 0.5, LOG_2),
        ("full_alpha", 0.0, 80.0),
        ("full_alpha", 0.5, 4.0),  # sum sqrt(pq) = 3 exp(-40)
        ("full_alpha", 1.0, 80.0),
        ("full_alpha", 2.0, FAR_U / 2),  # (sum p^2 / q - 1) / 2
    ],
)
def test_full_forms_far_apart_have_finite_gradients(name: str, alpha: float, wanted: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([0.0, -80.0, -40.0], dtype=dtype, requires_grad=True)
    loss = full(name, logits, torch.tensor([-80.0, 0.0, -40.0], dtype=dtype), alpha)
    assert loss.item() == pytest.approx(wanted, rel=LOWEST[dtype])
    assert gradient(loss, logits).isfinite().all()


def test_the_difference_is_taken_in_float32() -> None:
    logprobs, ref_logprobs = torch.tensor([-80.0]).bfloat16(), torch.tensor([-0.0625]).bfloat16()
    assert SAMPLED_FORMS["kl"](logprobs, ref_logprobs).item() == -79.9375  # bfloat16 would round it to -80


# ---- By name and placement. ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["loss", "both"])
@pytest.mark.parametrize("name", FULL)
def test_created_full_form(name: str, placement: str) -> None:
    regularizer = created(name, placement)
    assert regularizer.sampled is None
    assert (regularizer.in_reward, regularizer.in_loss) == (placement == "both", True)
    divergence, junk = torch.tensor([0.3, 0.7]), torch.full((2,), math.nan)
    assert torch.equal(regularizer.loss(junk, junk, junk, divergence), divergence)


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_created_sampled_form(name: str) -> None:
    regularizer = created(name, "reward")
    assert (regularizer.sampled, regularizer.full) == (SAMPLED_FORMS[name], None)
    assert (regularizer.in_reward, regularizer.in_loss) == (True, False)
    values = torch.tensor([-0.2, -3.0], requires_grad=True)
    loss = regularizer.loss(values, values.detach() - 1, torch.tensor([-1.0, -1.0]), torch.ones(2))
    assert loss.tolist() == [0, 0]
    assert not loss.requires_grad
    if name not in REFUSED_IN_LOSS:
        assert created(name, "loss") == placed(name, "loss")
    assert created(name, "both") == placed(name, "both")


def test_config_files_and_code_name_the_same_forms() -> None:
    assert set(SAMPLED) == SAMPLED_FORMS.keys() | {"custom"}
    assert set(FULL) == FULL_FORMS.keys()
    assert FOLLOWED.keys() == {*SAMPLED, *FULL}
    refusal("name", name="unheard_of")
    own = {"custom": [f"regularizer.function._target_={HERE}.scaled"]}
    for path in CONF.glob("*.yaml"):
        config = configure(f"regularizer={path.stem}", "rollout.batch_size=96", *own.get(path.stem, []))
        assert (config.regularizer.name, config.regularizer.horizon) == (path.stem, 96)
    assert {path.stem for path in CONF.glob("*.yaml")} == {*SAMPLED, *FULL}


REFUSED = {(name, "reward") for name in FULL}
REFUSED |= {(name, "loss") for name in ("negative_kl", "js", "js_exact", "forward_kl")}


@pytest.mark.parametrize(("name", "placement"), list(product(SAMPLED + FULL, PLACEMENTS)))
def test_a_placement_is_refused_or_allowed(name: str, placement: str) -> None:
    function = {"_target_": f"{HERE}.scaled"} if name == "custom" else None
    if (name, placement) in REFUSED:
        assert name in refusal("placement", name=name, placement=placement, function=function)
    else:
        assert settings(name=name, placement=placement, function=function).placement == placement


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_the_code_says_which_forms_are_refused_in_the_loss(name: str) -> None:
    assert ("Loss: refused" in (SAMPLED_FORMS[name].__doc__ or "")) == ((name, "loss") in REFUSED)


@pytest.mark.parametrize(
    "changed",
    [
        {"placement": "everywhere"},
        {"schedule": "cosine"},
        *[{"alpha": alpha} for alpha in (-0.1, 0.005, 0.995, 1.005, 2.1, math.nan)],  # out of range, or near a limit
        *[{key: -0.1} for key in ("coef", "strength", "end_coef")],
        *[{"function": function} for function in (None, {"scale": 3.0})],  # of custom
    ],
    ids=str,
)
def test_values_that_are_not_allowed_are_refused(changed: dict[str, Any]) -> None:
    [key] = changed
    name = {"alpha": "full_alpha", "function": "custom"}.get(key, "kl")
    refusal(key, name=name, **({"placement": "loss"} if key == "alpha" else {}) | changed)
    assert settings(name="full_alpha", placement="loss", alpha=0.01).alpha == 0.01


def test_a_function_is_for_custom_alone() -> None:
    refusal("function", name="kl", function={"_target_": f"{HERE}.scaled"})


# ---- A form of the user's own. -------------------------------------------------------------------------------------

not_callable = 5
seen: list[torch.dtype] = []


def scaled(logprobs: Tensor, ref_logprobs: Tensor, scale: float = 1.0) -> Tensor:
    seen[:] = [logprobs.dtype, ref_logprobs.dtype]
    return scale * (logprobs - 2 * ref_logprobs)


def one_argument(logprobs: Tensor) -> Tensor:
    return logprobs


def summed(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return (logprobs - ref_logprobs).sum()


def number(logprobs: Tensor, ref_logprobs: Tensor) -> float:
    return 1.0


def first_row(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return (logprobs - ref_logprobs)[:1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_custom_gets_float32_and_its_keywords(dtype: torch.dtype) -> None:
    form = created("custom", "reward", function={"_target_": f"{HERE}.scaled", "scale": 3.0}).sampled
    assert form is not None
    result = form(torch.tensor([[-1.0, -2.0]], dtype=dtype), torch.tensor([[-0.5, -4.0]], dtype=dtype))
    assert result.tolist() == [[0.0, 18.0]]  # 3 (-1 + 1), 3 (-2 + 8)
    assert seen == [torch.float32, torch.float32]


def test_custom_is_named_on_the_command_line_with_its_keywords() -> None:
    target = f"regularizer.function._target_={HERE}.scaled"
    config = configure("regularizer=custom", target, "+regularizer.function.scale=3.0").regularizer
    assert config.function == {"_target_": f"{HERE}.scaled", "scale": 3.0}


def test_custom_in_the_loss_is_weighted_and_has_a_gradient() -> None:
    regularizer = created("custom", "loss", function={"_target_": f"{HERE}.scaled"})
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old, reference = torch.tensor([-1.0, -2.0 - LOG_2]), torch.tensor([-2.0, -2.0])
    loss = regularizer.loss(logprobs, old, reference, torch.zeros(2))
    torch.testing.assert_close(loss.detach(), torch.tensor([3.0, 4.0]))  # -1 + 4; twice as likely now: 2 (-2 + 4)
    torch.testing.assert_close(gradient(loss.sum(), logprobs), torch.tensor([1.0, 2.0]))


def test_custom_in_both_is_the_whole_gradient_of_its_expectation() -> None:
    def expected(policy: Tensor, reference: Tensor) -> Tensor:
        penalties = scaled(token_logprobs(policy), token_logprobs(reference), 3.0) * MASK
        return (response_probabilities(policy) * penalties.sum(1)).sum()

    found = trained_gradient(created("custom", "both", function={"_target_": f"{HERE}.scaled", "scale": 3.0}))
    torch.testing.assert_close(found, process_gradient(expected), rtol=1e-5, atol=1e-6)  # its values are float32
    assert (followed("custom", "both"), left_out("custom", "both")) == (OWN, None)


@pytest.mark.parametrize(
    ("target", "keywords"),
    [
        *[(target, {}) for target in ("nowhere.at_all", f"{HERE}.missing", f"{HERE}.not_callable", HERE, "scaled")],
        *[(f"{HERE}.{name}", {}) for name in ("one_argument", "summed", "number")],
        (f"{HERE}.scaled", {"unheard_of": 1}),
    ],
)
def test_custom_that_is_no_such_function_is_refused_at_once(target: str, keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^regularizer\.function\._target_={re.escape(target)} ") as refused:
        created("custom", "reward", function={"_target_": target, **keywords})
    assert "\n" not in str(refused.value)


def test_custom_of_another_shape_is_refused_when_that_shows() -> None:
    form = custom_form({"_target_": f"{HERE}.first_row"})
    assert form(torch.zeros(1, 3), torch.ones(1, 3)).tolist() == [[-1, -1, -1]]
    with pytest.raises(ConfigError, match=rf"^regularizer\.function\._target_={HERE}\.first_row "):
        form(torch.zeros(2, 3), torch.zeros(2, 3))


# ---- The coefficient. ----------------------------------------------------------------------------------------------


def weights(steps: int, updates: int, **changed: Any) -> list[float]:
    """Before the first step and after each."""
    coefficient = Coefficient(settings(**changed), steps)
    found = [coefficient.value]
    for _ in range(updates):
        coefficient.update(true_kl=0.06, penalty=9.0, responses=256)
        found.append(coefficient.value)
    return found


@pytest.mark.parametrize(
    ("steps", "changed", "wanted"),
    [
        (5, {"coef": 0.1}, [0.1, 0.1, 0.1, 0.1]),
        # Five steps: the first with 0.1, the last with 0.5, four equal moves between; then it stays there.
        (5, {"schedule": "linear", "coef": 0.1, "end_coef": 0.5}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5]),
        (1, {"schedule": "linear", "coef": 0.1, "end_coef": 0.5}, [0.1, 0.5]),
        (0, {"schedule": "linear", "coef": 0.1, "end_coef": 0.5}, [0.1]),  # best_of_n takes none
        (5, {"schedule": "linear", "strength": 0.0}, [0.0]),
    ],
    ids=str,
)
def test_constant_and_linear_coefficients_by_hand(steps: int, changed: dict[str, Any], wanted: list[float]) -> None:
    assert weights(steps, len(wanted) - 1, **changed) == pytest.approx(wanted)


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
    coefficient = Coefficient(settings(schedule="adaptive", coef=0.1), steps=5)
    coefficient.update(true_kl, 9.0, 256)
    assert coefficient.value == pytest.approx(0.1 * factor, rel=1e-12)
    coefficient.update(true_kl, 9.0, 256)
    assert coefficient.value == pytest.approx(0.1 * factor**2, rel=1e-12)


@pytest.mark.parametrize(
    ("penalty", "factor"),
    [
        (6.0, 1.0),  # on target
        (6.6, 1.01),  # 10 % above: 1 + 0.1 x 0.1, whatever the true KL and the number of responses
        (5.4, 0.99),
        (9.0, 1.02),  # 50 % above: 1 + 0.1 x 0.2, the most there is
        (-3.0, 0.98),  # a negative sum is taken for 1e-6
    ],
)
def test_the_published_rule_follows_the_penalty_by_hand(penalty: float, factor: float) -> None:
    coefficient = Coefficient(settings(schedule="published", name="js", coef=0.02), steps=5)
    for updates in range(1, 201):
        coefficient.update(0.06, penalty, 256)
        assert coefficient.value == pytest.approx(0.02 * factor**updates, rel=1e-9)  # and no bound


@pytest.mark.parametrize("schedule", ["constant", "linear", "adaptive", "published"])
def test_strength_multiplies_every_weight(schedule: str) -> None:
    once, thrice = (weights(5, 4, schedule=schedule, end_coef=0.3, strength=strength) for strength in (1.0, 3.0))
    assert thrice == pytest.approx([3 * value for value in once], rel=1e-12)


SCALED = {"name": "custom", "function": {"_target_": f"{HERE}.scaled"}}


@pytest.mark.parametrize("changed", [SCALED, {"name": "kl"}, {"name": "js", "placement": "both"}], ids=str)
@pytest.mark.parametrize(("true_kl", "bound", "side"), [(0.06, 10, "above"), (0.0, 1 / 10, "below")])
def test_an_adaptive_coefficient_is_bounded_and_says_so_once(
    changed: dict[str, Any], true_kl: float, bound: float, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    coefficient = Coefficient(settings(schedule="adaptive", coef=0.2, strength=2.0, horizon=256, **changed), steps=40)
    updates = math.floor(math.log(bound) / math.log(1.2 if bound > 1 else 0.8))  # the last within the bound
    for _ in range(updates):
        coefficient.update(true_kl, 9.0, 256)
    assert coefficient.value == pytest.approx(0.4 * (1.2 if bound > 1 else 0.8) ** updates)
    assert caplog.messages == []
    for _ in range(3):
        coefficient.update(true_kl, 9.0, 256)
        assert coefficient.value == pytest.approx(0.4 * bound)
    [said] = caplog.messages
    assert f"{side} regularizer.target_kl=0.05" in said
    assert f"{0.4 * bound:g}" in said
    coefficient.update(0.05 / bound**2, 9.0, 256)  # off the bound again, the other way
    assert coefficient.value == pytest.approx(0.4 * bound * (0.8 if bound > 1 else 1.2))


@pytest.mark.parametrize("changed", [{"schedule": "adaptive"}, {"schedule": "linear", "end_coef": 0.5}, {}], ids=str)
@pytest.mark.parametrize("before", [3, 15])
def test_a_coefficient_goes_on_from_its_value_and_its_count(changed: dict[str, Any], before: int) -> None:
    whole, first, second = (Coefficient(settings(horizon=256, **changed), steps=20) for _ in range(3))
    for each, updates in ((whole, before + 4), (first, before)):
        for _ in range(updates):
            each.update(0.2, 9.0, 256)  # adaptive: at its bound from the thirteenth update on
    second.value, second.step_count = first.value, first.step_count
    for _ in range(4):
        second.update(0.2, 9.0, 256)
    assert (second.value, second.step_count) == (whole.value, whole.step_count)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"name": "negative_kl"}, "schedule"),
        *[({key: 0.0}, key) for key in ("coef", "strength", "target_kl")],
        ({"horizon": 0}, "horizon"),
    ],
)
def test_what_an_adaptive_coefficient_can_t_steer_is_refused(changed: dict[str, Any], key: str) -> None:
    assert settings(schedule="adaptive").schedule == "adaptive"
    refusal(key, schedule="adaptive", **changed)


def restores(name: str, placement: str) -> bool:
    """By enumeration: the gradient is that of a named quantity or of the form's expectation, which the policy raises.

    That is, of one that is larger a little away from the reference than at it.
    """
    found = trained_token(name, placement, POLICY, REFERENCE, old=POLICY)
    named = [of for of in [*QUANTITIES.values(), FACTS[name].expectation] if of(POLICY, REFERENCE) > 1e-9]
    return any(equal(found, divergence_gradient(of, POLICY, REFERENCE)) for of in named)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_an_adaptive_coefficient_is_for_forms_that_follow_a_divergence(name: str, placement: str) -> None:
    if (name, placement) in REFUSED:
        return
    changed = {"name": name, "placement": placement, "schedule": "adaptive"}
    if restores(name, placement):
        assert settings(**changed).schedule == "adaptive"
        return
    message = refusal("schedule", **changed)
    assert name in message
    for better in re.findall(r"use regularizer.placement=(\w+)", message):
        assert restores(name, better)
    assert name == "negative_kl" or re.search("use regularizer.placement=|use regularizer=kl$", message)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("placement", ["loss", "both"])
def test_full_forms_and_those_of_the_user_s_own_may_be_adaptive(name: str, placement: str) -> None:
    assert settings(name=name, placement=placement, schedule="adaptive").name == name
    assert settings(placement=placement, schedule="adaptive", **SCALED).name == "custom"
    assert settings(placement="reward", schedule="adaptive", **SCALED).name == "custom"
