"""Identity of processes on this machine: an id alone may by now be another process's."""

import socket
from collections.abc import Mapping
from pathlib import Path
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
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return None


def writes_to(process: psutil.Process, file: Path) -> bool:
    """Whether a process of Python holds that very file open for writing: no number in a file can pretend that."""
    try:
        name, place = Path(process.exe()).name, str(file.resolve())
        opened = process.open_files()
    except (psutil.Error, OSError):
        return False
    return "python" in name and any(each.path == place and getattr(each, "mode", "w") != "r" for each in opened)


def has_ended(identity: Mapping[str, Any]) -> bool:
    """Whether it is certain, from here, that the process of an `identity` lives no more."""
    return identity.get("host") == socket.gethostname() and find(identity) is None
