"""Answers of language models, and a file that keeps them, so that a question that was paid for is not asked again.

One SQLite file, safe for several processes at once; its rows are written one by one as answers come, so that a crash
loses none. Write-ahead logging is left off, since it does not work on network file systems.
"""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.endpoints.said import clean
from rlhf.errors import EndpointError
from rlhf.storage.files import parse_json

PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""

MOST_TOKENS = 10_000_000
"""That a server may say it has read or written for one question."""

ROUNDING = 0.01

LONGEST_TEXT = 1 << 17
"""Characters of an answer; no judge needs so many."""

LONGEST_PROBLEM = 300
"""Characters of a server's message."""


@dataclass(frozen=True)
class Answer:
    """One completion: its text, log-probabilities of the alternatives to its first token, and tokens billed.

    `problem` says why there is no completion, or none of use; such an answer is not kept. It is `refused` where the
    server is well and the question is not, and `cut` if it has not come to its end; `billed` is how often the server
    may have worked on it all the same.
    """

    text: str = ""
    logprobs: dict[str, float] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    problem: str | None = None
    refused: bool = False
    billed: int = 0
    cut: bool = False


def read_completion(text: str) -> Answer:
    """A chat completion's JSON as an answer; one with a problem, never an error, where the text is no such JSON."""
    try:
        found = parse_json(text)
        if isinstance(found, dict) and found.get("error"):  # as some servers write with HTTP 200
            return Answer(problem=f"error: {found['error']}")
        choice = found["choices"][0]
        content = choice["message"].get("content") or ""
        if not isinstance(content, str):
            raise TypeError("fields of another type")
        usage = found.get("usage") or {}
        read, written = (tokens(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        cut = choice.get("finish_reason") == "length"
        return Answer(content, first_logprobs(choice), read, written, cut=cut)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Answer(problem=f"not a chat completion: {type(error).__name__}: {error}", billed=1)


def first_logprobs(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """Log-probabilities of the alternatives to the first token; None where the endpoint gives none."""
    found = (choice.get("logprobs") or {}).get("content") or []
    alternatives = found[0].get("top_logprobs") if found else None
    return {str(each["token"]): logprob(each["logprob"]) for each in alternatives} if alternatives else None


def tokens(value: object) -> int | None:
    """A server's count of tokens; raises ValueError on one that can't be."""
    if value is not None and (type(value) is not int or not 0 <= value <= MOST_TOKENS):
        raise ValueError(f"{value!r} tokens")
    return value


def logprob(value: object) -> float:
    """A finite log-probability, or just above 0, since servers round; raises ValueError on one that can't be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value <= ROUNDING:
        raise ValueError(f"{value!r} for a log-probability")
    return float(value)


def cleaned(answer: Answer, key: str) -> Answer:
    """The answer with each text of the server's made safe; see rlhf.endpoints.said."""
    problem = None if answer.problem is None else clean(answer.problem, key)[:LONGEST_PROBLEM]
    logprobs = answer.logprobs and {clean(token, key): value for token, value in answer.logprobs.items()}
    text = clean(answer.text[:LONGEST_TEXT], key)
    return replace(answer, text=text, logprobs=logprobs, problem=problem)


def restored(text: str) -> Answer | None:
    """A kept answer; None where it is not fit to be one, as versions before this kept some."""
    try:
        answer = Answer(**parse_json(text))
        logprobs = answer.logprobs or {}
        for count in (answer.input_tokens, answer.output_tokens):
            tokens(count)
        for value in logprobs.values():
            logprob(value)
        return answer if isinstance(answer.text, str) and answer.problem is None else None
    except (ValueError, TypeError, AttributeError):
        return None


class Answers:
    """The file at `path`, made at the first question; raises EndpointError where it can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():  # what is no such file is to be refused before any work
            with self._usable():
                self.connection.execute("SELECT count(*) FROM answers")

    @cached_property
    def connection(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        made.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)")
        return made

    def find(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key."""
        query = "SELECT answer FROM answers WHERE key = ?"
        with self._usable():
            rows = {key: self.connection.execute(query, (key,)).fetchone() for key in keys}
        found = {key: restored(row[0]) for key, row in rows.items() if row is not None}
        self.forget(key for key, answer in found.items() if answer is None)
        return {key: answer for key, answer in found.items() if answer is not None}

    def forget(self, keys: Iterable[str]) -> None:
        """Have answers asked for again."""
        with self._usable():
            self.connection.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])

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
