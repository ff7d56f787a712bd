"""Whole sweeps on a real cluster: what is submitted, what is told, what each run is left with."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, until
from tests.slurm.conftest import ROOT, SMALL, StartSweep, environment, history, job, log, status

pytestmark = pytest.mark.slurm


def states(runs: list[Path]) -> list[str]:
    return [status(run)["state"] for run in runs]


def test_a_sweep_is_one_array_whose_stages_are_built_before_it_and_once(cluster: Cluster, sweep: StartSweep) -> None:
    first = sweep("array", "regularizer=none,kl,js")
    done = first.finish()
    assert (done.code, done.err) == (0, "")
    assert states(first.runs) == ["done"] * 3
    ids = [job(run)["job_id"] for run in first.runs]
    array = ids[0].partition("_")[0]
    assert sorted(ids) == [f"{array}_{element}" for element in range(3)]
    assert all("built in" not in log(run) and "baseline: from the cache" in log(run) for run in first.runs)
    builders = [file for file in (first.path / "slurm").glob("*.out") if not file.name.startswith(array)]
    assert [file.read_text().count("built in") for file in builders] == [5]

    before = {file: file.stat().st_mtime_ns for run in first.runs for file in run.iterdir()}
    again = sweep("array", "regularizer=none,kl,js").finish()
    assert again.code == 0
    assert "3 runs: 3 done" in again.out
    assert "has 3 runs" not in again.out
    assert {file: file.stat().st_mtime_ns for run in first.runs for file in run.iterdir()} == before


def test_a_sweep_given_twice_is_submitted_once(cluster: Cluster, sweep: StartSweep) -> None:
    given = ("regularizer=none,kl", "hydra.launcher.wait=false", "+hydra.launcher.additional.hold=true")
    first = sweep("twice", *given)
    told = first.finish()
    assert told.code == 0
    assert f"follow: python -m rlhf.status {first.path}" in told.out
    jobs = [job(run)["job_id"] for run in first.runs]
    assert f"cancel: scancel {jobs[0].partition('_')[0]}" in told.out
    assert states(first.runs) == ["pending", "pending"]
    again = sweep("twice", *given).finish()
    assert again.code == 0
    assert "has 2 runs" not in again.out
    assert [job(run)["job_id"] for run in first.runs] == jobs

    following = sweep("twice", *given, "hydra.launcher.wait=true")
    cluster.run("scancel", jobs[0].partition("_")[0])
    done = following.finish()
    assert done.code == 1
    assert states(first.runs) == ["cancelled", "cancelled"]
    assert "2 of 2 runs" in done.err


def test_a_rank_that_fails_fails_its_run_and_no_other(cluster: Cluster, sweep: StartSweep) -> None:
    target = "+regularizer.function._target_=tests.slurm.failing.on_rank_1"
    failing = sweep("rank", "regularizer=custom", target.lstrip("+"), "seed=0", "hydra.launcher.tasks_per_node=2")
    done = failing.finish()
    run = failing.run()
    assert done.code == 1
    assert status(run)["state"] == "failed"
    assert "rank 1 gives up" in status(run)["reason"]
    assert cluster.job(job(run)["job_id"])["JobState"] == "FAILED"
    assert f"  {run.name}: failed, rank 1 gives up; log: {failing.path / job(run)['log']}" in done.err


def test_one_failed_run_costs_the_others_nothing(cluster: Cluster, sweep: StartSweep) -> None:
    """Impossible is only what a check of the stages finds, in its own world."""
    sweeping = sweep("others", "checks.min_accuracy=0,1.0", "seed=0")
    done = sweeping.finish()
    good, bad = sweeping.run("min_accuracy=0,"), sweeping.run("min_accuracy=1.0,")
    assert done.code == 1
    assert (status(good)["state"], status(bad)["state"]) == ("done", "failed")
    assert "checks.min_accuracy=1.0" in status(bad)["reason"]
    assert "1 of 2 runs" in done.err
    assert bad.name in done.err
    assert good.name not in done.err


def test_two_nodes_of_two_ranks_are_one_world(cluster: Cluster, sweep: StartSweep) -> None:
    resources = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2")
    world = sweep("world", *resources, "distributed.processes=4", "ppo.micro_batch_size=1")
    done = world.finish()
    assert (done.code, done.err) == (0, "")
    run = world.run()
    assert cluster.job(job(run)["job_id"])["NumTasks"] == "4"
    assert cluster.job(job(run)["job_id"])["NumNodes"] == "2"
    assert [row["step"] for row in history(run)] == [0, 1, 2, 3]


def test_a_cancelled_run_is_not_queued_again(cluster: Cluster, sweep: StartSweep) -> None:
    cancelled = sweep("cancelled", "ppo.steps=1000", "evaluation.every=0")
    cancelled.reaches(3)
    cluster.run("scancel", job(cancelled.run())["job_id"])
    done = cancelled.finish()
    assert done.code == 1
    assert status(cancelled.run())["state"] == "cancelled"
    assert cluster.job(job(cancelled.run())["job_id"])["JobState"] == "CANCELLED"
    assert (cancelled.run() / "checkpoint").is_dir()


def test_a_job_that_is_killed_is_noticed(cluster: Cluster, sweep: StartSweep) -> None:
    """Nothing of it can write how it ended, and no accounting database knows."""
    killed = sweep("killed", "ppo.steps=1000", "evaluation.every=0", "+hydra.launcher.additional.no-kill=true")
    killed.reaches(3)
    cluster.run("scancel", "--signal=KILL", job(killed.run())["job_id"])
    done = killed.finish()
    assert done.code == 1
    assert status(killed.run())["state"] == "failed"
    assert "has ended as FAILED" in status(killed.run())["reason"]


def test_a_submission_from_inside_a_job_is_as_one_from_outside(
    cluster: Cluster, sweep: StartSweep, workplace: Path
) -> None:
    arguments = ("-m", "rlhf.run", "-m", *SMALL, "hydra.sweep.dir=outputs/inside", "seed=0", "hydra.launcher.wait=false")
    command = shlex.join([sys.executable, *arguments])
    options = ("--array=0", "--ntasks=2", "--gres=gpu:1", "--mem=1G", "--output=outer.log")
    subprocess.run(
        ["sbatch", *options, f"--wrap={command}"],
        cwd=workplace,
        env=environment(cluster) | {"PATH": __import__("os").environ["PATH"]},
        check=True,
        capture_output=True,
    )
    run = workplace / "outputs" / "inside" / "experiment=smoke,seed=0"
    until(lambda: (run / "status.json").exists() and status(run)["state"] in ("done", "failed"), 60, "the inner run")
    assert status(run)["state"] == "done"
    assert cluster.job(job(run)["job_id"])["NumTasks"] == "1"


def test_hydras_own_launcher_runs_a_sweep_of_two_ranks(cluster: Cluster, sweep: StartSweep) -> None:
    stock = sweep("stock", "hydra/launcher=stock_slurm_2xa100", "hydra.launcher.cpus_per_task=1", "seed=0,1")
    done = stock.finish()
    assert done.code == 0
    assert states(stock.runs) == ["done", "done"]
    assert ROOT.is_dir()
