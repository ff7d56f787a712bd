"""A finished run's figures beside the SFT model's, as a table on the console; read from its directory alone."""

from typing import Any

from rich.table import Table

from rlhf.infra.progress import console
from rlhf.infra.rundir import RunDirectory

TABLE = {
    "win_rate": "win rate against SFT, %",
    "win_rate_ties_as_losses": "the same, ties as losses",
    "win_rate_length_controlled": "the same, at equal length",
    "factuality": "factuality, %",
    "factuality_greedy": "factuality, greedy, %",
    "true_kl_per_token": "true KL to SFT, nats per token",
    "kl_bound_per_response": "KL to SFT at most, nats per response",
    "response_length": "response length, tokens",
    "repeats": "repeated 4-grams, share",
    "finished": "ended by EOS, share",
    "reward": "reward, SFT deviations",
}
"""Rows of the summary table; a metric's standard error stands under its name with `_se`."""


def show(directory: RunDirectory, state: str) -> dict[str, Any]:
    """Print a finished run's figures beside the SFT model's; returns them."""
    metrics = directory.read_metrics()
    table = Table("", "SFT", "policy", title=f"{directory.path}: {state}", title_justify="left")
    for name, label in TABLE.items():
        if metrics.get(name) is not None:
            table.add_row(label, figure(metrics["baseline"], name), figure(metrics, name))
    console.print(table)
    return metrics


def figure(metrics: dict[str, Any], name: str) -> str:
    """A figure with its standard error, where it has one; "" where there is none."""
    if metrics.get(name) is None:
        return ""
    error = metrics.get(f"{name}_se")
    figure = f"{metrics[name]:.3g}"
    return figure if error is None else f"{figure} ± {error:.2g}"
