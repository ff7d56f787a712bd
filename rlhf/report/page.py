"""The report as one folder that opens without a network: pages, the data they draw from, tables and figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from rlhf.errors import DataError
from rlhf.escape import label, visible
from rlhf.figures import FIGURES, Figure, heading
from rlhf.report import plots, tables
from rlhf.report.answer import Answer, answer
from rlhf.report.curves import Curves, curves_by_metric
from rlhf.report.groups import Ablation, Group, ablation, members, short_hash, trouble_of
from rlhf.report.load import Outputs, Run, Unfinished, unfinished
from rlhf.report.markdown import count, number, span, with_error
from rlhf.report.pictures import LOOKS, Forest, Pictures, pictures, rate_name
from rlhf.report.responses import Answered, answered
from rlhf.report.settings import command, common, repeated, shown_leaf
from rlhf.report.tables import Row, Table, Values
from rlhf.storage.files import write_text

ASSETS = ("report.css", "report.js", "charts.js")
EXAMPLES = 4
"""Prompts whose responses the first page shows."""


@dataclass(frozen=True)
class Report:
    """All that is said of some outputs.

    `sft` has the SFT model's own figures first, then those of its controls, by what each is called.
    """

    ablation: Ablation
    answer: Answer
    columns: list[Figure]
    rows: list[Row]
    sft: dict[str, Values]
    unfinished: list[Unfinished]
    pictures: Pictures

    @property
    def runs(self) -> list[Run]:
        return members(self.ablation.groups)


def report(outputs: Outputs, by: Sequence[str]) -> Report:
    """Raises UserError where `by` names a key that no run has."""
    found = ablation(outputs.runs, by)
    left = [unfinished(path, problem) for path, problem in outputs.problems]
    columns = tables.columns_of(members(found.groups))
    first = answer(found, [run for run in left if run.state == "pruned"])
    sft = tables.sft_values(members(found.compared), columns)
    shown = shown_first(found.compared, first.reference)
    return Report(
        ablation=found,
        answer=first,
        columns=columns,
        rows=tables.rows_of(found.groups, columns, trouble_of(found.groups, left)),
        sft=sft,
        unfinished=left,
        pictures=pictures(found, shown, sft["SFT"], curves_by_metric(found.groups)),
    )


def shown_first(groups: Sequence[Group], reference: Group | None) -> list[Group]:
    """From the best down, one fewer than can be told apart; the reference is always among them."""
    best = list(groups[: len(LOOKS) - 1])
    if reference is not None and reference not in best:
        best[-1] = reference
    return best


def tables_of(found: Report) -> list[Table]:
    made = []
    if found.rows:
        made.append(tables.ablation_table(found.rows, found.columns, found.sft))
    if found.answer.to_winner:
        made.append(tables.differences_table(found.answer))
    if found.rows:
        made += [tables.settings_table(found.ablation.groups), tables.runs_table(found.rows, found.columns)]
    if found.unfinished:
        made.append(tables.unfinished_table(found.unfinished))
    return made


def write(found: Report, out: Path, responses: int) -> None:
    """The whole folder; the first page last, so that it never points to what is not there."""
    for name in ("assets", "data", "runs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        text = (files("rlhf.report") / "templates" / name).read_text(encoding="utf-8")
        write_text(out / "assets" / name, text)
    write_text(out / "assets" / "plotly.min.js", get_plotlyjs())
    made = tables_of(found)
    tables.write_tables(made, out / "tables")
    metrics = write_metrics(found.pictures.curves, out / "data")
    names = plots.write_plots(out / "figures", found.pictures)
    environment = templates()
    write_runs(environment, found, out / "runs", responses)
    context = page_context(found, made, names, metrics)
    write_text(out / "index.html", environment.get_template("index.html.j2").render(context))


def templates() -> Environment:
    """Everything that a template writes is escaped, and can be seen."""
    environment = Environment(
        loader=PackageLoader("rlhf.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {
        "error": with_error,
        "interval": span,
        "leaf": shown_leaf,
        "hash": short_hash,
        "repeated": repeated,
    }
    environment.globals |= {"count": count, "number": number, "command_of": command}
    return environment


def write_metrics(curves: Mapping[str, Curves], folder: Path) -> list[dict[str, str]]:
    """A data file for each metric, loaded when it is asked for; returns the list of them."""
    metrics = []
    for place, (name, each) in enumerate(curves.items()):
        file = f"metric{place}.js"
        content = {"means": each.means, "lines": each.lines, "pooled": each.pooled}
        write_text(folder / file, f"report.loaded({as_data(name)}, {as_data(content)});\n")
        family = name.split("/")[0] if "/" in name else "evaluation"
        metrics.append({"name": name, "label": heading(name), "file": f"data/{file}", "family": family})
    return metrics


def page_context(
    found: Report, made: Sequence[Table], figures: Sequence[str], metrics: list[dict[str, str]]
) -> dict[str, Any]:
    shown = found.answer.winner or next(iter(found.ablation.compared), None)
    example = shown.runs[0] if shown is not None else None
    ordered = sorted(metrics, key=lambda metric: metric["family"] != "evaluation")
    return {
        "report": found,
        "tables": {table.name: table for table in made},
        "figures": figures,
        "families": [(family, list(members)) for family, members in groupby(ordered, lambda each: each["family"])],
        "common": common(found.runs),
        "rate": FIGURES[found.ablation.headline],
        "rate_name": rate_name(found.ablation.headline),
        "paths": found.pictures.paths,
        "example": example,
        "example_label": shown.label if shown is not None else "",
        "prompts": answers_of(example, EXAMPLES)[0] if example is not None else [],
        "compared": {group.id for group in found.ablation.compared},
        "data": as_data(drawn(found.pictures, found.ablation.groups, metrics)),
    }


def drawn(found: Pictures, groups: Sequence[Group], metrics: list[dict[str, str]]) -> dict[str, Any]:
    """What charts.js draws from at once; curves of metrics come from their own files."""
    return {
        "axes": {name: [FIGURES[each].axis for each in trade[:2]] for name, trade in found.paths.items()},
        "looks": [look._asdict() for look in LOOKS],
        "groups": [{"id": group.id, "label": label(group.label)} for group in groups],
        "compared": [group.id for group in found.compared],
        "shown": [group.id for group in found.shown],
        "forests": {name: drawn_forest(forest) for name, forest in found.forests.items()},
        "paths": {name: trade.means for name, trade in found.paths.items()},
        "metrics": {metric["name"]: metric for metric in metrics},
    }


def drawn_forest(forest: Forest) -> dict[str, Any]:
    runs = [(value, row, label(which)) for value, row, which in forest.runs]
    return asdict(forest) | {"labels": [*map(label, forest.labels)], "runs": runs}


def as_data(value: object) -> str:
    """JSON that a script may hold: no `<` that could end it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def answers_of(run: Run, count: int) -> tuple[list[Answered], str | None]:
    """A run's first prompts, or none of them and why they can't be read."""
    try:
        return answered(run, count), None
    except DataError as error:
        return [], str(error)


def write_runs(environment: Environment, found: Report, folder: Path, responses: int) -> None:
    """A page for each run: its figures beside the SFT model's, its settings and command, and its responses."""
    template = environment.get_template("run.html.j2")
    keys = (*found.ablation.keys, *found.ablation.along)
    for row in found.rows:
        for run in row.group.runs:
            prompts, problem = answers_of(run, responses)
            context = {
                "run": run,
                "group": row.group,
                "columns": found.columns,
                "figures": tables.sft_values([run], found.columns) | {"policy": row.runs[run.path]},
                "settings": {key: run.config.get(key) for key in keys},
                "prompts": prompts,
                "problem": problem,
            }
            write_text(folder / f"{short_hash(run.path)}.html", template.render(context))
