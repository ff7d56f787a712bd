"""The tables: as CSV every number as it is, as Markdown and LaTeX what the page shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rlhf.escape import cell, markdown, one_line
from rlhf.evaluation.pooling import Pooled
from rlhf.figures import FIGURES, GREEDY, SAMPLED, Figure
from rlhf.report.answer import Answer, Beside
from rlhf.report.compare import extent, final, level
from rlhf.report.groups import Group, members
from rlhf.report.load import Run, Unfinished
from rlhf.report.markdown import number, p_value, span, table, with_error
from rlhf.report.settings import command, differing_keys, shown_leaf
from rlhf.storage.files import write_text

COLUMNS = tuple(
    FIGURES[name]
    for name in (
        *(GREEDY, f"{GREEDY}_length_controlled", SAMPLED, "objective", "true_kl_per_response", "true_kl_per_token"),
        *(
            "response_length_greedy",
            "response_length",
            "factuality_greedy",
            "factuality",
            "reward",
            "raw_reward",
            "cost",
        ),
    )
)

Values = dict[str, Pooled | None]
"""Figures by their names; None where a run lacks one."""


@dataclass(frozen=True)
class Row:
    """A group's figures pooled over seeds and worlds, and each run's own by its path.

    `trouble` holds the states of its runs that did not finish.
    """

    group: Group
    extent: str
    figures: Values
    runs: dict[str, Values]
    trouble: list[str] = field(default_factory=list)

    @property
    def extent_told(self) -> str:
        """The worlds and seeds, and how many runs are missing from them."""
        return f"{self.extent} (+{len(self.trouble)} unfinished)" if self.trouble else self.extent


def columns_of(runs: Sequence[Run]) -> list[Figure]:
    """Those that any run has a figure for."""
    return [column for column in COLUMNS if any(run.metrics.get(column.name) is not None for run in runs)]


def rows_of(groups: Sequence[Group], columns: Sequence[Figure], trouble: Mapping[str, list[str]]) -> list[Row]:
    return [
        Row(
            group,
            extent(group.runs),
            values_of(group.runs, columns),
            {run.path: values_of([run], columns) for run in group.runs},
            trouble.get(group.id, []),
        )
        for group in groups
    ]


def values_of(runs: Sequence[Run], columns: Sequence[Figure], *part: str) -> Values:
    return {column.name: level(runs, final(column.name, *part)) for column in columns}


def sft_values(runs: Sequence[Run], columns: Sequence[Figure]) -> dict[str, Values]:
    """The SFT model's own, and those of it at other temperatures, which were given nothing to raise: no objective."""
    temperatures = dict.fromkeys(name for run in runs for name in run.metrics.get("controls") or {})
    found = {f"SFT, T={name}": values_of(runs, columns, "controls", name) for name in temperatures}
    for values in found.values():
        values |= dict.fromkeys(values.keys() & {"objective"})
    return {"SFT": values_of(runs, columns, "baseline")} | found


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
        header, *rows = ([*map(markdown, row)] for row in (each.header, *each.rows))
        write_text(folder / f"{each.name}.md", table(header, rows, each.text) + "\n")
        write_text(folder / f"{each.name}.tex", latex(each))


def latex(shown: Table) -> str:
    """A booktabs tabular."""
    frame = pd.DataFrame([[*map(one_line, row)] for row in shown.rows], columns=shown.header)
    style: Any = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    text = style.to_latex(hrules=True, column_format="l" * shown.text + "r" * (len(shown.header) - shown.text))
    return text.replace("±", "$\\pm$").replace("–", "--")


def ablation_table(rows: Sequence[Row], columns: Sequence[Figure], sft: Mapping[str, Values]) -> Table:
    """A row for each setting; below them the SFT model, and that at lower temperatures."""
    shown = [[row.group.label, row.extent_told, *cells(row.figures, columns)] for row in rows]
    shown += [[name, "", *cells(values, columns)] for name, values in sft.items()]
    numbers = [
        {
            **{"setting": row.group.label, **row.group.values, "runs": len(row.group.runs)},
            **flat(row.figures),
            **{"unfinished": len(row.trouble), "command": command(row.group.runs)},
        }
        for row in rows
    ]
    numbers += [{"setting": name, **flat(values)} for name, values in sft.items()]
    header = ["setting", "worlds x seeds", *(column.title for column in columns)]
    return Table("ablation", header, shown, frame(numbers), text=2)


