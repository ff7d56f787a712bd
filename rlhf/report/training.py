"""Figures along training: by PPO step, and at the best step, chosen where it is not then measured."""

import math
from collections.abc import Sequence
from functools import partial

from rlhf.report.compare import BOUNDS, UNBOUNDED, Measure, at_step, cells, headline_of, level
from rlhf.report.load import Run
from rlhf.report.matched import Estimate

Point = tuple[float, float, float, float]
"""x, and an estimate with the ends of its interval."""


def steps_of(runs: Sequence[Run]) -> list[int]:
    """The steps at which all runs were evaluated."""
    evaluated = [{int(row["step"]) for row in run.checkpoints} for run in runs]
    return sorted(set.intersection(*evaluated)) if evaluated else []


def curve(runs: Sequence[Run], figure: str) -> list[Point]:
    """(step, mean, ends of its interval) for each evaluated step."""
    levels = [(step, level(runs, at_step(figure, step))) for step in steps_of(runs)]
    return [(float(step), found.estimate, found.low, found.high) for step, found in levels if found is not None]


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
    return Measure(partial(_at_best, figure, best_steps(runs)), BOUNDS.get(figure, UNBOUNDED))


def _at_best(figure: str, steps: dict[int, int], runs: Sequence[Run]) -> Estimate | None:
    world = runs[0].world
    return at_step(figure, steps[world]).take(runs) if world in steps else None
