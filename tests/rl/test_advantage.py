"""Masked means, rewards per token and advantages, by hand; pads hold garbage on purpose."""

import pytest
import torch
from torch import Tensor

from rlhf.rl.advantage import effective_scores, generalized_advantages, masked_mean, masked_whiten, token_rewards

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


def test_whitening_zeros_stay_zero() -> None:
    assert not masked_whiten(torch.zeros(2, 3), mask_of(3, 1, width=3), shift_mean=False).any()


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
