"""The live overview with keys, on a terminal: choose a run, stop it, see the command that branches it off, leave."""

import os
import re
import select
import shlex
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rlhf.errors import DataError
from rlhf.escape import visible
from rlhf.launch.overview import in_order, nearest, overview
from rlhf.launch.watch import fitted, left_to_do
from rlhf.process.signals import StopSignals
from rlhf.storage.runs import RunState, short_names

HINT = "j, k, arrows: choose a run; s: stop it; c: how to branch it off; q: leave"
KEY = re.compile(r"\x1b[\[O][\d;]*[A-Za-z~]|[^\x1b]")
MOVES = {"j": 1, "\x1b[B": 1, "\x1bOB": 1, "k": -1, "\x1b[A": -1, "\x1bOA": -1}


@dataclass(frozen=True)
class View:
    """What the keys have come to: the run `chosen`, a line to show, and an act, "stop" or "clone", to be done to it.

    `asking`: the next key says whether the run is stopped.
    """

    chosen: Path | None = None
    told: str = HINT
    asking: bool = False
    act: str = ""
    over: bool = False


def pressed(view: View, key: str, runs: Sequence[RunState]) -> View:
    """The view after a key; `runs` are as they stand in the overview."""
    paths = [run.path for run in runs]
    place = paths.index(view.chosen) if view.chosen in paths else None
    if key == "q":
        return View(view.chosen, over=True)
    if key in MOVES and paths:
        start = place if place is not None else -1 if MOVES[key] > 0 else len(paths)
        return View(paths[min(max(start + MOVES[key], 0), len(paths) - 1)])
    if key not in ("s", "c"):
        return View(view.chosen)
    if place is None:
        return View(told="choose a run first: j, k or arrows")
    if key == "c":
        return View(view.chosen, act="clone")
    if not view.asking:
        told = f"s again ends {short_names(paths)[paths[place]]} for good, as pruned; any other key leaves it"
        return View(view.chosen, told, asking=True)
    return View(view.chosen, act="stop")


def clone_command(run: RunState) -> str:
    """Raises DataError where the run has nothing to go on from."""
    if run.state == "done":
        raise DataError(f"{nearest(run.path)} is done: it has no checkpoint any more")
    return f"{shlex.join(['rlhf', 'clone', nearest(run.path)])} KEY=VALUE"


def follow(
    read: Callable[[], list[RunState]], seconds: float, console: Console, keyboard: int, stop: Callable[[Path], str]
) -> list[RunState]:
    """As `watch` on a terminal, with keys from the file `keyboard`; `stop` ends a run and says how."""
    view, runs = View(), in_order(read())
    with unbuffered(keyboard), Live(console=console, auto_refresh=False, transient=True) as live:
        while not view.over and left_to_do(runs):
            deadline = time.monotonic() + seconds
            while not view.over and (left := deadline - time.monotonic()) > 0:
                live.update(drawn(view, runs, console), refresh=True)
                for key in keys_within(keyboard, left):
                    view = done(pressed(view, key, runs), runs, console, stop)
            runs = in_order(read())
    return runs


def done(view: View, runs: Sequence[RunState], console: Console, stop: Callable[[Path], str]) -> View:
    """The view once its act is done: a command stands above the overview for good, what became of a stop below."""
    if not view.act or view.chosen is None:
        return view
    try:
        if view.act == "stop":
            return View(view.chosen, stop(Path(nearest(view.chosen))))
        [run] = [run for run in runs if run.path == view.chosen]
        console.print(clone_command(run), soft_wrap=True)
        return View(view.chosen)
    except DataError as error:
        return View(view.chosen, str(error))


def drawn(view: View, runs: Sequence[RunState], console: Console) -> Group:
    def draw(rows: int) -> Group:
        told = Text(visible(view.told), style="bold" if view.asking else "dim")
        return Group(overview(runs, time.time(), console.width, rows, view.chosen), told)

    return fitted(console, draw)


@contextmanager
def unbuffered(keyboard: int) -> Iterator[None]:
    """Inside the block keys come at once and unseen; the terminal is as before on every way out, by a signal too."""
    before = termios.tcgetattr(keyboard)
    with StopSignals().handled():
        try:
            tty.setcbreak(keyboard, termios.TCSANOW)
            yield
        finally:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def keys_within(keyboard: int, seconds: float) -> list[str]:
    """Wait so long for keys, no longer than for the first."""
    tty.setcbreak(keyboard, termios.TCSANOW)  # once more: a shell may have changed it at Ctrl-Z
    if not select.select([keyboard], [], [], seconds)[0]:
        return []
    return KEY.findall(os.read(keyboard, 1024).decode(errors="replace")) or ["q"]  # nothing: the terminal is gone
