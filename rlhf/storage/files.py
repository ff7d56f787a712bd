"""Files that are whole or absent: written beside their place, then renamed into it."""

import json
import os
from pathlib import Path
from typing import Any

LEASE_SECONDS = 30.0
"""So long without a sign of life, and the holder of a lock is taken for dead; on the same machine its end is seen."""


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON; raises ValueError on NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
