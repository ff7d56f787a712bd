"""The lease of a run's directory: `.lock`, a file that is there and refreshed while a process is at work on the run."""

import socket
import time
from pathlib import Path

import psutil
from filelock import SoftFileLease, Timeout

from rlhf.errors import ConfigError
from rlhf.storage.files import LEASE_SECONDS

LEASE = ".lock"


def take_lease(run: Path) -> SoftFileLease:
    """The lease of a run's directory, refreshed until it is released; raises ConfigError where another process has it.

    A holder that shows no sign of life may have died on another machine: it is waited for as long as that is in doubt.
    """
    lease = SoftFileLease(run / LEASE, lease_duration=LEASE_SECONDS)
    seen = refreshed(run)
    for _ in range(2 * round(LEASE_SECONDS)):
        try:
            lease.acquire(timeout=1)
            return lease
        except Timeout:
            if refreshed(run) != seen:
                break
    raise ConfigError(f"{run} is in use: another process is running there")


def refreshed(run: Path) -> float | None:
    """When the lease's holder has last shown that it is alive; None where there is none."""
    try:
        return (run / LEASE).stat().st_mtime
    except FileNotFoundError:
        return None


def is_leased(run: Path) -> bool:
    """Whether a process has shown in the last LEASE_SECONDS that it is at work on a run."""
    return time.time() - (refreshed(run) or 0.0) < LEASE_SECONDS


def lease_holder(run: Path) -> psutil.Process | None:
    """The process of this machine that holds a run's lease: it lived already when the lease was last touched."""
    try:
        text, touched = (run / LEASE).read_text(), (run / LEASE).stat().st_mtime
        marker = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if marker["host"].partition("?")[0] != socket.gethostname():
            return None
        process = psutil.Process(int(marker["pid"]))
        lives = process.create_time() <= touched and process.status() != psutil.STATUS_ZOMBIE
        return process if lives else None
    except (OSError, KeyError, ValueError, psutil.Error):
        return None
