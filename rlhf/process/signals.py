"""Signals that ask a run to stop.

SIGTERM (preemption, scancel, a shell), SIGUSR2 (SLURM, before the time limit), SIGINT (Ctrl-C), SIGHUP (a terminal that
closes). A signal only sets a flag while work holds it; the work looks at a step's end, saves, and stops. At any other
time, when there is nothing to save, it stops the run at once, and so does a second Ctrl-C or SIGHUP.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rlhf.errors import Preempted

SYSTEM = (signal.SIGTERM, signal.SIGUSR2)
"""Those that a scheduler sends."""

USER = (signal.SIGINT, signal.SIGHUP)
"""Those of a user at a terminal; ignored where the process was started so, as by nohup."""

ASKS = (*SYSTEM, *USER)

SAME_WISH = 0.5
"""Seconds in which a further signal says nothing new: a terminal that closes sends SIGHUP, and so does its shell."""


class StopSignals:
    """`received` is the name of the first signal that came inside `handled`."""

    def __init__(self) -> None:
        self.received: str | None = None
        self.holding = self.ending = False
        self.since = 0.0
        self.terminals: list[int] = []

    @contextmanager
    def handled(self, numbers: Sequence[signal.Signals] = ASKS) -> Iterator["StopSignals"]:
        """Inside the block the signals are this run's; afterwards they are handled as before."""
        if threading.current_thread() is not threading.main_thread():  # where Python hands out no signals
            yield self
            return
        self.terminals = [number for number in (1, 2) if os.isatty(number)]
        own = [number for number in numbers if number in SYSTEM or signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in own}
        _own.append(self)
        try:
            with self.held():  # what came since `block_until_handled` comes now, and is for `heed`
                signal.pthread_sigmask(signal.SIG_UNBLOCK, own)
                if _waiting:
                    self._receive(_waiting.pop(), None)
            yield self
        finally:
            _own.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block a first signal sets the flag, no more."""
        outside, self.holding = self.holding, True
        try:
            yield
        finally:
            self.holding = outside

    def heed(self) -> None:
        """Stop where a signal came before the work began."""
        if self.received is not None:
            self.end(self.received)

    def end(self, reason: str) -> NoReturn:
        """Stop the run, which has saved: raises Preempted."""
        self.ending = True
        raise Preempted(reason)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self.received is None:
            self.received, self.since = name, now
        if number == signal.SIGHUP:
            self._leave_terminal()
        is_patient = self.holding or self.ending
        if not is_patient or (number in USER and now - self.since > SAME_WISH):
            self.end(name)

    def _leave_terminal(self) -> None:
        """Have output go nowhere where its terminal is gone: writing there would be an error, and end the run."""
        for number in self.terminals:
            if not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


_own: list[StopSignals] = []
"""Those that are `handled` now."""


def stop_requested() -> str | None:
    """The signal that has asked this process's run to stop; what may take long without a step's end asks for it."""
    return next((own.received for own in _own if own.received), None)


def block_until_handled() -> None:
    """Have the signals wait for the next `StopSignals.handled`, even over an exec: until then they would be fatal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)


@contextmanager
def awaited() -> Iterator[None]:
    """Inside the block a signal waits for the next `StopSignals.handled`; outside of all blocks it means nothing.

    For a process that does one run after another: a mask would not do, for the threads of earlier runs have their own.
    """
    _waiting.clear()
    for number in ASKS:
        signal.signal(number, _wait)
    try:
        yield
    finally:
        ignore()


def ignore() -> None:
    """Have the signals mean nothing to this process."""
    for number in ASKS:
        signal.signal(number, lambda number, frame: None)  # not SIG_IGN, which processes started by runs would inherit


@contextmanager
def ended_by_user() -> Iterator[None]:
    """Around a command's work: Ctrl-C ends it with a shell's status, and a further one without a word."""
    try:
        yield
    except (KeyboardInterrupt, Preempted) as stopped:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is still to be tidied up would be a trace otherwise
        raise SystemExit(stopped.code if isinstance(stopped, Preempted) else 128 + signal.SIGINT) from None


_waiting: list[int] = []


def _wait(number: int, frame: FrameType | None) -> None:
    _waiting.append(number)