def cells(values: Values, columns: Sequence[Figure]) -> list[str]:
    return [with_error(values[column.name], column.digits) for column in columns]


def flat(values: Values) -> dict[str, float | None]:
    """Each estimate under its name, with its error and the ends of its interval where they are known."""
    found: dict[str, float | None] = {}
    for name, figure in values.items():
        known = figure if figure is not None and figure.standard_error != 0 else None
        found[name] = None if figure is None else figure.estimate
        found[f"{name}_se"] = None if known is None else known.standard_error
        found[f"{name}_low"] = None if known is None else known.low
        found[f"{name}_high"] = None if known is None else known.high
    return found


def differences_table(found: Answer) -> Table:
    """Each setting's headline figure minus the reference's and minus the winner's."""
    ordered = [*([] if found.winner is None else [found.winner]), *(each.group for each in found.to_winner)]
    header, rows = ["setting"], [[group.label] for group in ordered]
    numbers: list[dict[str, Any]] = [{"setting": group.label} for group in ordered]
    sides = ("reference", found.reference, found.to_reference), ("winner", found.winner, found.to_winner)
    for role, other, differences in sides:
        if other is None or not differences:
            continue
        header += [f"minus {other.label}, {FIGURES[found.figure].difference_unit}", "Holm p"]
        by_group = {id(each.group): each for each in differences}
        for group, row, known in zip(ordered, rows, numbers, strict=True):
            each = by_group.get(id(group), Beside(group, None, None))
            row += [signed(each.difference, FIGURES[found.figure].digits), p_value(each.p_value)]
            known |= {role: other.label, **flat({f"minus_{role}": each.difference})}
            known[f"minus_{role}_holm_p"] = each.p_value
    return Table("differences", header, rows, frame(numbers))


def frame(rows: Sequence[Any], header: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows, by name or in the order of a header, with texts as cells of CSV; pandas takes no half surrogate pair."""
    named = rows if header is None else [dict(zip(header, row, strict=True)) for row in rows]
    made = [{cell(name): cell(value) for name, value in row.items()} for row in named]
    return pd.DataFrame(made) if header is None else pd.DataFrame(made, columns=[*map(cell, header)])


def signed(difference: Pooled | None, digits: int = 1) -> str:
    """`+7.7 (2.1 to 13.2)`."""
    if difference is None:
        return number(None)
    interval = span(difference, digits)
    return number(difference.estimate, digits, signed=True) + (f" ({interval})" if interval else "")


def settings_table(groups: Sequence[Group]) -> Table:
    """What each group is set to, of all keys in which any two runs differ."""
    keys = differing_keys(members(groups))
    rows = [[group.label, *(shown_leaf(group.runs[0].config.get(key)) for key in keys)] for group in groups]
    header = ["setting", *keys]
    return Table("settings", header, rows, frame(rows, header), text=len(header))


def runs_table(rows: Sequence[Row], columns: Sequence[Figure]) -> Table:
    """Every run that the groups are made of."""
    shown, numbers = [], []
    for run, label, values in [(run, row.group.label, row.runs[run.path]) for row in rows for run in row.group.runs]:
        shown.append([label, str(run.world), str(run.seed), *cells(values, columns)])
        about = {"setting": label, "data.seed": run.world, "seed": run.seed}
        numbers.append(about | flat(values) | {"path": run.path, "command": command([run])})
    header = ["setting", "data.seed", "seed", *(column.title for column in columns)]
    return Table("runs", header, shown, frame(numbers))


def unfinished_table(found: Sequence[Unfinished]) -> Table:
    rows = [[each.path, each.state, each.progress, each.reason] for each in found]
    header = ["run", "state", "progress", "reason"]
    return Table(
        "unfinished",
        header,
        rows,
        frame(rows, header),
        text=len(header),
    )
