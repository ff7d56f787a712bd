"""CPU seconds of book-keeping: submitting a thousand runs, their states once done, and a sweep of one beside them.

SLURM's commands are stand-ins that take everything and know nothing, so that what is measured is the project's own.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.options import Options
from benchmarks.runs import fresh
from benchmarks.table import show, spread
from benchmarks.workers import cpu_seconds
from rlhf.storage.files import write_json, write_text
from rlhf.storage.rundir import RunDirectory

FORMS = ("none", "kl", "js", "full_kl", "bregman")
STEPS = 40
MAY_TAKE = {"submit": 25.0, "status": 2.0, "one more": 3.0}
"""CPU seconds, of a thousand runs."""

SWEEP = (
    *(sys.executable, "-m", "rlhf.run", "-m", "hydra/launcher=slurm_cpu", "hydra.launcher.wait=false"),
    *("experiment=smoke", "tracker=none", "name=many"),
)
"""The command of a sweep that is submitted and not waited for, without its grid."""

PROGRAMS = {
    "sbatch": "echo Submitted batch job 123",
    **dict.fromkeys(("squeue", "scontrol", "scancel", "srun"), "exit"),
}


def measure(options: Options) -> dict[str, Any]:
    """Measure the three `rounds` times, of `runs` runs, and print them beside what they may take."""
    folder = fresh(options.folder / "book-keeping").absolute()
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, does in PROGRAMS.items():
        write_text(programs / name, f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    found: dict[str, list[float]] = {name: [] for name in MAY_TAKE}
    with patch.dict(os.environ, {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": root()}):
        for number in range(options.rounds):
            place = folder / str(number)
            place.mkdir()
            found["submit"].append(cpu_seconds([*SWEEP, *grid(options.runs or 1000)], place))
            runs = [file.parent for file in place.glob("outputs/sweeps/many/*/status.json")]
            for run in runs:
                finish(run)
            found["status"].append(cpu_seconds([sys.executable, "-m", "rlhf.status", "outputs/sweeps/many"], place))
            found["one more"].append(cpu_seconds([*SWEEP, "seed=123456"], place))
    rows = [[name, spread(found[name]), f"{most:.0f}"] for name, most in MAY_TAKE.items()]
    show(f"{len(runs)} runs, CPU seconds; medians (least to most)", ("", "CPU s", "of 1000 it may be"), rows)
    return {"runs": len(runs), "cpu_seconds": found}


def root() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))))


def grid(runs: int) -> list[str]:
    return [f"regularizer={','.join(FORMS)}", f"seed=range({runs // (2 * len(FORMS))})", "lora.r=4,8"]


def finish(run: Path) -> None:
    """Leave in a run's directory what reading its state reads of one that is done, as large as of the main job."""
    rates = {f"win_rate{which}{part}": 50.0 for which in ("", "_greedy") for part in ("", "_se", "_length_controlled")}
    seconds = {"pretrain": 60.0, "sft": 30.0, "reward": 20.0, "ppo": 35.0, "evaluation": 5.0}
    figures = {f"figure_{number}": math.pi * number for number in range(60)}
    row = rates | {f"rollout/figure_{number}": math.pi * number for number in range(30)}
    write_json(run / "metrics.json", rates | figures | {"baseline": figures, "seconds": seconds})
    write_text(run / "history.jsonl", "".join(json.dumps({"step": step} | row) + "\n" for step in range(STEPS + 1)))
    RunDirectory(run).set_status("done", STEPS)
