"""A finished run's figures beside the SFT model's, as a table on the console; read from its directory alone."""

import math
from typing import Any

from rich.table import Table

from rlhf.console import console
from rlhf.storage.rundir import RunDirectory

TABLE = {
    "win_rate_greedy": "win rate, greedy",
    "win_rate_greedy_length_controlled": "  at equal length",
    "win_rate": "win rate, sampled",
    "win_rate_length_controlled": "  at equal length",
    "objective": "objective",
    "reward": "reward",
    "true_kl_per_response": "KL per response",
    "true_kl_per_token": "KL per token",
    "kl_bound_per_response": "KL, at most",
    "factuality_greedy": "factual, greedy",
    "factuality": "factual, sampled",
    "response_length_greedy": "tokens, greedy",
    "response_length": "tokens, sampled",
    "repeats": "repeated 4-grams",
    "finished": "ended by EOS",
}
"""Rows of the summary table; a metric's standard error stands under its name with `_se`."""

UNITS = "win rates against the SFT model and facts in %, KL in nats, reward and objective in SFT's deviations"


def show(directory: RunDirectory, state: str) -> dict[str, Any]:
    """Print a finished run's figures beside the SFT model's, and what is wrong with its objective; returns them."""
    metrics = directory.read_metrics()
    controls = metrics["controls"]
    columns = ["SFT", *(f"at T={temperature}" for temperature in controls), "policy"]
    title = f"{directory.path}: {state}"
    table = Table("", *columns, title=title, caption=UNITS, title_justify="left", box=None, pad_edge=False)
    table.caption_justify = "left"
    for name, label in TABLE.items():
        if metrics.get(name) is not None:
            beside = [metrics["baseline"], *controls.values()]
            table.add_row(label, *(figure(found, name) for found in beside), figure(metrics, name))
    console.print(table)
    if metrics["objective_problem"] is not None:
        console.print(f"note: {metrics['objective_problem']}", markup=False)
    return metrics


def figure(metrics: dict[str, Any], name: str) -> str:
    """A figure with its standard error, where it has one; "" where there is none."""
    if metrics.get(name) is None:
        return ""
    error = metrics.get(f"{name}_se")
    if not error:
        return f"{metrics[name]:.3g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{metrics[name]:.{digits}f} ± {error:.{digits}f}"
