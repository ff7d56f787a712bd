"""Small runs on a SLURM cluster, one a job against several: seconds from submission to the last end, and CPU seconds.

SLURM's commands must find a cluster; `python -m tests.slurm.cluster up DIR` starts one on this machine.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import fresh
from benchmarks.table import ratios, show, spread
from benchmarks.workers import cpu_seconds
from rlhf.storage.files import write_text

TIMES = re.compile(r"(\d+)m([\d.]+)s")


def measure(options: Options) -> dict[str, Any]:
    """Do the same runs both ways in turn, `rounds` times, with the stages in the cache."""
    folder, ways, runs = fresh(options.folder / "jobs").absolute(), (1, options.per_job), options.runs or 100
    folder.mkdir(parents=True)
    sweep_seconds(folder, 1, 1, options.overrides)  # builds the stages
    found: dict[int, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            found[way].append(sweep_seconds(folder, runs, way, options.overrides))
    wall, cpu = ({way: [each[place] for each in found[way]] for way in ways} for place in (0, 1))
    rows = [[f"{way} a job", spread(wall[way]), spread(cpu[way])] for way in ways]
    shares = [spread(ratios(each[options.per_job], each[1])) for each in (wall, cpu)]
    title = f"{runs} runs, stages in the cache; medians (least to most) of {options.rounds} rounds"
    show(title, ("", "seconds", "CPU s"), [*rows, [f"{options.per_job} / 1 a job", *shares]])
    return {"runs": runs, "seconds": wall, "cpu_seconds": cpu}


def sweep_seconds(folder: Path, runs: int, per_job: int, overrides: list[str]) -> tuple[float, float]:
    """Seconds of a sweep of so many runs, and the CPU seconds of its command and of all of its jobs."""
    times, python = folder / "times", folder / "python"
    # `times` tells its own seconds and those of its children, but not behind a pipe, which is a child itself
    text = f'#!/bin/sh\n{sys.executable} "$@"\nstatus=$?\ntimes >> {times}\nexit $status\n'
    write_text(python, text)
    python.chmod(0o755)
    write_text(times, "")
    fresh(folder / "sweep")
    runs_alike = ["experiment=smoke", "data.seed=0", "tracker=none", "hydra/launcher=slurm_cpu"]
    launcher = {"runs_per_job": per_job, "python": python, "cpus_per_task": 1, "mem_gb": 1, "poll_seconds": 1}
    settings = [f"hydra.launcher.{key}={value}" for key, value in launcher.items()]
    command = [sys.executable, "-m", "rlhf.run", "-m", *runs_alike, *settings, *overrides]
    start = time.perf_counter()
    own = cpu_seconds([*command, f"seed=range({runs})", "hydra.sweep.dir=sweep"], folder)
    seconds = time.perf_counter() - start
    while times.read_text().count("\n") < 2 * -(-runs // per_job):  # runs are done before their jobs have closed
        time.sleep(0.2)
    spent = sum(60 * int(minutes) + float(rest) for minutes, rest in TIMES.findall(times.read_text()))
    return seconds, own + spent
