"""How long it takes to hand a sweep to SLURM."""

import os
import subprocess
import sys
import time
from pathlib import Path

from rlhf.infra.files import read_json
from rlhf.launch.slurm import base

HUNDRED = ("regularizer=none,kl,js,full_kl,bregman", "seed=range(5)", "data.seed=0,1", "lora.r=4,8")
"""A hundred runs in two worlds."""


def submission_seconds(folder: Path, *overrides: str) -> tuple[int, float]:
    """Submit a sweep of small runs from `folder` and cancel it: how many runs it had, and the seconds of the command.

    The jobs are held, so that none of them starts. `overrides` choose another launcher, a partition, another sweep.
    """
    held = ("hydra.launcher.wait=false", "+hydra.launcher.additional.hold=true", "hydra.sweep.dir=held")
    command = [sys.executable, "-m", "rlhf.run", "-m", "experiment=smoke", "hydra/launcher=slurm_cpu", *HUNDRED]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    subprocess.run([*command, *held, *overrides], cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True)
    seconds = time.perf_counter() - start
    jobs = [read_json(file)["job_id"] for file in (folder / "held").glob("*/job.json")]
    prepared = [file.name.partition("_")[0] for file in (folder / "held" / "slurm").glob("*_submission.sh")]
    subprocess.run(["scancel", *sorted({*map(base, jobs), *prepared})], check=True)
    return len(jobs), seconds
