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
    published_whiten,
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


def test_whitening_with_shift_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, GARBAGE], [3.0, 4.0, -GARBAGE]])
    mask = mask_of(2, 2, width=3)
    # Mean 2.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25, deviation 1.1180340.
    close(masked_whiten(values, mask, shift_mean=True), [[-1.3416408, -0.4472136, 0], [0.4472136, 1.3416408, 0]])


def test_whitening_without_shift_keeps_signs_and_adds_no_constant() -> None:
    values = torch.tensor([[-1.0, 2.0, GARBAGE], [0.0, 3.0, GARBAGE]])
    mask = mask_of(2, 2, width=3)
    # Mean 1, variance (4 + 1 + 1 + 4) / 4 = 2.5, deviation 1.5811388; each value only divided by it.
    close(masked_whiten(values, mask, shift_mean=False), [[-0.6324555, 1.2649111, 0], [0, 1.8973666, 0]])


def test_deviation_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, GARBAGE], [3.0, 4.0, -GARBAGE]], dtype=torch.float64)
    assert masked_deviation(values, mask_of(2, 2, width=3)).item() == pytest.approx(1.1180340, abs=1e-7)
    assert masked_deviation(values, mask_of(1, 0, width=3)).item() == 1e-4  # of one token 0, but for the 1e-8 below it


def test_whitening_zeros_stay_zero() -> None:
    assert not masked_whiten(torch.zeros(2, 3), mask_of(3, 1, width=3), shift_mean=False).any()


def test_published_whitening_by_hand() -> None:
    # Over all positions: mean 1.5, squared deviations 6.25, 0.25, 2.25, 2.25, 0.25 and 2.25, together 13.5; the root of
    # 13.5 / 6 is 1.5. Divided by it, and without `shift_mean` the mean added back, also where the value was 0.
    values = torch.tensor([[-1.0, 2.0, 0.0], [3.0, 2.0, 3.0]])
    shifted = [[-5 / 3, 1 / 3, -1], [1, 1 / 3, 1]]
    close(published_whiten(values, shift_mean=True), shifted)
    close(published_whiten(values, shift_mean=False), [[value + 1.5 for value in row] for row in shifted])


def test_published_whitening_adds_to_the_deviation_not_to_the_variance() -> None:
    # Mean 2e-8, deviation 1e-8: (values - mean) / (1e-8 + 1e-8). As masked_whiten does it, the root of 1e-8 + 1e-16
    # would leave next to nothing.
    values = torch.tensor([[1e-8, 3e-8]], dtype=torch.float64)
    close(published_whiten(values, shift_mean=True), [[-0.5, 0.5]])
    close(masked_whiten(values, mask_of(2, width=2), shift_mean=True), [[-0.0001, 0.0001]])


def test_score_lands_on_the_last_real_token() -> None:
    penalties = torch.full((3, 4), 0.5)
    mask = mask_of(3, 1, 4, width=4)
    rewards = token_rewards(torch.tensor([10.0, 20.0, -30.0]), penalties, mask, coef=0.2)
    # -0.2 x 0.5 at every token; the score on top at tokens 3, 1 and 4.
    close(rewards, [[-0.1, -0.1, 9.9, 0], [19.9, 0, 0, 0], [-0.1, -0.1, -0.1, -30.1]])


def test_rewards_ignore_penalties_of_pads() -> None:
    penalties = torch.tensor([[1.0, 2.0, GARBAGE]])
    close(token_rewards(torch.tensor([3.0]), penalties, mask_of(2, width=3), coef=1.0), [[-1.0, 1.0, 0]])


def test_missing_eos_replaces_the_score_not_adds_to_it() -> None:
    scores = effective_scores(torch.tensor([5.0, 7.0, -9.0]), torch.tensor([True, False, False]), -3.0)
    assert scores.tolist() == [5.0, -3.0, -3.0]


def test_without_a_score_for_a_missing_eos_all_keep_their_own() -> None:
    scores = torch.tensor([5.0, 7.0, -9.0])
    assert effective_scores(scores, torch.tensor([True, False, False]), None).tolist() == [5.0, 7.0, -9.0]
    assert effective_scores(scores, torch.tensor([True, False, False]), 0.0).tolist() == [5.0, 0.0, 0.0]


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


