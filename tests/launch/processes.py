"""Processes that tests start, and waiting for what they do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run
from tests.made_up import made_up

ROOT = Path(__file__).resolve().parents[2]


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.05)


def python(module: str, *arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}  # as a command leaves it
    environment = inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {})
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=options.pop("cwd", ROOT), env=environment, text=True, **options)


def fake_run(path: Path) -> subprocess.Popen[str]:
    """A fake run at work in a directory made for it."""
    made_up(path, "pending", time=time.time())
    process = python("tests.launch.fake_run", path, stdout=subprocess.DEVNULL)
    until(lambda: RunDirectory(path).state == "running")
    return process


def told_starter(
    sweep: Path, names: list[str], env: dict[str, str] | None = None, **settings: Any
) -> subprocess.Popen[str]:
    """A starter of fake runs, told to start them as LocalLauncher tells it."""
    runs = [made_up(sweep / name, "pending", time=time.time()) for name in names]
    settings = {"parallel": 2, "gpus_per_run": 1, "threads": 3} | settings
    log = (sweep / "launcher.log").open("a")
    process = python("tests.launch.fake_starter", sweep, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
    assert process.stdin is not None
    with process.stdin as told:
        json.dump([[str(run) for run in runs], settings], told)
    return process


def states(sweep: Path) -> dict[str, str]:
    return {path.parent.name: read_run(path.parent).state for path in sweep.glob("*/status.json")}


def process_of(run: Path) -> psutil.Process:
    """The process that a launcher has given a run to."""
    return psutil.Process(int(read_json(run / "job.json")["job_id"]))
