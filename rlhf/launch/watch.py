"""Follow runs until none is left to do: a table that renews itself on a terminal, a line per change elsewhere."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.console import Console, Group
from rich.live import Live

from rlhf.figures import FIGURES
from rlhf.launch.overview import overview, win_rate
from rlhf.launch.polling import rest
from rlhf.storage.runs import LEFT_TO_DO, RunState, short_names

BACK_OFF = 1.5
"""The pause grows by this factor for as long as nothing changes."""


def watch(
    read: Callable[[], list[RunState]], seconds: float, console: Console, longest: float | None = None
) -> list[RunState]:
    """`read` every so many seconds, up to `longest` while nothing changes; returns the runs as they were last read.

    KeyboardInterrupt passes.
    """
    show = _live if console.is_terminal else _lines
    return show(_paced(read, seconds, longest or seconds), console)


def _paced(read: Callable[[], list[RunState]], seconds: float, longest: float) -> Iterator[list[RunState]]:
    pause, before = seconds, None
    while True:
        began = time.process_time()
        runs = read()
        yield runs
        if not left_to_do(runs):
            return
        now = [(run.state, run.reason, run.step) for run in runs]
        pause, before = (min(longest, pause * BACK_OFF) if now == before else seconds), now
        rest(pause, began)


def _live(looks: Iterator[list[RunState]], console: Console) -> list[RunState]:
    runs: list[RunState] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for runs in looks:
            draw = partial(overview, runs, time.time(), console.width)
            live.update(fitted(console, draw), refresh=True)
    return runs


def fitted(console: Console, draw: Callable[[int], Group]) -> Group:
    """What `draw` makes of as many rows as the terminal has lines for, with all that stands beside them."""
    rows = console.height
    while True:
        picture = draw(rows)
        excess = len(console.render_lines(picture)) - (console.height - 1)
        if excess <= 0 or rows == 1:
            return picture
        rows = max(1, rows - excess)


def _lines(looks: Iterator[list[RunState]], console: Console) -> list[RunState]:
    runs: list[RunState] = []
    seen: dict[str, str] = {}
    waits: str | None = None
    for runs in looks:
        names = short_names(run.path for run in runs)
        for run in runs:
            if seen.get(str(run.path), "pending") != run.state:
                console.print(line(run, names[run.path]), soft_wrap=True)
            seen[str(run.path)] = run.state
        if (reasons := waiting(runs)) and reasons != waits:
            console.print(reasons, soft_wrap=True)
        waits = reasons
    return runs


def waiting(runs: Sequence[RunState]) -> str:
    """As `pending: 3 Priority, 1 Resources`; empty where no reason is known."""
    reasons = Counter(run.reason for run in runs if run.state == "pending" and run.reason)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"pending: {told}" if told else ""


def line(run: RunState, name: str) -> str:
    """As `done regularizer=js: greedy win rate 53.1 ± 1.5 %`."""
    if run.state == "done" and run.headline is not None:
        figure = FIGURES[run.headline]
        return f"done {name}: {f'{figure.decoding} {figure.label}'.strip()} {win_rate(run)}{figure.unit_after}"
    why = f": {run.reason.splitlines()[0]}" if run.reason and run.state not in LEFT_TO_DO else ""
    return f"{run.state} {name}{why}"


def left_to_do(runs: list[RunState]) -> bool:
    return any(run.state in LEFT_TO_DO for run in runs)
