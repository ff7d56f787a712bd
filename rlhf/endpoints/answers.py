"""Answers of language models on disk, so that a question that was paid for is not asked again.

One SQLite file, safe for several processes at once; its rows are written one by one as answers come, so that a crash
loses none. Write-ahead logging is left off, since it does not work on network file systems.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf.errors import EndpointError

PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""


@dataclass(frozen=True)
class Answer:
    """One completion: its text, what the first token might have been (log-probabilities), and tokens billed.

    `problem` says why there is no completion; such an answer is not kept. It is `refused` where the server is well and
    the question is not.
    """

    text: str = ""
    logprobs: dict[str, float] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    problem: str | None = None
    refused: bool = False


class Answers:
    """The file at `path`, made where there is none; raises EndpointError where it can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)"
            )

    def find(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key."""
        found = {}
        with self._readable():
            for key in keys:
                row = self.connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = Answer(**json.loads(row[0]))
        return found

    def keep(self, key: str, request: str, answer: Answer) -> None:
        """At once and for good; an answer that is there already stays."""
        with self._readable():
            values = (key, request, json.dumps(asdict(answer)))
            self.connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", values)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            raise EndpointError(f"{self.path} can't be used to keep answers: {error}") from error
