"""Identity of processes on this machine: an id alone may by now be another process's."""

import socket
from collections.abc import Mapping
from typing import Any

import psutil

CLOCK_SLACK = 2.0
"""Seconds by which two readings of a process's start may differ, as the machine's clock is set."""


def identity(pid: int) -> dict[str, Any]:
    """Identify a process uniquely, as JSON; raises psutil.NoSuchProcess."""
    return {"job_id": str(pid), "host": socket.gethostname(), "started": psutil.Process(pid).create_time()}


def find(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The living process of an `identity`; None where it has ended, or is another machine's."""
    if identity.get("host") != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(identity["job_id"]))
        same = abs(process.create_time() - float(identity["started"])) < CLOCK_SLACK
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def has_ended(identity: Mapping[str, Any]) -> bool:
    """Whether it is certain, from here, that the process of an `identity` lives no more."""
    return identity.get("host") == socket.gethostname() and find(identity) is None
