"""Signals stop a run at once where it has nothing to save, and at a step's end where it has."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf.errors import Preempted
from rlhf.process.signals import StopSignals, awaited, ignore


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_stops_at_once(number: signal.Signals) -> None:
    with pytest.raises(Preempted) as stopped, StopSignals().handled():
        os.kill(os.getpid(), number)
    assert (str(stopped.value), stopped.value.code) == (number.name, 143)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
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
with StopSignals().handled():
    print("not stopped")
"""


def test_what_comes_before_a_run_can_handle_it_waits_for_that_even_over_an_exec() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING, "first"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr


def test_between_two_runs_of_a_process_signals_mean_nothing() -> None:
    """Whichever thread gets them; one that comes for a run before it can handle it waits, and for no later run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    thread = threading.Thread(target=time.sleep, args=(1.0,))
    thread.start()  # as what an earlier run has left
    try:
        ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        with awaited(), StopSignals().handled():
            pass
        with awaited():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Preempted, match="SIGTERM"), StopSignals().handled():
                pass
            os.kill(os.getpid(), signal.SIGUSR2)  # the run is over
        with awaited(), StopSignals().handled():
            pass
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
