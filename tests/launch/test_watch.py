"""Following runs to their end, where there is no terminal."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from rlhf.console import PlainConsole
from rlhf.launch.watch import watch
from rlhf.storage.runs import RunState

pytestmark = pytest.mark.usefixtures("_named_by_overrides")
FOUND = {"headline": "win_rate_greedy", "win_rate": 55.26, "win_rate_se": 1.5}


def test_a_line_for_each_change() -> None:
    first = RunState(Path("s/lora.r=8,seed=0"), "pending", reason="Resources")
    second = RunState(Path("s/lora.r=8,seed=1"), "running")
    later = [
        [first, second],
        [replace(first, reason="Priority"), second],
        [replace(first, state="running", reason=None), replace(second, state="failed", reason="no luck [x]\nat all")],
        [replace(first, state="done", reason=None, **FOUND), replace(second, state="failed")],
    ]
    looks = iter(later)
    file = StringIO()
    assert watch(lambda: next(looks), 0.001, PlainConsole(file=file, width=30)) == later[-1]
    assert file.getvalue().splitlines() == [
        "running seed=1",
        "pending: 1 Resources",
        "pending: 1 Priority",
        "running seed=0",
        "failed seed=1: no luck [x]",
        "done seed=0: greedy win rate 55.3 ± 1.5 %",
    ]


def test_nothing_left_to_do_is_told_at_once() -> None:
    stopped = [RunState(Path("s/a"), "preempted"), RunState(Path("s/b"), "lost")]
    assert watch(lambda: stopped, 60.0, PlainConsole(file=StringIO())) == stopped


def test_the_pause_grows_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([1, 1, 1, 1, 2, 2, None])
    pauses: list[float] = []
    monkeypatch.setattr("rlhf.launch.polling.time.sleep", pauses.append)

    def look() -> list[RunState]:
        step = next(steps)
        return [RunState(Path("s/a"), "done" if step is None else "running", step=step)]

    watch(look, 4.0, PlainConsole(file=StringIO()), longest=10.0)
    assert pauses == [4.0, 6.0, 9.0, 10.0, 4.0, 6.0]


def test_the_pause_is_long_where_a_look_is_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.5])
    monkeypatch.setattr("rlhf.launch.polling.time.process_time", lambda: next(clock, 11.5))
    pauses: list[float] = []
    monkeypatch.setattr("rlhf.launch.polling.time.sleep", pauses.append)
    states = iter(["running", "done"])
    watch(lambda: [RunState(Path("s/a"), next(states))], 4.0, PlainConsole(file=StringIO()))
    assert pauses == [20 * 1.5]
