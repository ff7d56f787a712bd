"""Responses side by side: the policy's beside the SFT model's, with their facts marked right and wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.infra.files import read_json
from rlhf.report.load import Row, Run

Piece = tuple[str, bool | None]
"""A part of a text: whether the fact that it states is right, None where it states none."""

OUTCOMES = {2.0: "won", 1.0: "lost", 1.5: "tied", 0.0: "tied"}


@dataclass(frozen=True)
class Pair:
    """One prompt's responses in pieces; `reference` is None where the run did not record the SFT model's.

    `outcome` is against that reference; `outcomes` counts those against all references.
    """

    instruction: str
    dataset: str
    policy: list[Piece]
    reference: list[Piece] | None
    outcome: str
    outcomes: str
    correct: int | None
    wrong: int | None


def pairs(run: Run, count: int) -> list[Pair]:
    """Of the first prompts, in the order in which they were drawn; empty where the run kept no outputs."""
    try:
        outputs = read_json(Path(run.path) / "outputs.json")
    except (OSError, ValueError):
        return []
    judged = by_occurrence(run.judgements or [])
    found = by_occurrence([row for row in outputs if isinstance(row, dict)] if isinstance(outputs, list) else [])
    return [pair(output, judged.get(place, {})) for place, output in list(found.items())[:count]]


def by_occurrence(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Rows by their instruction and its place among the same ones."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        instruction = str(row.get("instruction"))
        found[instruction, seen[instruction]] = row
        seen[instruction] += 1
    return found


def pair(output: Row, judged: Row) -> Pair:
    preferences = judged.get("preferences") or []
    reference = judged.get("reference")
    return Pair(
        instruction=str(output.get("instruction")),
        dataset=str(output.get("dataset", "")),
        policy=pieces(str(output.get("output", "")), judged.get("facts")),
        reference=pieces(reference, judged.get("reference_facts")) if isinstance(reference, str) else None,
        outcome=outcome(preferences[0]) if preferences else "not judged",
        outcomes=tally(preferences),
        correct=judged.get("correct"),
        wrong=judged.get("wrong"),
    )


def outcome(preference: float | None) -> str:
    """In a word; a judge's probability counts by the side it is on."""
    if preference is None:
        return "not judged"
    return OUTCOMES.get(preference, "won" if preference > 1.5 else "lost")


def tally(preferences: Sequence[float | None]) -> str:
    """`won 2 of 4, tied 1`."""
    found = Counter(outcome(preference) for preference in preferences)
    if not preferences:
        return ""
    return f"won {found['won']} of {len(preferences)}" + (f", tied {found['tied']}" if found["tied"] else "")


def pieces(text: str, spans: Any) -> list[Piece]:
    """The text cut at its facts, which are (first character, one after the last, right); spans that can't be are left
    out."""
    found: list[Piece] = []
    end = 0
    for first, last, right in sorted(span for span in spans or [] if is_span(span, len(text))):
        if first >= end:
            found += [(text[end:first], None), (text[first:last], bool(right))]
            end = last
    return [piece for piece in (*found, (text[end:], None)) if piece[0]]


def is_span(span: Any, length: int) -> bool:
    if not isinstance(span, list | tuple) or len(span) != 3 or not all(isinstance(part, int) for part in span):
        return False
    return 0 <= span[0] < span[1] <= length
