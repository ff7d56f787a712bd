"""What a report is made from, of many runs, in one small file: anybody can make it again without running anything."""

import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.figures import FIGURES
from rlhf.report.compare import PREFERENCES
from rlhf.report.load import Outputs, Run
from rlhf.storage.reader import Row

DIGITS = 5
"""Significant digits of figures; settings and counts are kept as they are."""

LETTERS = {1.0: "1", 1.5: "=", 2.0: "2", None: "-"}
KINDS = tuple(PREFERENCES.values())
COUNTS = ("correct", "wrong")
SECONDS = ("ppo", "evaluation")


def pack(path: Path, runs: Sequence[Run]) -> None:
    """Write the runs to `path`. Raises DataError where a judgement can't be kept."""
    prompts: dict[str, list[list[str]]] = {}
    kept = []
    for run in runs:
        rows = run.judgements or []
        asked = [[str(row["instruction"]), str(row.get("dataset"))] for row in rows]
        key = json.dumps(asked)
        prompts.setdefault(key, asked)
        kept.append(
            {
                "path": Path(run.path).parent.name + "/" + Path(run.path).name,
                "config": run.config,
                "metrics": figures(run.metrics) | blocks(run.metrics),
                "history": [figures(row) | {"step": row["step"]} for row in run.checkpoints],
                "prompts": list(prompts).index(key),
                "judgements": None
                if run.judgements is None
                else {kind: said(rows, kind) for kind in (*KINDS, *COUNTS)},
            }
        )
    text = json.dumps({"prompts": list(prompts.values()), "runs": kept}, separators=(",", ":"))
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def figures(row: Row) -> Row:
    """The figures of a row that reports read, rounded; not those of single PPO steps."""
    known = {"trainable_weights", *FIGURES, *(f"{figure}_se" for figure in FIGURES)}
    return {name: rounded(value) for name, value in row.items() if name in known and "/" not in name}


def blocks(metrics: Row) -> Row:
    """The SFT model's figures, and the seconds that the run itself took."""
    taken = metrics.get("seconds") or {}
    seconds = {part: rounded(taken[part]) for part in SECONDS if taken.get(part) is not None}
    return {"baseline": figures(metrics.get("baseline") or {}), "seconds": seconds}


def rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def said(rows: Sequence[Row], kind: str) -> list[str]:
    """What each row holds of a kind, as a short word; a dash for nothing."""
    try:
        if kind in COUNTS:
            return ["-" if row.get(kind) is None else str(row[kind]) for row in rows]
        return ["".join(LETTERS[each] for each in row.get(kind) or []) or "-" for row in rows]
    except KeyError as error:
        raise DataError(f"{kind}: {error} is none of {', '.join(map(str, LETTERS))}") from error


def unpack(path: Path) -> Outputs:
    """The runs of a file that `pack` has written; raises DataError where it is none."""
    try:
        found = json.loads(lzma.decompress(path.read_bytes()))
        return Outputs([restored(each, found["prompts"]) for each in found["runs"]], [])
    except (lzma.LZMAError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} was not written by `python -m studies --pack`: {error}") from error


def restored(found: Mapping[str, Any], prompts: Sequence[Sequence[Sequence[str]]]) -> Run:
    judgements = None
    if found["judgements"] is not None:
        columns = zip(
            prompts[found["prompts"]], *(found["judgements"][kind] for kind in (*KINDS, *COUNTS)), strict=True
        )
        judgements = [judgement(*column) for column in columns]
    return Run(found["path"], found["config"], found["metrics"], found["history"], judgements)


def judgement(asked: Sequence[str], greedy: str, sampled: str, correct: str, wrong: str) -> Row:
    values = {letter: value for value, letter in LETTERS.items()}
    given = [None if word == "-" else [values[letter] for letter in word] for word in (greedy, sampled)]
    counts = [None if word == "-" else int(word) for word in (correct, wrong)]
    dataset = {} if asked[1] == "None" else {"dataset": asked[1]}
    return {"instruction": asked[0], **dataset, **dict(zip((*KINDS, *COUNTS), (*given, *counts), strict=True))}
