"""The figures as PNG and PDF, for papers and for readers without scripts."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.compare import extent, final, level
from rlhf.report.curves import FIRST_METRICS, Curves, Point, paths
from rlhf.report.groups import Ablation, Group
from rlhf.report.style import BLUE, GREY, INK, LOOKS, PALE, Look

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
}
ROW_HEIGHT, MARGIN, WIDTH = 0.24, 0.9, 3.6
COLUMNS = 4

TITLES = {
    GREEDY: "greedy win rate against SFT, %",
    SAMPLED: "sampled win rate against SFT, %",
    "factuality_greedy": "greedy factuality, %",
    "factuality": "sampled factuality, %",
}
OPTIMISED = {
    "reward": "reward model's score, SFT deviations",
    "true_kl_per_response": "true KL to SFT, nats per response",
}
LABEL_GAP = 0.055
"""How far apart names beside lines stand at least, as a share of the axis."""

Means = dict[str, list[Point]]
"""By the id of a group."""


def write_plots(
    folder: Path,
    found: Ablation,
    sft: Mapping[str, Pooled | None],
    shown: Sequence[Group],
    curves: Mapping[str, Curves],
) -> list[str]:
    """All figures of the groups; curves are coloured of `shown`, the others grey. Returns the names written."""
    folder.mkdir(parents=True, exist_ok=True)
    groups, rate = found.compared, found.headline
    figures = {"win_rate": forests(groups, (rate,), sft)}
    known = [name for name in ("factuality_greedy", "factuality") if any_has(groups, name)]
    if known:
        figures["factuality"] = forests(groups, (rate, known[0]), sft)
    drawn = {group.id for group in groups}
    against = {name: of(paths(curves, rate, name), drawn) for name in OPTIMISED}
    figures["overoptimisation"] = overoptimisation(against, shown, rate)
    if any(len(curves[rate].means.get(group.id, [])) > 1 for group in shown):
        figures["win_rate_by_step"] = by_step(curves[rate].means, shown, rate)
    panels = {name: of(curves[name].means, drawn) for name in FIRST_METRICS if name in curves}
    figures["training"] = training(panels, shown)
    save(figures, folder)
    return list(figures)


def any_has(groups: Sequence[Group], figure: str) -> bool:
    return any(run.metrics.get(figure) is not None for group in groups for run in group.runs)


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    for name, figure in figures.items():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for both files
        for kind in ("png", "pdf"):  # without dates and versions: the same runs give the same files
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(folder / f"{name}.{kind}", dpi=200, metadata=metadata)
        plt.close(figure)


def forests(groups: Sequence[Group], figures: Sequence[str], sft: Mapping[str, Pooled | None]) -> Figure:
    """A panel for each figure, a row for each group: its mean with the 95 % interval, and every run as a small dot."""
    with mpl.rc_context(STYLE):
        size = (1.6 + WIDTH * len(figures), MARGIN + ROW_HEIGHT * len(groups))
        figure, grid = plt.subplots(1, len(figures), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, name in zip(grid[0], figures, strict=True):
            forest(axes, groups, name, sft.get(name))
        grid[0][0].set_yticks(range(len(groups)), [group.label for group in groups])
        grid[0][0].set_ylim(len(groups) - 0.4, -0.6)
        return figure


def forest(axes: Axes, groups: Sequence[Group], name: str, sft: Pooled | None) -> None:
    axes.set_xlabel(TITLES[name])
    axes.grid(axis="y", visible=False)
    if sft is not None:
        axes.axvline(sft.estimate, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        where: Any = ("data", "axes fraction")
        axes.annotate("SFT", (sft.estimate, 1), (2, 2), where, textcoords="offset points", color=GREY)
    for place, group in enumerate(groups):
        values = [float(run.metrics[name]) for run in group.runs if run.metrics.get(name) is not None]
        axes.plot(values, [place] * len(values), "|", color=GREY, markersize=5, alpha=0.7, zorder=2)
        mean = level(group.runs, final(name))
        if mean is not None:
            error = [[mean.estimate - mean.low], [mean.high - mean.estimate]]
            axes.errorbar(mean.estimate, place, xerr=error, fmt="o", color=BLUE, markersize=4.5, capsize=2, zorder=3)


def of(means: Means, groups: Collection[str]) -> Means:
    return {group: points for group, points in means.items() if group in groups}


def by_step(means: Means, shown: Sequence[Group], rate: str) -> Figure:
    """The win rate along training by itself, with a name beside each line: for a page that shows one picture."""
    with mpl.rc_context({**STYLE, "font.size": 10.5}):
        figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
        for group, look in zip(shown, LOOKS, strict=False):
            draw_line(axes, means.get(group.id, []), look, bars=False)
        axes.axhline(50, color=GREY, linewidth=1.4, linestyle=(0, (1, 1.5)), zorder=2.5)
        axes.margins(x=0)
        axes.set_xlabel("PPO step")
        axes.set_ylabel(TITLES[rate])
        extents = " and ".join(dict.fromkeys(extent(group.runs) for group in shown))
        about = f"means with 95 % intervals, worlds x seeds: {extents}"
        axes.set_title(about, loc="left", fontsize=9, color=GREY)
        name_lines(axes, means, shown)
        return figure


def name_lines(axes: Axes, means: Means, shown: Sequence[Group]) -> None:
    """At the right of the axes, each at the height of its line's end or as near to it as the others leave room."""
    looks = zip(shown, LOOKS, strict=False)
    ends = [(means[group.id][-1][1], group.label, look.color) for group, look in looks if means.get(group.id)]
    low, high = axes.get_ylim()
    ordered = sorted([(50.0, "SFT", GREY), *ends], key=lambda end: end[0])
    heights = apart([height for height, *_ in ordered], LABEL_GAP * (high - low))
    where: Any = ("axes fraction", "data")
    for height, (_, label, color) in zip(heights, ordered, strict=True):
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": color, "fontweight": "bold"}
        axes.annotate(label, (1, height), (6, 0), where, **style)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as it takes until neighbours are `gap` apart, or nearly so."""
    moved = list(places)
    for _ in range(200):
        for first, second in pairwise(range(len(moved))):
            push = max(0.0, gap - (moved[second] - moved[first])) / 2
            moved[first], moved[second] = moved[first] - push, moved[second] + push
    return moved


def overoptimisation(found: Mapping[str, Means], shown: Sequence[Group], rate: str) -> Figure:
    """The win rate against what is optimized, and against how far the policy went for it."""
    with mpl.rc_context(STYLE):
        figure, places = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
        for axes, (name, label) in zip(places, OPTIMISED.items(), strict=True):
            draw_lines(axes, found[name], shown, bars=True)
            axes.set_xlabel(label)
        places[0].set_ylabel(TITLES[rate])
        legend(figure, shown)
        return figure


def training(panels: Mapping[str, Means], shown: Sequence[Group]) -> Figure:
    """Small panels of the most telling metrics."""
    with mpl.rc_context(STYLE):
        rows = -(-len(panels) // COLUMNS)
        figure, grid = plt.subplots(rows, COLUMNS, figsize=(10, 0.5 + 1.9 * rows), squeeze=False, layout="constrained")
        places = [axes for row in grid for axes in row]
        for axes, (name, means) in zip(places, panels.items(), strict=False):
            draw_lines(axes, means, shown, bars=False)
            axes.set_title(name, loc="left", fontsize=8)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        for axes in places[max(0, len(panels) - COLUMNS) : len(panels)]:
            axes.set_xlabel("PPO step")
        legend(figure, shown)
        return figure


def draw_lines(axes: Axes, means: Means, shown: Sequence[Group], bars: bool) -> None:
    """The others stay grey, and do not stretch the axes."""
    looks = {group.id: look for group, look in zip(shown, LOOKS, strict=False)}
    for group, look in looks.items():
        draw_line(axes, means.get(group, []), look, bars)
    limits = axes.axis()
    for points in (points for group, points in means.items() if group not in looks):
        axes.plot([x for x, *_ in points], [y for _, y, *_ in points], color=PALE, linewidth=0.7, zorder=1)
    axes.axis(limits)


def draw_line(axes: Axes, points: Sequence[Point], look: Look, bars: bool) -> None:
    if not points:
        return
    x, y, low, high = (list(column) for column in zip(*points, strict=True))
    if bars:
        axes.vlines(x, low, high, color=look.color, linewidth=0.8, alpha=0.6, zorder=2)
    else:
        axes.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0, zorder=2)
    axes.plot(x, y, zorder=3, **line_style(look, look.marker if bars else ""))


def line_style(look: Look, marker: str) -> dict[str, Any]:
    return {
        **{"color": look.color, "linestyle": look.dash, "linewidth": 1.4},
        **{"marker": marker, "markersize": 3.5},
    }


def legend(figure: Figure, shown: Sequence[Group]) -> None:
    looks = list(zip(shown, LOOKS, strict=False))
    handles = [Line2D([], [], **line_style(look, look.marker)) for _, look in looks]
    labels = [group.label for group, _ in looks]
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "handlelength": 3.5, "ncols": max(1, len(looks))}
    figure.legend(handles, labels, loc="outside lower center", **style)
