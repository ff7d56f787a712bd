"""The pictures as PNG and PDF, for papers and for readers without scripts."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlhf.figures import FIGURES, REWARD
from rlhf.report.compare import extent
from rlhf.report.curves import FIRST_METRICS, Means, Point
from rlhf.report.groups import Group
from rlhf.report.pictures import BLUE, LOOKS, ORANGE, Forest, Look, Pictures, rate_name

INK, GREY, PALE = "#222222", "#767676", "#cccccc"

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "text.parse_math": False,  # a $ is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
}
DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": "--",
    "dashdot": "-.",
    "dot": ":",
    "longdash": (0, (8, 2)),
    "longdashdot": (0, (8, 2, 2, 2)),
}
MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "triangle-down": "v", "cross": "P"}

ROW_HEIGHT, MARGIN, WIDTH = 0.24, 0.9, 5.2
SERIES: tuple[dict[str, Any], ...] = (
    {"fmt": "o", "color": BLUE, "markersize": 4.5},
    {"fmt": "s", "color": ORANGE, "markersize": 3.5, "markerfacecolor": "white", "elinewidth": 0.9},
)
BELOW = 0.32
"""By how much of a row a second series stands below the first."""

COLUMNS = 4
LABEL_GAP = 0.055
"""How far apart names beside lines stand at least, as a share of the axis."""


def write_plots(folder: Path, drawn: Pictures) -> list[str]:
    """Write all pictures; returns their names. There are none without groups to compare."""
    if not drawn.compared:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figures = {name: forest(each) for name, each in drawn.forests.items()}
        figures["overoptimisation"] = overoptimisation(drawn)
        if any(len(drawn.curves[drawn.rate].means.get(group.id, [])) > 1 for group in drawn.shown):
            figures[f"{rate_name(drawn.rate)}_by_step"] = by_step(drawn)
        figures["training"] = training(drawn)
        for name, figure in figures.items():
            save(figure, folder / name)
    return list(figures)


def save(figure: Figure, path: Path) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both files
    for kind in ("png", "pdf"):  # without dates and versions: the same runs give the same files
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        figure.savefig(f"{path}.{kind}", dpi=200, metadata=metadata)
    plt.close(figure)


def forest(drawn: Forest) -> Figure:
    size = (WIDTH, MARGIN + ROW_HEIGHT * len(drawn.labels))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_xlabel(drawn.title)
    axes.grid(axis="y", visible=False)
    axes.set_yticks(range(len(drawn.labels)), drawn.labels)
    axes.set_ylim(len(drawn.labels) - 0.4, -0.6)
    if drawn.sft is not None:
        axes.axvline(drawn.sft, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        where: Any = ("data", "axes fraction")
        axes.annotate("SFT", (drawn.sft, 1), (2, 2), where, textcoords="offset points", color=GREY)
    axes.plot(*zip(*[run[:2] for run in drawn.runs], strict=True), "|", color=GREY, markersize=5, alpha=0.7, zorder=2)
    for place, (name, points) in enumerate(drawn.series.items()):
        if not points:
            continue
        rows, means, low, high = ([*column] for column in zip(*points, strict=True))
        errors = [[mean - end for mean, end in zip(means, low, strict=True)]]
        errors.append([end - mean for mean, end in zip(means, high, strict=True)])
        heights = [row + BELOW * place for row in rows]
        axes.errorbar(means, heights, xerr=errors, label=name, capsize=2, zorder=3, **SERIES[place])
    if len(drawn.series) > 1:
        figure.legend(loc="outside upper right", frameon=False, ncols=2)
    return figure


def by_step(drawn: Pictures) -> Figure:
    """The headline figure along training by itself, with a name beside each line: for a page that shows one picture."""
    means, shown = drawn.curves[drawn.rate].means, drawn.shown
    with mpl.rc_context({"font.size": 10.5}):
        figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
        for group, look in zip(shown, LOOKS, strict=False):
            draw_line(axes, means.get(group.id, []), look, bars=False)
        axes.axhline(sft_level(drawn), color=GREY, linewidth=1.4, linestyle=(0, (1, 1.5)), zorder=2.5)
        axes.margins(x=0)
        along_steps(axes)
        axes.set_ylabel(FIGURES[drawn.rate].axis)
        extents = " and ".join(dict.fromkeys(extent(group.runs) for group in shown))
        about = f"means with 95 % intervals, worlds x seeds: {extents}"
        axes.set_title(about, loc="left", fontsize=9, color=GREY)
        name_lines(axes, means, shown, sft_level(drawn))
        return figure


def along_steps(axes: Axes) -> None:
    axes.set_xlabel("PPO step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def sft_level(drawn: Pictures) -> float:
    """The SFT model's own level of the headline figure: of a win rate one half, by definition."""
    known = drawn.forests[rate_name(drawn.rate)].sft
    return known or 0.0 if drawn.rate == REWARD else 50.0


