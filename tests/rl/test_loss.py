"""PPO's losses per token and their gradients, by hand in every region of the clips; and how tokens are weighed."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from rlhf.rl.loss import (
    Loss,
    approximate_kl,
    loss_scale,
    loss_weights,
    policy_loss,
    probability_ratio,
    value_loss,
)

CLIP = 0.2

# ratio, advantage, loss = max(-ratio A, -clipped ratio A), its derivative in logprobs, whether clipped
POLICY_CASES = [
    pytest.param(1.5, 2.0, -2.4, 0.0, 1.0, id="likelier-and-good-is-clipped"),
    pytest.param(1.5, -2.0, 3.0, 3.0, 0.0, id="likelier-and-bad-is-not"),
    pytest.param(0.5, 2.0, -1.0, -1.0, 0.0, id="rarer-and-good-is-not"),
    pytest.param(0.5, -2.0, 1.6, 0.0, 1.0, id="rarer-and-bad-is-clipped"),
    pytest.param(1.1, 2.0, -2.2, -2.2, 0.0, id="inside-good"),
    pytest.param(0.9, -2.0, 1.8, 1.8, 0.0, id="inside-bad"),
]
# value, return, loss = max((V - R)^2, (clipped V - R)^2) / 2, its derivative in V, whether clipped; the old value is 1
VALUE_CASES = [
    pytest.param(2.0, 3.0, 1.62, 0.0, 1.0, id="up-towards-the-return-is-clipped"),  # (1.2 - 3)^2 / 2
    pytest.param(2.0, 0.0, 2.0, 2.0, 0.0, id="up-away-from-it-is-not"),  # (2 - 0)^2 / 2 over (1.2 - 0)^2 / 2
    pytest.param(0.5, 0.0, 0.32, 0.0, 1.0, id="down-towards-it-is-clipped"),  # (0.8 - 0)^2 / 2
    pytest.param(0.5, 3.0, 3.125, -2.5, 0.0, id="down-away-from-it-is-not"),  # (0.5 - 3)^2 / 2
    pytest.param(1.1, 2.0, 0.405, -0.9, 0.0, id="inside"),  # (1.1 - 2)^2 / 2
]


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def ppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Loss:
    return policy_loss(logprobs, old_logprobs, advantages, torch.ones_like(logprobs, dtype=torch.bool), CLIP)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope", "clipped"), POLICY_CASES)
def test_policy_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float, clipped: float) -> None:
    old = one(-1.3)
    logprobs = (old + math.log(ratio)).requires_grad_()
    result = ppo(logprobs, old, one(advantage))
    [found] = torch.autograd.grad(result.loss.sum(), logprobs)
    assert (result.loss.item(), found.item()) == pytest.approx((loss, slope), abs=1e-12)
    assert result.clipped.item() == clipped


def test_first_pass_is_plain_policy_gradient() -> None:
    old, advantages = torch.tensor([[-0.5, -3.0], [-40.0, -1e-4]]), torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    logprobs = old.clone().requires_grad_()
    loss, clipped = ppo(logprobs, old, advantages)
    assert torch.equal(loss, -advantages)
    assert torch.equal(torch.autograd.grad(loss.sum(), logprobs)[0], -advantages)
    assert not clipped.any()


@pytest.mark.parametrize(("value", "wanted", "loss", "slope", "clipped"), VALUE_CASES)
def test_value_loss_by_hand(value: float, wanted: float, loss: float, slope: float, clipped: float) -> None:
    values = one(value).requires_grad_()
    result = value_loss(values, one(1.0), one(wanted), CLIP)
    [found] = torch.autograd.grad(result.loss.sum(), values)
    assert (result.loss.item(), found.item()) == pytest.approx((loss, slope), abs=1e-12)
    assert result.clipped.item() == clipped


def test_losses_stay_per_token() -> None:
    logprobs = torch.tensor([[0.1, -0.4, 0.0], [0.3, 0.0, -0.2]])
    zeros = torch.zeros_like(logprobs)
    for function in (ppo, lambda *given: value_loss(*given, CLIP)):
        for part, whole in enumerate(function(logprobs, zeros, zeros + 0.7)):
            single = [
                [function(each[None, None], *map(one, (0, 0.7)))[part].item() for each in row] for row in logprobs
            ]
            torch.testing.assert_close(whole, torch.tensor(single))


def test_approximate_kl_by_hand() -> None:
    # ratio 2: 2 - 1 - log 2; ratio 1/2: 1/2 - 1 + log 2; ratio 1: 0
    logprobs = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64).log()
    wanted = torch.tensor([[1 - math.log(2), math.log(2) - 1 / 2, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(approximate_kl(logprobs, torch.zeros_like(logprobs)), wanted)


def test_approximate_kl_is_never_negative_even_for_tiny_steps() -> None:
    log_ratio = torch.linspace(-1e-3, 1e-3, 2001)[None]
    assert approximate_kl(log_ratio, torch.zeros_like(log_ratio)).min() >= 0


def test_approximate_kl_expects_the_divergence_from_the_old_policy() -> None:
    old, new = torch.tensor([[0.3, -1.2, 0.8, 0.0, -0.5], [-0.4, 0.6, 0.1, -0.9, 0.2]], dtype=torch.float64)
    estimate = approximate_kl(new.log_softmax(-1)[None], old.log_softmax(-1)[None])[0]
    wanted = kl_divergence(Categorical(logits=old), Categorical(logits=new)).item()
    assert (old.softmax(-1) * estimate).sum().item() == pytest.approx(wanted, abs=1e-14)


# Responses of 3, 1 and 2 tokens, in four positions: 6 real tokens of 12.
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
WEIGHTS = {
    "tokens": [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 6, 0, 0, 0], [1 / 6, 1 / 6, 0, 0]],
    "responses": [[1 / 9, 1 / 9, 1 / 9, 0], [1 / 3, 0, 0, 0], [1 / 6, 1 / 6, 0, 0]],  # a third each
    "constant": [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 6, 0, 0, 0], [1 / 6, 1 / 6, 0, 0]],
}


@pytest.mark.parametrize("average", WEIGHTS)
def test_loss_weights_by_hand(average: str) -> None:
    weights = loss_weights(MASK, average)
    torch.testing.assert_close(weights, torch.tensor(WEIGHTS[average]))
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)


def test_only_the_constant_average_is_scaled_and_by_tokens_over_a_constant() -> None:
    assert [loss_scale(MASK, average, longest=5) for average in WEIGHTS] == [1.0, 1.0, 6 / 15]


@pytest.mark.parametrize("average", WEIGHTS)
def test_loss_weights_do_not_depend_on_padding(average: str) -> None:
    wider = torch.cat([MASK, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    weights = loss_weights(wider, average)
    assert torch.equal(weights[:, :4], loss_weights(MASK, average))
    assert not weights[:, 4:].any()


@pytest.mark.parametrize(
    ("average", "wanted"),
    [
        # each response's gradient divided by its length: together -1/3, 2/3 and -1
        ("responses", [[-1 / 9, -1 / 9, -1 / 9, 0], [2 / 3, 0, 0, 0], [-1 / 2, -1 / 2, 0, 0]]),
        # by 3 x 5 at every token, so that longer responses weigh more: together -1/5, 2/15 and -2/5
        ("constant", [[-1 / 15, -1 / 15, -1 / 15, 0], [2 / 15, 0, 0, 0], [-1 / 5, -1 / 5, 0, 0]]),
    ],
)
def test_gradients_by_average_on_the_policy_s_own_tokens(average: str, wanted: list[list[float]]) -> None:
    # The gradient of -A ratio is -A there. Responses of 3, 1 and 2 tokens, advantages 1, -2, 3.
    old = torch.where(MASK, -1.5, 0.0).double()
    logprobs = old.clone().requires_grad_()
    advantages = torch.tensor([[1.0], [-2.0], [3.0]], dtype=torch.float64) * MASK
    total = (policy_loss(logprobs, old, advantages, MASK, CLIP).loss * loss_weights(MASK, average)).sum()
    [found] = torch.autograd.grad(total * loss_scale(MASK, average, longest=5), logprobs)
    torch.testing.assert_close(found, torch.tensor(wanted).double(), rtol=1e-6, atol=1e-7)


def test_the_ratio_stops_at_e_to_the_20_and_has_no_gradient_there() -> None:
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    ratio = probability_ratio(logprobs, torch.tensor([-1.5, -21.5, -500.0]))
    torch.testing.assert_close(ratio.detach(), torch.tensor([0.5, 20.0, 20.0]).exp())
    [found] = torch.autograd.grad(ratio.sum(), logprobs)
    torch.testing.assert_close(found, torch.tensor([math.exp(0.5), 0.0, 0.0]))
