"""Answers of language models, and a file that keeps them, so that a question that was paid for is not asked again.

One SQLite file, safe for several processes at once; its rows are written one by one as answers come, so that a crash
loses none. Write-ahead logging is left off, since it does not work on network file systems.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import EndpointError

PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""

LONGEST_PROBLEM = 300
"""Characters of a server's message."""


@dataclass(frozen=True)
class Answer:
    """One completion: its text, log-probabilities of the alternatives to its first token, and tokens billed.

    `problem` says why there is no completion; such an answer is not kept. It is `refused` where the server is well and
    the question is not.
    """

    text: str = ""
    logprobs: dict[str, float] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    problem: str | None = None
    refused: bool = False


def read_completion(text: str) -> Answer:
    """A chat completion's JSON as an answer; one with a problem, never an error, where the text is no such JSON."""
    try:
        found = json.loads(text)
        if isinstance(found, dict) and found.get("error"):  # as some servers write with HTTP 200
            return Answer(problem=f"error: {found['error']}"[:LONGEST_PROBLEM])
        choice = found["choices"][0]
        content = choice["message"].get("content") or ""
        usage = found.get("usage") or {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(content, str) or not all(each is None or isinstance(each, int) for each in (read, written)):
            raise TypeError("fields of another type")
        return Answer(content, first_logprobs(choice), read, written)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Answer(problem=f"not a chat completion: {type(error).__name__}: {error}")


def first_logprobs(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """Log-probabilities of the alternatives to the first token; None where the endpoint gives none."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    alternatives = tokens[0].get("top_logprobs") if tokens else None
    return {str(each["token"]): float(each["logprob"]) for each in alternatives} if alternatives else None


class Answers:
    """The file at `path`, made where there is none; raises EndpointError where it can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            table = "answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)"
            self.connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    def find(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key."""
        query = "SELECT answer FROM answers WHERE key = ?"
        with self._usable():
            rows = {key: self.connection.execute(query, (key,)).fetchone() for key in keys}
            return {key: Answer(**json.loads(row[0])) for key, row in rows.items() if row is not None}

    def keep(self, key: str, request: str, answer: Answer) -> None:
        """At once and for good; an answer that is there already stays."""
        with self._usable():
            values = (key, request, json.dumps(asdict(answer)))
            self.connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", values)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            raise EndpointError(f"{self.path} can't be used to keep answers: {error}") from error
