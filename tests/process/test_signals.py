"""Signals stop a run at once where it has nothing to save, and at a step's end where it has."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import Preempted
from rlhf.process.signals import StopSignals, awaited, ignore

STATUS = {signal.SIGTERM: 143, signal.SIGUSR2: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Whatever these tests were started from: a shell's background ignores Ctrl-C, nohup ignores SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_stops_at_once(number: signal.Signals) -> None:
    with pytest.raises(Preempted) as stopped, StopSignals().handled():
        os.kill(os.getpid(), number)
    assert (str(stopped.value), stopped.value.code) == (number.name, STATUS[number])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_second_one_of_a_user_does_not_wait(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not one that comes with the first, as when a terminal closes; a scheduler's never hurries."""
    clock = iter([10.0, 10.1, 20.0, 21.0])
    monkeypatch.setattr("rlhf.process.signals.time.monotonic", lambda: next(clock))
    with StopSignals().handled() as stop, stop.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
        with pytest.raises(Preempted, match=number.name):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_the_process_was_started_to_ignore_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with StopSignals().handled() as stop:
        os.kill(os.getpid(), number)
    assert stop.received is None


@pytest.mark.parametrize("number", STATUS)
def test_a_held_signal_waits(number: signal.Signals) -> None:
    with StopSignals().handled() as stop:
        with stop.held():
            assert stop.received is None
            os.kill(os.getpid(), number)
            assert stop.received == number.name
        with pytest.raises(Preempted):
            os.kill(os.getpid(), number)


def test_afterwards_signals_are_whose_they_were_before() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    try:
        with StopSignals().handled():
            pass
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert got == [signal.SIGUSR2]


def test_in_a_thread_there_are_no_signals_and_no_error() -> None:
    found: list[StopSignals] = []

    def inside() -> None:
        with StopSignals().handled() as stop:
            found.append(stop)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert len(found) == 1


WAITING = """
import os, signal, sys
from rlhf.errors import Preempted
from rlhf.process.signals import StopSignals, block_until_handled
if sys.argv[1] == "first":
    block_until_handled()
    os.kill(os.getpid(), signal.SIGUSR2)  # would be fatal
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], "second"])
with StopSignals().handled() as stop:
    stop.heed()
    print("not stopped")
"""


def test_what_comes_before_a_run_can_handle_it_waits_for_that_even_over_an_exec() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING, "first"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr


def test_between_two_runs_of_a_process_signals_mean_nothing() -> None:
    """Whichever thread gets them; one that comes for a run before it can handle it waits, and for no later run."""
    before = {number: signal.getsignal(number) for number in STATUS}
    thread = threading.Thread(target=time.sleep, args=(1.0,))
    thread.start()  # as what an earlier run has left
    try:
        ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        with awaited(), StopSignals().handled() as stop:
            stop.heed()
        with awaited():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Preempted, match="SIGTERM"), StopSignals().handled() as stop:
                stop.heed()
            os.kill(os.getpid(), signal.SIGUSR2)  # the run is over
        with awaited(), StopSignals().handled() as stop:
            stop.heed()
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


CLOSING = """
import os, signal, sys, time
from rlhf.console import console, show_log
from rlhf.process.signals import StopSignals, ended_by_user
show_log()
with ended_by_user(), StopSignals().handled() as stop:
    with stop.held():
        console.print("working")
        while stop.received is None:
            time.sleep(0.05)
        for _ in range(3):
            console.print("still working")
            time.sleep(0.1)
        open(sys.argv[1], "w").write("saved")
        console.print("saved")
    stop.end(stop.received)
"""


@pytest.mark.skipif(os.name != "posix", reason="terminals")
def test_a_terminal_that_closes_has_the_work_saved(tmp_path: Path) -> None:
    """Though whatever is printed from then on is an error of the terminal's."""
    process, own = pty.fork()
    if process == 0:
        command = [sys.executable, "-c", CLOSING, str(tmp_path / "state")]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    said = b""
    while b"working" not in said:
        said += os.read(own, 1024)
    os.close(own)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 129
    assert (tmp_path / "state").read_text() == "saved"


def test_a_reader_that_ends_first_does_not_end_the_work(tmp_path: Path) -> None:
    """As `| tee LOG` does on Ctrl-C; a further Ctrl-C ends it at once, with nothing on its standard error."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CLOSING, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"working\n"
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=60), process.stderr.read()) == (130, b"")
    assert (tmp_path / "state").read_text() == "saved"
