"""Runs' responses beside the SFT model's, while they go and afterwards: `python -m rlhf.samples RUN_DIR ...`.

Reads responses.jsonl alone, which the run writes anew, whole, at each evaluation.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rlhf.console import PlainConsole, command, whole
from rlhf.errors import DataError
from rlhf.escape import visible
from rlhf.report.responses import outcome_of, pieces, tally
from rlhf.storage.reader import Row, read_responses
from rlhf.storage.runs import short_names

MARKS = {True: ("✓", "green"), False: ("✗", "red")}
"""A sign after each fact, for readers who see no colours."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with command():
        runs = {name: read_responses(path) for name, path in named(options.directory).items()}
        rows = together(runs)
    chosen = random.sample(rows, min(options.count, len(rows))) if options.random else rows[: options.count]
    show(chosen, list(runs), PlainConsole())


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Each run by its short name, or by its path where that is another's too."""
    names = short_names(dict.fromkeys(paths))
    found = list(names.values())
    return {name if found.count(name) == 1 else str(path): path for path, name in names.items()}


def together(runs: Mapping[str, Sequence[Row]]) -> list[list[Row]]:
    """The rows of each prompt that all runs were evaluated on, in the first one's order."""
    first, *others = runs.values()
    by_prompt = [{row["instruction"]: row for row in rows} for rows in others]
    found = [[row, *(rows.get(row["instruction"]) for rows in by_prompt)] for row in first]
    rows = [[row for row in each if row is not None] for each in found if None not in each]
    if not rows:
        raise DataError(f"these runs were evaluated on no common prompt: {', '.join(runs)}")
    return rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m rlhf.samples", description="Show what a policy answered at its last evaluation, beside SFT."
    )
    directories = "run directories, of runs that go on or are done; several stand side by side"
    made.add_argument("directory", nargs="+", type=Path, help=directories)
    made.add_argument("--count", type=whole(1), default=5, metavar="N", help="so many prompts, the first (5)")
    made.add_argument("--random", action="store_true", help="others each time")
    return made


def show(rows: Sequence[Sequence[Row]], names: Sequence[str], console: PlainConsole) -> None:
    console.print(f"after step {', '.join(dict.fromkeys(str(row['step']) for row in rows[0]))}")
    for each in rows:
        console.print(side_by_side(each, names if len(names) > 1 else ["policy"]))


def side_by_side(rows: Sequence[Row], names: Sequence[str] = ("policy",)) -> Table:
    """The greedy texts, where there are any, then the sampled ones with their facts marked, and what came of each."""
    first = rows[0]
    table = Table("", "SFT", *names, title=Text(visible(first["instruction"]), style="bold"), expand=True)
    if all(row.get("greedy_response") is not None for row in rows):
        table.add_row("greedy", first.get("greedy_reference") or "", *(row["greedy_response"] for row in rows))
    policies = (marked(row["response"], row.get("facts")) for row in rows)
    table.add_row("sampled", marked(first["reference"], first.get("reference_facts")), *policies)
    captions = [caption(row, name) for row, name in zip(rows, names, strict=True)]
    table.caption, table.show_lines = "\n".join(captions), True
    table.title_justify, table.caption_justify = "left", "left"
    return table


def caption(row: Row, name: str) -> str:
    """What judge and reward made of a policy's answers; of a run without a judge, the reward alone."""
    judged = [f"greedy, {name} {verdict(row.get('greedy_preferences'))}"] * (row.get("greedy_response") is not None)
    sampled = f"sampled, {name} {verdict(row.get('preferences'))}, reward {row['score']:+.2f}"
    unjudged = [*(row.get("preferences") or []), *(row.get("greedy_preferences") or [])]
    if unjudged and not any(unjudged):  # no judge was asked
        return f"sampled, {name}: reward {row['score']:+.2f}"
    return "; ".join([*judged, sampled])


def verdict(preferences: Sequence[float | None] | None) -> str:
    """The outcome against the reference shown, and against all where there are several."""
    against_all = f" ({tally(preferences)})" if preferences and len(preferences) > 1 else ""
    return outcome_of(preferences) + against_all


def marked(text: str, facts: list[Any] | None) -> Text:
    shown = Text()
    for piece, right in pieces(text, facts):
        sign, style = MARKS[right] if right is not None else ("", "")
        shown.append(visible(f"{piece} {sign}" if sign else piece), style)
    return shown


if __name__ == "__main__":
    main()
