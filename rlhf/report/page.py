"""The report as one folder that opens without a network: pages, the data they draw from, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import DECODING
from rlhf.report import charts, export, plots
from rlhf.report.answer import Answer, answer
from rlhf.report.columns import COLUMNS, Column, Row, columns_of, rows_of, sft_figures, span, with_error
from rlhf.report.commands import command
from rlhf.report.curves import Curves, curves_of, metrics_of, paths, table_of
from rlhf.report.export import Table, as_data
from rlhf.report.groups import Ablation, Group, ablation, common, short_hash, shown_leaf
from rlhf.report.load import Outputs, Run
from rlhf.report.markdown import count, number
from rlhf.report.responses import answered
from rlhf.report.style import LOOKS
from rlhf.report.unfinished import Unfinished, trouble_of, unfinished
from rlhf.storage.files import write_text

TITLES = {column.name: column.title for column in COLUMNS}
ASSETS = ("report.css", "report.js", "charts.js")
EXAMPLES = 4
"""Prompts whose responses the first page shows."""


@dataclass(frozen=True)
class Report:
    """All that is said of some outputs; `shown` are the groups whose curves are coloured at first.

    `sft` has the SFT model's own figures first, then those of its controls, by what each is called.
    """

    ablation: Ablation
    answer: Answer
    columns: list[Column]
    rows: list[Row]
    sft: dict[str, list[Pooled | None]]
    unfinished: list[Unfinished]
    shown: list[Group]
    commands: dict[str, str]
    """By the id of a group, and by the path of a run."""
    figures: dict[str, list[Pooled | None]]
    """Each run's own, by its path."""

    @property
    def levels(self) -> dict[str, Pooled | None]:
        """The SFT model's own figures by their names."""
        return dict(zip((column.name for column in self.columns), self.sft["SFT"], strict=True))

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.ablation.groups for run in group.runs]


def report(outputs: Outputs, by: Sequence[str]) -> Report:
    """Raises UserError where `by` names a key that no run has."""
    found = ablation(outputs.runs, by)
    groups = found.groups
    left = unfinished(outputs.problems)
    columns = columns_of([run for group in groups for run in group.runs])
    compared = [run for group in found.compared for run in group.runs]
    told = answer(found)
    texts = {group.id: command(group.runs) for group in groups}
    texts |= {run.path: command([run]) for group in groups for run in group.runs}
    return Report(
        ablation=found,
        answer=told,
        columns=columns,
        rows=rows_of(groups, columns, trouble_of(groups, left)),
        sft=sft_figures(compared, columns),
        unfinished=left,
        shown=shown_first(found.compared, told.reference),
        commands=texts,
        figures={run.path: export.run_figures(run, columns) for group in groups for run in group.runs},
    )


def shown_first(groups: Sequence[Group], reference: Group | None) -> list[Group]:
    """From the best down, one fewer than can be told apart; the reference is always among them."""
    best = list(groups[: len(LOOKS) - 1])
    if reference is not None and reference not in best:
        best[-1] = reference
    return best


