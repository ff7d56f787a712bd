"""What a run is worth to a search: the figures that `objective` names, read from its directory. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from rlhf.config.run import Config
from rlhf.config.search import RuleConfig
from rlhf.errors import DataError
from rlhf.figures import headline
from rlhf.storage.reader import (
    HISTORY,
    Row,
    history_row,
    numbered_lines,
    present,
    read_metrics,
    read_status,
    with_cost,
)
from rlhf.storage.runs import find_runs

Value = float | list[float] | None
"""What is returned to Hydra's sweeper: a number, or one for each objective; None where none is asked for."""


def evaluated(run: Path) -> list[Row]:
    """The rows of history.jsonl with an evaluation's figures, as far as they are written."""
    if not present(run / HISTORY):
        return []
    lines = numbered_lines(run / HISTORY, being_written=True)
    rows = [history_row(line, number) for number, line in lines if '"win_rate' in line]
    return [row for row in rows if row.get(headline(row)) is not None]


def figures_of(run: Path) -> Row:
    """The figures of a finished run; of another those of its last evaluation, empty where there was none."""
    if read_status(run)["state"] == "done":
        return with_cost(read_metrics(run))
    rows = evaluated(run)
    return rows[-1] if rows else {}


def value_of(run: Path, config: Config) -> Value:
    """What an ended run returns to the sweeper; raises DataError where a figure is not known.

    A pruned run returns its figure so far, but none better than the worst of the runs that went to their end: a sweeper
    must not take it for the best because it was stopped before it could fall.
    """
    found = figures_of(run)
    values = [known(run, found, name) for name in config.objectives]
    if values and isinstance(config.prune, RuleConfig) and read_status(run)["state"] == "pruned":
        known_ends = (found.get(config.pruned_by) for found in finished(run.parent))
        ends = [value for value in known_ends if value is not None]
        worst = max if config.prune.direction == "minimize" else min
        values = [worst([*values, *ends])]
    return None if not values else values[0] if len(values) == 1 else values


def known(run: Path, found: Row, name: str) -> float:
    if found.get(name) is None:
        raise DataError(f"{run}: objective={name} is not known: {found.get('judge_problem') or 'it has no value'}")
    return float(found[name])


def finished(sweep: Path) -> Iterable[Row]:
    """The figures of a sweep's finished runs."""
    for run in find_runs([sweep]):
        try:
            if read_status(run)["state"] == "done":
                yield figures_of(run)
        except DataError:  # it is told as unreadable elsewhere
            continue
