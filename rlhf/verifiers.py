"""Verifiers: rewards that are computed from a text, by name with `reward=NAME` (conf/reward/).

Each takes the instruction and the response's text, then keywords, and returns a number; one of yours is such a function
anywhere on Python's path, chosen with `reward=function` (docs/extending.md). Left out: whatever needs a model.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from rlhf.data.files import read_rows

COUNTS = {"words": lambda text: len(text.split()), "characters": len, "sentences": lambda text: len(ENDS.findall(text))}
ENDS = re.compile(r"[.!?]+(?=\s|$)")
WORD = re.compile(r"[^\W\d_]+")
NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"


def length(instruction: str, response: str, low: int, high: int, unit: str = "words") -> float:
    """1 where the response has `low` to `high` words, characters or sentences; falls to 0 at none, or at twice as many.

    Below the band it is the share of `low` that is there, above it what is left of `high` until twice that.
    """
    found = COUNTS[unit](response)
    if found < low:
        return found / low
    return 1.0 if found <= high else max(0.0, 2 - found / high)


def keyword(instruction: str, response: str, words: str | Sequence[str], most: int = 1) -> float:
    """How often the response holds any of `words`, as whole words in either case, but at most `most`; over `most`."""
    sought = [words] if isinstance(words, str) else words
    pattern = "|".join(map(re.escape, sorted(sought, key=len, reverse=True)))
    return min(len(re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", response, re.IGNORECASE)), most) / most


def plain_words(instruction: str, response: str, longest: int = 4, least: int = 10) -> float:
    """The share of words of at most `longest` letters; in a response of fewer than `least` words, of `least`."""
    lengths = [len(word) for word in WORD.findall(response)]
    return sum(length <= longest for length in lengths) / max(len(lengths), least)


def regex(instruction: str, response: str, pattern: str) -> bool:
    """Whether the whole response, white space around it apart, has a format; `.` is any character but a line feed."""
    return re.fullmatch(pattern, response.strip()) is not None


def exact_answer(instruction: str, response: str, answers: str, pattern: str = NUMBER) -> bool:
    """Whether the last match of `pattern` is the instruction's answer: without one, or without a match, it is not.

    `answers` is a table of rows {instruction, answer} (.json or .jsonl). Commas within numbers are not compared.
    """
    wanted = read_answers(answers).get(" ".join(instruction.split()))
    found = re.findall(pattern, response)
    return wanted is not None and bool(found) and plain(found[-1]) == plain(wanted)


def plain(answer: str) -> str:
    """An answer as it is compared: in lower case, without white space around it, commas in numbers or a full stop."""
    return re.sub(r"(?<=\d),(?=\d)", "", answer.strip().lower()).rstrip(".")


@lru_cache(maxsize=8)
def read_answers(path: str) -> dict[str, str]:
    """The answers by their instruction; raises DataError at a bad row."""
    rows = read_rows(Path(path).expanduser(), "reward.function.answers")
    return {" ".join(row.filled_text("instruction").split()): row.filled_text("answer") for row in rows}
