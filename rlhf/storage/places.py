"""Where a command is to write: refused before the work, and the money, where that can't be done."""

import os
from collections.abc import Callable
from pathlib import Path

from rlhf.validate import check


def check_folder(key: str, path: str | Path) -> None:
    """Raise ConfigError, naming `key`, unless `path` is a folder that can be written to, or one can be made there."""
    _check_place(key, path, "folder", Path.is_dir, os.W_OK | os.X_OK)


def check_file(key: str, path: str | Path) -> None:
    """Raise ConfigError, naming `key`, unless `path` is a file that can be written, or one can be made there."""
    _check_place(key, path, "file", Path.is_file, os.W_OK)


def _check_place(key: str, path: str | Path, kind: str, is_kind: Callable[[Path], bool], mode: int) -> None:
    try:
        place = Path(path).expanduser().absolute()
        there = next(each for each in (place, *place.parents) if each.exists() or each.is_symlink())
        made = there != place
        right, writable = (
            (there.is_dir(), os.access(there, os.W_OK | os.X_OK)) if made else (is_kind(there), os.access(there, mode))
        )
        fits = not made or len(os.fsencode(place.name)) <= os.pathconf(there if there.is_dir() else "/", "PC_NAME_MAX")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, nobody's home
        check(False, key, path, f"it can't be a {kind}: {error}")
        return
    check(right, key, path, f"{there} is no {'folder' if made else kind}")
    check(writable, key, path, f"{there} can't be written to")
    check(fits, key, path, "its name is too long for the file system")
