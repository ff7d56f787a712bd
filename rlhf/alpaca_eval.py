"""A run's judgements for AlpacaEval's own package: `python -m rlhf.alpaca_eval RUN_DIR OUT`; see `--help`.

OUT gets model_outputs.json and reference_outputs.json, a row in each for every judged pair in the same order, the
annotations of those pairs, and a configuration that names who made them. The `alpaca_eval` command, which is printed,
then asks no model. Imports neither torch nor AlpacaEval.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from rlhf.console import command, console
from rlhf.data.files import Row, read_rows
from rlhf.errors import DataError
from rlhf.evaluation.annotations import recorded_preference
from rlhf.evaluation.outputs import OUTPUTS, REFERENCES, RESPONSES, by_place, instruction, read_output, read_references
from rlhf.evaluation.winrate import WinRate, win_rate, win_rate_over_draws
from rlhf.storage.files import write_json, write_text
from rlhf.storage.places import check_folder

ANNOTATOR = "rlhf"
"""The annotator in AlpacaEval's files; the package keeps those of several annotators apart."""

MODEL, REFERENCE, ANNOTATIONS = "model_outputs.json", "reference_outputs.json", "annotations.json"
CONFIG, PROMPT = "annotator/configs.yaml", "annotator/prompt.txt"


@dataclass(frozen=True)
class Annotation:
    """A pair and the preference between them, by AlpacaEval's names: `output_1` is the reference."""

    instruction: str
    output_1: str
    output_2: str
    preference: float
    dataset: str
    annotator: str = ANNOTATOR


NO_PAIR = Annotation("(of no pair: without it whole preferences would be read as integers)", "", "", 1.5, "")
"""AlpacaEval sets ties to 1.5, which pandas refuses in a column of integers, and it reads whole floats as such."""


@dataclass(frozen=True)
class Judged:
    """All pairs with a preference, their preferences by prompt, and how many prompts and judgements have none."""

    pairs: list[Annotation]
    preferences: list[list[float | None]]
    n_left_out: int
    n_null: int


def load_judged(run: Path, judgements: Path) -> Judged:
    """A run's outputs and references with what was made of them; raises DataError where they don't fit together.

    `judgements` has a row per prompt, {instruction, preferences}: a run's own, or what rlhf.evaluate has written.
    """
    outputs = by_place(read_rows(run / OUTPUTS, "outputs"), instruction)
    references = read_references(run / REFERENCES)
    found = by_place(read_rows(judgements, "judgements"), instruction)
    judged = {place: row for place, row in found.items() if row.values.get("preferences") is not None}
    pairs: list[Annotation] = []
    preferences: list[list[float | None]] = []
    for place, row in judged.items():
        if place not in outputs:
            raise row.error("instruction", f"one of {run / OUTPUTS}")
        output, compared = read_output(outputs[place]), references.get(place, [])
        preferences.append(read_preferences(row, len(compared)))
        pairs += [
            Annotation(output.instruction, reference, output.text, preference, output.dataset)
            for reference, preference in zip(compared, preferences[-1], strict=True)
            if preference is not None
        ]
    readable = sum(any(each is not None for each in row) for row in preferences)
    if readable < 2:
        raise DataError(f"{judgements}: a win rate needs 2 prompts with a judgement at least, and {readable} have one")
    n_null = sum(each is None for row in preferences for each in row)
    return Judged(pairs, preferences, len(outputs) - len(judged), n_null)


def read_preferences(row: Row, count: int) -> list[float | None]:
    """One for each reference, a tie being 1.5."""
    values = row.values["preferences"]
    if not isinstance(values, list) or len(values) != count:
        raise row.error("preferences", f"one for each of the prompt's {count} references")
    return [recorded_preference(replace(row, values={"preference": value})) for value in values]


def write(judged: Judged, generator: str, out: Path) -> None:
    """All files; raises DataError where there is something in `out` already."""
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is there already, and not empty: choose another folder, or remove it")
    (out / CONFIG).parent.mkdir(parents=True)
    for name, key, author in ((MODEL, "output_2", generator), (REFERENCE, "output_1", "reference")):
        given = [(pair.instruction, getattr(pair, key), author, pair.dataset) for pair in judged.pairs]
        names = ("instruction", "output", "generator", "dataset")
        write_json(out / name, [dict(zip(names, values, strict=True)) for values in given])
    whole = all(pair.preference.is_integer() for pair in judged.pairs)
    write_json(out / ANNOTATIONS, [asdict(pair) for pair in [*judged.pairs, *[NO_PAIR] * whole]])
    # without fn_completions a pair that had no annotation could not be judged by anybody else unnoticed
    annotator = {"prompt_template": PROMPT, "fn_completions": None}
    write_text(out / CONFIG, yaml.safe_dump({ANNOTATOR: annotator}))
    write_text(out / PROMPT, "The pairs were judged before; nobody is asked.\n")


def alpaca_eval_command(out: Path) -> list[str]:
    """What AlpacaEval's package is to be asked; its results go below `out`."""
    options = {
        "model_outputs": out / MODEL,
        "reference_outputs": out / REFERENCE,
        "annotators_config": (out / CONFIG).resolve(),  # a relative path would be one of the package's own
        "caching_path": out / ANNOTATIONS,
        "annotation_kwargs": '{"is_ordered":True}',  # row by row: instructions may occur more than once
        "fn_metric": "get_winrate",
        "sort_by": "win_rate",
        "precomputed_leaderboard": None,
        "output_path": out / "alpaca_eval",
    }
    return ["alpaca_eval", *(f"--{name}={value}" for name, value in options.items())]


def describe(judged: Judged, out: Path) -> str:
    """What was written, what AlpacaEval will make of it, and how to ask."""
    ours = win_rate_over_draws(judged.preferences)
    theirs = win_rate([pair.preference for pair in judged.pairs])
    same = sum(pair.output_1 == pair.output_2 and pair.preference != 1.5 for pair in judged.pairs)
    lines = [f"{out}: {len(judged.pairs)} judged pairs, {ours.n_total} prompts; win rate {figures(ours)}"]
    if judged.n_left_out:
        lines.append(f"left out: {judged.n_left_out} prompts that were not judged")
    if judged.n_null:
        lines.append(f"left out: {judged.n_null} judgements that could not be read")
    if theirs.n_total != ours.n_total:
        lines.append(f"alpaca_eval takes pairs for independent: {figures(theirs)}, where ours is over prompts")
    if same:
        lines.append(f"alpaca_eval takes {same} pairs of identical outputs for ties, which the judge preferred one of")
    return "\n".join([*lines, shlex.join(alpaca_eval_command(out))])


def figures(rate: WinRate) -> str:
    return f"{rate.win_rate:.6f} ± {rate.standard_error:.6f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.alpaca_eval", description="Write a run's judgements for the alpaca_eval command."
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="a finished run's directory")
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet, or empty")
    parser.add_argument("--judgements", type=Path, help="rows of rlhf.evaluate; default: the run's responses.jsonl")
    options = parser.parse_args(arguments)
    with command():
        check_folder("OUT", options.out)
        judged = load_judged(options.run, options.judgements or options.run / RESPONSES)
        write(judged, options.run.resolve().name, options.out)
    console.print(describe(judged, options.out), soft_wrap=True)


if __name__ == "__main__":
    main()
