import pytest

from rlhf.search.rules import asha, median_rule, rung


def test_the_rungs_of_successive_halving() -> None:
    assert [step for step in range(1, 41) if rung(step, every=1, first=4, reduction=3)] == [4, 12, 36]
    evaluated = range(5, 41, 5)  # the first evaluation from a rung on
    assert [step for step in evaluated if rung(step, every=5, first=4, reduction=3)] == [5, 15, 40]


@pytest.mark.parametrize(
    ("own", "others", "goes_on"),
    [
        (1.0, [], True),  # the first to come always goes on
        (2.0, [1.0], True),  # while there are fewer than three, the best so far does
        (1.0, [2.0], False),
        (1.0, [1.0], True),  # a tie is not behind
        (2.0, [1.0, 3.0], False),  # one of three
        (4.0, [1.0, 2.0, 3.0, 5.0, 0.0], True),  # two of six
        (3.5, [1.0, 2.0, 4.0, 5.0, 0.0], False),
    ],
)
def test_of_three_runs_at_a_rung_the_best_goes_on(own: float, others: list[float], goes_on: bool) -> None:
    assert asha(own, others, reduction=3) is goes_on


def test_a_run_goes_on_unless_its_best_is_below_the_median_of_the_others_means() -> None:
    others = [[1.0, 3.0], [2.0, 6.0], [0.0, 10.0]]  # means 2, 4, 5: median 4
    assert median_rule([4.0, 1.0], others, least=3)  # its best counts, not its last
    assert not median_rule([3.9, 3.0], others, least=3)
    assert median_rule([0.0], others, least=4)  # too few to judge by
