"""What comes before the first PPO step, and what a sweep adds: seconds of imports, of starting, and of a multirun."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import finish, fresh, one_thread, run_in, steps
from benchmarks.table import show, spread
from rlhf.errors import UserError

TINY = ("experiment=smoke",)
IMPORTS = {"rlhf.run": "the command line, before a configuration is composed", "rlhf.stages.pipeline": "what trains"}
IMPORT_LINE = re.compile(r"^import time:\s+\d+ \|\s+(\d+) \| (\S.*)$")
"""A line of `-X importtime` on a module at the top: microseconds with all that it imports, and its name."""


def measure(options: Options) -> dict[str, Any]:
    """Everything in turn, `rounds` times, with the stages in the cache."""
    settings, folder = [*TINY, *options.overrides], options.folder
    finish(run_in(fresh(folder / "first"), settings))  # builds the stages, which the others find in the cache
    found: dict[str, list[float]] = {f"import {name}": [] for name in IMPORTS}
    found |= {"first step": [], "one run": [], "multirun": []}
    for _ in range(options.rounds):
        for name in IMPORTS:
            found[f"import {name}"].append(import_seconds(name))
        first, whole = first_step(run_in(fresh(folder / "one"), settings), folder / "one")
        found["first step"].append(first)
        found["one run"].append(whole)
        found["multirun"].append(finish(multirun(fresh(folder / "sweep"), settings, options.seeds)))
    pairs = zip(found["multirun"], found["one run"], strict=True)
    figures = {"seconds": found, "ratios": [many / (options.seeds * one) for many, one in pairs]}
    report(figures, options.seeds)
    return figures


def import_seconds(module: str) -> float:
    """Seconds to import a module with all that it imports, in a fresh interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=True)
    return import_total(done.stderr, module)


def import_total(report: str, module: str) -> float:
    """Seconds that a report of `-X importtime` says `module` and its packages took; raises UserError if none."""
    wanted = {module.rsplit(".", level)[0] for level in range(module.count(".") + 1)}
    lines = [IMPORT_LINE.match(line) for line in report.splitlines()]
    spent = [int(line[1]) for line in lines if line and line[2] in wanted]
    if not spent:
        raise UserError(f"python -X importtime has said nothing of {module}")
    return sum(spent) / 1e6


def first_step(command: list[str], path: Path) -> tuple[float, float]:
    """Seconds until a run has had its first PPO step, and until its end."""
    start, first = time.perf_counter(), 0.0
    process = subprocess.Popen(command, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if not first and steps(path):
            first = time.perf_counter() - start
        time.sleep(0.01)
    whole = time.perf_counter() - start
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}")
    return first or whole, whole


def multirun(path: Path, settings: list[str], runs: int) -> list[str]:
    """The command of a sweep of `runs` runs that share their stages."""
    seeds = ",".join(map(str, range(runs)))
    command = [sys.executable, "-m", "rlhf.run", "-m", *settings, f"seed={seeds}", "data.seed=0"]
    return [*command, f"hydra.sweep.dir={os.fspath(path)}"]


def report(figures: dict[str, Any], runs: int) -> None:
    rows = [[name, spread(seconds)] for name, seconds in figures["seconds"].items()]
    rows.append([f"multirun / ({runs} x one run)", spread(figures["ratios"])])
    show(f"stages in the cache; multirun: {runs} runs; medians (least to most)", ("", "seconds"), rows)
