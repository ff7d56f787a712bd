"""Pauses between two looks at runs: as long as a look was costly, but never past an answer."""

import os
import time

import pytest

from rlhf.launch import polling
from rlhf.launch.polling import rest


def test_a_costly_look_is_followed_by_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(polling.time, "process_time", lambda: 3.0)
    monkeypatch.setattr(polling.time, "sleep", pauses.append)
    rest(0.3, 3.0)
    rest(0.3, 2.5)
    assert pauses == [0.3, 10.0]


def test_a_pause_ends_with_the_first_answer() -> None:
    """A slot whose run has ended is free at once, however long the look was by which it was filled."""
    reader, writer = os.pipe()
    os.write(writer, b"0\n")
    start = time.monotonic()
    with os.fdopen(reader, "rb", buffering=0) as answers:
        rest(60.0, time.process_time(), [answers])
        assert answers.readline() == b"0\n"
    os.close(writer)
    assert time.monotonic() - start < 30
