"""Tables of rows: local files by path, and data sets or files of the Hugging Face hub by id.

A table of the hub is written hub:OWNER/NAME[@REVISION], and then [:CONFIG]:SPLIT for one of its splits or /FILE for one
of its files.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.files import Row, read_rows
from rlhf.errors import DataError

HUB = "hub:"
LOCATION = re.compile(
    r"hub:(?P<id>[^/:@]+/[^/:@]+)(@(?P<revision>[^/:]+))?(/(?P<file>[^:]+)|(:(?P<config>[^:]+))?:(?P<split>[^:]+))"
)


@dataclass(frozen=True)
class Table:
    """Rows, at least one, and the path or id that they were read from."""

    name: str
    rows: list[Row]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the rows' values, wherever and in whatever encoding they are kept."""
        content = hashlib.sha256()
        for row in self.rows:
            content.update(json.dumps(row.values, sort_keys=True, default=str).encode())
            content.update(b"\n")
        return content.hexdigest()


def read_table(location: str, key: str, root: Path | None = None, limit: int | None = None) -> Table:
    """The first `limit` rows, or all, of a file, of all files of a pattern with *, or of a table of the hub.

    `root` is the folder of relative paths; `key` the configuration key, which a DataError names.
    """
    if location.startswith(HUB):
        return Table(location, read_hub(location, key, limit))
    path = Path(root or "", Path(location).expanduser())
    if not has_magic(location) or path.exists():
        return Table(str(path), read_rows(path, key, limit))
    files = sorted(path.parent.glob(path.name))
    if not files:
        raise DataError(f"{key}: there is no file {path}")
    rows = (row for file in files for row in read_rows(file, key, limit))
    return Table(str(path), list(islice(rows, limit)))


def read_hub(location: str, key: str, limit: int | None) -> list[Row]:
    """Rows of a split or a file: downloaded once and kept; with a limit, a split is streamed so far instead."""
    found = LOCATION.fullmatch(location)
    if found is None:
        form = "hub:OWNER/NAME:SPLIT, hub:OWNER/NAME:CONFIG:SPLIT or hub:OWNER/NAME/FILE, with @REVISION after NAME"
        raise DataError(f"{key}={location} is not allowed: a table of the hub is {form}")
    try:
        if found["file"]:
            path = download(found)
        else:
            loaded = list(islice(stream(found, limit is not None), limit))
    except ImportError as error:
        raise DataError(f"{key}={location}: needs the package datasets: pip install datasets") from error
    except Exception as error:  # offline, gated, not there, without that split, broken off: libraries raise many kinds
        raise DataError(f"{key}={location} can't be loaded: {explain(error)}") from error
    if found["file"]:
        return read_rows(path, key, limit)
    if not loaded:
        raise DataError(f"{key}: {location} holds no rows")
    return [Row(dict(values), location, f"row {number}") for number, values in enumerate(loaded)]


def download(found: re.Match[str]) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(found["id"], found["file"], repo_type="dataset", revision=revision_of(found)))


def stream(found: re.Match[str], streaming: bool) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    split, revision = found["split"], revision_of(found)
    yield from load_dataset(found["id"], found["config"], split=split, revision=revision, streaming=streaming)  # pyright: ignore[reportReturnType]


def revision_of(found: re.Match[str]) -> str | None:
    """A slash in it is written %2F, as the hub's own addresses have it."""
    return found["revision"] and found["revision"].replace("%2F", "/")


def explain(error: Exception) -> str:
    """A message without the paragraphs of advice that may follow it."""
    return " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
