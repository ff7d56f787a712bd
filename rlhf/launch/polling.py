"""Looking at runs again and again, without taking much of the machine from them."""

import time

SHARE = 20
"""A pause takes at least so many times the CPU seconds of the look before it."""


def rest(seconds: float, began: float) -> None:
    """Sleep for `seconds`, or longer where what was done since `began` (time.process_time) has been costly."""
    time.sleep(max(seconds, SHARE * (time.process_time() - began)))
