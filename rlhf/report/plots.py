"""The figures as PNG and PDF, for papers and for readers without scripts."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf.evaluation.pooling import Pooled
from rlhf.report.compare import final, level
from rlhf.report.curves import FIRST_METRICS, Curves, paths
from rlhf.report.groups import Group
from rlhf.report.style import BLUE, GREY, INK, LOOKS, PALE, Look
from rlhf.report.training import Point

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

TITLES = {"win_rate": "win rate against SFT, %", "factuality": "factuality, %"}
OPTIMISED = {"reward": "reward model's score, SFT deviations", "true_kl_per_token": "true KL to SFT, nats per token"}

Means = dict[str, list[Point]]
"""By the id of a group."""


def write_plots(
    folder: Path,
    groups: Sequence[Group],
    sft: Mapping[str, Pooled | None],
    shown: Sequence[Group],
    curves: Mapping[str, Curves],
) -> list[str]:
    """All figures of the groups; curves are coloured of `shown`, the others grey. Returns the names written."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"win_rate": forests(groups, ("win_rate",), sft)}
    if any(run.metrics.get("factuality") is not None for group in groups for run in group.runs):
        figures["factuality"] = forests(groups, ("win_rate", "factuality"), sft)
    drawn = {group.id for group in groups}
    figures["overoptimisation"] = overoptimisation({name: of(paths(curves, name), drawn) for name in OPTIMISED}, shown)
    panels = {name: of(curves[name].means, drawn) for name in FIRST_METRICS if name in curves}
    figures["training"] = training(panels, shown)
    for name, figure in figures.items():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for both files
        for kind in ("png", "pdf"):  # without dates and versions: the same runs give the same files
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(folder / f"{name}.{kind}", dpi=200, metadata=metadata)
        plt.close(figure)
    return list(figures)


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


def overoptimisation(found: Mapping[str, Means], shown: Sequence[Group]) -> Figure:
    """The win rate against what is optimized, and against how far the policy went for it."""
    with mpl.rc_context(STYLE):
        figure, places = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
        for axes, (name, label) in zip(places, OPTIMISED.items(), strict=True):
            draw_lines(axes, found[name], shown, bars=True)
            axes.set_xlabel(label)
        places[0].set_ylabel(TITLES["win_rate"])
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
