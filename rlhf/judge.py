"""How far to trust a judge: `python -m rlhf.judge check --data FILE judge=llm judge.model=NAME`; see `--help`.

FILE holds pairs of outputs that people have compared (docs/judges.md). Imports no torch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.table import Table

from rlhf.compose import compose_evaluation
from rlhf.config.evaluation import PAIRS, JudgeConfig
from rlhf.config.gate import as_written
from rlhf.console import command, console, whole
from rlhf.evaluation.agreement import Comparison, agreement, annotator_kappas, label_of, read_comparisons, read_label
from rlhf.evaluation.judges import Pair, Resources, TextJudge, describe_verdicts, load_judge, order_decides
from rlhf.storage.files import write_json
from rlhf.storage.places import check_file

TABLE = {
    "n": "pairs with a majority of people",
    "n_null": "unreadable verdicts",
    "agreement": "agrees with the majority, %",
    "agreement_readable": "the same, unreadable left out, %",
    "agreement_decided": "where people call one better, %",
    "kappa": "Cohen's kappa with the majority",
    "first_preferred": "prefers what is shown first, %",
    "inconsistent": "changes its mind with the order, %",
    "output_1_preferred": "prefers the file's first, %",
    "output_1_preferred_by_people": "people prefer the file's first, %",
    "longer_preferred": "prefers the longer, %",
    "longer_preferred_by_people": "people prefer the longer, %",
    "cost": "cost",
}
"""Rows of the table; a figure's standard error stands under its name with `_se`."""

Figures = dict[str, Any]


def check(comparisons: Sequence[Comparison], columns: Sequence[str], config: JudgeConfig | None) -> Figures:
    """People's agreement with each other, and each recorded or asked judge's with them."""
    judges = {name: agreement(comparisons, recorded(comparisons, name)) for name in columns}
    if config is not None:
        judges[getattr(config, "model", config.name)] = check_judge(comparisons, config)
    for found in judges.values():
        found.setdefault("useless", [why for why in (chance(found),) if why is not None])
    return {"n": len(comparisons), "annotator_kappas": annotator_kappas(comparisons), "judges": judges}


def recorded(comparisons: Sequence[Comparison], column: str) -> list[int | None]:
    """The verdicts that a column of the file holds; raises DataError where a row lacks it."""
    if missing := [each for each in comparisons if column not in each.row.values]:
        raise missing[0].row.error(column, f"a recorded verdict, since --column names it ({len(missing)} rows lack it)")
    return [read_label(each.row.values[column]) for each in comparisons]


def check_judge(comparisons: Sequence[Comparison], config: JudgeConfig) -> Figures:
    judge = load_judge(config, Resources())
    assert isinstance(judge, TextJudge)
    pairs = [Pair(each.instruction, output=each.outputs[1], reference=each.outputs[0]) for each in comparisons]
    verdicts = judge.compare(pairs)
    order = order_decides(verdicts)
    described = describe_verdicts(verdicts)
    shares = {name: percent(described[name]) for name in ("first_preferred", "inconsistent")}
    figures = agreement(comparisons, [label_of(verdict.preference) for verdict in verdicts])
    usage = judge.usage()
    useless = [why for why in (order, chance(figures)) if why is not None]
    return {
        **described,
        **figures,
        **shares,
        "useless": useless,
        "cost": usage.get("cost"),
        "usage": usage,
        "settings": as_written(config),
    }


def chance(figures: Figures) -> str | None:
    """Says where a judge is no better than a coin, within two standard errors; None where it is, or nobody can tell."""
    share, error = figures["agreement_decided"], figures["agreement_decided_se"]
    if figures["n"] and figures["n_null"] == figures["n"]:
        return "none of its verdicts can be read"
    if share is None or share - 2 * error > 50:
        return None
    return f"where people call one better it agrees in {share:.0f} ± {error:.0f} % of pairs: a coin has 50"


def percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def show(figures: Figures) -> None:
    kappas = ", ".join(
        f"{pair} {value:.2f}" for pair, value in figures["annotator_kappas"].items() if value is not None
    )
    console.print(f"{figures['n']} pairs" + (f"; Cohen's kappa between annotators: {kappas}" if kappas else ""))
    if not figures["judges"]:
        return
    table = Table("", *figures["judges"])
    for name, label in TABLE.items():
        cells = [cell(judge, name) for judge in figures["judges"].values()]
        if any(cells):
            table.add_row(label, *cells)
    console.print(table)
    for name, judge in figures["judges"].items():
        if reasons := judge.get("useless"):
            console.print(f"{name} is useless as a judge: {'; '.join(reasons)}", soft_wrap=True)


def cell(figures: Figures, name: str) -> str:
    value, error = figures.get(name), figures.get(f"{name}_se")
    if value is None:
        return ""
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"


def sample(comparisons: list[Comparison], limit: int | None) -> list[Comparison]:
    """A random choice of `limit`, the same each time; all where there are no more."""
    if limit is None or limit >= len(comparisons):
        return comparisons
    chosen = sorted(Random(0).sample(range(len(comparisons)), limit))
    return [comparisons[place] for place in chosen]


def run(options: argparse.Namespace) -> Figures:
    if options.out is not None:
        check_file("--out", options.out)
    config = compose_evaluation(options.overrides).judge if options.overrides else None
    if config is not None:
        config.check_use(PAIRS)
    comparisons = sample(read_comparisons(options.data), options.limit)
    figures = check(comparisons, options.column, config)
    if options.out is not None:
        write_json(options.out, figures)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.judge", description="Check a judge against people's labels.")
    parser.add_argument("action", choices=["check"])
    parser.add_argument("overrides", nargs="*", help="judge=llm judge.model=NAME ...; none: recorded judges alone")
    parser.add_argument("--data", type=Path, required=True, help="pairs of outputs with people's labels")
    parser.add_argument(
        "--column", action="append", default=[], help="a column of FILE with a judge's verdicts; repeatable"
    )
    parser.add_argument("--limit", type=whole(1), help="so many pairs, chosen at random but always the same")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    with command():
        show(run(parser.parse_intermixed_args(arguments)))


if __name__ == "__main__":
    main()
