"""Figures where runs are alike in something else: as far from SFT, as long, or with as many facts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlhf.report.compare import Estimate
from rlhf.report.load import Row


@dataclass(frozen=True)
class Along:
    """What checkpoints are placed by, read off a row and SFT's; rates are nearly straight on its `scale`."""

    read: Callable[[Row, Row], float | None]
    scale: Callable[[float], float] = float


def share_of(*figures: str) -> Callable[[Row, Row], float | None]:
    """The sum of these figures as a share of the SFT model's; None where one has them not."""

    def total(row: Row) -> float | None:
        return None if any(row.get(figure) is None for figure in figures) else sum(row[figure] for figure in figures)

    def read(row: Row, sft: Row) -> float | None:
        own, its = total(row), total(sft)
        return own / its if own is not None and its else None

    return read


KL = Along(lambda row, sft: row.get("true_kl_per_response"), lambda kl: math.sqrt(max(kl, 0)))
"""Nats per response. Rewards are nearly straight in its root (arXiv 2210.10760)."""

LENGTH = Along(share_of("response_length_greedy"))
FACTS = Along(share_of("correct_facts", "wrong_facts"))


def at(checkpoints: Sequence[Row], figure: str, along: Along, value: float) -> Estimate | None:
    """`figure` where the line between two successive checkpoints has that value; None where none has.

    SFT itself is no checkpoint: from there to the first one the way may be long. Of several such places the mean is
    taken.
    """
    sft = next((row for row in checkpoints if row["step"] == 0), {})
    path = [place(row, sft, figure, along) for row in checkpoints if row["step"] > 0]
    found = [between(first, second, along.scale(value)) for first, second in pairwise(path) if first and second]
    return mean_estimate([estimate for estimate in found if estimate is not None])


Place = tuple[float, float, float]
"""Where a checkpoint stands, the figure and its error."""


def place(row: Row, sft: Row, figure: str, along: Along) -> Place | None:
    where, value = along.read(row, sft), row.get(figure)
    return (
        None if where is None or value is None else (along.scale(where), float(value), row.get(f"{figure}_se") or 0.0)
    )


def between(first: Place, second: Place, where: float) -> Estimate | None:
    """Whichever of the two comes first on the scale: that one counts, the other does not."""
    if not min(first[0], second[0]) <= where < max(first[0], second[0]):
        return None
    share = (where - first[0]) / (second[0] - first[0])
    value, error = ((1 - share) * first[place] + share * second[place] for place in (1, 2))
    return value, error


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate | None:
    """Their mean; its error is the mean one, as checkpoints on the same prompts err nearly alike."""
    if not estimates:
        return None
    values, errors = zip(*estimates, strict=True)
    return sum(values) / len(values), sum(errors) / len(errors)
