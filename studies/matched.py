"""Figures at equal divergence: a run's win rate or factuality where it is so many nats per response from SFT."""

import math
from collections.abc import Sequence
from itertools import pairwise

from rlhf.report.compare import Estimate
from rlhf.report.load import Row


def at_kl(checkpoints: Sequence[Row], figure: str, kl: float) -> Estimate | None:
    """`figure` where the line between two successive checkpoints has that KL per response; None where none has.

    Straight in the root of the KL, along which rewards are nearly straight (arXiv 2210.10760). SFT itself, at 0, is no
    checkpoint: from there to the first one the way may be long. Of several such places the mean is taken.
    """
    path = [place(row, figure) for row in checkpoints if row["step"] > 0]
    found = [between(first, second, math.sqrt(kl)) for first, second in pairwise(path) if first and second]
    return mean_estimate([estimate for estimate in found if estimate is not None])


Place = tuple[float, float, float]
"""The root of a checkpoint's KL, the figure and its error."""


def place(row: Row, figure: str) -> Place | None:
    kl, value = row.get("true_kl_per_response"), row.get(figure)
    return (
        None if kl is None or value is None else (math.sqrt(max(kl, 0)), float(value), row.get(f"{figure}_se") or 0.0)
    )


def between(first: Place, second: Place, root: float) -> Estimate | None:
    if not min(first[0], second[0]) <= root < max(first[0], second[0]):
        return None
    share = (root - first[0]) / (second[0] - first[0])
    value, error = ((1 - share) * first[place] + share * second[place] for place in (1, 2))
    return value, error


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate | None:
    """Their mean; its error is the mean one, as checkpoints on the same prompts err nearly alike."""
    if not estimates:
        return None
    values, errors = zip(*estimates, strict=True)
    return sum(values) / len(values), sum(errors) / len(errors)
