"""Models from a directory or the hub: errors of loading in words, and what identifies the weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from rlhf.errors import ConfigError

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
ADVICE: dict[type[BaseException], str] = {
    GatedRepoError: f"it is gated: accept its licence on its page on the hub, then {LOG_IN}",
    RepositoryNotFoundError: "the hub has no such model, or it is private: check the id; for a private one " + LOG_IN,
    LocalEntryNotFoundError: "it is not on this machine and the hub can't be reached: fetch it where there is a "
    "network, with `hf download ID --local-dir DIR`, and give DIR",
}
"""What to do, by the first kind of error that fits."""


@contextmanager
def loading(key: str, path: str, wanted: str) -> Iterator[None]:
    """Errors inside the block become a ConfigError that names `key`, what was `wanted` there, and what to do."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError, ImportError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{key}={path} is not allowed: no {wanted} can be loaded from there: {advice(path, error)}"
        ) from error


def advice(path: str, error: BaseException) -> str:
    """Why, in one line, and what to do where that is known."""
    if path.startswith(("/", "./", "../")) and not Path(path).exists():
        return "there is no such directory"
    cause: BaseException | None = error
    while cause is not None:
        for kind, what_to_do in ADVICE.items():
            if isinstance(cause, kind):
                return what_to_do
        cause = cause.__cause__
    return str(error).strip().split("\n", 1)[0]


def fingerprint(path: str) -> list[Any]:
    """What identifies the weights at `path`: names, sizes and times of a directory's files, or else the hub id."""
    if not Path(path).is_dir():
        return [path]
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    return [[entry.name, entry.stat().st_size, entry.stat().st_mtime_ns] for entry in entries if entry.is_file()]
