"""Whole sweeps on a real cluster: what is submitted, what is told, what each run is left with."""

import grp
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.slurm.cluster import Cluster, until
from tests.slurm.conftest import SMALL, StartSweep, Sweep, environment, job, log, processes, status, steps

pytestmark = pytest.mark.slurm

TWO_RANKS = "hydra.launcher.tasks_per_node=2"


def states(runs: list[Path]) -> list[str]:
    return [status(run)["state"] for run in runs]


def line_of(run: Path, reason: str) -> str:
    """How the end of a sweep names a run that failed."""
    return f"  {run.name}: failed, {reason}; log: {run.parent / job(run)['log']}"


def test_a_sweep_is_one_array_whose_stages_are_built_before_it_and_once(sweep: StartSweep) -> None:
    given = ("regularizer=none,kl,js", "cache_dir=outputs/cache of this sweep")
    first = sweep("array", *given)
    done = first.finish()
    assert (done.code, done.err) == (0, "")
    assert states(first.runs) == ["done"] * 3
    ids = [job(run)["job_id"] for run in first.runs]
    array = ids[0].partition("_")[0]
    assert sorted(ids) == [f"{array}_{element}" for element in range(3)]
    assert all("built in" not in log(run) and "baseline: from the cache" in log(run) for run in first.runs)
    builders = [file for file in (first.path / "slurm").glob("*.out") if not file.name.startswith(array)]
    assert [file.read_text().count("built in") for file in builders] == [7]

    before = {file: file.stat().st_mtime_ns for run in first.runs for file in run.iterdir()}
    again = sweep("array", *given).finish()
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
    assert f"cancel: python -m rlhf.status --cancel {first.path}" in told.out
    assert states(first.runs) == ["pending", "pending"]
    again = sweep("twice", *given).finish()
    assert again.code == 0
    assert "has 2 runs" not in again.out
    assert [job(run)["job_id"] for run in first.runs] == jobs

    following = sweep("twice", *given[:1], given[2], "hydra.launcher.wait=true")
    following.tells(f"{first.path}: 2 runs: 2 pending")
    cluster.run("scancel", jobs[0].partition("_")[0])
    done = following.finish()
    assert done.code == 1
    assert states(first.runs) == ["cancelled", "cancelled"]
    assert "2 of 2 runs" in done.err


def test_two_people_share_a_sweep(cluster: Cluster, colleague: str) -> None:
    """Both give its command and follow it to its end; each run is submitted by one of them, and done once."""
    group = grp.getgrnam(colleague).gr_gid
    with TemporaryDirectory(prefix="rlhf-shared-") as name:  # pytest's own can't be entered by others
        folder = Path(name)
        os.chown(folder, -1, group)
        folder.chmod(0o2775)
        own = Sweep(cluster, folder, "shared", "regularizer=none,kl", "hydra.launcher.wait=false")
        assert (own.finish().code, states(own.runs)) == (0, ["pending"] * 2)
        more = ("shared", "regularizer=none,kl,js")
        theirs = Sweep(cluster, folder, *more, user=colleague)
        until(lambda: len(theirs.runs) == 3 and (theirs.run("js") / "job.json").exists(), 60, "nothing is submitted")
        both = [theirs, Sweep(cluster, folder, *more)]
        assert [(done.code, done.err) for done in (one.finish() for one in both)] == [(0, "")] * 2
        assert states(own.runs) == ["done"] * 3
        assert [job(own.run(form))["user"] for form in ("none", "=kl", "js")] == ["root", "root", colleague]
        assert [steps(run) for run in own.runs] == [[0, 1, 2, 3]] * 3
        cluster.clear()


def test_a_rank_that_fails_fails_its_run_and_no_other(cluster: Cluster, sweep: StartSweep) -> None:
    forms = ",".join(f"tests.slurm.penalties.{name}" for name in ("fine", "failing_on_rank_1"))
    done = (two := sweep("rank", "regularizer=custom", f"regularizer.function._target_={forms}", TWO_RANKS)).finish()
    good, bad = two.run("fine"), two.run("failing")
    assert done.code == 1
    assert (status(good)["state"], status(bad)["state"]) == ("done", "failed")
    good_job = job(good)["job_id"]  # the run is done a moment before its job is
    until(lambda: cluster.job(good_job)["JobState"] == "COMPLETED", 20, f"job {good_job} is not completed")
    assert cluster.job(job(bad)["job_id"])["JobState"] == "FAILED"
    assert done.err.endswith(f"1 of 2 runs in {two.path} did not get done:\n{line_of(bad, 'rank 1 gives up')}\n")


