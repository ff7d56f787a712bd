"""The answer and the first rows of the ablation, on the terminal."""

from rich.markup import escape
from rich.table import Table

from rlhf.infra.progress import console
from rlhf.report.columns import with_error
from rlhf.report.export import extent_of
from rlhf.report.page import Report

MOST_ROWS = 20
SHOWN = ("win_rate", "win_rate_length_controlled", "factuality", "true_kl_per_token", "response_length", "cost")
"""The columns that an 80-column terminal has room for; the others are on the page."""


def show(found: Report) -> None:
    compared = {group.id for group in found.ablation.compared}
    rows = sorted(found.rows, key=lambda row: row.group.id not in compared)
    places = [place for place, column in enumerate(found.columns) if column.name in SHOWN]
    if rows:
        table = Table("setting", "runs", title=escape(found.answer.headline), title_justify="left")
        for place in places:
            table.add_column(found.columns[place].title, justify="right")
        for row in rows[:MOST_ROWS]:
            figures = [with_error(row.figures[place], found.columns[place].digits) for place in places]
            table.add_row(
                escape(row.group.label),
                extent_of(row),
                *figures,
                end_section=last_compared(row.group.id, rows, compared),
            )
        console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"and {len(rows) - MOST_ROWS} more settings on the page")
    for each in found.unfinished[:MOST_ROWS]:
        console.print(escape(f"{each.path}: {each.state} at {each.progress}: {each.reason}"))


def last_compared(group: str, rows: list, compared: set[str]) -> bool:
    """Whether a line separates this row from those that differ in more than the penalty."""
    return group == [row.group.id for row in rows if row.group.id in compared][-1] and len(compared) < len(rows)
