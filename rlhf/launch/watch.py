"""Follow runs until none is left to do: a table that renews itself on a terminal, a line per change elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from rlhf.figures import FIGURES
from rlhf.launch.overview import overview, win_rate
from rlhf.storage.runs import LEFT_TO_DO, RunState, short_names

LINES_BESIDE = 7
"""Lines of a terminal kept for what stands above and below the rows of the live table."""


def watch(read: Callable[[], list[RunState]], seconds: float, console: Console) -> list[RunState]:
    """`read` every so many seconds; returns the runs as they were last read. KeyboardInterrupt passes."""
    return _live(read, seconds, console) if console.is_terminal else _lines(read, seconds, console)


def _live(read: Callable[[], list[RunState]], seconds: float, console: Console) -> list[RunState]:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            runs = read()
            rows = max(1, console.height - LINES_BESIDE)
            live.update(overview(runs, time.time(), console.width, rows), refresh=True)
            if not left_to_do(runs):
                return runs
            time.sleep(seconds)


def _lines(read: Callable[[], list[RunState]], seconds: float, console: Console) -> list[RunState]:
    seen: dict[str, str] = {}
    while True:
        runs = read()
        names = short_names(run.path for run in runs)
        for run in runs:
            if seen.get(str(run.path), "pending") != run.state:
                console.print(line(run, names[run.path]), soft_wrap=True)
            seen[str(run.path)] = run.state
        if not left_to_do(runs):
            return runs
        time.sleep(seconds)


def line(run: RunState, name: str) -> str:
    """As `done regularizer=js: greedy win rate 53.1 ± 1.5 %`."""
    if run.state == "done" and run.headline is not None:
        return f"done {name}: {FIGURES[run.headline].decoding} win rate {win_rate(run)} %"
    why = f": {run.reason.splitlines()[0]}" if run.reason and run.state not in LEFT_TO_DO else ""
    return f"{run.state} {name}{why}"


def left_to_do(runs: list[RunState]) -> bool:
    return any(run.state in LEFT_TO_DO for run in runs)
