"""Rules that stop a run of a sweep on the way: pure functions of what it and others have reached; more is better."""

from collections.abc import Sequence
from statistics import median


def rung(step: int, every: int, first: int, reduction: int) -> bool:
    """Whether successive halving decides after this step: at the first evaluation from `first` x `reduction`^k on."""
    milestone = first
    while milestone <= step:
        if milestone > step - every:
            return True
        milestone *= reduction
    return False


def asha(own: float, others: Sequence[float], reduction: int) -> bool:
    """Whether a run goes on from a rung that `others` have come to before (Li et al., arXiv 1810.05934, algorithm 2).

    It does where it is among the best 1 / `reduction` of all; of fewer than `reduction` runs, where none is better.
    """
    places = max(1, (len(others) + 1) // reduction)
    return sum(other > own for other in others) < places


def median_rule(own: Sequence[float], others: Sequence[Sequence[float]], least: int) -> bool:
    """Whether a run goes on by the median rule (Golovin et al., Google Vizier, 2017, section 3.2).

    Each sequence holds a run's values up to the same step. It goes on unless its best is below the median of the means
    of at least `least` others.
    """
    means = [sum(values) / len(values) for values in others]
    return len(means) < least or max(own) >= median(means)