def test_leave_one_out_by_hand() -> None:
    # Groups 1, 2, 6 and 5, 5, 5: the means of the others are 4, 3.5, 1.5 and 5.
    close(leave_one_out(RETURNS, 3)[None], [[-3, -1.5, 4.5, 0, 0, 0]])
    # Pairs 1, 2 and 6, 5 and 5, 5.
    close(leave_one_out(RETURNS, 2)[None], [[-1, 1, 1, -1, 0, 0]])
    # All six, 24 together: each less a fifth of the rest, 23, 22, 18 and 19.
    close(leave_one_out(RETURNS, 6)[None], [[-3.6, -2.4, 2.4, 1.2, 1.2, 1.2]])


def test_a_group_of_one_has_no_baseline() -> None:
    assert leave_one_out(RETURNS, 1).tolist() == RETURNS.tolist()


def test_standardize_by_hand() -> None:
    # Group 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, over 2 (not 3) the root is 2.6457513.
    close(standardize(RETURNS, 3, scale_by_deviation=False)[None], [[-2, -1, 3, 0, 0, 0]])
    close(standardize(RETURNS, 3, scale_by_deviation=True)[None], [[-0.7559287, -0.3779643, 1.1338932, 0, 0, 0]])
    # All six: mean 4, squared deviations 9 + 4 + 4 + 1 + 1 + 1 = 20, over 5 the root is 2.
    close(standardize(RETURNS, 6, scale_by_deviation=True)[None], [[-1.5, -1, 1, 0.5, 0.5, 0.5]])


def test_of_a_pair_over_its_deviation_only_the_order_counts() -> None:
    pairs = torch.tensor([1.0, 2.0, -500.0, -700.0], dtype=torch.float64)
    close(standardize(pairs, 2, scale_by_deviation=True)[None], [[-0.7071068, 0.7071068, 0.7071068, -0.7071068]])


def test_standardize_guards_the_deviation() -> None:
    # Mean 1e-6, deviation 1e-6 x sqrt 2: 1e-6 / (2.4142136e-6).
    tiny = torch.tensor([0.0, 2e-6], dtype=torch.float64)
    close(standardize(tiny, 2, scale_by_deviation=True)[None], [[-0.4142136, 0.4142136]])


def test_own_share_by_hand() -> None:
    # Of three two thirds; over the deviation of 1, 2, 6, which is 2.6457513, 0.2519763.
    close(own_share(RETURNS, 3, scale_by_deviation=False)[None], [[2 / 3] * 6])
    close(own_share(RETURNS[:3], 3, scale_by_deviation=True)[None], [[0.2519763] * 3])
    # Pairs: one half over 0.7071068, the deviation of 1, 2 and of 6, 5; each group has its own.
    close(own_share(RETURNS[:4], 2, scale_by_deviation=True)[None], [[0.7071068] * 4])
    further = torch.tensor([1.0, 2.0, 0.0, 8.0], dtype=torch.float64)  # 0, 8: 5.6568542
    close(own_share(further, 2, scale_by_deviation=True)[None], [[0.7071068, 0.7071068, 0.0883883, 0.0883883]])


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
    """Of REINFORCE, its mean over a group, over all groups."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    groups = torch.cartesian_prod(*[torch.arange(3)] * samples)
    probabilities = logprobs.detach()[groups].sum(1).exp()
    advantages = advantages_of(REWARDS_OF[groups].flatten()).view(-1, samples)
    (probabilities[:, None] * advantages * logprobs[groups] / samples).sum().backward()
    assert logits.grad is not None
    return logits.grad


def true_gradient() -> Tensor:
    """p (R - E[R]), of the expected reward."""
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


def test_a_group_of_equal_returns_weighs_a_penalty_in_the_loss_with_nothing() -> None:
    returns = torch.tensor([-3.0, -3.0, -3.0 + 1e-7, 1.0, 2.0, 3.0])
    # the second group's deviation is 1, and each response's own share of its centred return 2/3
    assert own_share(returns, 3, scale_by_deviation=True).tolist() == pytest.approx([0, 0, 0, *[2 / 3] * 3], rel=1e-4)
    assert own_share(returns, 3, scale_by_deviation=False).tolist() == pytest.approx([2 / 3] * 6)
