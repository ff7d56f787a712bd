"""A process is told from a later one of the same number, from one that has ended, and from another machine's."""

import os
import subprocess
import sys

from rlhf.process.identity import find, has_ended, identity
from tests.launch.processes import until


def test_this_process_is_found() -> None:
    own = identity(os.getpid())
    found = find(own)
    assert found is not None
    assert found.pid == os.getpid()
    assert not has_ended(own)


def test_another_start_is_another_process() -> None:
    reused = identity(os.getpid()) | {"started": identity(os.getpid())["started"] - 60}
    assert find(reused) is None
    assert has_ended(reused)


def test_another_machines_process_is_not_looked_for() -> None:
    elsewhere = identity(os.getpid()) | {"host": "node17"}
    assert find(elsewhere) is None
    assert not has_ended(elsewhere)  # which can't be known from here


def test_a_process_that_ended_is_gone_before_its_parent_asks() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    known = identity(child.pid)
    assert not has_ended(known)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    child.stdout.read()  # until it has ended; nobody has waited for it yet
    until(lambda: has_ended(known), 10.0)
    child.wait()
    assert has_ended(known)
