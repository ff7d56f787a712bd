"""A cluster for the session, and sweeps started on it as a user starts them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rlhf.storage.files import read_json
from tests.slurm.cluster import Cluster, until

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("experiment=smoke", "hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
PATIENCE = 240.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs root on Debian, to install and start SLURM")
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("the cluster is one for all tests: run them without xdist, as make test-slurm does")
    with TemporaryDirectory(prefix="rlhf-slurm-") as folder:  # not pytest's: munge wants one that all may enter
        cluster = Cluster(Path(folder))
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all sweeps are started, with one cache; its name is one that needs quotes."""
    folder = tmp_path_factory.mktemp("work") / "a place=of its own"
    folder.mkdir()
    return folder


@dataclass
class Done:
    code: int
    out: str
    err: str


class Sweep:
    """One `python -m rlhf.run -m ...` in `folder`, its runs in outputs/NAME there; or of another `user`."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, *overrides: str, user: str = "root") -> None:
        self.cluster, self.path = cluster, folder / "outputs" / name
        stock = any("stock" in override for override in overrides)  # which has no such key
        pace = [] if stock else ["hydra.launcher.poll_seconds=1"]
        arguments = ["-m", "rlhf.run", "-m", *SMALL, *pace, f"hydra.sweep.dir=outputs/{name}", *overrides]
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | environment(cluster) | ({"HOME": str(folder)} if user != "root" else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=user,
            group=user,  # that of a job must be its owner's own
            umask=0o002,
        )

    def tells(self, line: str) -> None:
        """Wait until this line is printed."""
        assert self.process.stdout is not None
        while (told := self.process.stdout.readline().rstrip("\n")) != line:
            assert told or self.process.poll() is None, f"ended without telling: {line}"

    def finish(self) -> Done:
        out, err = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, out, err)

    @property
    def runs(self) -> list[Path]:
        return sorted(config.parent for config in self.path.glob("*/config.yaml"))

    def run(self, part: str = "") -> Path:
        """The only run whose name has this in it."""
        (found,) = (run for run in self.runs if part in run.name)
        return found

    def reaches(self, step: int, part: str = "") -> None:
        """Wait until the run has so many rows of history."""
        until(
            lambda: len(self.runs) > 0 and len(history(self.run(part))) >= step, PATIENCE, f"{self.path}: step {step}"
        )


StartSweep = Callable[..., Sweep]


@pytest.fixture
def sweep(cluster: Cluster, workplace: Path) -> Iterator[StartSweep]:
    """Start one, as Sweep does; what is left of it is ended after the test."""
    started: list[Sweep] = []

    def start(name: str, *overrides: str) -> Sweep:
        started.append(Sweep(cluster, workplace, name, *overrides))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
    cluster.clear()


@pytest.fixture
def colleague() -> Iterator[str]:
    """Another account of this machine, with a group of the same name."""
    name = "rlhf-colleague"
    try:
        command = [sys.executable, "-c", "import torch"]
        subprocess.run(command, capture_output=True, check=True, user=65534, group=65534, extra_groups=[])
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("others can't run this Python")
    subprocess.run(["userdel", "--force", name], capture_output=True, check=False)
    subprocess.run(["useradd", "--user-group", "--no-create-home", "--home-dir=/tmp", name], check=True)
    yield name
    subprocess.run(["userdel", "--force", name], check=True)


def environment(cluster: Cluster) -> dict[str, str]:
    return cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def status(run: Path) -> dict[str, Any]:
    return read_json(run / "status.json")


def job(run: Path) -> dict[str, Any]:
    return read_json(run / "job.json")


def log(run: Path) -> str:
    return (run.parent / job(run)["log"]).read_text()


def history(run: Path) -> list[dict[str, Any]]:
    path = run / "history.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def steps(run: Path) -> list[int]:
    return [row["step"] for row in history(run)]


def processes(run: Path) -> list[int]:
    """Those that this run is."""
    commands = {int(file.parent.name): file for file in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for process, file in commands.items():
        try:
            words = file.read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "rlhf.resume" in words and str(run) in words:
            found.append(process)
    return found
