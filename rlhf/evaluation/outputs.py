"""Finished outputs and what they are compared with, joined on the instruction, never on the row number.

A file is AlpacaEval's model_outputs (rows {instruction, output}). Where an instruction occurs several times, the k-th
occurrence joins the k-th.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlhf.data.files import Row, read_rows
from rlhf.errors import DataError

OUTPUTS, REFERENCES, RESPONSES = "outputs.json", "references.json", "responses.jsonl"
GREEDY_OUTPUTS, GREEDY_REFERENCES = "outputs-greedy.json", "references-greedy.json"

Place = tuple[str, int]
"""An instruction, and which of its occurrences."""

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Output:
    instruction: str
    dataset: str
    text: str


@dataclass(frozen=True)
class Joined:
    """Outputs with the references to each, one or more; and how many rows were not used, by reason."""

    outputs: list[Output]
    references: list[list[str]]
    unused: dict[str, int]


def load_outputs(path: Path) -> list[Output]:
    """All outputs of a run's directory or of a file."""
    return [read_output(row) for row in read_rows(path / OUTPUTS if path.is_dir() else path, "outputs")]


def load_joined(path: Path, reference: Path | None) -> Joined:
    """Join the outputs at `path`, a run's directory or a file, with the run's own references or those of a file.

    Prompts that a run left out of its win rate stay left out. Raises DataError where a file is missing or
    malformed, or no output has a reference.
    """
    is_run = path.is_dir()
    if reference is None and not (is_run and (path / REFERENCES).is_file()):
        raise DataError(f"{path} holds no {REFERENCES}: name what its outputs are compared with by --reference FILE")
    source = path / OUTPUTS if is_run else path
    compared = reference if reference is not None else path / REFERENCES
    outputs = by_place(read_rows(source, "outputs"), instruction)
    left_out = read_left_out(path / RESPONSES) if is_run and (path / RESPONSES).is_file() else set()
    references = read_references(compared)
    usable = {place: row for place, row in outputs.items() if place in references and place not in left_out}
    if not usable:
        raise DataError(f"{source} and {compared} have no instruction in common that the run did not leave out")
    unused = {
        "n_left_out": sum(place in left_out for place in outputs),
        "n_without_reference": sum(place not in references for place in outputs),
        "n_references_unused": sum(place not in outputs for place in references),
    }
    return Joined([read_output(row) for row in usable.values()], [references[place] for place in usable], unused)


def read_output(row: Row) -> Output:
    return Output(row.filled_text("instruction"), row.optional_text("dataset"), row.text("output"))


def read_references(path: Path) -> dict[Place, list[str]]:
    """References by place; several to a prompt where rows say by `draw` which of the draws they belong to."""
    rows = by_place(read_rows(path, "--reference"), lambda row: (instruction(row), draw(row)))
    references: dict[Place, list[str]] = {}
    for ((asked, _), occurrence), row in rows.items():
        references.setdefault((asked, occurrence), []).append(row.text("output"))
    return references


def read_left_out(path: Path) -> set[Place]:
    """The places that a run did not have judged: where its reward model had seen the prompt."""
    rows = by_place(read_rows(path, "judgements"), instruction)
    return {place for place, row in rows.items() if row.values.get("preferences") is None}


def by_place(rows: Iterable[Item], key: Callable[[Item], Key]) -> dict[tuple[Key, int], Item]:
    """Rows by their key and the number of earlier rows with that key."""
    seen: Counter[Key] = Counter()
    places: dict[tuple[Key, int], Item] = {}
    for row in rows:
        name = key(row)
        places[name, seen[name]] = row
        seen[name] += 1
    return places


def instruction(row: Row) -> str:
    return row.filled_text("instruction")


def draw(row: Row) -> int:
    number = row.values.get("draw", 0)
    if isinstance(number, bool) or not isinstance(number, int):
        raise row.error("draw", "a whole number, or left away")
    return number
