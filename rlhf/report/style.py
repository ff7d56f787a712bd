"""How groups look in every figure: colours that colour-blind readers can tell apart, never colour alone."""

from dataclasses import dataclass
from typing import Any

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's; the page draws its own with a little more light where it is dark."""

INK, GREY, PALE = "#222222", "#767676", "#cccccc"


@dataclass(frozen=True)
class Look:
    """A line's colour, dash and marker, as matplotlib names them, and as plotly does."""

    color: str
    dash: Any
    marker: str
    plotly_dash: str
    plotly_symbol: str


LOOKS = (
    Look(BLUE, "-", "o", "solid", "circle"),
    Look(VERMILLION, "--", "s", "dash", "square"),
    Look(GREEN, "-.", "^", "dashdot", "triangle-up"),
    Look(PURPLE, ":", "D", "dot", "diamond"),
    Look(ORANGE, (0, (8, 2)), "v", "longdash", "triangle-down"),
    Look(SKY, (0, (8, 2, 2, 2)), "P", "longdashdot", "cross"),
)
"""As many groups can be told apart at a time; the others stay grey."""
