"""The page's interactive figures of settings: what plotly draws from, without colours of text and grid.

Those follow the reader's light or dark theme, and are set by report.js. Curves are drawn there too, from data files.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from rlhf.evaluation.pooling import Pooled
from rlhf.report.compare import final, level
from rlhf.report.groups import Group
from rlhf.report.markdown import number
from rlhf.report.style import BLUE, GREY, LOOKS, ORANGE

ROW_HEIGHT, FRAME = 26, 90
"""Of a figure with a row for each group, in pixels."""

BELOW = 0.32
"""By how much of a row a second figure stands below the first."""


def looks() -> list[dict[str, str]]:
    """For report.js and the page's legend."""
    return [{"color": look.color, "dash": look.plotly_dash, "symbol": look.plotly_symbol} for look in LOOKS]


def forest(
    groups: Sequence[Group], figures: Sequence[tuple[str, str]], title: str, sft: Pooled | None
) -> dict[str, Any]:
    """A row for each group: figures, given with their names, as means with 95 % intervals, and runs as small marks.

    A dashed line stands for the SFT model's own level of the first figure.
    """
    chart = go.Figure()
    for place, (figure, name) in enumerate(figures):
        if place == 0:
            chart.add_trace(run_marks(groups, figure))
        chart.add_trace(means(groups, figure, name, second=place > 0))
    if sft is not None:
        chart.add_vline(x=sft.estimate, line={"color": GREY, "dash": "dash", "width": 1.2})
        note = {"text": f"SFT {number(sft.estimate)}", "yref": "paper", "y": 1, "yanchor": "bottom", "x": sft.estimate}
        chart.add_annotation(showarrow=False, **note)
    labels = {"tickvals": list(range(len(groups))), "ticktext": [group.label for group in groups]}
    chart.update_layout(height=FRAME + ROW_HEIGHT * len(groups), showlegend=False)
    chart.update_yaxes(range=[len(groups) - 0.4, -0.6], zeroline=False, automargin=True, ticklabelstandoff=6, **labels)
    chart.update_xaxes(title={"text": title, "standoff": 8}, zeroline=False)
    spec = chart.to_plotly_json()
    spec["layout"].pop("template", None)
    return spec


def run_marks(groups: Sequence[Group], figure: str) -> go.Scatter:
    found = [
        (float(run.metrics[figure]), place, f"{group.label}, data.seed={run.world}, seed={run.seed}")
        for place, group in enumerate(groups)
        for run in group.runs
        if run.metrics.get(figure) is not None
    ]
    x, y, text = ([row[column] for row in found] for column in range(3))
    marker = {"symbol": "line-ns-open", "size": 8, "color": GREY, "opacity": 0.75}
    return go.Scatter(
        x=x, y=y, text=text, mode="markers", marker=marker, hovertemplate="%{text}: %{x:.1f}<extra></extra>"
    )


def means(groups: Sequence[Group], figure: str, name: str, second: bool) -> go.Scatter:
    """The second figure of a chart stands below the first, with another mark."""
    levels = [(place, group.label, level(group.runs, final(figure))) for place, group in enumerate(groups)]
    known = [(place, label, found) for place, label, found in levels if found is not None]
    marker = {"size": 7, "color": ORANGE, "symbol": "square-open"} if second else {"size": 9, "color": BLUE}
    return go.Scatter(
        x=[found.estimate for *_, found in known],
        y=[place + BELOW * second for place, *_ in known],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.estimate for *_, found in known],
            "arrayminus": [found.estimate - found.low for *_, found in known],
            "thickness": 1.0 if second else 1.6,
            "width": 3 if second else 4,
        },
        text=[f"{label}, {name}: {told(found)}" for _, label, found in known],
        hovertemplate="%{text}<extra></extra>",
        mode="markers",
        marker=marker,
    )


def told(figure: Pooled) -> str:
    return f"{number(figure.estimate)} [{number(figure.low)}, {number(figure.high)}]"
