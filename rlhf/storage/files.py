"""Files that are whole or absent: written beside their place, then renamed into it; and read within bounds.

Whatever lies where a file should be, reading ends: nothing waits for a pipe, and no value is other than JSON's.
"""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEASE_SECONDS = 30.0
"""So long without a sign of life, and the holder of a lock is taken for dead; on the same machine its end is seen."""

MOST_BYTES = 1 << 28
"""Size limit of a file that is read whole."""

DEEPEST = 32
"""Levels of mappings and lists."""

LARGEST_INTEGER = 1 << 63

TORN = (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError)
"""What reading files raises that were not written whole; other errors may pass, and speak of no file."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes at or below `path`: a disk that is full then, or a quota, is told with it.

    Of itself such an error names no file, and libraries hide it behind one of their own.
    """
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not getattr(found, "filename", None):
            for number in (errno.ENOSPC, errno.EDQUOT):
                if getattr(found, "errno", None) == number or os.strerror(number) in str(found):
                    raise OSError(number, os.strerror(number), str(path)) from None
            found = found.__cause__ or found.__context__
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; halves of surrogate pairs, as file names may hold, as JSON writes them: `\\udc80`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON; raises ValueError on NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A file's text, of UTF-8. Raises OSError, or a ValueError that says what is wrong with it."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # no opening of a pipe waits
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("no regular file")
        content = file.read(most + 1) if about.st_size <= most else b""
    if max(about.st_size, len(content)) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """What a file of JSON holds, as `parse_json` reads it."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """A value of JSON; raises ValueError on others, and on NaN, infinity, long integers, depth, halves of pairs."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels deep") from None
    check_plain(value)
    return value


def check_plain(value: Any, levels: int = DEEPEST) -> None:
    """Raises ValueError unless `value` is one that JSON can hold, within bounds."""
    if isinstance(value, str):
        if not value.isascii():
            value.encode("utf-8")  # raises on half of a surrogate pair, in UnicodeEncodeError
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
    elif isinstance(value, int):
        if not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            raise ValueError("an integer of more than 64 bits")
    elif isinstance(value, dict | list):
        if levels == 0:
            raise ValueError(f"more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} is no text")
                check_plain(key)
        for each in value.values() if isinstance(value, dict) else value:
            check_plain(each, levels - 1)
    elif value is not None:
        raise ValueError(f"a {type(value).__name__}, which JSON does not have")


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file below `directory`, by its path from there; a few files at a time."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        sums = pool.map(checksum, files)
        return {path.relative_to(directory).as_posix(): found for path, found in zip(files, sums, strict=True)}


def share(directory: Path) -> None:
    """Let whoever may use a directory use its files: safetensors writes them for their owner alone."""
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(file.parent.stat().st_mode & 0o666)


def sync(path: Path) -> None:
    """Have a file on disk, or a directory with all below it: a rename may else outlive a power cut without them."""
    for below in path.iterdir() if path.is_dir() else ():
        sync(below)
    sync_entries(path)


def sync_entries(path: Path) -> None:
    """Have a file's bytes on disk, or a directory's own entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
