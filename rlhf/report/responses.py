"""Responses side by side: the policy's beside the SFT model's, greedy ones first; facts are marked in sampled ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.evaluation.outputs import GREEDY_OUTPUTS, GREEDY_REFERENCES, OUTPUTS, Place
from rlhf.report.load import Row, Run
from rlhf.storage.reader import read_outputs

Piece = tuple[str, bool | None]
"""A part of a text: whether the fact that it states is right, None where it states none."""

OUTCOMES = {2.0: "won", 1.0: "lost", 1.5: "tied", 0.0: "tied"}


@dataclass(frozen=True)
class Pair:
    """Two responses in pieces; `reference` is None where the run did not record the SFT model's.

    `outcome` is against that reference; `outcomes` counts those against all references.
    """

    decoding: str
    policy: list[Piece]
    reference: list[Piece] | None
    outcome: str
    outcomes: str


@dataclass(frozen=True)
class Answered:
    """A prompt and its pairs, and how many facts the sampled response states right and wrong."""

    instruction: str
    dataset: str
    pairs: list[Pair]
    correct: int | None
    wrong: int | None


def answered(run: Run, count: int) -> list[Answered]:
    """The first prompts, in the order in which they were drawn; empty where the run kept no outputs.

    Raises DataError where they can't be read.
    """
    outputs, greedy, references = (outputs_of(run, name) for name in (OUTPUTS, GREEDY_OUTPUTS, GREEDY_REFERENCES))
    judged = by_occurrence(run.judgements or [])
    found = []
    for place, output in list(outputs.items())[:count]:
        row = judged.get(place, {})
        pairs = [greedy_pair(greedy[place], references.get(place, {}), row)] if place in greedy else []
        pairs.append(sampled_pair(output, row))
        about = (str(output.get("instruction")), str(output.get("dataset", "")))
        found.append(Answered(*about, pairs, row.get("correct"), row.get("wrong")))
    return found


def outputs_of(run: Run, name: str) -> dict[Place, Row]:
    return by_occurrence(read_outputs(Path(run.path), name))


def by_occurrence(rows: Sequence[Row]) -> dict[Place, Row]:
    """Rows by their instruction and its place among the same ones."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        instruction = str(row.get("instruction"))
        found[instruction, seen[instruction]] = row
        seen[instruction] += 1
    return found


def greedy_pair(output: Row, reference: Row, judged: Row) -> Pair:
    policy, sft = str(output.get("output", "")), reference.get("output")
    return Pair("greedy", pieces(policy, None), beside(sft, None), outcome_of(judged.get("greedy_preferences")), "")


def sampled_pair(output: Row, judged: Row) -> Pair:
    policy, preferences = pieces(str(output.get("output", "")), judged.get("facts")), judged.get("preferences")
    sft = beside(judged.get("reference"), judged.get("reference_facts"))
    counts, score = tally(preferences or []), judged.get("score")
    if not any(preferences or []) and score is not None:  # nobody judged it
        counts = f"reward {score:+.2f}"
    return Pair("sampled", policy, sft, outcome_of(preferences), counts)


def beside(sft: Any, spans: Any) -> list[Piece] | None:
    return pieces(sft, spans) if isinstance(sft, str) else None


def outcome_of(preferences: Sequence[float | None] | None) -> str:
    """Against the first reference."""
    return outcome(preferences[0]) if preferences else outcome(None)


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
