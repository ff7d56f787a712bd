"""Judge finished outputs again: `python -m rlhf.evaluate RUN_DIR judge=llm judge.model=NAME`; see `--help`.

Outputs are a run's or any file in AlpacaEval's model_outputs format. Trains nothing and imports no torch.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from rlhf.compose import compose_evaluation
from rlhf.config.evaluation import EvaluateConfig, FactualityConfig, JudgeConfig, MeasureConfig
from rlhf.config.gate import as_written
from rlhf.console import command, console
from rlhf.errors import ConfigError
from rlhf.evaluation.factscore import FactScorer, describe_facts
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Pair, Resources, TextJudge, Verdict, check_useful, describe_verdicts, load_judge
from rlhf.evaluation.outputs import Joined, Output, load_joined, load_outputs
from rlhf.evaluation.winrate import Judgement, win_rates
from rlhf.figures import FIGURES, JUDGING
from rlhf.storage.files import write_json, write_text
from rlhf.storage.places import check_file

ROWS = (
    *("win_rate", "win_rate_ties_as_losses", "win_rate_length_controlled", "n_eval", "n_null"),
    *("n_identical", "n_from_text", "first_preferred", "inconsistent"),
    *("factuality", "factuality_penalized", "factuality_respond_ratio", "factuality_facts", "factuality_null"),
    *("n_left_out", "n_without_reference", "n_references_unused", "cost", "kept_cost"),
)
"""Rows of the table; a figure's standard error stands under its name with `_se`."""

NOTABLE = ("n_identical", "n_from_text", "n_left_out", "n_without_reference", "n_references_unused", "kept_cost")
"""Rows that stand there only where they are not 0."""

Figures = dict[str, Any]
Row = dict[str, Any]


def judge_outputs(joined: Joined, config: JudgeConfig) -> tuple[Figures, list[Row]]:
    """The win rate and what the judge did, and a row per prompt; lengths are in characters."""
    judge = load_judge(config, Resources())
    assert isinstance(judge, TextJudge)
    pairs = [
        Pair(output.instruction, output.text, reference)
        for output, references in zip(joined.outputs, joined.references, strict=True)
        for reference in references
    ]
    verdicts = judge.compare(pairs)
    check_useful(verdicts, config)
    by_prompt = iter(verdicts)
    grouped = [[next(by_prompt) for _ in references] for references in joined.references]
    rows = [prompt_row(*each) for each in zip(joined.outputs, joined.references, grouped, strict=True)]
    judgements = [Judgement(row["preferences"], row["length"], row["reference_lengths"]) for row in rows]
    return {**win_rates(judgements), **describe_verdicts(verdicts), **judge.usage(), **joined.unused}, rows


def prompt_row(output: Output, references: list[str], verdicts: list[Verdict]) -> Row:
    return {
        "instruction": output.instruction,
        "dataset": output.dataset,
        "preferences": [verdict.preference for verdict in verdicts],
        "length": len(output.text),
        "reference_lengths": [len(reference) for reference in references],
        "readings": [[asdict(reading) for reading in verdict.readings] for verdict in verdicts],
    }


def check_facts(outputs: Sequence[Output], config: FactualityConfig) -> tuple[Figures, list[Row]]:
    """Factuality of the responses that the configuration chooses, and a row for each."""
    scorer = load_factuality(config, Resources())
    assert isinstance(scorer, FactScorer)
    chosen = [outputs[place] for place in scorer.choose([output.dataset for output in outputs])]
    checked = scorer.check([output.instruction for output in chosen], [output.text for output in chosen])
    rows = [{"instruction": output.instruction, **asdict(each)} for output, each in zip(chosen, checked, strict=True)]
    return {**describe_facts(checked, scorer.config.penalty_facts), **scorer.asked()}, rows


def evaluate(path: Path, reference: Path | None, config: EvaluateConfig) -> dict[Path, Figures]:
    """Judges, measures, and writes; returns the figures by the file that holds them."""
    if config.judge is None and config.factuality is None:
        raise ConfigError(
            "judge=??? is not allowed: choose judge=llm, llm_ranking or annotations, or factuality=factscore"
        )
    for measure in (config.judge, config.factuality):
        if measure is not None:
            check_file("PATH", f"{written_to(path, measure)}.jsonl")
    written = {}
    start = time.perf_counter()
    if config.judge is not None:
        figures, rows = judge_outputs(load_joined(path, reference), config.judge)
        figures["reference"] = reference and str(reference)
        written |= write(path, config.judge, figures, rows, start)
    start = time.perf_counter()
    if config.factuality is not None:
        figures, rows = check_facts(load_outputs(path), config.factuality)
        written |= write(path, config.factuality, figures, rows, start)
    return written


def written_to(path: Path, config: MeasureConfig) -> Path:
    """evaluation-NAME, of a .json and a .jsonl, in a run's directory; beside a file, behind the file's own name."""
    name = "evaluation-" + "-".join(re.sub(r"[^A-Za-z0-9._=+]+", "-", part).strip("-") for part in config.label)
    return path / name if path.is_dir() else path.with_name(f"{path.stem}.{name}")


def write(path: Path, config: MeasureConfig, figures: Figures, rows: list[Row], start: float) -> dict[Path, Figures]:
    """Both files of a measure; returns its figures by the file that holds them."""
    base = written_to(path, config)
    figures = figures | {"seconds": round(time.perf_counter() - start, 2), "settings": as_written(config)}
    write_text(Path(f"{base}.jsonl"), "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    write_json(Path(f"{base}.json"), {"outputs": str(path), **figures})
    return {Path(f"{base}.json"): figures}


def show(written: dict[Path, Figures]) -> None:
    for path, figures in written.items():
        table = Table("", "", title=str(path), title_justify="left", show_header=False)
        for name in ROWS:
            value, error = figures.get(name), figures.get(f"{name}_se")
            if value is not None and (value != 0 or name not in NOTABLE):
                table.add_row(
                    (FIGURES | JUDGING)[name].plain, f"{value:.4g}" if error is None else f"{value:.3g} ± {error:.2g}"
                )
        console.print(table)
        if figures.get("problems"):
            console.print("could not be read, for example: " + "; ".join(figures["problems"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.evaluate", description="Judge finished outputs, or measure their factuality."
    )
    parser.add_argument("path", type=Path, help="a run's directory, or a file in AlpacaEval's model_outputs format")
    parser.add_argument("overrides", nargs="*", help="judge=NAME judge.KEY=VALUE factuality=NAME ..., as of rlhf.run")
    parser.add_argument("--reference", type=Path, help="outputs to compare with; default: the run's own references")
    options = parser.parse_intermixed_args(arguments)
    with command():
        show(evaluate(options.path, options.reference, compose_evaluation(options.overrides)))


if __name__ == "__main__":
    main()
