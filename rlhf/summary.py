"""A finished run's figures beside the SFT model's, as a table on the console; read from its directory alone."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rlhf.console import console
from rlhf.figures import FIGURES, Figure
from rlhf.storage.rundir import RunDirectory

ROWS = tuple(
    FIGURES[name]
    for name in (
        *("win_rate_greedy", "win_rate_greedy_length_controlled", "win_rate", "win_rate_length_controlled"),
        *("objective", "reward", "raw_reward", "true_kl_per_response", "true_kl_per_token", "kl_bound_per_response"),
        *("factuality_greedy", "factuality", "response_length_greedy", "response_length", "repeats", "finished"),
    )
)
"""Rows of the table on a console, and of a model card."""


def show(directory: RunDirectory, state: str) -> dict[str, Any]:
    """Print a finished run's figures beside the SFT model's, and what is wrong with its objective; returns them."""
    metrics = directory.read_metrics()
    controls = metrics["controls"]
    columns = ["SFT", *(f"at T={temperature}" for temperature in controls), "policy"]
    title = f"{directory.path}: {state}"
    rows = rows_of(metrics)
    table = Table("", *columns, title=title, caption=units(rows), title_justify="left", box=None, pad_edge=False)
    table.caption_justify = "left"
    for row in rows:
        beside = [metrics["baseline"], *controls.values(), metrics]
        table.add_row(label(row), *(shown(found, row.name) for found in beside))
    console.print(table)
    if metrics["objective_problem"] is not None:
        console.print(f"note: {metrics['objective_problem']}")
    return metrics


def rows_of(metrics: dict[str, Any]) -> list[Figure]:
    """Those that the run has."""
    return [row for row in ROWS if metrics.get(row.name) is not None]


def label(row: Figure) -> str:
    """Short enough for a console of 80 columns; what is at equal length stands below the win rate that it is of."""
    if row.name.endswith("_length_controlled"):
        return f"  {row.label}"
    return f"{row.label}, {row.decoding}" if row.decoding else row.label


def units(rows: Sequence[Figure]) -> str:
    """`in %: win rate, factuality; in nats: KL per response`."""
    labels: dict[str, dict[str, None]] = {}
    for row in rows:
        labels.setdefault(row.unit, {})[row.label] = None
    return "; ".join(f"in {unit}: {', '.join(found)}" for unit, found in labels.items() if unit != "share")


def shown(metrics: dict[str, Any], name: str) -> str:
    """A figure with its standard error, where it has one; "" where there is none."""
    if metrics.get(name) is None:
        return ""
    error = metrics.get(f"{name}_se")
    if not error:
        return f"{metrics[name]:.3g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{metrics[name]:.{digits}f} ± {error:.{digits}f}"
