"""Judgements that were made before, in AlpacaEval's annotations format."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.data.files import Row, read_rows
from rlhf.evaluation.verdicts import Pair, Reading, Verdict


class AnnotationsJudge:
    """Looks pairs up in a file of rows {instruction, output_1, output_2, preference}; raises DataError at a bad row.

    `output_2` is the judged output and `output_1` its reference, as AlpacaEval writes them. Where a row holds either,
    it must be the very text; a pair that no row is about has no preference.
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[str, list[tuple[Row, float | None]]] = {}
        for row in read_rows(path, "judge.file"):
            self.rows.setdefault(row.filled_text("instruction"), []).append((row, recorded_preference(row)))

    def __call__(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return [self._find(pair) for pair in pairs]

    def _find(self, pair: Pair) -> Verdict:
        rows = self.rows.get(pair.instruction, [])
        same = [preference for row, preference in rows if is_about(row, pair)]
        if not same:
            problem = "the annotations are of other outputs" if rows else "the annotations lack this instruction"
            return Verdict(None, [Reading(None, None, False, "", problem)])
        problem = "the annotation is null" if same[0] is None else None
        return Verdict(same[0], [Reading(same[0], "annotation", False, "", problem)])


def is_about(row: Row, pair: Pair) -> bool:
    return row.values.get("output_2", pair.output) == pair.output and (
        row.values.get("output_1", pair.reference) == pair.reference
    )


def recorded_preference(row: Row) -> float | None:
    """A number from 1 to 2, 1.5 where it is 0, AlpacaEval's older tie; None where it is null."""
    value = row.values.get("preference")
    if value is None and "preference" in row.values:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        raise row.error("preference", "a number from 1 to 2, 0 for a tie, or null")
    return 1.5 if value == 0 else float(value)
