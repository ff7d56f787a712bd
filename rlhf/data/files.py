"""Rows of JSON, JSON Lines and Parquet files that know where they stand.

So an error about a row names the file, the line (or the index in a JSON array), the field, what was found and what is
needed. Leaves out what rows mean (formats.py).
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, cast

from rlhf.errors import DataError

LONGEST_QUOTE = 60
PARQUET_BATCH = 256


@dataclass(frozen=True)
class Row:
    """One object of a file, or of a data set of the hub, whose id `path` is then.

    `place` is "line 3" (from 1), in a JSON array "index 2" (from 0), elsewhere "row 2" (from 0).
    """

    values: dict[str, Any]
    path: Path | str
    place: str

    def error(self, name: str, needed: str) -> DataError:
        """The error that the field `name` isn't what is `needed`, for the caller to raise."""
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
    written = json.dumps(value, default=str)
    return written if len(written) <= LONGEST_QUOTE else f"{written[:LONGEST_QUOTE]}..."


def is_unicode(text: str) -> bool:
    """False where JSON escapes left a lone surrogate, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_rows(path: Path, key: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows, or all, of a file whose ending says what it is.

    .json is one array of objects, .jsonl one object a line, .gz after either allowed; .parquet a table. Of the last two
    nothing beyond `limit` is read. `key` is the configuration key that named the file. Raises DataError for a file that
    is missing, unreadable, of another kind or without rows.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in READERS or path.name.endswith(".parquet.gz"):
        raise DataError(f"{key}: {path} must end in .json or .jsonl (.gz may follow), or in .parquet")
    with reading(path, key):
        rows = list(islice(READERS[kind](path, key), limit))
    if not rows:
        raise DataError(f"{key}: {path} holds no rows")
    return rows


def read_text(path: Path, key: str) -> str:
    """The decompressed text of a file, without a byte order mark."""
    with reading(path, key), open_text(path) as file:
        return file.read()


@contextmanager
def reading(path: Path, key: str, *errors: type[Exception]) -> Iterator[None]:
    """Errors of a damaged file, and any of `errors`, become a DataError that names the file and the key."""
    if not path.is_file():
        raise DataError(f"{key}: there is no file {path}")
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, *errors) as error:
        raise DataError(f"{key}: {path} can't be read: {error}") from error


def open_text(path: Path) -> TextIOWrapper:
    """Lines end at a line feed alone: JSON strings may hold the other line separators of Unicode."""
    opener = gzip.open if path.suffix == ".gz" else open
    return cast(TextIOWrapper, opener(path, "rt", encoding="utf-8-sig", newline="\n"))


def array_rows(path: Path, key: str) -> Iterator[Row]:
    values = parse_json(read_text(path, key), path)
    if not isinstance(values, list):
        raise DataError(
            f"{path} holds {quote(values)}: it must be one JSON array of objects (one a line: name it .jsonl)"
        )
    yield from (make_row(value, path, f"index {index}") for index, value in enumerate(values))


def line_rows(path: Path, key: str) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield make_row(parse_json(line.rstrip("\r\n"), path, number), path, f"line {number}")


def parquet_rows(path: Path, key: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{key}: {path} needs the package pyarrow: pip install pyarrow") from error
    with reading(path, key, ArrowException), ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=PARQUET_BATCH)
        found = (values for batch in batches for values in batch.to_pylist())
        yield from (Row(values, path, f"row {number}") for number, values in enumerate(found))


def parse_json(text: str, path: Path, first: int = 1) -> Any:
    """The value that a text from line `first` on holds."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}, line {first + error.lineno - 1}"
        raise DataError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise DataError(f"{path}, from line {first} on: can't be read: {error}") from error


def make_row(value: object, path: Path, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path}, {place} is {quote(value)}: it must be a JSON object")
    return Row(value, path, place)


READERS = {".json": array_rows, ".jsonl": line_rows, ".parquet": parquet_rows}
