"""Runs as a table per sweep, a line for each that went wrong, and a line on all of them together."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhf.escape import visible
from rlhf.figures import FIGURES, GREEDY, REWARD, SAMPLED
from rlhf.launch.forecast import readable
from rlhf.launch.forecast import runs as counted
from rlhf.storage.reader import ENDED
from rlhf.storage.runs import BAD, LEFT_TO_DO, RunState, curve, short_names, sweep_seconds_left

STYLES = {
    "done": "green",
    "pruned": "green",
    "running": "cyan",
    "pending": "dim",
    "preempted": "yellow",
    "cancelled": "yellow",
    "lost": "red",
    "failed": "red",
    "unreadable": "red",
}
"""Styles of the states, in the order in which they are counted."""

ORDER = ("running", *BAD, "preempted", "cancelled", "pending", "pruned", "done")
"""The order of rows: what is happening comes first, and what is over last."""

WIDE = 120
"""Columns from which on the table has one for logs."""

CURVED = 100
"""Columns from which on it has curves."""

MOST_CURVES = 60
"""Runs of a sweep with curves: all of a history is read for one."""

BARS = "▁▂▃▄▅▆▇█"


def overview(
    runs: Sequence[RunState], now: float, width: int, rows: int | None = None, chosen: Path | None = None
) -> Group:
    """The whole overview, `width` columns wide; a live one has at most `rows` rows and nothing on failures.

    Of more runs it shows the first, or those that end with the one `chosen`.
    """
    ordered = in_order(runs)
    names = short_names(run.path for run in ordered)
    parts: list[RenderableType] = []
    for folder, group in groupby(shown(ordered, rows, chosen), key=lambda run: run.path.parent):
        parts += [table(folder, list(group), names, now, width, chosen), Text()]
    if rows is not None and rows < len(ordered):
        parts.append(Text(f"and {counted(len(ordered) - rows, 'more run')}", style="dim"))
    problems = [problem(run, names[run.path]) for run in ordered if run.state in BAD]
    if rows is None and problems:
        parts += [*chain.from_iterable(problems), Text()]
    return Group(*parts, Text(total(runs, now), style="bold"))


def shown(runs: Sequence[RunState], rows: int | None, chosen: Path | None) -> Sequence[RunState]:
    """At most `rows` of them, with the one chosen."""
    if rows is None:
        return runs
    last = next((place for place, run in enumerate(runs, 1) if run.path == chosen), 0)
    return runs[max(0, last - rows) : max(last, rows)]


def in_order(runs: Iterable[RunState]) -> list[RunState]:
    """By sweep, then as ORDER has their states, then by name, numbers by their value."""
    return sorted(runs, key=lambda run: (run.path.parent, ORDER.index(run.state), natural(run.path.name)))


def natural(name: str) -> list[tuple[int, float, str]]:
    """A key that sorts lora.r=8 before lora.r=16."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(piece), "") if number % 2 else (1, 0.0, piece) for number, piece in enumerate(pieces)]


def table(
    folder: Path, runs: Sequence[RunState], names: dict[Path, str], now: float, width: int, chosen: Path | None = None
) -> Table:
    grid = Table(title=nearest(folder), title_justify="left", title_style="bold", box=None, pad_edge=False)
    grid.add_column("run", overflow="fold")
    grid.add_column("state", min_width=len("unreadable"))
    measured = {run.headline for run in runs} - {None}
    for name in ("step", "left", FIGURES[REWARD if measured == {REWARD} else SAMPLED].plain):
        grid.add_column(name, justify="right", no_wrap=True)
    curves = curves_of(runs) if width >= CURVED and len(runs) <= MOST_CURVES else {}
    for name in curves:
        grid.add_column(name, no_wrap=True)
    with_log = width >= WIDE
    if with_log:
        grid.add_column("log", style="dim", overflow="fold")
    for run in runs:
        rate = win_rate(run) + (f" {aside}" if (aside := told_apart(run, measured)) else "")
        cells = [names[run.path], state(run), steps(run), time_left(run, now), rate]
        drawn = [each[run.path] for each in curves.values()]
        log = [str(run.job.get("log") or "")] if with_log else []
        grid.add_row(*cells, *drawn, *log, style="reverse" if run.path == chosen else None)
    return grid


def curves_of(runs: Sequence[RunState]) -> dict[str, dict[Path, str]]:
    """Each run's evaluations as small bars, win rates and KL, on one scale for all runs; none where there are none."""
    points = {run.path: curve(run.path) for run in runs}
    if not any(len(each) > 1 for each in points.values()):
        return {}
    columns = {}
    for place, name in enumerate(("win rate", "KL")):
        values = {
            path: [value for point in each if (value := point[place]) is not None] for path, each in points.items()
        }
        known = [value for own in values.values() for value in own]
        low, high = min(known, default=0.0), max(known, default=1.0)
        columns[name] = {path: bars(own, low, high) for path, own in values.items()}
    return columns


def bars(values: Sequence[float], low: float, high: float) -> str:
    """A character for each value."""
    top = len(BARS) - 1
    return "".join(BARS[round(top * (value - low) / (high - low)) if high > low else 0] for value in values)


def nearest(path: Path) -> str:
    """A path as short as it can be given from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def state(run: RunState) -> Text:
    why = f" ({run.reason})" if run.state in LEFT_TO_DO and run.reason else ""
    return Text(run.state + why, style=STYLES[run.state])


def steps(run: RunState) -> str:
    return "" if run.steps is None or run.step is None else f"{run.step}/{run.steps}"


def time_left(run: RunState, now: float) -> str:
    seconds = run.seconds_left(now)
    return "" if seconds is None or run.state in ENDED else readable(seconds)


def told_apart(run: RunState, measured: set[str | None]) -> str:
    """What is said beside a figure that is not what the column's title leads one to expect."""
    if run.headline == REWARD:
        return "" if measured == {REWARD} else FIGURES[REWARD].label
    return FIGURES[SAMPLED].decoding if run.headline == SAMPLED else ""


def win_rate(run: RunState) -> str:
    """The figure that the run's headline names, with its error."""
    if run.win_rate is None:
        return ""
    digits = FIGURES[run.headline or GREEDY].digits
    return f"{run.win_rate:.{digits}f}" + ("" if run.win_rate_se is None else f" ± {run.win_rate_se:.{digits}f}")


def problem(run: RunState, name: str) -> list[Text]:
    """Why a run went wrong, and where to read more: a path in one piece, however narrow the terminal."""
    why = (run.reason or "no reason is known").splitlines()[0]
    lines = [Text.assemble((run.state, STYLES[run.state]), visible(f" {name}: {why}"))]
    if run.log:
        lines.append(Text(visible(f"  log: {nearest(run.log)}"), no_wrap=True, overflow="ignore"))
    return lines


def total(runs: Sequence[RunState], now: float) -> str:
    """As `24 runs: 12 done, 8 running, 3 pending, 1 failed; about 40 min left`."""
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    seconds = sweep_seconds_left(runs, now)
    left = "" if seconds is None else f"; about {readable(seconds)} left"
    return f"{counted(len(runs))}: {states}{left}"
