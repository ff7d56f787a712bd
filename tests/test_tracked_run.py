"""Whole runs that wandb follows, on a server on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.storage.files import read_json
from rlhf.tracking.tracker import stable_id
from tests.fake_wandb import KEY, FakeWandb, fake_wandb

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("experiment=smoke", "device=cpu", "tracker=wandb", "tracker.patience=20")

pytestmark = pytest.mark.slow


def started(server: FakeWandb, folder: Path, *command: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environ, **options)  # type: ignore[call-overload]


def done(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def test_one_run_for_all_ranks(tmp_path: Path) -> None:
    with fake_wandb() as server:
        launch = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rlhf.run")
        done(started(server, tmp_path, *launch, *SMOKE, "hydra.run.dir=run"))
    [(name, run)] = server.runs.items()
    assert (name, run.starts, run.exit_code) == (stable_id(tmp_path / "run"), 1, 0)
    metrics = read_json(tmp_path / "run" / "metrics.json")
    figures = ("win_rate_greedy", "win_rate_greedy_se", "true_kl_per_response", "objective")
    figures += ("baseline", "controls", "seconds")
    assert {figure: run.summary[figure] for figure in figures} == {figure: metrics[figure] for figure in figures}
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    kept = [row for row in run.history if "throughput/samples_per_second" in row]
    assert [row["rollout/kl"] for row in kept] == [row["rollout/kl"] for row in rows[1:]]
    assert [row["seconds/update"] for row in kept] == [row["seconds/update"] for row in rows[1:]]
    assert [row["step"] for row in run.history if "evaluation/responses" in row] == [0, 2, 3]
    assert any(key.startswith("system.") for event in run.events for key in event)
    assert not (tmp_path / "wandb").exists()


def test_a_sweep_is_a_group_and_a_run_that_compares(tmp_path: Path) -> None:
    with fake_wandb() as server:
        sweep = ("rlhf.run", "-m", *SMOKE, "regularizer=none,js", "hydra.sweep.dir=regs")
        done(started(server, tmp_path, *sweep))
    kinds = {name: (run.about["jobType"], run.about["groupName"]) for name, run in server.runs.items()}
    assert sorted(kinds.values()) == [("ppo", "regs"), ("ppo", "regs"), ("sweep", "regs")]
    assert kinds[stable_id(tmp_path / "regs")] == ("sweep", "regs")
    assert "tables/ablation" in server.runs[stable_id(tmp_path / "regs")].summary


def test_a_run_that_is_stopped_and_goes_on_is_one_run(tmp_path: Path) -> None:
    with fake_wandb() as server:
        command = ("rlhf.run", *SMOKE, "ppo.steps=300", "evaluation.every=0", "hydra.run.dir=run")
        first = started(server, tmp_path, *command)
        deadline = time.monotonic() + 200
        while not (server.runs and len(next(iter(server.runs.values())).history) > 2):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.way = "refuse"  # the network is down when the signal comes, and comes back
        first.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        done(first, 143)
        assert time.monotonic() - begun < 60
        server.way = "answer"
        done(started(server, tmp_path, *command))
    [(name, run)] = server.runs.items()
    assert (name, run.starts, run.exit_code) == (stable_id(tmp_path / "run"), 2, 0)
    logged = [row["step"] for row in run.history]
    assert set(range(301)) - set(logged) <= set(range(max(logged[:3]), 301))
    assert logged[-1] == 300
