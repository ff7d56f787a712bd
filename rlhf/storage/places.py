"""Where a command is to write: refused before the work, and the money, where that can't be done."""

import os
from pathlib import Path

from rlhf.validate import check


def check_folder(key: str, path: str | Path) -> None:
    """Raise ConfigError, naming `key`, unless `path` is a folder that can be written to, or one can be made there."""
    try:
        place = Path(path).expanduser().absolute()
        there = next(each for each in (place, *place.parents) if each.exists() or each.is_symlink())
        is_folder, writable = there.is_dir(), os.access(there, os.W_OK | os.X_OK)
        fits = len(os.fsencode(place.name)) <= os.pathconf(there if is_folder else "/", "PC_NAME_MAX")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, nobody's home
        check(False, key, path, f"it can't be a folder: {error}")
        return
    check(is_folder, key, path, f"{there} is no folder")
    check(writable, key, path, f"{there} can't be written to")
    check(fits, key, path, "its name is too long for the file system")
