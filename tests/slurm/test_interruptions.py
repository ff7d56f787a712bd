"""Runs that are interrupted by the cluster, and go on."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import StartSweep, job, log, status, steps

pytestmark = pytest.mark.slurm

STEPS = 120
LONG = (f"ppo.steps={STEPS}", "evaluation.every=0")


def check_whole(run: Path) -> None:
    """The run is done, every step of it is there once, and it was put together of two parts."""
    assert status(run)["state"] == "done"
    assert steps(run) == list(range(STEPS + 1))
    assert log(run).count("going on after step") == 1


def test_at_its_time_limit_a_run_saves_and_goes_on(sweep: StartSweep) -> None:
    limited = sweep(
        "limit", "ppo.steps=300", "evaluation.every=0", "hydra.launcher.time=1", "hydra.launcher.signal_seconds=45"
    )
    done = limited.finish()
    assert done.code == 0
    assert steps(limited.run()) == list(range(301))
    assert "stopped by SIGUSR2" in log(limited.run())
    assert "going on after step" in log(limited.run())


def test_a_preempted_run_saves_and_goes_on(cluster: Cluster, sweep: StartSweep) -> None:
    preempted = sweep("preempted", *LONG)
    preempted.reaches(5)
    cluster.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    done = preempted.finish()
    assert done.code == 0
    assert "stopped by SIGTERM" in log(preempted.run())
    check_whole(preempted.run())


def test_after_a_node_fails_a_run_goes_on_from_its_last_checkpoint(cluster: Cluster, sweep: StartSweep) -> None:
    failed = sweep("node", *LONG, "checkpoint_seconds=0")
    failed.reaches(5)
    node = cluster.job(job(failed.run())["job_id"])["NodeList"]
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        done = failed.finish()
    finally:
        cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)  # it may be back already
    assert done.code == 0
    check_whole(failed.run())
