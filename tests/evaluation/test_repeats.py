"""The share of repeated 4-grams, by hand."""

import pytest

from rlhf.evaluation.repeats import repeated_share


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ([], 0),
        ([1, 1, 1], 0),  # no 4-gram
        ([1, 1, 1, 1], 0),  # one
        ([1, 1, 1, 1, 1], 1 / 2),  # two, the second like the first
        ([1] * 11, 7 / 8),
        ([1, 2, 3, 4, 5, 6], 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),  # 1234 2341 3412 4123 1234
        ([1, 2, 3, 9, 1, 2, 3, 8], 0),  # a trigram comes again, a 4-gram does not
        ([1, 2, 3, 4, 4, 3, 2, 1], 0),  # the order counts
        ([1, 2, 3, 4, 7, 1, 2, 3, 4, 8, 1, 2, 3, 4], 2 / 11),  # 1234 stands thrice, two of them after the first
    ],
)
def test_repeated_share_by_hand(token_ids: list[int], share: float) -> None:
    assert repeated_share(token_ids) == pytest.approx(share)
