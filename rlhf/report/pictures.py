"""The pictures of a report, described once: plots.py draws them for papers, charts.js for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import FIGURES, REWARD
from rlhf.report.compare import final, level
from rlhf.report.curves import Curves, Means, paths
from rlhf.report.groups import Ablation, Group, members

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's, which colour-blind readers can tell apart; the page draws them lighter where it is dark."""


class Look(NamedTuple):
    """A line's colour, dash and marker, by plotly's names: never colour alone."""

    color: str
    dash: str
    symbol: str


LOOKS = (
    Look(BLUE, "solid", "circle"),
    Look(VERMILLION, "dash", "square"),
    Look(GREEN, "dashdot", "triangle-up"),
    Look(PURPLE, "dot", "diamond"),
    Look(ORANGE, "longdash", "triangle-down"),
    Look(SKY, "longdashdot", "cross"),
)
"""As many groups can be told apart at a time; the others stay grey."""

AGAINST = {
    "reward": ("reward", ""),
    "true_kl_per_response": ("true_kl_per_response", ""),
    "equal_length": ("true_kl_per_response", "_length_controlled"),
}
"""What the win rate, or what stands for it, is drawn against, and what is added to its name.

What is optimized; how far the policy went for it; the same with what longer responses win by taken off.
"""


class Trade(NamedTuple):
    """The win rate called `rate` against another figure, evaluation by evaluation."""

    against: str
    rate: str
    means: Means


@dataclass(frozen=True)
class Forest:
    """A row for each group: means of one figure or two with 95 % intervals, and single runs of the first.

    `series` holds (row, mean, ends of its interval) by decoding, `runs` (value, row, which run); `sft` is the SFT
    model's own level of the first figure.
    """

    title: str
    labels: list[str]
    series: dict[str, list[tuple[int, float, float, float]]]
    runs: list[tuple[float, int, str]]
    sft: float | None


@dataclass(frozen=True)
class Pictures:
    """What is drawn of the groups compared; those of `shown` are coloured at first, the others grey.

    `rate` names the win rate; `paths` holds it against what AGAINST names, `curves` every metric by step, the most
    informative first.
    """

    rate: str
    compared: list[Group]
    shown: list[Group]
    forests: dict[str, Forest]
    paths: dict[str, Trade]
    curves: dict[str, Curves]


def pictures(
    found: Ablation, shown: list[Group], sft: Mapping[str, Pooled | None], curves: dict[str, Curves]
) -> Pictures:
    """`sft` has the SFT model's own figures by their names."""
    groups, rate = found.compared, found.headline
    forests = {rate_name(rate): forest(groups, (rate,), sft)} if groups else {}
    factuality = [name for name in ("factuality_greedy", "factuality") if any_has(groups, name)]
    if factuality:
        forests["factuality"] = forest(groups, factuality, sft)
    return Pictures(rate, groups, shown, forests, trades(curves, rate), curves)


def trades(curves: Mapping[str, Curves], rate: str) -> dict[str, Trade]:
    """Those that there is something of, but the first two in any case, which have a place of their own."""
    found = {}
    for name, (against, suffix) in AGAINST.items():
        means = paths(curves, rate + suffix, against)
        if against != rate and (means or not suffix):
            found[name] = Trade(against, rate + suffix, means)
    return found


def rate_name(rate: str) -> str:
    """What files and places call the figure that runs are compared by."""
    return REWARD if rate == REWARD else "win_rate"


def any_has(groups: Sequence[Group], figure: str) -> bool:
    return any(run.metrics.get(figure) is not None for run in members(groups))


def forest(groups: Sequence[Group], figures: Sequence[str], sft: Mapping[str, Pooled | None]) -> Forest:
    own, rows = sft.get(figures[0]), list(enumerate(groups))
    runs = [
        (float(run.metrics[figures[0]]), place, f"{group.label}, data.seed={run.world}, seed={run.seed}")
        for place, group in rows
        for run in group.runs
        if run.metrics.get(figures[0]) is not None
    ]
    series = {}
    for name in figures:
        levels = [(place, level(group.runs, final(name))) for place, group in rows]
        series[FIGURES[name].decoding] = [
            (place, mean.estimate, mean.low, mean.high) for place, mean in levels if mean is not None
        ]
    first = FIGURES[figures[0]]
    title = first.axis if len(figures) == 1 else first.plain
    return Forest(title, [group.label for group in groups], series, runs, None if own is None else own.estimate)
