"""How figures are shown: medians with the least and the most, in tables."""

import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

wide = Console(width=150, highlight=False)
"""Tables are as wide as they are, wherever they go: a log has no width of its own."""


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the most."""
    return f"{figure(statistics.median(values))} ({figure(min(values))} to {figure(max(values))})"


def figure(value: float) -> str:
    """Three digits that count, all of them where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours to theirs, round by round: what slows a round down slows down both."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column names the row."""
    wide.print(title)
    table = Table(*columns, box=box.ASCII)
    for row in rows:
        table.add_row(*row)
    wide.print(table)
