"""A run's responses beside the SFT model's, while it goes and afterwards: `python -m rlhf.samples RUN_DIR`.

Reads responses.jsonl alone, which the run writes anew, whole, at each evaluation.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rlhf.console import PlainConsole, command, whole
from rlhf.escape import visible
from rlhf.report.responses import outcome_of, pieces, tally
from rlhf.storage.reader import Row, read_responses

MARKS = {True: ("✓", "green"), False: ("✗", "red")}
"""A sign after each fact, for readers who see no colours."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with command():
        rows = read_responses(options.directory)
    chosen = random.sample(rows, min(options.count, len(rows))) if options.random else rows[: options.count]
    show(chosen, PlainConsole())


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m rlhf.samples", description="Show what a policy answered at its last evaluation, beside SFT."
    )
    made.add_argument("directory", type=Path, help="a run directory, of a run that goes on or is done")
    made.add_argument("--count", type=whole(1), default=5, metavar="N", help="so many prompts, the first (5)")
    made.add_argument("--random", action="store_true", help="others each time")
    return made


def show(rows: Sequence[Row], console: PlainConsole) -> None:
    console.print(f"after step {rows[0]['step']}")
    for row in rows:
        console.print(side_by_side(row))


def side_by_side(row: Row) -> Table:
    """Both models' greedy texts, where there are any, then the sampled ones with their facts marked, and who won."""
    title = Text(visible(row["instruction"]), style="bold")
    caption = f"sampled, policy {verdict(row.get('preferences'))}, reward {row['score']:+.2f}"
    table = Table("", "SFT", "policy", title=title, expand=True, show_lines=True)
    if row.get("greedy_response") is not None:
        caption = f"greedy, policy {verdict(row.get('greedy_preferences'))}; {caption}"
        table.add_row("greedy", row.get("greedy_reference") or "", row["greedy_response"])
    both = marked(row["reference"], row.get("reference_facts")), marked(row["response"], row.get("facts"))
    table.add_row("sampled", *both)
    table.caption, table.title_justify, table.caption_justify = caption, "left", "left"
    return table


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
