"""Runs as their users start them, in processes of their own, for measuring."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rlhf.errors import UserError


def one_thread() -> dict[str, str]:
    """The environment of a command that is measured, as it is by now."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_in(path: Path, overrides: list[str], ranks: int = 1) -> list[str]:
    """The command of a run in `path`, on so many processes."""
    one = [sys.executable, "-m"]
    several = [*one, "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return [*(one if ranks == 1 else several), "rlhf.run", *overrides, f"hydra.run.dir={path}"]


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def finish(command: list[str], folder: Path | None = None) -> float:
    """Run a command to its end, in a folder; returns its seconds. Raises UserError, with what it said, if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=one_thread(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.perf_counter() - start


def stop_after(command: list[str], path: Path, step: int) -> float:
    """Run a command, and ask it to stop once its run in `path` has had `step` steps; returns its seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and steps(path) < step:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return time.perf_counter() - start


def steps(path: Path) -> int:
    return max(0, len(history(path)) - 1)


def history(path: Path) -> list[dict]:
    file = path / "history.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def samples_per_second(path: Path) -> float:
    """Over all steps but the first, which also pays for what is done once."""
    rows = [row["samples_per_second"] for row in history(path)[2:]]
    return statistics.harmonic_mean(rows)
