"""Finished stages, found again by what they were made from.

A stage's directory is named by the SHA-256 of all it read: the sections of the configuration, its parents' keys, the
data's fingerprint and a version bumped by hand when the stage's code changes its result. It is built beside its place
and renamed when finished, so a directory that lacks its marker does not exist.

That only one process builds is seen to by a lease: a file that is made if it is not there yet, and refreshed while its
holder lives. It needs no locks of the file system, which many a cluster's lacks; and were a lease ever held twice, the
rename would still let only one result stand.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import SoftFileLease

from rlhf.storage.files import LEASE_SECONDS, read_json, write_json

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

    Of several processes that ask at once, one builds and the others wait. What a builder that died left is removed.
    """
    directory = cache / f"{stage.name}-{stage.key[:16]}"
    if not _is_finished(directory):
        cache.mkdir(parents=True, exist_ok=True)
        with SoftFileLease(f"{directory}.lock", lease_duration=LEASE_SECONDS):
            if not _is_finished(directory):
                _build(directory, stage, build)
                return _read(directory, stage.key, built_now=True)
    return _read(directory, stage.key, built_now=False)


def built_since(cache: Path, time: float) -> bool:
    """Whether any stage was finished after `time`, in seconds since the epoch."""
    return any(marker.stat().st_mtime > time for marker in cache.glob(f"*/{MARKER}"))


def _is_finished(directory: Path) -> bool:
    return (directory / MARKER).exists()


def _read(directory: Path, key: str, built_now: bool) -> Finished:
    marker = read_json(directory / MARKER)
    return Finished(directory, key, marker["figures"], marker["seconds"], built_now)


def _build(directory: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> None:
    for leftover in (directory, *directory.parent.glob(f"{directory.name}.*.unfinished")):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = directory.with_name(f"{directory.name}.{uuid4().hex[:8]}.unfinished")
    unfinished.mkdir()
    start = time.perf_counter()
    try:
        figures = build(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    seconds = round(time.perf_counter() - start, 2)
    write_json(unfinished / MARKER, {"key": stage.key, "seconds": seconds, "figures": figures, **stage.identity})
    try:
        unfinished.rename(directory)
    except OSError:
        if not _is_finished(directory):
            raise
        shutil.rmtree(unfinished)  # frozen for so long that another took it for dead, and was quicker
