"""The lease of a run's directory: `.lock`, a file that is there and refreshed while a process is at work on the run.

Beside it lies `.holder`, the fence: it names the process that has the run now. Whoever takes a run over writes it anew,
and the process before it, should it still live, reads there that it must not write any more.
"""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from filelock import SoftFileLease, Timeout

from rlhf.errors import ConfigError, TakenOverError
from rlhf.process.identity import writes_to
from rlhf.storage.files import LEASE_SECONDS, read_json, write_json

LEASE, HOLDER = ".lock", ".holder"

POLL_SECONDS = 1.0


@dataclass
class Lease:
    """A run that this process has, or is one rank of: `file` is then another process's."""

    run: Path
    token: str
    file: SoftFileLease | None = None

    def check(self) -> None:
        """Raises TakenOverError where another process has the run by now, or it is not there any more."""
        try:
            holder = read_json(self.run / HOLDER)
        except FileNotFoundError as error:
            raise TakenOverError(f"{self.run} was removed, or taken from this process") from error
        if holder["token"] != self.token:
            raise TakenOverError(f"{self.run} was taken over by another process; this one stops")

    def release(self) -> None:
        if self.file is not None:
            with suppress(TakenOverError):
                self.check()
                (self.run / HOLDER).unlink()
            self.file.release()


def take_lease(run: Path) -> Lease:
    """The lease of a run's directory, refreshed until it is released; raises ConfigError where another process has it.

    A holder that shows no sign of life may have died on another machine: it is waited for as long as that is in doubt.
    One that lives is taken over from by a later start of its own SLURM job, for SLURM has given it up.
    """
    file = SoftFileLease(run / LEASE, lease_duration=LEASE_SECONDS)
    me = incarnation(os.environ)
    if _supersedes(me, run):
        (run / LEASE).unlink(missing_ok=True)
    seen, start = refreshed(run), time.monotonic()
    for _ in range(2 * round(LEASE_SECONDS)):
        try:
            _acquire(file, 1.0, time.monotonic() - start)
        except Timeout:
            if refreshed(run) != seen:
                break
        else:
            lease = Lease(run, uuid4().hex, file)
            write_json(run / HOLDER, {"token": lease.token, "host": socket.gethostname(), **me})
            return lease
    raise ConfigError(f"{run} is in use: another process is running there")


def incarnation(environ: Mapping[str, str]) -> dict[str, Any]:
    """Which start of which SLURM job this process belongs to; empty where it is none's."""
    if "SLURM_JOB_ID" not in environ:
        return {}
    restarts = int(environ.get("SLURM_RESTART_COUNT", "0"))
    return {"job": environ["SLURM_JOB_ID"], "cluster": environ.get("SLURM_CLUSTER_NAME"), "restarts": restarts}


def _supersedes(me: Mapping[str, Any], run: Path) -> bool:
    try:
        holder = read_json(run / HOLDER)
        same = me and (holder["job"], holder["cluster"]) == (me["job"], me["cluster"])
        return bool(same and me["restarts"] > holder["restarts"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _acquire(file: SoftFileLease, timeout: float, watched: float) -> None:
    """As `acquire`, also where the file is another account's: removed after being `watched` for so many seconds."""
    try:
        file.acquire(timeout=timeout)
    except PermissionError as error:
        if watched > LEASE_SECONDS:
            Path(file.lock_file).unlink(missing_ok=True)
        time.sleep(timeout)
        raise Timeout(file.lock_file) from error


def refreshed(run: Path) -> float | None:
    """When the lease's holder has last shown that it is alive; None where there is none."""
    try:
        return (run / LEASE).stat().st_mtime
    except FileNotFoundError:
        return None


@dataclass
class _Look:
    mark: float
    since: float
    changed: bool


_looks: dict[Path, _Look] = {}


def is_leased(run: Path) -> bool:
    """Whether a process has shown in the last LEASE_SECONDS that it is at work on a run.

    That is a change of the lease's file, seen from here and by this machine's steady clock, for the clocks of two
    machines may differ by minutes. Only at a first look, with nothing to compare, the file's own time decides.
    """
    mark, now = refreshed(run), time.monotonic()
    if mark is None:
        _looks.pop(run, None)
        return False
    look = _looks.get(run)
    if look is None or look.mark != mark:
        look = _looks[run] = _Look(mark, now, changed=look is not None)
    return now - look.since < LEASE_SECONDS and (look.changed or abs(time.time() - mark) < LEASE_SECONDS)


def free_leases(runs: Iterable[Path]) -> dict[Path, SoftFileLease]:
    """Take the leases of those runs on which, for certain, nobody is at work; whoever calls this releases them.

    A file that may be a dead process's of another machine is watched for as long as a lease lasts, all at once.
    """
    left = {run: SoftFileLease(run / LEASE, lease_duration=LEASE_SECONDS) for run in runs if run.is_dir()}
    marks = {run: refreshed(run) for run in left}
    taken: dict[Path, SoftFileLease] = {}
    start = time.monotonic()
    while left:
        for run, lease in list(left.items()):
            with suppress(Timeout):
                _acquire(lease, 0.0, time.monotonic() - start)
                taken[run] = left.pop(run)
            if run in left and refreshed(run) not in (None, marks[run]):
                del left[run]  # somebody lives
        if not left or time.monotonic() - start > LEASE_SECONDS + 3 * POLL_SECONDS:
            break
        time.sleep(POLL_SECONDS)
    return taken


def lease_holder(run: Path) -> psutil.Process | None:
    """The process of this machine that holds a run's lease, and with it the file itself open; None without one."""
    try:
        text = (run / LEASE).read_text(encoding="utf-8")
        marker = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if marker["host"].partition("?")[0] != socket.gethostname():
            return None
        process = psutil.Process(int(marker["pid"]))
        return process if writes_to(process, run / LEASE) else None
    except (OSError, KeyError, ValueError, OverflowError, psutil.Error):
        return None