def test_a_rank_that_never_starts_ends_those_that_wait_for_it(cluster: Cluster, sweep: StartSweep) -> None:
    script = cluster.folder / "rank_1_exits.sh"
    script.write_text(f'[ "$SLURM_PROCID" = 1 ] && exit 3\nexec {sys.executable} "$@"\n')
    missing = sweep("missing", TWO_RANKS, f"hydra.launcher.python='sh {script}'")
    done = missing.finish()
    run = missing.run()
    assert done.code == 1
    reason = f"job {job(run)['job_id']} has ended as FAILED, and the run has not said how it ended"
    assert done.err.endswith(f"{line_of(run, reason)}\n")


def test_a_world_that_can_not_be_prepared_costs_its_own_runs_alone(sweep: StartSweep) -> None:
    worlds = sweep("worlds", "checks.min_accuracy=0,1.0")
    assert worlds.finish().code == 1
    good, bad = worlds.run("min_accuracy=0,"), worlds.run("min_accuracy=1.0,")
    assert (status(good)["state"], status(bad)["state"]) == ("done", "failed")
    assert "below checks.min_accuracy=1.0" in status(bad)["reason"]


def test_two_nodes_of_two_ranks_are_one_world(cluster: Cluster, sweep: StartSweep) -> None:
    world = sweep("world", "hydra.launcher.nodes=2", TWO_RANKS, "distributed.processes=4", "ppo.micro_batch_size=1")
    done = world.finish()
    assert (done.code, done.err) == (0, "")
    run = world.run()
    assert cluster.job(job(run)["job_id"])["NumTasks"] == "4"
    assert cluster.job(job(run)["job_id"])["NumNodes"] == "2"
    assert steps(run) == [0, 1, 2, 3]


def test_a_cancelled_run_is_not_queued_again(cluster: Cluster, sweep: StartSweep) -> None:
    cancelled = sweep("cancelled", "ppo.steps=1000", "evaluation.every=0")
    cancelled.reaches(3)
    cluster.run("scancel", job(cancelled.run())["job_id"])
    done = cancelled.finish()
    assert done.code == 1
    assert status(cancelled.run())["state"] == "cancelled"
    assert cluster.job(job(cancelled.run())["job_id"])["JobState"] == "CANCELLED"
    assert (cancelled.run() / "checkpoint").is_dir()


def test_a_job_that_is_killed_is_put_back_on_another_node(cluster: Cluster, sweep: StartSweep) -> None:
    """Nothing of it can write how it ended, and no accounting database knows."""
    killed = sweep("killed", "ppo.steps=60", "evaluation.every=0")
    killed.reaches(3)
    before = job(killed.run())["job_id"]
    for process in processes(killed.run()):
        os.kill(process, signal.SIGKILL)
    done = killed.finish()
    assert (done.code, status(killed.run())["state"]) == (0, "done")
    assert f"job {before} has ended as FAILED on node" in done.out
    assert "submitted again, 1 of 3 times" in done.out
    nodes = [cluster.job(one)["NodeList"] for one in (before, job(killed.run())["job_id"])]
    assert nodes[0] != nodes[1]


def test_a_submission_from_inside_a_job_is_as_one_from_outside(
    cluster: Cluster, sweep: StartSweep, workplace: Path
) -> None:
    arguments = (
        "-m",
        "rlhf.run",
        "-m",
        *SMALL,
        "hydra.sweep.dir=outputs/inside",
        "seed=0",
        "hydra.launcher.wait=false",
    )
    command = shlex.join([sys.executable, *arguments])
    options = ("--array=0", "--ntasks=2", "--gres=gpu:1", "--mem=1G", "--output=outer.log")
    subprocess.run(
        ["sbatch", *options, f"--wrap={command}"],
        cwd=workplace,
        env=os.environ | environment(cluster),
        check=True,
        capture_output=True,
    )
    run = workplace / "outputs" / "inside" / "experiment=smoke,seed=0"
    until(lambda: (run / "status.json").exists() and status(run)["state"] in ("done", "failed"), 60, "the inner run")
    assert status(run)["state"] == "done"
    assert cluster.job(job(run)["job_id"])["NumTasks"] == "1"


def test_hydras_own_launcher_runs_a_sweep_of_two_ranks(sweep: StartSweep) -> None:
    stock = sweep("stock", "hydra/launcher=stock_slurm_2xa100", "hydra.launcher.cpus_per_task=1", "seed=0,1")
    done = stock.finish()
    assert done.code == 0
    assert states(stock.runs) == ["done", "done"]
