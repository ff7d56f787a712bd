"""Checkpoints that are whole or not there: written beside their place with a checksum, renamed, the last two kept.

Read with torch's weights_only, so that a file from elsewhere can run no code.
"""

import hashlib
import logging
import shutil
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch

from rlhf.storage.files import checksum, read_json, sync, sync_entries, write_json, writing

log = logging.getLogger(__name__)

STATE, MANIFEST = "state.pt", "manifest.json"
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
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (unfinished / STATE).open("wb") as file:
        hashed = Hashed(file)
        torch.save(state, hashed)  # pyright: ignore[reportArgumentType]
    write_json(unfinished / MANIFEST, {"step": step, "sha256": hashed.sha256.hexdigest()})
    sync(unfinished)
    place = folder / f"step-{step:08d}"
    shutil.rmtree(place, ignore_errors=True)
    unfinished.rename(place)
    sync_entries(folder)
    for old in _places(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state of the last whole checkpoint, its tensors on the CPU; None where there is none."""
    for place in reversed(_places(folder)):
        try:
            manifest = read_json(place / MANIFEST)
            if manifest["sha256"] != checksum(place / STATE):
                raise ValueError("its checksum is another one")
            return torch.load(place / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torn files raise whatever their reader stumbles over
            log.info(f"{place} can't be used ({error}): going back to the one before it")
    return None


def _places(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))
