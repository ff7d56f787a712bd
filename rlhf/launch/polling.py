"""Looking at runs again and again, without taking much of the machine from them."""

import select
import time
from collections.abc import Sequence
from typing import IO

SHARE = 20
"""A pause takes at least so many times the CPU seconds of the look before it."""


def rest(seconds: float, began: float, answers: Sequence[IO[bytes]] = ()) -> None:
    """Wait for `seconds`, or longer where what was done since `began` (time.process_time) has been costly.

    No longer than until one of the `answers` can be read.
    """
    pause = max(seconds, SHARE * (time.process_time() - began))
    if answers:
        select.select(answers, [], [], pause)
    else:
        time.sleep(pause)
