"""The local report on any runs: `python -m rlhf.report [PATH ...] [--by KEY,...] [--out outputs/report]`."""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf.console import command, console
from rlhf.errors import UserError
from rlhf.report.load import load_outputs
from rlhf.report.markdown import count
from rlhf.report.page import report, write
from rlhf.report.terminal import show


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rlhf.report", description="Write a page on runs and sweeps.")
    made.add_argument(
        "paths", nargs="*", type=Path, default=[Path("outputs")], help="where runs lie, at any depth; default: outputs"
    )
    made.add_argument("--out", type=Path, default=Path("outputs/report"), help="the folder to write")
    made.add_argument(
        "--by",
        metavar="KEY,...",
        default="",
        help="what to compare, as regularizer.name; of the runs that agree on all else the largest set is taken. "
        "Default: all keys in which the runs differ, seeds apart",
    )
    made.add_argument(
        "--responses", type=int, default=32, metavar="N", help="how many prompts' responses a run's page shows"
    )
    return made


def run(options: argparse.Namespace) -> None:
    missing = [str(path) for path in options.paths if not path.is_dir()]
    if missing:
        raise UserError(f"no such directory: {', '.join(missing)}")
    outputs = load_outputs(options.paths)
    if not outputs.runs and not outputs.problems:
        where = ", ".join(map(str, options.paths))
        raise UserError(f"no runs below {where}: a run's directory has a status.json, as python -m rlhf.run makes it")
    with np.errstate(divide="ignore"):  # statsmodels divides by the heterogeneity of worlds that agree
        found = report(outputs, [key for key in options.by.split(",") if key])
        write(found, options.out, options.responses)
    show(found)
    left = f", {count(len(found.unfinished), 'run')} not finished" if found.unfinished else ""
    console.print(f"{options.out / 'index.html'}: {count(len(found.runs), 'run')}{left}")


def main(arguments: Sequence[str] | None = None) -> None:
    with command():
        run(parser().parse_args(arguments))


if __name__ == "__main__":
    gc.disable()  # nearly all that is read stays to the end: looking for garbage in it takes a quarter of the time
    main()
