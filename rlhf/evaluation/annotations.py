"""judge=annotations: judgements that were made before, in AlpacaEval's annotations format."""

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rlhf.config.evaluation import AnnotationsJudgeConfig
from rlhf.data.files import Row, read_rows
from rlhf.evaluation.judges import JUDGES, Pair, Reading, Resources, TextJudge, Verdict

log = logging.getLogger(__name__)


class AnnotationsJudge(TextJudge):
    """Looks pairs up in a file of rows {instruction, output_1, output_2, preference}; raises DataError at a bad row.

    `output_2` is the judged output and `output_1` its reference, as AlpacaEval writes them. Where a row holds either,
    it must be the very text; a pair that no row is about has no preference. Of several annotations of a pair the mean
    counts, without those that are null.
    """

    def __init__(self, config: AnnotationsJudgeConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.repeated = 0
        self.rows: dict[str, list[tuple[Row, float | None]]] = {}
        for row in read_rows(Path(config.file).expanduser(), "judge.file"):
            self.rows.setdefault(row.filled_text("instruction"), []).append((row, recorded_preference(row)))

    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The recorded preference for each pair."""
        self.repeated = 0
        verdicts = [Verdict([self._find(pair)]) for pair in pairs]
        if self.repeated:
            log.info(f"judge.file: {self.repeated} of {len(pairs)} pairs have several annotations: their means count")
        return verdicts

    def _find(self, pair: Pair) -> Reading:
        rows = self.rows.get(pair.instruction, [])
        found = [preference for row, preference in rows if is_about(row, pair)]
        if not found:
            problem = "the annotations are of other outputs" if rows else "the annotations lack this instruction"
            return Reading(None, None, problem=problem)
        given = [preference for preference in found if preference is not None]
        if not given:
            return Reading(None, "annotation", problem="the annotation is null")
        self.repeated += len(given) > 1
        return Reading(mean(given), "annotation")


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


JUDGES["annotations"] = AnnotationsJudge
