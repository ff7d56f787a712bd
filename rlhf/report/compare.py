"""Levels and paired differences of groups of runs, pooled over seeds and worlds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.evaluation.pooling import Pooled, bounded, holm, join, paired, pool_nested
from rlhf.evaluation.winrate import outcomes
from rlhf.figures import GREEDY, REWARD, SAMPLED, UNBOUNDED, bounds, headline
from rlhf.report.load import Row, Run

Estimate = tuple[float, float]
"""A value and its standard error over prompts; an error of 0 leaves all to the spread of seeds and worlds."""

Cells = dict[int, dict[int, list[Run]]]
"""World -> seed -> the runs there: one, or one for each strength of a penalty."""

Take = Callable[[Sequence[Run]], Estimate | None]

PREFERENCES = {GREEDY: "greedy_preferences", SAMPLED: "preferences"}
"""What responses.jsonl holds of each win rate."""


@dataclass(frozen=True)
class Measure:
    """What is taken of the runs of one seed in one world, None where they lack it; and what bounds it."""

    take: Take
    bounds: tuple[float, float] = UNBOUNDED


def cells(runs: Sequence[Run]) -> Cells:
    found: Cells = {}
    for run in sorted(runs, key=lambda run: (run.world, run.seed, run.path)):
        found.setdefault(run.world, {}).setdefault(run.seed, []).append(run)
    return found


def extent(runs: Sequence[Run]) -> str:
    """`3 x 2` for three worlds of two seeds each, `3 x 1 to 2` where some have one."""
    seeds = sorted({len(world) for world in cells(runs).values()})
    return f"{len(cells(runs))} x {' to '.join(str(number) for number in (seeds[0], *seeds[1:][-1:]))}"


def headline_of(runs: Sequence[Run]) -> str:
    """Names the win rate that these runs are compared by, or the reward where they have none."""
    return headline(*(run.metrics for run in runs))


def final(figure: str, *part: str) -> Measure:
    """A figure of metrics.json, or of the block in it that `part` leads to."""

    def take(runs: Sequence[Run]) -> Estimate | None:
        metrics = runs[0].metrics
        for name in part:
            metrics = metrics.get(name) or {}
        return estimate_in(metrics, figure)

    return Measure(take, bounds(figure))


def gain(figure: str) -> Measure:
    """The final figure minus the SFT model's."""
    own, sft = final(figure), final(figure, "baseline")
    return Measure(lambda runs: subtract(own, sft, runs, runs))


def subtract(first: Measure, second: Measure, runs: Sequence[Run], others: Sequence[Run]) -> Estimate | None:
    one, other = first.take(runs), second.take(others)
    return None if one is None or other is None else (one[0] - other[0], 0.0)


def at_step(figure: str, step: int) -> Measure:
    """A figure of history.jsonl."""

    def take(runs: Sequence[Run]) -> Estimate | None:
        rows = [row for row in runs[0].checkpoints if row["step"] == step]
        return estimate_in(rows[-1], figure) if rows else None

    return Measure(take, bounds(figure))


def estimate_in(row: Row, figure: str) -> Estimate | None:
    return None if row.get(figure) is None else (float(row[figure]), float(row.get(f"{figure}_se") or 0.0))


def level(runs: Sequence[Run], measure: Measure, beyond: float = 0.0) -> Pooled | None:
    """The mean over worlds minus `beyond`, its interval within the bounds; None unless every run has the figure."""
    worlds = [[measure.take(found) for found in seeds.values()] for seeds in cells(runs).values()]
    result = pooled(worlds, beyond)
    return None if result is None else bounded(result, *measure.bounds)


def win_rate_difference(
    first: Sequence[Run], second: Sequence[Run], beyond: float = 0.0, figure: str | None = None
) -> Pooled | None:
    """first - second - `beyond` of the final figures, prompt by prompt where both runs have their judgements.

    Taken in each world and seed that both have; None unless all of them have the figure. `figure` is one of
    PREFERENCES or the reward, by default what these runs are compared by.
    """
    rate = figure or headline_of([*first, *second])

    def take(one: Sequence[Run], other: Sequence[Run]) -> Estimate | None:
        shares = join(win_shares(one[0], rate), win_shares(other[0], rate), "share")
        if len(shares.first) > 1:
            result = paired(shares.first, shares.second)
            return result.difference, result.standard_error
        return subtract(final(rate), final(rate), one, other)

    return paired_by(first, second, take, beyond)


def win_shares(run: Run, figure: str) -> list[Row]:
    """Per prompt, the share of its judgements that the policy won, in per cent; None where it was left out.

    Where `figure` is the reward, what the response scored.
    """
    rows = []
    for row in run.judgements or []:
        if figure == REWARD:
            rows.append({"instruction": row["instruction"], "share": row.get("score")})
            continue
        given = row.get(PREFERENCES[figure]) or []
        preferences = [None if preference is None else float(preference) for preference in given]
        judged = outcomes([preferences])[0] if preferences else []
        shares = [share for share in judged if share is not None]
        rows.append({"instruction": row["instruction"], "share": 100 * sum(shares) / len(shares) if shares else None})
    return rows


Paired = Callable[[Sequence[Run], Sequence[Run]], Estimate | None]


def paired_by(first: Sequence[Run], second: Sequence[Run], take: Paired, beyond: float = 0.0) -> Pooled | None:
    """Pool what `take` says of each world and seed that both have, minus `beyond`."""
    one, other = cells(first), cells(second)
    shared = [(one[world], other[world]) for world in one if world in other]
    worlds = [[take(mine[seed], yours[seed]) for seed in mine if seed in yours] for mine, yours in shared]
    return pooled([seeds for seeds in worlds if seeds], beyond)


def pooled(worlds: Sequence[Sequence[Estimate | None]], beyond: float) -> Pooled | None:
    """`pool_nested`; None where a run has no estimate, for the others might not speak for it, or there is no run."""
    if not worlds or any(None in seeds for seeds in worlds):
        return None
    known = [[estimate for estimate in seeds if estimate is not None] for seeds in worlds]
    errors = [error for seeds in known for _, error in seeds]
    exact = not all(errors)  # as where two policies gave the same responses in one world: the worlds' spread must do
    return pool_nested([[(value - beyond, 0.0 if exact else error) for value, error in seeds] for seeds in known])


def p_values(results: Sequence[Pooled | None]) -> list[float | None]:
    """Holm's p-values of a family of differences; None where there is no difference, or only one world's."""
    known = [result.p_value for result in results if result is not None and result.n > 1]
    adjusted = iter(holm(known))
    return [next(adjusted) if result is not None and result.n > 1 else None for result in results]