def write(found: Report, out: Path, responses: int) -> None:
    """The whole folder; the first page last, so that it never points to what is not there."""
    for name in ("assets", "data", "runs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    copy_assets(out / "assets")
    tables = tables_of(found)
    export.write_tables(tables, out / "tables")
    curves = curves_by_metric(found.ablation.groups)
    metrics = write_metrics(curves, out / "data")
    names: list[str] = []
    if found.ablation.compared:
        names = plots.write_plots(out / "figures", found.ablation, found.levels, found.shown, curves)
    environment = templates()
    write_runs(environment, found, out / "runs", responses)
    context = page_context(found, tables, names, metrics, curves)
    write_text(out / "index.html", environment.get_template("index.html.j2").render(context))


def templates() -> Environment:
    """Everything that a template writes is escaped."""
    environment = Environment(
        loader=PackageLoader("rlhf.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"error": with_error, "interval": span, "leaf": shown_leaf, "hash": short_hash}
    environment.globals |= {"count": count, "number": number}
    return environment


def copy_assets(folder: Path) -> None:
    source = files("rlhf.report") / "templates"
    for name in ASSETS:
        write_text(folder / name, (source / name).read_text(encoding="utf-8"))
    write_text(folder / "plotly.min.js", get_plotlyjs())


def tables_of(found: Report) -> list[Table]:
    texts = found.commands
    tables = [export.ablation_table(found.rows, found.columns, texts, found.sft)] if found.rows else []
    if found.answer.to_winner:
        tables.append(export.differences_table(found.answer))
    if found.rows:
        tables += [
            export.settings_table(found.ablation),
            export.runs_table(found.ablation, found.columns, found.figures, texts),
        ]
    return [*tables, *[export.unfinished_table(found.unfinished)] * bool(found.unfinished)]


def curves_by_metric(groups: Sequence[Group]) -> dict[str, Curves]:
    """The most telling first."""
    steps = table_of(groups)
    return {name: curves_of(steps, groups, name) for name in metrics_of(steps)}


def write_metrics(curves: dict[str, Curves], folder: Path) -> list[dict[str, str]]:
    """A data file for each metric, loaded when it is asked for; returns the list of them."""
    metrics = []
    for place, (name, each) in enumerate(curves.items()):
        file = f"metric{place}.js"
        content = {"means": each.means, "lines": each.lines, "pooled": each.pooled}
        write_text(folder / file, f"report.loaded({as_data(name)}, {as_data(content)});\n")
        family = name.split("/")[0] if "/" in name else "evaluation"
        metrics.append({"name": name, "label": TITLES.get(name, name), "file": f"data/{file}", "family": family})
    return metrics


def page_context(
    found: Report,
    tables: Sequence[Table],
    figures: Sequence[str],
    metrics: list[dict[str, str]],
    curves: dict[str, Curves],
) -> dict[str, Any]:
    winner = found.answer.winner
    example = winner.runs[0] if winner is not None else None
    ordered = sorted(metrics, key=lambda metric: metric["family"] != "evaluation")
    return {
        "report": found,
        "tables": {table.name: table for table in tables},
        "figures": figures,
        "families": [(family, list(members)) for family, members in groupby(ordered, lambda each: each["family"])],
        "common": common(found.runs),
        "decoding": DECODING[found.ablation.headline],
        "example": example,
        "prompts": answered(example, EXAMPLES) if example is not None else [],
        "compared": {group.id for group in found.ablation.compared},
        "data": as_data(drawn(found, metrics, curves)),
    }


def drawn(found: Report, metrics: list[dict[str, str]], curves: dict[str, Curves]) -> dict[str, Any]:
    """What charts.js draws from at once; curves of metrics come from their own files."""
    groups, levels, rate = found.ablation.compared, found.levels, found.ablation.headline
    both = [("factuality_greedy", "greedy"), ("factuality", "sampled")]
    known = [(figure, name) for figure, name in both if figure in levels]
    win_rate = charts.forest(groups, [(rate, DECODING[rate])], plots.TITLES[rate], levels.get(rate))
    factuality = charts.forest(groups, known, "factuality, %", levels[known[0][0]] if known else None)
    return {
        "rate": plots.TITLES[rate],
        "axes": plots.OPTIMISED,
        "looks": charts.looks(),
        "groups": [{"id": group.id, "label": group.label} for group in found.ablation.groups],
        "compared": [group.id for group in groups],
        "shown": [group.id for group in found.shown],
        "forests": {"win_rate": win_rate, "factuality": factuality} if known else {"win_rate": win_rate},
        "paths": {name: paths(curves, rate, name) for name in plots.OPTIMISED},
        "metrics": {metric["name"]: metric for metric in metrics},
    }


def write_runs(environment: Environment, found: Report, folder: Path, responses: int) -> None:
    """A page for each run: its figures beside the SFT model's, its settings and command, and its responses."""
    template = environment.get_template("run.html.j2")
    for group in found.ablation.groups:
        usual = common(group.runs)
        for run in group.runs:
            figures = sft_figures([run], found.columns) | {"policy": found.figures[run.path]}
            context = {
                "run": run,
                "group": group,
                "names": list(figures),
                "figures": list(zip(found.columns, zip(*figures.values(), strict=True), strict=True)),
                "command": found.commands[run.path],
                "settings": {key: run.config.get(key) for key in (*found.ablation.keys, *found.ablation.along)},
                "usual": usual,
                "prompts": answered(run, responses),
            }
            write_text(folder / f"{short_hash(run.path)}.html", template.render(context))
