"""Measures that only the study takes of runs: at their best step, at equal divergence, and paired differences."""

import math
from collections.abc import Sequence
from functools import partial

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import bounds
from rlhf.report.compare import (
    Estimate,
    Measure,
    at_step,
    cells,
    headline_of,
    paired_by,
    subtract,
)
from rlhf.report.curves import steps_of
from rlhf.report.load import Run
from studies.matched import Along, at, mean_estimate


def at_equal(figure: str, along: Along, value: float) -> Measure:
    """The mean over those of the runs that come by that value."""

    def take(runs: Sequence[Run]) -> Estimate | None:
        estimates = [at(run.checkpoints, figure, along, value) for run in runs]
        return mean_estimate([estimate for estimate in estimates if estimate is not None])

    return Measure(take, bounds(figure))


def in_worlds(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """World -> its runs, in the order of the worlds."""
    return {world: [run for run in runs if run.world == world] for world in cells(runs)}


def difference(first: Sequence[Run], second: Sequence[Run], measure: Measure, beyond: float = 0.0) -> Pooled | None:
    """first - second - `beyond`, in each world and seed that both have; None unless every such world has the figure."""
    return difference_of(first, measure, second, measure, beyond)


def difference_of(
    first: Sequence[Run],
    first_measure: Measure,
    second: Sequence[Run],
    second_measure: Measure,
    beyond: float = 0.0,
) -> Pooled | None:
    """The same where each side is measured in its own way, as at its own best step."""
    return paired_by(first, second, partial(subtract, first_measure, second_measure), beyond)


def best_steps(runs: Sequence[Run]) -> dict[int, int]:
    """World -> the step of the highest win rate in the *other* worlds, so that luck in choosing is not counted.

    One world alone has to choose by itself.
    """
    worlds = cells(runs)
    steps = [step for step in steps_of(runs) if step > 0]
    if not steps:
        return {}
    return {world: max(steps, key=lambda step: mean_at(others(runs, world), step)) for world in worlds}


def others(runs: Sequence[Run], world: int) -> list[Run]:
    return [run for run in runs if run.world != world] or list(runs)


def mean_at(runs: Sequence[Run], step: int) -> float:
    found = [at_step(headline_of(runs), step).take([run]) for run in runs]
    values = [estimate[0] for estimate in found if estimate is not None]
    return sum(values) / len(values) if values else -math.inf


def at_best(figure: str, runs: Sequence[Run]) -> Measure:
    """The figure at the best step of `runs`, a whole group."""
    steps = best_steps(runs)

    def take(found: Sequence[Run]) -> Estimate | None:
        world = found[0].world
        return at_step(figure, steps[world]).take(found) if world in steps else None

    return Measure(take, bounds(figure))
