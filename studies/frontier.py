"""A form's figures at equal KL or length, each world's at the strength that does best there in the other worlds."""

import math
from collections.abc import Sequence

import numpy as np

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY
from rlhf.report.compare import cells, level
from rlhf.report.curves import Point
from rlhf.report.load import Run
from studies.figures import Dots
from studies.forms import strength
from studies.matched import KL, Along
from studies.measures import at_equal, difference

KLS = (1.0, 2.0, 4.0)
"""KL in nats per response at which forms are compared: 20 tokens of 0.05 to 0.2 nats, where the paper's forms peak."""

MOST = 3 / 4
"""The share of worlds in which a strength must come by a value to be compared there: of sixteen worlds in twelve."""

GRID = tuple(round(0.2 * 10 ** (place / 10), 3) for place in range(24))
"""KLs at which curves are drawn: ten for each factor of ten, from 0.2 to 40."""


def level_at(runs: Sequence[Run], figure: str, value: float, along: Along = KL) -> Pooled | None:
    return level(on_frontier(runs, value, along), at_equal(figure, along, value))


def difference_at(
    first: Sequence[Run],
    second: Sequence[Run],
    figure: str,
    value: float,
    beyond: float = 0.0,
    along: Along = KL,
) -> Pooled | None:
    """In the worlds where both come by that value; None where these are not most of those that have both."""
    one, other = (on_frontier(runs, value, along) for runs in (first, second))
    there, both = (set(cells(mine)) & set(cells(others)) for mine, others in ((one, other), (first, second)))
    return difference(one, other, at_equal(figure, along, value), beyond) if len(there) >= MOST * len(both) else None


def curve_by_kl(runs: Sequence[Run], figure: str) -> list[Point]:
    """(KL, mean, ends of its interval) wherever most worlds have it."""
    levels = [(kl, level_at(runs, figure, kl)) for kl in GRID]
    return [(kl, found.estimate, found.low, found.high) for kl, found in levels if found is not None]


def gold(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Alpha and beta of the greedy win rate as 50 + d (alpha - beta log d), d the root of the KL (arXiv 2210.10760).

    By least squares over all evaluated checkpoints of all worlds; None where there are fewer than three.
    """
    points = dots(runs, GREEDY)
    if len(points) < 3:
        return None
    roots = np.sqrt([kl for kl, _ in points])
    rates = np.array([rate for _, rate in points])
    (alpha, beta), *_ = np.linalg.lstsq(np.column_stack([roots, -roots * np.log(roots)]), rates - 50, rcond=None)
    return float(alpha), float(beta)


def gold_curve(runs: Sequence[Run]) -> list[Point]:
    """The fit of `gold` between the smallest and the largest KL that were reached."""
    found = gold(runs)
    if found is None:
        return []
    reached = [kl for kl, _ in dots(runs, GREEDY)]
    grid = [math.sqrt(kl) for kl in GRID if min(reached) <= kl <= max(reached)]
    rates = [50 + root * (found[0] - found[1] * math.log(root)) for root in grid]
    return [(root**2, rate, rate, rate) for root, rate in zip(grid, rates, strict=True) if 0 <= rate <= 100]


def checkpoint_dots(runs: Sequence[Run], figure: str, color: str) -> list[Dots]:
    strengths = sorted({strength(run) for run in runs})
    groups = [[run for run in runs if strength(run) == value] for value in strengths]
    opacities = [0.15 + 0.45 * place / len(groups) for place in range(1, len(groups) + 1)]
    return [Dots(dots(group, figure), color, opacity) for group, opacity in zip(groups, opacities, strict=True)]


def dots(runs: Sequence[Run], figure: str) -> list[tuple[float, float]]:
    """The checkpoints that the figure's axis can show."""
    rows = [row for run in runs for row in run.checkpoints if row.get(figure) is not None]
    points = [(float(row.get("true_kl_per_response") or 0), float(row[figure])) for row in rows]
    return [point for point in points if point[0] >= GRID[0]]


def on_frontier(runs: Sequence[Run], value: float, along: Along = KL) -> list[Run]:
    """Each world's runs of one strength: of those that come by that value there, the best in the other worlds.

    A mean over strengths would depend on which were tried. Choosing in the other worlds leaves luck out of the choice,
    which a single world has to make by itself. Strengths count that come by it in most worlds (`MOST`); worlds are left
    out where none of these does.
    """
    worlds = cells(runs)
    strengths = sorted({strength(run) for run in runs})
    groups = {each: [run for run in runs if strength(run) == each] for each in strengths}
    rates = {each: rates_at(group, value, along) for each, group in groups.items()}
    often = {each: found for each, found in rates.items() if len(found) >= MOST * len(worlds)}
    chosen: list[Run] = []
    for world in worlds:
        own = [each for each, found in often.items() if world in found]
        if own:
            best = max(own, key=lambda each: mean_without(often[each], world))
            chosen += [run for run in groups[best] if run.world == world]
    return chosen


def rates_at(runs: Sequence[Run], value: float, along: Along) -> dict[int, float]:
    """World -> its win rate there, for the worlds that come by."""
    found, take = {}, at_equal(GREEDY, along, value).take
    for world, seeds in cells(runs).items():
        taken = [take(own) for own in seeds.values()]
        rates = [estimate[0] for estimate in taken if estimate is not None]
        if len(rates) == len(taken):
            found[world] = sum(rates) / len(rates)
    return found


def mean_without(rates: dict[int, float], world: int) -> float:
    """Over the other worlds; of a single one, its own."""
    values = [rate for other, rate in rates.items() if other != world] or list(rates.values())
    return sum(values) / len(values)