def name_lines(axes: Axes, means: Means, shown: Sequence[Group], sft: float) -> None:
    """At the right of the axes, each at the height of its line's end or as near to it as the others leave room."""
    looks = zip(shown, LOOKS, strict=False)
    ends = [(means[group.id][-1][1], group.label, look.color) for group, look in looks if means.get(group.id)]
    low, high = axes.get_ylim()
    ordered = sorted([(sft, "SFT", GREY), *ends], key=lambda end: end[0])
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


def overoptimisation(drawn: Pictures) -> Figure:
    """The win rate against what is optimized, and against how far the policy went for it, also at equal length."""
    count = len(drawn.paths)
    size = (max(8, 4 * count), 3.4)
    figure, [places] = plt.subplots(1, count, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, trade in zip(places, drawn.paths.values(), strict=True):
        draw_lines(axes, trade.means, drawn, bars=True)
        axes.set_xlabel(FIGURES[trade.against].axis)
        axes.set_ylabel(FIGURES[trade.rate].axis)
    legend(figure, drawn.shown)
    return figure


def training(drawn: Pictures) -> Figure:
    """Small panels of the most informative metrics."""
    names = [name for name in FIRST_METRICS if name in drawn.curves]
    rows = -(-len(names) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(10, 0.5 + 1.9 * rows), squeeze=False, layout="constrained")
    places = [axes for row in grid for axes in row]
    for axes, name in zip(places, names, strict=False):
        draw_lines(axes, drawn.curves[name].means, drawn, bars=False)
        axes.set_title(name, loc="left", fontsize=8)
    for axes in places[len(names) :]:
        axes.set_axis_off()
    for axes in places[max(0, len(names) - COLUMNS) : len(names)]:
        along_steps(axes)
    legend(figure, drawn.shown)
    return figure


def draw_lines(axes: Axes, means: Means, drawn: Pictures, bars: bool) -> None:
    """Lines of all groups compared; those that aren't shown are grey, and do not stretch the axes."""
    for group, look in zip(drawn.shown, LOOKS, strict=False):
        draw_line(axes, means.get(group.id, []), look, bars)
    limits = axes.axis()
    for group in drawn.compared:
        points = means.get(group.id, [])
        if group not in drawn.shown:
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
    axes.plot(x, y, zorder=3, **line_style(look, MARKERS[look.symbol] if bars else ""))


def line_style(look: Look, marker: str) -> dict[str, Any]:
    dash = DASHES[look.dash]
    return {"color": look.color, "linestyle": dash, "linewidth": 1.4, "marker": marker, "markersize": 3.5}


def legend(figure: Figure, shown: Sequence[Group]) -> None:
    looks = list(zip(shown, LOOKS, strict=False))
    handles = [Line2D([], [], **line_style(look, MARKERS[look.symbol])) for _, look in looks]
    labels = [group.label for group, _ in looks]
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "handlelength": 3.5, "ncols": max(1, len(looks))}
    figure.legend(handles, labels, loc="outside lower center", **style)
