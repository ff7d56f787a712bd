"""Finished stages, found again by what they were made from.

A stage's directory is named by the SHA-256 of all it read: the sections of the configuration, its parents' keys, the
data's fingerprint and a version bumped by hand when the stage's code changes its result. It is built beside its place
and renamed when finished, so a directory that lacks its marker does not exist. The marker holds a checksum of each
file, all on disk before the rename; a process compares them once, and a stage that is torn is built anew.

That only one process builds is seen to by a lease: a file that is made if it is not there yet, and refreshed while its
holder lives. It needs no locks of the file system, which many a cluster's lacks; and were a lease ever held twice, the
rename would still let only one result stand.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import SoftFileLease

from rlhf.errors import UserError
from rlhf.storage.files import LEASE_SECONDS, TORN, checksums, read_json, share, sync, sync_entries, write_json, writing

log = logging.getLogger(__name__)

MARKER = "stage.json"


@dataclass(frozen=True)
class Stage:
    """The identity of a stage's result: `reads` holds configuration sections and plain values, `parents` are keys."""

    name: str
    version: int
    reads: dict[str, Any]
    parents: list[str] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        reads = {name: asdict(value) if is_dataclass(value) else value for name, value in self.reads.items()}  # pyright: ignore[reportArgumentType]
        return {"name": self.name, "version": self.version, "reads": reads, "parents": self.parents}

    @property
    def key(self) -> str:
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def place(self) -> str:
        """The name of its directory."""
        return f"{self.name}-{self.key[:16]}"


@dataclass(frozen=True)
class Finished:
    """A finished stage: where it lies, its key, the figures its builder returned, and the seconds it took."""

    directory: Path
    key: str
    figures: dict[str, Any]
    seconds: float
    built_now: bool


def finish(cache: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> Finished:
    """The stage from the cache, or built now by `build`, which fills the directory given to it and returns figures.

    Of several processes that ask at once, one builds and the others wait. What a builder that died left is removed,
    but for what it has saved in `unfinished_work`; a torn stage is named, and built anew.
    """
    directory = cache / stage.place
    if _fault(directory, stage) is not None:
        cache.mkdir(parents=True, exist_ok=True)
        with SoftFileLease(f"{directory}.lock", lease_duration=LEASE_SECONDS):
            fault = _fault(directory, stage)
            if fault is not None:
                if directory.exists():
                    log.info(f"{stage.name}: {directory} is torn ({fault}): built anew")
                _build(directory, stage, build)
                shutil.rmtree(unfinished_work(cache, stage), ignore_errors=True)
                return _read(directory, stage, built_now=True)
    return _read(directory, stage, built_now=False)


def unfinished_work(cache: Path, stage: Stage) -> Path:
    """The directory of a stage's checkpoints, until it is finished."""
    return cache / f"{stage.place}.checkpoint"


def progress(cache: Path) -> set[tuple[str, int]]:
    """All finished stages and checkpoints of others, with the times of their files: to compare without a clock."""
    found = set()
    for marker in (*cache.glob(f"*/{MARKER}"), *cache.glob("*.checkpoint/*/*.json")):
        with suppress(FileNotFoundError):
            found.add((str(marker), marker.stat().st_mtime_ns))
    return found


_whole: set[tuple[Path, int]] = set()
"""Stages whose checksums this process has compared, with the times of their markers."""


def _fault(directory: Path, stage: Stage) -> str | None:
    """What is wrong with a finished stage; None where nothing is."""
    try:
        version = directory.resolve(), (directory / MARKER).stat().st_mtime_ns
        if version in _whole:
            return None
        marker = read_json(directory / MARKER)
        expected = dict(marker["files"])
        if marker["key"] != stage.key:
            return f"{MARKER} is that of another key"
        found = checksums(directory)
    except PermissionError as error:  # somebody else's, and in use: no reason to build it anew in its place
        raise UserError(f"{error.filename} may not be read by this account: have its owner allow it") from None
    except TORN as error:
        return f"{MARKER} can't be read: {error}"
    for name, checksum in expected.items():
        if found.get(name) != checksum:
            return f"{name} is missing" if name not in found else f"{name} differs from its checksum"
    _whole.add(version)
    return None


def _read(directory: Path, stage: Stage, built_now: bool) -> Finished:
    marker = read_json(directory / MARKER)
    return Finished(directory, stage.key, marker["figures"], marker["seconds"], built_now)


def _build(directory: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> None:
    for leftover in (directory, *directory.parent.glob(f"{directory.name}.*.unfinished")):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = directory.with_name(f"{directory.name}.{uuid4().hex[:8]}.unfinished")
    unfinished.mkdir()
    start = time.perf_counter()
    try:
        with writing(directory):
            figures = build(unfinished)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError) and _fault(directory, stage) is None:
            return  # as below: another has cleared it away
        raise
    seconds = round(time.perf_counter() - start, 2)
    share(unfinished)
    marker = {"key": stage.key, "seconds": seconds, "figures": figures, "files": checksums(unfinished)}
    write_json(unfinished / MARKER, marker | stage.identity)
    sync(unfinished)
    try:
        unfinished.rename(directory)
    except OSError:
        if _fault(directory, stage) is not None:
            raise
        shutil.rmtree(unfinished)  # frozen for so long that another took it for dead, and was quicker
        return
    sync_entries(directory.parent)
    _whole.add((directory.resolve(), (directory / MARKER).stat().st_mtime_ns))
