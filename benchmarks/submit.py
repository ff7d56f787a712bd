"""How long it takes to hand a sweep of a hundred runs to SLURM; where sbatch is."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import fresh
from benchmarks.table import spread
from rlhf.console import console
from rlhf.launch.slurm import base
from rlhf.storage.files import read_json

HUNDRED = ("regularizer=none,kl,js,full_kl,bregman", "seed=range(5)", "data.seed=0,1", "lora.r=4,8")
"""A hundred runs in two worlds."""

MAY_TAKE = 10.0
"""Seconds."""


def submission_seconds(folder: Path, *overrides: str) -> tuple[int, float]:
    """Submit a sweep of small runs from `folder` and cancel it: how many runs it had, and the seconds of the command.

    The jobs are held, so that none of them starts. `overrides` choose another launcher, a partition, another sweep.
    """
    held = ("hydra.launcher.wait=false", "+hydra.launcher.additional.hold=true", "hydra.sweep.dir=held")
    command = [sys.executable, "-m", "rlhf.run", "-m", "experiment=smoke", "hydra/launcher=slurm_cpu", *HUNDRED]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    subprocess.run([*command, *held, *overrides], cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True)
    seconds = time.perf_counter() - start
    jobs = [read_json(file)["job_id"] for file in (folder / "held").glob("*/job.json")]
    prepared = [file.name.partition("_")[0] for file in (folder / "held" / "slurm").glob("*_submission.sh")]
    subprocess.run(["scancel", *sorted({*map(base, jobs), *prepared})], check=True)
    return len(jobs), seconds


def measure(options: Options) -> dict[str, Any]:
    """Submit the sweep so many times, and print the seconds that it took, beside the ten that it may take."""
    seconds = []
    for _ in range(options.rounds):
        fresh(options.folder / "held").mkdir()
        runs, spent = submission_seconds(options.folder, *options.overrides)
        seconds.append(spent)
        console.print(f"{runs} runs submitted in {spent:.1f} s")
    shares = [spent / MAY_TAKE for spent in seconds]
    console.print(f"seconds / {MAY_TAKE:.0f} s: {spread(shares)}  median (least to most) of {options.rounds} rounds")
    return {"seconds": seconds, "ratios": shares}
