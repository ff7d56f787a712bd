"""How a judge's verdicts agree with people's: on which output is better of two, or that neither is.

A label is 1 or 2, the number of the better output, or 0 for a tie; None where a verdict could not be read.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa

from rlhf.data.files import Row, read_rows
from rlhf.data.templates import shown_instruction
from rlhf.evaluation.winrate import mean_and_error

LABELS = (0, 1, 2)
WORDS = {"0": 0, "1": 1, "2": 2, "tie": 0, "1.5": 0}
TEXTS = (("output_1", "output_2"), ("response1", "response2"))


@dataclass(frozen=True)
class Comparison:
    """Two outputs to one instruction, with people's labels; `row` holds whatever else the file says."""

    instruction: str
    outputs: tuple[str, str]
    labels: list[int]
    row: Row

    @property
    def majority(self) -> int | None:
        """The label that more people gave than any other; None where no label is."""
        counts = Counter(self.labels).most_common(2)
        return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else None

    @property
    def longer(self) -> int:
        """The number of the longer output in characters; 0 where both have the same length."""
        first, second = map(len, self.outputs)
        return 0 if first == second else int(1 + (second > first))


def read_comparisons(path: Path) -> list[Comparison]:
    """Rows {instruction, input, output_1, output_2} (or response1, response2), with people's labels in columns
    `annotator1`, `annotator2`, ..., or one label in `preference`; raises DataError at a bad row."""
    return [read_comparison(row) for row in read_rows(path, "--data")]


def read_comparison(row: Row) -> Comparison:
    names = next((names for names in TEXTS if names[0] in row.values), TEXTS[0])
    people = sorted(name for name in row.values if re.fullmatch(r"annotator_?\d+", name)) or ["preference"]
    labels = [read_label(row.values.get(name)) for name in people]
    for name, label in zip(people, labels, strict=True):
        if label is None:
            raise row.error(name, "1 or 2, the number of the better output, or 0 or 1.5 for a tie")
    instruction = shown_instruction(row.text("instruction"), row.optional_text("input")).strip()
    found = [label for label in labels if label is not None]
    return Comparison(instruction, (read_output(row, names[0]), read_output(row, names[1])), found, row)


def read_output(row: Row, name: str) -> str:
    """A string, or the words of what a spreadsheet took for a number or a truth value, as in PandaLM's file."""
    value = row.values.get(name)
    return str(value) if isinstance(value, bool | int | float) else row.text(name)


def read_label(value: object) -> int | None:
    """A label in figures or words; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return WORDS.get(str(value).strip().lower().removesuffix(".0"))


def label_of(preference: float | None) -> int | None:
    """The label of a preference between 1 and 2."""
    if preference is None:
        return None
    return 0 if preference == 1.5 else int(1 + (preference > 1.5))


def annotator_kappas(comparisons: Sequence[Comparison]) -> dict[str, float | None]:
    """Cohen's kappa of every two people, by their numbers; none where rows differ in their number of people."""
    columns = list(zip(*(each.labels for each in comparisons), strict=False))
    if any(len(each.labels) != len(columns) for each in comparisons):
        return {}
    pairs = combinations(range(len(columns)), 2)
    return {f"{one + 1} and {other + 1}": kappa(columns[one], columns[other])[0] for one, other in pairs}


def agreement(comparisons: Sequence[Comparison], verdicts: Sequence[int | None]) -> dict[str, Any]:
    """A judge's labels beside the majority's, in per cent with standard errors over the pairs that have a majority.

    In `agreement` an unreadable verdict counts as wrong, in `agreement_readable` it is left out, as in `kappa`;
    `agreement_decided` is over pairs of which people called one better. `output_1_preferred` and `longer_preferred` are
    shares of what the judge decides, each beside people's own.
    """
    rows = [(each, verdict) for each, verdict in zip(comparisons, verdicts, strict=True) if each.majority is not None]
    read = [(each.majority or 0, verdict) for each, verdict in rows if verdict is not None]
    whole, whole_se = rate([verdict == each.majority for each, verdict in rows])
    decided, decided_se = rate([verdict == each.majority for each, verdict in rows if each.majority])
    found, found_se = kappa(*zip(*read, strict=True)) if read else (None, None)
    return {
        "n": len(rows),
        "n_without_majority": len(comparisons) - len(rows),
        "n_null": len(rows) - len(read),
        "n_ties": sum(verdict == 0 for _, verdict in read),
        "agreement": whole,
        "agreement_se": whole_se,
        "agreement_readable": rate([verdict == majority for majority, verdict in read])[0],
        "agreement_decided": decided,
        "agreement_decided_se": decided_se,
        "kappa": found,
        "kappa_se": found_se,
        "output_1_preferred": rate([verdict == 1 for _, verdict in rows if verdict])[0],
        "output_1_preferred_by_people": rate([each.majority == 1 for each, _ in rows if each.majority])[0],
        "longer_preferred": rate([verdict == each.longer for each, verdict in rows if verdict and each.longer])[0],
        "longer_preferred_by_people": rate(
            [each.majority == each.longer for each, _ in rows if each.majority and each.longer]
        )[0],
    }


def kappa(first: Sequence[int], second: Sequence[int]) -> tuple[float | None, float | None]:
    """Cohen's kappa and its standard error; None where both give one label throughout, the error where either does."""
    if len({*first, *second}) < 2:
        return None, None
    table = np.zeros((len(LABELS), len(LABELS)))
    np.add.at(table, (np.array(first), np.array(second)), 1)
    used = np.flatnonzero(table.sum(0) + table.sum(1))
    with np.errstate(invalid="ignore"):  # a test statistic has no value where all agree
        found: Any = cohens_kappa(table[np.ix_(used, used)])
    return float(found.kappa), float(found.std_kappa) if len(set(first)) > 1 and len(set(second)) > 1 else None


def rate(values: Sequence[bool]) -> tuple[float, float] | tuple[None, None]:
    """A share and its standard error in per cent; None of fewer than two."""
    return mean_and_error([100.0 * value for value in values]) if len(values) > 1 else (None, None)
