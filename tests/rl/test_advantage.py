"""Masked means, rewards per token, advantages and baselines, by hand; pads hold garbage on purpose."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.rl.advantage import (
    effective_scores,
    generalized_advantages,
    leave_one_out,
    masked_deviation,
    masked_mean,
    masked_whiten,
    own_share,
    standardize,
    token_rewards,
)

GARBAGE = 1e6


def mask_of(*lengths: int, width: int) -> Tensor:
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def close(actual: Tensor, wanted: list[list[float]]) -> None:
    torch.testing.assert_close(actual.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_masked_mean_is_over_real_tokens_not_over_rows() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [6.0, GARBAGE, -GARBAGE]])
    # (1 + 2 + 3 + 6) / 4; the mean of the rows' means would be 4.
    assert masked_mean(values, mask_of(3, 1, width=3)).item() == 3.0


@pytest.mark.parametrize(
    ("values", "shift_mean", "wanted", "deviation"),
    [
        # Mean 2.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25.
        ([[1.0, 2.0], [3.0, 4.0]], True, [[-1.3416408, -0.4472136, 0], [0.4472136, 1.3416408, 0]], 1.1180340),
        # Mean 1, variance (4 + 1 + 1 + 4) / 4 = 2.5; each value only divided by its root, and keeps its sign.
        ([[-1.0, 2.0], [0.0, 3.0]], False, [[-0.6324555, 1.2649111, 0], [0, 1.8973666, 0]], 1.5811388),
        ([[0.0, 0.0], [0.0, 0.0]], False, [[0, 0, 0], [0, 0, 0]], 1e-4),  # 0, but for the 1e-8 below the root
        # Mean 2e-8, deviation 1e-8: next to nothing beside the 1e-8 below the root
        ([[1e-8, 3e-8], [1e-8, 3e-8]], True, [[-0.0001, 0.0001, 0], [-0.0001, 0.0001, 0]], 1e-4),
    ],
)
def test_whitening_by_hand(
    values: list[list[float]], shift_mean: bool, wanted: list[list[float]], deviation: float
) -> None:
    padded = torch.tensor([[*row, GARBAGE] for row in values], dtype=torch.float64)
    mask = mask_of(2, 2, width=3)
    whitened, divisor = masked_whiten(padded, mask, shift_mean)
    close(whitened, wanted)
    assert divisor == masked_deviation(padded, mask).item() == pytest.approx(deviation, abs=1e-7)


def test_the_score_lands_on_the_last_real_token_and_pads_have_no_penalty() -> None:
    mask = mask_of(3, 1, 4, width=4)
    penalties = torch.where(mask, 0.5, GARBAGE)
    rewards = token_rewards(torch.tensor([10.0, 20.0, -30.0]), penalties, mask, coef=0.2)
    # -0.2 x 0.5 at every token; the score on top at tokens 3, 1 and 4.
    close(rewards, [[-0.1, -0.1, 9.9, 0], [19.9, 0, 0, 0], [-0.1, -0.1, -0.1, -30.1]])


@pytest.mark.parametrize(("missing", "wanted"), [(-3.0, [5, -3, -3]), (None, [5, 7, -9]), (0.0, [5, 0, 0])])
def test_a_missing_eos_replaces_the_score_where_it_has_one(missing: float | None, wanted: list[float]) -> None:
    scores = torch.tensor([5.0, 7.0, -9.0])
    assert effective_scores(scores, torch.tensor([True, False, False]), missing).tolist() == wanted


# Rewards 1, 2, 3 and values 0.5, 1, 1.5, then pads; gamma = 0.9. Deltas, the value after the last token being 0:
# 3 - 1.5 = 1.5;  2 + 0.9 x 1.5 - 1 = 2.35;  1 + 0.9 x 1 - 0.5 = 1.4.
REWARDS, VALUES = torch.tensor([[1.0, 2.0, 3.0, GARBAGE]]), torch.tensor([[0.5, 1.0, 1.5, GARBAGE]])


@pytest.mark.parametrize(
    ("lam", "wanted"),
    [
        (0.0, [1.4, 2.35, 1.5]),  # the deltas themselves
        (1.0, [4.73, 3.7, 1.5]),  # discounted return less value: 1 + 1.8 + 2.43 - 0.5; 2 + 2.7 - 1; 3 - 1.5
        (0.95, [4.5057875, 3.6325, 1.5]),  # 2.35 + 0.855 x 1.5; 1.4 + 0.855 x 3.6325
    ],
)
def test_advantages_by_hand(lam: float, wanted: list[float]) -> None:
    advantages, returns = generalized_advantages(REWARDS, VALUES, mask_of(3, width=4), gamma=0.9, lam=lam)
    close(advantages, [[*wanted, 0]])
    close(returns, [[wanted[0] + 0.5, wanted[1] + 1, wanted[2] + 1.5, 0]])


def test_rows_of_length_one_and_of_full_length() -> None:
    rewards, values = torch.tensor([[2.0, GARBAGE], [0.0, 3.0]]), torch.tensor([[0.5, GARBAGE], [1.0, 2.0]])
    advantages, returns = generalized_advantages(rewards, values, mask_of(1, 2, width=2), gamma=1.0, lam=0.5)
    # 2 - 0.5 = 1.5. Then 3 - 2 = 1, and 0 + 2 - 1 + 0.5 x 1 = 1.5.
    close(advantages, [[1.5, 0], [1.5, 1.0]])
    close(returns, [[2.0, 0], [2.5, 3.0]])


def test_a_row_does_not_change_with_padding_or_company() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(1, 5, generator=generator), torch.randn(1, 5, generator=generator)
    scores, company = torch.tensor([2.0, -1.0]), torch.randn(1, 9, generator=generator)

    def widen(row: Tensor) -> Tensor:
        return torch.cat([torch.cat([row, torch.full((1, 4), GARBAGE)], dim=1), company])

    alone, crowded = mask_of(5, width=5), mask_of(5, 9, width=9)
    few = token_rewards(scores[:1], rewards, alone, coef=0.3)
    many = token_rewards(scores, widen(rewards), crowded, coef=0.3)
    torch.testing.assert_close(many[:1, :5], few, rtol=0, atol=0)
    for narrow, wide in zip(
        generalized_advantages(few, values, alone, 0.9, 0.8),
        generalized_advantages(many, widen(values), crowded, 0.9, 0.8),
        strict=True,
    ):
        torch.testing.assert_close(wide[:1, :5], narrow, rtol=0, atol=0)
        assert not wide[0, 5:].any()


# ---- Baselines of responses to the same prompt. --------------------------------------------------------------------

RETURNS = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        (3, [-3, -1.5, 4.5, 0, 0, 0]),  # groups 1, 2, 6 and 5, 5, 5: the means of the others are 4, 3.5, 1.5 and 5
        (2, [-1, 1, 1, -1, 0, 0]),  # pairs 1, 2 and 6, 5 and 5, 5
        (6, [-3.6, -2.4, 2.4, 1.2, 1.2, 1.2]),  # 24 together: each less a fifth of the rest, 23, 22, 18 and 19
        (1, [1, 2, 6, 5, 5, 5]),  # a group of one has no baseline
    ],
)
def test_leave_one_out_by_hand(group: int, wanted: list[float]) -> None:
    close(leave_one_out(RETURNS, group)[None], [wanted])


@pytest.mark.parametrize(
    ("returns", "group", "scaled", "wanted"),
    [
        # Group 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, over 2 (not 3) the root is 2.6457513.
        (RETURNS, 3, False, [-2, -1, 3, 0, 0, 0]),
        (RETURNS, 3, True, [-0.7559287, -0.3779643, 1.1338932, 0, 0, 0]),
        # All six: mean 4, squared deviations 9 + 4 + 4 + 1 + 1 + 1 = 20, over 5 the root is 2.
        (RETURNS, 6, True, [-1.5, -1, 1, 0.5, 0.5, 0.5]),
        # Of a pair over its deviation only the order counts.
        ([1.0, 2.0, -500.0, -700.0], 2, True, [-0.7071068, 0.7071068, 0.7071068, -0.7071068]),
        # What differs by rounding alone is no advantage; the second group's deviation is the root of 1 / 2.
        ([1.234567, 1.234569, 0.0, 1.0], 2, True, [0, 0, -0.7071058, 0.7071058]),
        ([0.0, 2e-6], 2, False, [-1e-6, 1e-6]),
    ],
)
def test_standardize_by_hand(returns: Tensor | list[float], group: int, scaled: bool, wanted: list[float]) -> None:
    close(standardize(torch.as_tensor(returns, dtype=torch.float64), group, scaled)[None], [wanted])


@pytest.mark.parametrize(
    ("returns", "group", "scaled", "wanted"),
    [
        (RETURNS, 3, False, [2 / 3] * 6),
        (RETURNS[:3], 3, True, [0.2519763] * 3),  # two thirds over 2.6457513, the deviation of 1, 2, 6
        # Pairs: one half over 0.7071068, the deviation of 1, 2, or over 5.6568542, that of 0, 8.
        ([1.0, 2.0, 0.0, 8.0], 2, True, [0.7071068, 0.7071068, 0.0883883, 0.0883883]),
        # A group of equal returns has no gradient; the other's deviation is 1.
        ([-3.0, -3.0, -3.0 + 1e-7, 1.0, 2.0, 3.0], 3, True, [0, 0, 0, *[2 / 3 / (1 + 1e-6)] * 3]),
        ([-3.0, -3.0, -3.0 + 1e-7, 1.0, 2.0, 3.0], 3, False, [2 / 3] * 6),
    ],
)
def test_own_share_by_hand(returns: Tensor | list[float], group: int, scaled: bool, wanted: list[float]) -> None:
    close(own_share(torch.as_tensor(returns, dtype=torch.float64), group, scaled)[None], [wanted])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 6])
def test_what_is_left_beside_the_own_share_is_a_baseline_of_the_others(samples: int, scaled: bool) -> None:
    returns = RETURNS + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5, 2.0])
    shares = own_share(returns, samples, scaled)
    standardized = standardize(returns, samples, scaled)
    torch.testing.assert_close(shares * leave_one_out(returns, samples), standardized, rtol=1e-12, atol=1e-14)


# A policy over three responses, with their rewards: groups of k samples are enumerated.
LOGITS = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
REWARDS_OF = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)


def expected_gradient(samples: int, advantages_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The expected gradient of REINFORCE, a mean over each group, over all groups."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    groups = torch.cartesian_prod(*[torch.arange(3)] * samples)
    probabilities = logprobs.detach()[groups].sum(1).exp()
    advantages = advantages_of(REWARDS_OF[groups].flatten()).view(-1, samples)
    (probabilities[:, None] * advantages * logprobs[groups] / samples).sum().backward()
    assert logits.grad is not None
    return logits.grad


def true_gradient() -> Tensor:
    """The gradient of the expected reward: p (R - E[R])."""
    p = LOGITS.softmax(-1)
    return p * (REWARDS_OF - (p * REWARDS_OF).sum())


@pytest.mark.parametrize("samples", [2, 3])
def test_leave_one_out_adds_no_bias(samples: int) -> None:
    found = expected_gradient(samples, lambda returns: leave_one_out(returns, samples))
    torch.testing.assert_close(found, true_gradient(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("samples", [2, 3])
def test_the_group_s_own_mean_only_shortens_the_gradient(samples: int) -> None:
    found = expected_gradient(samples, lambda returns: standardize(returns, samples, scale_by_deviation=False))
    torch.testing.assert_close(found, true_gradient() * (samples - 1) / samples, rtol=1e-12, atol=1e-14)
    share = own_share(REWARDS_OF[:samples], samples, scale_by_deviation=False)
    torch.testing.assert_close(found, true_gradient() * share[0], rtol=1e-12, atol=1e-14)
