"""Win rates where judgements are missing."""

import pytest

from rlhf.evaluation.judgements import RATES, Judgement, win_rates


def test_what_could_not_be_read_is_left_out_and_counted() -> None:
    judged = [Judgement([2.0, None], 3, [3, 3]), Judgement([None, None], 9, [1, 1]), Judgement([1.0, 1.0], 4, [4, 4])]
    figures = win_rates(judged)
    assert (figures["win_rate"], figures["n_eval"], figures["n_null"]) == (50.0, 2, 3)
    assert figures["win_rate_length_controlled"] == 50.0  # all that is left is of equal length


@pytest.mark.parametrize("rows", [[], [[2.0]], [[2.0], [None]], [[None], [None], [None]]])
def test_there_is_no_win_rate_of_fewer_than_two_prompts(rows: list[list[float | None]]) -> None:
    figures = win_rates([Judgement(row, 3, [3]) for row in rows] + [Judgement(None, 1, [1])])
    assert {name: figures[name] for name in RATES} == dict.fromkeys(RATES)
    assert figures["n_eval"] == sum(row != [None] for row in rows)
    assert figures["n_null"] == sum(row == [None] for row in rows)
