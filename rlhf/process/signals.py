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
        """Inside the block the signals are for this run; afterwards for whoever had them before."""
        if threading.current_thread() is not threading.main_thread():  # where Python hands out no signals
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in ASKS}
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)  # what came since `block_until_handled` comes now
            yield self
        finally:
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


def block_until_handled() -> None:
    """Have the signals wait for the next `StopSignals.handled`, even over an exec: until then they would be fatal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)
