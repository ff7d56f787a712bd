"""Checkpoints that are whole or not there: written beside their place with a checksum, renamed, the last two kept.

Read with torch's weights_only, so that a file from elsewhere can run no code. They may be written to a node's own disk
first, and be copied to the run's directory now and then.
"""

import hashlib
import logging
import os
import shutil
from io import BufferedWriter
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from rlhf.errors import ConfigError
from rlhf.storage.files import TORN, checksum, read_json, sync, sync_entries, write_json, writing
from rlhf.storage.places import check_folder

log = logging.getLogger(__name__)

STATE, MANIFEST, LOCAL = "state.pt", "manifest.json", "local.json"
KEPT = 2


class Hashed:
    """A file that is hashed as it is written, so that it need not be read again."""

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash."""
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Have the file written out."""
        self.file.flush()


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) as the checkpoint of `step`."""
    with writing(folder):
        _save(folder, step, state)


def _save(folder: Path, step: int, state: dict[str, Any]) -> None:
    unfinished = _unfinished(folder)
    unfinished.mkdir(parents=True)
    with (unfinished / STATE).open("wb") as file:
        hashed = Hashed(file)
        torch.save(state, hashed)  # pyright: ignore[reportArgumentType]
    write_json(unfinished / MANIFEST, {"step": step, "sha256": hashed.sha256.hexdigest()})
    _finish(unfinished, folder / f"step-{step:08d}")


def _unfinished(folder: Path) -> Path:
    path = folder / ".unfinished"
    shutil.rmtree(path, ignore_errors=True)
    return path


def _finish(unfinished: Path, place: Path) -> None:
    """Have it on disk under its name, and the last ones alone beside it."""
    sync(unfinished)
    shutil.rmtree(place, ignore_errors=True)
    unfinished.rename(place)
    sync_entries(place.parent)
    places = _places(place.parent)
    count = places.index(place) + 1  # later ones are torn, or the work would not have come by here again
    for old in [*places[: max(0, count - KEPT)], *places[count:]]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state of the last whole checkpoint, its tensors on the CPU; None where there is none.

    Whatever else keeps it from being read is raised: work that began anew would put an end to it.
    """
    place = newest(folder)
    return None if place is None else torch.load(place / STATE, map_location="cpu", weights_only=True)


def _check_whole(place: Path) -> None:
    if read_json(place / MANIFEST)["sha256"] != checksum(place / STATE):
        raise ValueError("its checksum is another one")


def local_folder(disk: str, folder: Path) -> Path:
    """The folder on this node's `disk` of the run whose checkpoints are in `folder`; made, for this account alone.

    It has its name from an id in `folder`: a run that is removed leaves nothing that another one would go on from.
    Raises ConfigError where it can't be had.
    """
    if not (folder / LOCAL).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / LOCAL, {"id": uuid4().hex})
    own = _own(disk, folder)
    check_folder("checkpoint_local_dir", own.parent)
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own.stat().st_uid != os.geteuid():
        raise ConfigError(f"checkpoint_local_dir={disk} is not allowed: {own} is another account's")
    return own


def remove_local(disk: str, folder: Path) -> None:
    """Remove what `local_folder` has made for a run that has ended."""
    if (folder / LOCAL).exists():
        shutil.rmtree(_own(disk, folder), ignore_errors=True)


def _own(disk: str, folder: Path) -> Path:
    return Path(os.path.expandvars(disk)).expanduser() / f"rlhf-{read_json(folder / LOCAL)['id']}"


def copy_newest(local: Path, folder: Path) -> None:
    """Have the last whole checkpoint of `local` in `folder` too, unless that has a later one."""
    found, there = newest(local), newest(folder)
    if found is None or (there is not None and there.name > found.name):
        return
    with writing(folder):
        unfinished = _unfinished(folder)
        shutil.copytree(found, unfinished)
        _finish(unfinished, folder / found.name)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint; None where there is none."""
    for place in reversed(_places(folder)):
        try:
            _check_whole(place)
            return place
        except TORN as error:
            log.info(f"{place} can't be used ({error}): going back to the one before it")
    return None


def _places(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))
