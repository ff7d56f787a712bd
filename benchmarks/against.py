"""A run, or a PPO step, of this code against another commit's: CPU seconds, each in a process of its own, in turn."""

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import fresh, run_in
from benchmarks.table import ratios, show, spread
from benchmarks.workers import cpu_seconds
from rlhf.errors import UserError
from rlhf.storage.files import read_json

ROOT = Path(__file__).resolve().parents[1]
JOB = ("regularizer=js", "lora.r=8", "data.seed=20", "seed=20", "tracker=none")
"""The main job, in a world that no reported result is from."""


def measure(options: Options) -> dict[str, Any]:
    """Measure `rounds` times; a run finds its stages in a cache, which each side builds for itself first."""
    folder = options.folder.resolve() / "against"
    trees = {"now": ROOT, options.commit: checked_out(options.commit, folder)}
    found: dict[str, list[float]] = {name: [] for name in trees}
    if options.of == "run":
        for name, tree in trees.items():
            a_run(tree, folder / name, options)
    for _ in range(options.rounds):
        for name, tree in trees.items():
            found[name].append((a_run if options.of == "run" else a_step)(tree, folder / name, options))
    shares = {name: ratios(seconds, found[options.commit]) for name, seconds in found.items()}
    rows = [[name, spread(seconds), spread(shares[name])] for name, seconds in found.items()]
    show(f"one {options.of}; medians (least to most)", ("", "CPU s", f"/ {options.commit}"), rows)
    return {"cpu_seconds": found, "ratios": shares}


def checked_out(commit: str, folder: Path) -> Path:
    """The commit's files in a folder of their own; raises UserError where there is none."""
    tree = fresh(folder / commit / "tree")
    tree.mkdir(parents=True)
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if packed.returncode != 0:
        raise UserError(f"--commit {commit} is not allowed: {packed.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return tree


def a_run(tree: Path, folder: Path, options: Options) -> float:
    """CPU seconds of a run by itself, imports included."""
    command = run_in(fresh(folder / "run"), [*JOB, *options.overrides, f"cache_dir={folder / 'cache'}"])
    return cpu_seconds(command, tree)


def a_step(tree: Path, folder: Path, options: Options) -> float:
    """CPU seconds of a PPO step of the benchmarks' work, the median of several in one process."""
    figures = folder / "step.json"
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [] if options.mean_length is None else ["--mean-length", str(options.mean_length)]
    command = [sys.executable, "-m", "benchmarks", "step", *options.overrides, *lengths, "--rounds", str(options.steps)]
    cpu_seconds([*command, "--json", str(figures)], tree)
    return statistics.median(read_json(figures)["cpu_seconds"])
