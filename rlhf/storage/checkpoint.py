"""Checkpoints that are whole or not there: written beside their place with a checksum, renamed, the last two kept.

Read with torch's weights_only, so that a file from elsewhere can run no code.
"""

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from rlhf.storage.files import read_json, write_json

log = logging.getLogger(__name__)

STATE, MANIFEST = "state.pt", "manifest.json"
KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) as the checkpoint of `step`."""
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (unfinished / STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    write_json(unfinished / MANIFEST, {"step": step, "sha256": _checksum(unfinished / STATE)})
    place = folder / f"step-{step:08d}"
    shutil.rmtree(place, ignore_errors=True)
    unfinished.rename(place)
    _sync(folder)
    for old in _places(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state of the last whole checkpoint, its tensors on the CPU; None where there is none."""
    for place in reversed(_places(folder)):
        try:
            manifest = read_json(place / MANIFEST)
            if manifest["sha256"] != _checksum(place / STATE):
                raise ValueError("its checksum is another one")
            return torch.load(place / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torn files raise whatever their reader stumbles over
            log.info(f"{place} can't be used ({error}): going back to the one before it")
    return None


def _places(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Have the folder's entries on disk: a rename may otherwise outlive a power cut without the files it names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
