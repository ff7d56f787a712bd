"""Each table as CSV (every number as it is), Markdown and LaTeX (as the page shows it)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlhf.evaluation.pooling import Pooled
from rlhf.report.answer import Answer
from rlhf.report.columns import Beside, Column, Row, span, with_error
from rlhf.report.compare import level
from rlhf.report.groups import Ablation, Group, differing_keys, shown_leaf
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, number, p_value, table
from rlhf.report.unfinished import Unfinished
from rlhf.storage.files import write_text


@dataclass(frozen=True)
class Table:
    """`rows` as they are shown, the first `text` columns being words; `numbers` with all that is known of each row."""

    name: str
    header: list[str]
    rows: list[list[str]]
    numbers: pd.DataFrame
    text: int = 1


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for each in tables:
        write_text(folder / f"{each.name}.csv", each.numbers.to_csv(index=False))
        write_text(folder / f"{each.name}.md", table(each.header, [piped(row) for row in each.rows], each.text) + "\n")
        write_text(folder / f"{each.name}.tex", latex(each))


def piped(row: Sequence[str]) -> list[str]:
    """Cells that a Markdown table can hold."""
    return [" ".join(cell.replace("|", "\\|").split()) for cell in row]


def latex(shown: Table) -> str:
    """A booktabs tabular."""
    frame = pd.DataFrame([[" ".join(cell.split()) for cell in row] for row in shown.rows], columns=shown.header)
    style: Any = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    text = style.to_latex(hrules=True, column_format="l" * shown.text + "r" * (len(shown.header) - shown.text))
    return text.replace("±", "$\\pm$").replace("–", "--")


def figures_of(name: str, figure: Pooled | None) -> dict[str, float | None]:
    """An estimate with its error and interval, under a column's name."""
    if figure is None:
        return dict.fromkeys((name, f"{name}_se", f"{name}_low", f"{name}_high"))
    known = figure.standard_error != 0
    ends = (figure.standard_error, figure.low, figure.high) if known else (None, None, None)
    return dict(zip((name, f"{name}_se", f"{name}_low", f"{name}_high"), (figure.estimate, *ends), strict=True))


def ablation_table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    commands: dict[str, str],
    sft: Mapping[str, Sequence[Pooled | None]],
) -> Table:
    """A row for each setting; below them the SFT model, and that at lower temperatures."""
    digits = [column.digits for column in columns]
    shown = [[row.group.label, extent_of(row), *map(with_error, row.figures, digits)] for row in rows]
    shown += [[name, "", *map(with_error, figures, digits)] for name, figures in sft.items()]
    numbers = []
    for row in rows:
        about = {"setting": row.group.label, **row.group.values, "runs": len(row.group.runs)}
        more = {"unfinished": len(row.trouble), "command": commands.get(row.group.id)}
        numbers.append(about | numbers_of(columns, row.figures) | more)
    numbers += [{"setting": name} | numbers_of(columns, figures) for name, figures in sft.items()]
    header = ["setting", "worlds x seeds", *(column.title for column in columns)]
    return Table("ablation", header, shown, pd.DataFrame(numbers), text=2)


def numbers_of(columns: Sequence[Column], figures: Sequence[Pooled | None]) -> dict[str, float | None]:
    found = [figures_of(column.name, figure) for column, figure in zip(columns, figures, strict=True)]
    return {name: value for each in found for name, value in each.items()}


def extent_of(row: Row) -> str:
    """The worlds and seeds, and how many runs are missing from them."""
    return f"{row.extent} (+{len(row.trouble)} unfinished)" if row.trouble else row.extent


def differences_table(found: Answer) -> Table:
    """Each setting's win rate minus the reference's and minus the winner's."""
    to = {id(each.group): each for each in found.to_reference}, {id(each.group): each for each in found.to_winner}
    named = [("reference", found.reference, to[0]), ("winner", found.winner, to[1])]
    known = [(role, group, each) for role, group, each in named if group is not None and each]
    ordered = [*([] if found.winner is None else [found.winner]), *(each.group for each in found.to_winner)]
    header = ["setting", *(text for _, group, _ in known for text in (f"minus {group.label}, points", "Holm p"))]
    rows = [
        [group.label, *(cell for _, _, each in known for cell in beside_cells(each.get(id(group))))]
        for group in ordered
    ]
    numbers = [{"setting": group.label} | numbers_beside(group, known) for group in ordered]
    return Table("differences", header, rows, pd.DataFrame(numbers))


def beside_cells(each: Beside | None) -> list[str]:
    if each is None or each.difference is None:
        return [NOTHING, NOTHING]
    estimate = number(each.difference.estimate, signed=True)
    interval = span(each.difference, 1)
    return [f"{estimate} ({interval})" if interval else estimate, p_value(each.p_value)]


def numbers_beside(
    group: Group, known: Sequence[tuple[str, Group, dict[int, Beside]]]
) -> dict[str, float | str | None]:
    values: dict[str, float | str | None] = {}
    for role, other, each in known:
        found = each.get(id(group))
        values[role] = other.label
        values |= figures_of(f"minus_{role}", None if found is None else found.difference)
        values[f"minus_{role}_holm_p"] = None if found is None else found.p_value
    return values


def settings_table(ablation: Ablation) -> Table:
    """What each group is set to, of all keys in which any two runs differ."""
    keys = differing_keys([run for group in ablation.groups for run in group.runs])
    leaves = [[group.runs[0].config.get(key) for key in keys] for group in ablation.groups]
    rows = [[group.label, *map(shown_leaf, values)] for group, values in zip(ablation.groups, leaves, strict=True)]
    numbers = [dict(zip(["setting", *keys], row, strict=True)) for row in rows]
    return Table("settings", ["setting", *keys], rows, pd.DataFrame(numbers, columns=["setting", *keys]), 1 + len(keys))


def runs_table(
    ablation: Ablation, columns: Sequence[Column], known: dict[str, list[Pooled | None]], commands: dict[str, str]
) -> Table:
    """Every run that the groups are made of; figures and commands are known by its path."""
    rows, numbers = [], []
    for group, run in [(each, run) for each in ablation.groups for run in each.runs]:
        figures = known[run.path]
        cells = [with_error(figure, column.digits) for figure, column in zip(figures, columns, strict=True)]
        rows.append([group.label, str(run.world), str(run.seed), *cells])
        about = {"setting": group.label, "data.seed": run.world, "seed": run.seed}
        more = {"path": run.path, "command": commands.get(run.path)}
        numbers.append(about | numbers_of(columns, figures) | more)
    header = ["setting", "data.seed", "seed", *(column.title for column in columns)]
    return Table("runs", header, rows, pd.DataFrame(numbers))


def run_figures(run: Run, columns: Sequence[Column]) -> list[Pooled | None]:
    """One run's own, with their errors over prompts."""
    return [level([run], column.taken()) for column in columns]


def unfinished_table(found: Sequence[Unfinished]) -> Table:
    rows = [[each.path, each.state, each.progress, each.reason] for each in found]
    header = ["run", "state", "progress", "reason"]
    return Table("unfinished", header, rows, pd.DataFrame(rows, columns=header), 4)


def as_data(value: object) -> str:
    """JSON that a script may hold: no `<` that could end it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
