"""Figures along training: over-optimisation, and every diagnostic of history.jsonl, by group and by run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.compare import at_step, level
from rlhf.report.groups import Group, short_hash
from rlhf.report.load import Run

Point = tuple[float, float, float, float]
"""x, and an estimate with the ends of its interval."""

Means = dict[str, list[Point]]
"""By the id of a group."""

PRECISION = 5
"""Significant digits of what is drawn."""

NO_CURVE = ("step", "n_eval")

FIRST_METRICS = (
    *(GREEDY, SAMPLED, "objective", "reward", "true_kl_per_response", "factuality_greedy"),
    *("rollout/objective", "rollout/score", "rollout/kl_per_response", "rollout/penalty_per_response"),
    *("rollout/entropy", "rollout/response_length"),
    *("ppo/clip_fraction", "ppo/approx_kl", "ppo/grad_norm", "ppo/value_loss"),
)
"""These come first where a metric is chosen, in this order; the others by name."""


@dataclass(frozen=True)
class Curves:
    """What is drawn of one metric: by group its mean with an interval, and each run's own line."""

    metric: str
    pooled: bool
    """Whether intervals are those of pooled figures, at 95 %; else they are the runs' mean and standard error."""
    means: Means
    lines: dict[str, list[dict[str, Any]]]


def curves_by_metric(groups: Sequence[Group]) -> dict[str, Curves]:
    """Curves of every number in the runs' histories, the most informative metrics first."""
    steps = table_of(groups)
    return {name: curves_of(steps, groups, name) for name in metrics_of(steps)}


def table_of(groups: Sequence[Group]) -> pd.DataFrame:
    """A row for each step of each run, a column for each metric that is a number."""
    frames = []
    for group in groups:
        for run in group.runs:
            rows = [{name: value for name, value in row.items() if is_number(value)} for row in run.history]
            frames.append(pd.DataFrame.from_records(rows).assign(group=group.id, run=short_hash(run.path)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["group", "run", "step"])


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics that can be drawn, the most informative first."""
    own = {"group", "run", *NO_CURVE}
    names = [str(name) for name in table.columns if name not in own and not str(name).endswith("_se")]
    first = {name: place for place, name in enumerate(FIRST_METRICS)}
    return sorted(names, key=lambda name: (first.get(name, len(first)), "/" not in name, name))


def curves_of(table: pd.DataFrame, groups: Sequence[Group], metric: str) -> Curves:
    """Figures that know their own error are pooled over seeds and worlds; of the others runs are averaged."""
    known: pd.DataFrame = table.loc[:, ["group", "run", "step", metric]].dropna()  # pyright: ignore[reportAssignmentType]
    lines: dict[str, list[dict[str, Any]]] = {group.id: [] for group in groups}
    for run, rows in known.groupby("run", sort=False):
        steps = rows["step"].astype(int).tolist()
        lines[str(rows["group"].iloc[0])].append({"run": run, "x": steps, "y": [*map(significant, rows[metric])]})
    pooled = f"{metric}_se" in table.columns
    if pooled:
        means = {group.id: [point(*each) for each in curve(group.runs, metric)] for group in groups}
    else:
        means = mean_curves(known, metric)
    return Curves(metric, pooled, means, lines)


def mean_curves(known: pd.DataFrame, metric: str) -> Means:
    """By group (step, mean, mean -+ standard error over runs); one run alone has no error."""
    found = known.groupby(["group", "step"])[metric].agg(["mean", "sem"]).fillna({"sem": 0.0}).reset_index()
    means: Means = {}
    for group, step, mean, error in found.itertuples(index=False):
        means.setdefault(group, []).append(point(float(step), mean, mean - error, mean + error))
    return means


def point(x: float, mean: float, low: float, high: float) -> Point:
    return significant(x), significant(mean), significant(low), significant(high)


def significant(value: float) -> float:
    return float(f"{value:.{PRECISION}g}")


def paths(curves: Mapping[str, Curves], rate: str, figure: str) -> Means:
    """By group, step after step: the mean of another figure, and the win rate called `rate` with its interval."""
    if rate not in curves or figure not in curves:
        return {}
    others = {group: {step: mean for step, mean, *_ in points} for group, points in curves[figure].means.items()}
    return {
        group: [(others[group][step], rate, low, high) for step, rate, low, high in points if step in others[group]]
        for group, points in curves[rate].means.items()
        if group in others
    }


def steps_of(runs: Sequence[Run]) -> list[int]:
    """The steps at which all runs were evaluated."""
    evaluated = [{int(row["step"]) for row in run.checkpoints} for run in runs]
    return sorted(set.intersection(*evaluated)) if evaluated else []


def curve(runs: Sequence[Run], figure: str) -> list[Point]:
    """(step, mean, ends of its interval) for each evaluated step."""
    levels = [(step, level(runs, at_step(figure, step))) for step in steps_of(runs)]
    return [(float(step), found.estimate, found.low, found.high) for step, found in levels if found is not None]
