"""Factuality of responses that people have labelled: `python -m rlhf.factscore FILE ...`; see `--help`.

Reads FActScore's labelled files (arXiv 2305.14251): a JSON line a response, whose `annotations` hold each sentence's
`human-atomic-facts`, labelled S (supported), NS (not supported) or IR (irrelevant). Imports no torch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rlhf.config.evaluation import FactScoreConfig
from rlhf.console import command, console
from rlhf.data.files import Row, read_rows
from rlhf.evaluation.factscore import aggregate
from rlhf.evaluation.factuality import Figures
from rlhf.figures import FIGURES

SUPPORTED, LABELS = "S", ("S", "NS", "IR")
IRRELEVANT = "IR"


def labels(row: Row) -> list[str]:
    """The labels of a response's facts; none where it declined to answer, and has no annotations.

    Raises DataError, naming the row, where they are not FActScore's.
    """
    found: list[str] = []
    for sentence in row.values.get("annotations") or []:
        facts = sentence.get("human-atomic-facts") if isinstance(sentence, dict) else None
        for fact in facts or []:
            label = fact.get("label") if isinstance(fact, dict) else None
            if label not in LABELS:
                raise row.error("annotations", f"human-atomic-facts with a label, one of {', '.join(LABELS)}")
            found.append(label)
    if "annotations" not in row.values:
        raise row.error("annotations", "a list of sentences, or null")
    return found


def measure(rows: Sequence[Row], penalty_facts: int, relevant_alone: bool = False) -> Figures:
    """The figures of labelled responses: init score, the same with the length penalty, respond ratio, facts.

    Irrelevant facts count as not supported, as published, or with `relevant_alone` are left out.
    """
    counts = []
    for row in rows:
        found = [label for label in labels(row) if label != IRRELEVANT or not relevant_alone]
        counts.append((found.count(SUPPORTED), len(found)) if found else None)
    return aggregate(counts, penalty_facts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.factscore", description="Factuality by people's labels.")
    parser.add_argument("files", nargs="+", type=Path, help="labelled files of FActScore, .jsonl")
    parser.add_argument(
        "--penalty-facts", type=int, default=FactScoreConfig.penalty_facts, help="gamma; default: %(default)s"
    )
    parser.add_argument("--relevant", action="store_true", help="leave irrelevant facts out")
    options = parser.parse_args(arguments)
    with command():
        for file in options.files:
            figures = measure(read_rows(file, "FILE"), options.penalty_facts, options.relevant)
            table = Table("", "", title=str(file), title_justify="left", show_header=False)
            for name in ("factuality", "factuality_penalized", "factuality_respond_ratio", "factuality_facts"):
                value, error = figures[name], figures.get(f"{name}_se")
                shown = "none" if value is None else f"{value:.4g}" if error is None else f"{value:.3g} ± {error:.2g}"
                table.add_row(FIGURES[name].plain, shown)
            console.print(table)


if __name__ == "__main__":
    main()
