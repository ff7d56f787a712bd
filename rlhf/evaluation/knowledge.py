"""A user's collection of texts, from which passages are retrieved by BM25."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.files import read_rows
from rlhf.errors import ConfigError


@dataclass(frozen=True)
class Passage:
    title: str
    text: str


class Knowledge:
    """Texts of a file with rows {title, text}, cut into passages; raises DataError at a bad row."""

    def __init__(self, path: Path, passage_words: int) -> None:
        self._bm25 = import_bm25()
        self.passages: dict[str, list[Passage]] = {}
        for row in read_rows(path, "factuality.knowledge"):
            title, text = row.filled_text("title"), row.filled_text("text")
            self.passages.setdefault(title, []).extend(cut(title, text, passage_words))
        self._names = {title: spaced(title) for title in self.passages}
        self._indexes: dict[str | None, tuple[list[Passage], Any]] = {}

    def topic(self, instruction: str) -> str | None:
        """The longest title that the instruction names, whatever the case; None where it names none."""
        words = spaced(instruction)
        named = [title for title, name in self._names.items() if name in words and name.strip()]
        return max(named, key=len, default=None)

    def find(self, query: str, topic: str | None, count: int) -> list[Passage]:
        """The passages nearest to a query, best first: those of a topic, or of all where there is no topic."""
        passages, index = self._index(topic)
        scores = index.get_scores(tokens(query))
        order = sorted(range(len(passages)), key=lambda place: -scores[place])
        return [passages[place] for place in order[:count]]

    def _index(self, topic: str | None) -> tuple[list[Passage], Any]:
        if topic not in self._indexes:
            groups = self.passages.values() if topic is None else [self.passages[topic]]
            passages = [passage for group in groups for passage in group]
            self._indexes[topic] = passages, self._bm25([tokens(f"{each.title} {each.text}") for each in passages])
        return self._indexes[topic]


def cut(title: str, text: str, words: int) -> list[Passage]:
    """The text in passages of at most so many words."""
    all_words = text.split()
    return [Passage(title, " ".join(all_words[start : start + words])) for start in range(0, len(all_words), words)]


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def spaced(text: str) -> str:
    """The words of a text, each between spaces, so that one text can be looked for in another word by word."""
    return f" {' '.join(tokens(text))} "


def import_bm25() -> Any:
    """The BM25 that weighs words by how few passages hold them, and never below 0."""
    try:
        from rank_bm25 import BM25Plus
    except ImportError as error:
        raise ConfigError("factuality=factscore needs the package rank-bm25: pip install rank-bm25") from error
    return BM25Plus
