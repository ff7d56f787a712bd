"""Keys of the live overview: what each makes of a view, and the terminal, which is afterwards as it was before."""

import os
import pty
import signal
import termios
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from rlhf.console import PlainConsole
from rlhf.errors import DataError, Preempted
from rlhf.launch.keys import HINT, View, done, keys_within, pressed, unbuffered
from rlhf.storage.runs import RunState

RUNS = [RunState(Path(f"s/seed={seed}"), "running") for seed in range(3)]
FIRST, SECOND, LAST = (run.path for run in RUNS)
UP, DOWN = "\x1b[A", "\x1b[B"


def after(*keys: str, runs: list[RunState] = RUNS) -> View:
    view = View()
    for key in keys:
        view = pressed(view, key, runs)
    return view


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ((), None),
        (("j",), FIRST),
        (("k",), LAST),
        (("j", DOWN), SECOND),
        (("j", "\x1bOB", UP), FIRST),
        (("j", UP), FIRST),  # no further than the ends
        (("k", DOWN), LAST),
        (("j", "x"), FIRST),
    ],
)
def test_a_run_is_chosen(keys: tuple[str, ...], chosen: Path | None) -> None:
    assert after(*keys) == View(chosen)


def test_a_run_that_is_no_more_is_not_chosen() -> None:
    assert pressed(View(LAST), "c", RUNS[:2]) == after("c") == after("s")
    assert after("c").told == "choose a run first: j, k or arrows"
    assert pressed(View(LAST), "j", RUNS[:2]) == View(FIRST)
    assert after("j", runs=[]) == View()


def test_a_stop_is_asked_for_twice() -> None:
    once = after("j", "s")
    assert (once.asking, once.act) == (True, "")
    assert once.told == "s again ends seed=0 for good, as pruned; any other key leaves it"
    assert after("j", "s", "s") == View(FIRST, act="stop")
    assert after("j", "s", "x", "s") == once
    assert after("j", "s", "j") == View(SECOND)
    assert after("j", "s", "q") == View(FIRST, over=True)


def test_what_is_asked_for_is_done_and_told() -> None:
    stopped: list[Path] = []

    def stop(path: Path) -> str:
        stopped.append(path)
        if path == SECOND:
            raise DataError("it is pruned")
        return "it ends"

    file = StringIO()
    console = PlainConsole(file=file, width=20)
    assert done(View(FIRST, act="stop"), RUNS, console, stop) == View(FIRST, "it ends")
    assert done(View(SECOND, act="stop"), RUNS, console, stop) == View(SECOND, "it is pruned")
    assert done(View(LAST, act="clone"), RUNS, console, stop) == View(LAST)
    over = [replace(run, state="done") for run in RUNS]
    told = done(View(LAST, act="clone"), over, console, stop).told
    assert told == "s/seed=2 is done: it has no checkpoint any more"
    assert done(View(FIRST), RUNS, console, stop) == View(FIRST, HINT)
    assert file.getvalue() == "rlhf clone s/seed=2 KEY=VALUE\n"
    assert stopped == [FIRST, SECOND]


@pytest.mark.parametrize("ends_by", [RuntimeError, Preempted])
def test_keys_come_at_once_and_the_terminal_is_restored_whatever_it_ends_by(ends_by: type[Exception]) -> None:
    own, keyboard = pty.openpty()
    before = termios.tcgetattr(keyboard)

    def work() -> None:
        with unbuffered(keyboard):
            assert keys_within(keyboard, 0.0) == []
            os.write(own, b"j\x1b[B\x1bOAs\x1b[3~q")
            assert keys_within(keyboard, 5.0) == ["j", "\x1b[B", "\x1bOA", "s", "\x1b[3~", "q"]
            assert termios.tcgetattr(keyboard) != before
            if ends_by is Preempted:
                os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError

    with pytest.raises(ends_by):
        work()
    assert termios.tcgetattr(keyboard) == before
    os.close(own)
    os.close(keyboard)
