"""Figures of small panels: lines with bands, points, and labels instead of legends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from rlhf.report.curves import Point

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676"
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and a grey."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "text.parse_math": False,  # a $ is a $
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "figure.dpi": 150,
}
WIDTH = 8.0
PANEL_HEIGHT = 1.75
MOST_MARKERS = 12
LOG_TICKS = (0.001, 0.01, 0.1, 1, 10, 100)


@dataclass(frozen=True)
class Line:
    points: list[Point]
    color: str
    band: bool = True
    bars: bool = False
    markers: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dots:
    points: list[tuple[float, float]]
    color: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Panel:
    """`alone`: on axes of its own. Other panels share their x axis, and those of one `y_label` the y axis."""

    title: str
    lines: list[Line]
    dots: list[Dots] = field(default_factory=list)
    alone: bool = False
    y_label: str | None = None
    color: str = "black"
    """The colour of a title: that of the line it names."""
    log_y: bool = False
    x_ticks: dict[float, str] = field(default_factory=dict)
    words: list[tuple[str, str]] = field(default_factory=list)
    """Coloured words that say which line is which."""


@dataclass(frozen=True)
class Axis:
    label: str
    log: bool = False
    shaded: tuple[float, float] | None = None


def draw(path: Path, panels: Sequence[Panel], x: Axis, y_label: str = "", columns: int = 4) -> None:
    """Write a PNG of panels, row by row."""
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(WIDTH, PANEL_HEIGHT * rows + 0.35), squeeze=False, layout="constrained"
        )
        places = [axes for row in grid for axes in row]
        for axes, panel in zip(places, panels, strict=False):
            draw_panel(axes, panel, x)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        share_limits([(axes, panel) for axes, panel in zip(places, panels, strict=False) if not panel.alone])
        figure.supxlabel(x.label, fontsize=8)
        figure.supylabel(y_label, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})  # no version: the same runs give the same file
        plt.close(figure)


def draw_panel(axes: Axes, panel: Panel, x: Axis) -> None:
    axes.set_title(panel.title, color=panel.color)
    if x.shaded is not None and not panel.alone:
        axes.axvspan(*x.shaded, color="#f1ead9", linewidth=0, zorder=0)
    for dots in (found for found in panel.dots if found.points):
        axes.scatter(*zip(*dots.points, strict=True), s=7, color=dots.color, alpha=dots.opacity, linewidth=0, zorder=2)
    for line in panel.lines:
        draw_line(axes, line)
    scale_x(axes, panel, x)
    write_words(axes, panel.words)
    if panel.log_y:
        axes.set_yscale("log")
        label_plainly(axes.yaxis)
    axes.set_ylabel(panel.y_label or "")


def draw_line(axes: Axes, line: Line) -> None:
    if not line.points:
        return
    x, y, low, high = (list(column) for column in zip(*line.points, strict=True))
    if line.band:
        axes.fill_between(x, low, high, color=line.color, alpha=0.18, linewidth=0, zorder=1)
    if line.bars:
        axes.errorbar(x, y, [spans(y, low), spans(high, y)], color=line.color, linewidth=0, elinewidth=1, zorder=3)
    marker = "o" if (line.markers and len(x) <= MOST_MARKERS) or line.bars or len(x) == 1 else ""
    style: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9} if line.dashed else {"linewidth": 1.4}
    axes.plot(x, y, color=line.color, marker=marker, markersize=2.8, zorder=4, **style)


def spans(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [max(one - other, 0.0) for one, other in zip(above, below, strict=True)]


def scale_x(axes: Axes, panel: Panel, x: Axis) -> None:
    if panel.x_ticks:
        axes.set_xticks(list(panel.x_ticks), list(panel.x_ticks.values()))
    elif x.log and not panel.alone:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(LOG_TICKS))
        label_plainly(axes.xaxis)


def label_plainly(axis: MatplotlibAxis) -> None:
    """Have the ticks of a logarithmic axis read 0.1, 1, 10,000: matplotlib's powers need its mathematics."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def share_limits(places: Sequence[tuple[Axes, Panel]]) -> None:
    spread([axes.get_xlim() for axes, _ in places], [axes.set_xlim for axes, _ in places])
    for label in {panel.y_label for _, panel in places}:
        group = [axes for axes, panel in places if panel.y_label == label]
        spread([axes.get_ylim() for axes in group], [axes.set_ylim for axes in group])


def spread(limits: Sequence[tuple[float, float]], setters: Sequence[Callable[[float, float], Any]]) -> None:
    for put in setters:
        put(min(low for low, _ in limits), max(high for _, high in limits))


def write_words(axes: Axes, words: Sequence[tuple[str, str]]) -> None:
    """Beside the title, from the right."""
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 7.5}
    anchor: Any = "axes fraction"
    for text, color in words:
        right = (1.0, 1.0) if anchor == "axes fraction" else (0.0, 0.0)
        offset = (0, 4) if anchor == "axes fraction" else (-5, 0)
        anchor = axes.annotate(text, right, offset, xycoords=anchor, color=color, **style)
