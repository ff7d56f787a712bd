"""Signals that ask a run to stop: SIGTERM (preemption, scancel, a shell) and SIGUSR2 (SLURM, before the time limit).

A signal only sets a flag while training holds it; the loop looks at a step's end, saves, and stops. At any other time,
when there is nothing to save, it stops the run at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlhf.errors import Preempted

ASKS = (signal.SIGTERM, signal.SIGUSR2)


class StopSignals:
    """`received` is the name of the last signal that came inside `handled`."""

    def __init__(self) -> None:
        self.received: str | None = None
        self.holding = False

    @contextmanager
    def handled(self) -> Iterator["StopSignals"]:
        """Inside the block the signals are this run's; afterwards they are handled as before."""
        if threading.current_thread() is not threading.main_thread():  # where Python hands out no signals
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in ASKS}
        _own.append(self)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)  # what came since `block_until_handled` comes now
            if _waiting:
                self._receive(_waiting.pop(), None)
            yield self
        finally:
            _own.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block a signal sets the flag, no more."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if not self.holding:
            raise Preempted(self.received)


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


_waiting: list[int] = []


def _wait(number: int, frame: FrameType | None) -> None:
    _waiting.append(number)
