"""Rows of JSON and JSON Lines files, plain or gzipped, that know where they stand.

Every complaint about a row therefore names the file, the line (or the index in a JSON array), the field, what was found
and what is needed. What the rows mean is left to the caller.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import DataError

LONGEST_QUOTE = 60


@dataclass(frozen=True)
class Row:
    """One JSON object of a file; `place` is "line 3" (from 1) or, in a JSON array, "index 2" (from 0)."""

    values: dict[str, Any]
    path: Path
    place: str

    def error(self, name: str, needed: str) -> DataError:
        """The complaint that the field `name` isn't what is `needed`, for the caller to raise."""
        found = quote(self.values[name]) if name in self.values else "missing"
        return DataError(f"{self.path}, {self.place}, field '{name}' is {found}: it must be {needed}")

    def text(self, name: str) -> str:
        """A field that must hold a string, possibly an empty one."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.error(name, "a string")
        if not is_unicode(value):
            raise self.error(name, "valid Unicode, without half of a surrogate pair")
        return value

    def filled_text(self, name: str) -> str:
        """A field that must hold a string with more than white space."""
        value = self.text(name)
        if not value.strip():
            raise self.error(name, "a string that isn't empty")
        return value

    def optional_text(self, name: str) -> str:
        """A field that may hold a string; missing, null and white space alone all read as ""."""
        if self.values.get(name) is None:
            return ""
        value = self.text(name)
        return value if value.strip() else ""


def quote(value: object) -> str:
    """A value as JSON, cut to what an error message has room for."""
    written = json.dumps(value)
    return written if len(written) <= LONGEST_QUOTE else f"{written[:LONGEST_QUOTE]}..."


def is_unicode(text: str) -> bool:
    """False where JSON escapes left a lone surrogate, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_rows(path: Path, key: str) -> list[Row]:
    """All rows of a .json file (one array of objects) or a .jsonl file (one object a line), .gz after either allowed.

    `key` is the configuration key that named the file. Raises DataError for a file that is missing, unreadable, of
    another kind or without rows.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in (".json", ".jsonl"):
        raise DataError(f"{key}: {path} must end in .json or .jsonl, or in one of these and .gz")
    content = read_text(path, key)
    rows = array_rows(path, content) if kind == ".json" else line_rows(path, content)
    if not rows:
        raise DataError(f"{key}: {path} holds no rows")
    return rows


def read_text(path: Path, key: str) -> str:
    """The decompressed text of a file, without a byte order mark."""
    if not path.is_file():
        raise DataError(f"{key}: there is no file {path}")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{key}: {path} can't be read: {error}") from error


def array_rows(path: Path, content: str) -> list[Row]:
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(values, list):
        raise DataError(
            f"{path} holds {quote(values)}: it must be one JSON array of objects (one a line: name it .jsonl)"
        )
    return [make_row(value, path, f"index {index}") for index, value in enumerate(values)]


def line_rows(path: Path, content: str) -> list[Row]:
    rows = []
    # Not splitlines(), which would also cut at the line separators of Unicode that JSON strings may hold.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        rows.append(make_row(value, path, f"line {number}"))
    return rows


def make_row(value: object, path: Path, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path}, {place} is {quote(value)}: it must be a JSON object")
    return Row(value, path, place)
