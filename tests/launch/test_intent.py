"""Submission as a transaction: a sweep whose sbatch goes wrong is submitted once; whoever asks, and from wherever."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.launch import intent, queue, submission
from rlhf.launch.launchers import read_runs
from rlhf.launch.slurm import SlurmLauncher
from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run
from tests.launch.stand_in import StandIn
from tests.made_up import made_up


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(intent, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(intent, "INTENT_SECONDS", 0.3)
    monkeypatch.setattr(submission, "by_stages", lambda runs, directory: (runs, {}))
    return made


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of two runs."""
    for seed in (0, 1):
        made_up(tmp_path / "sweep" / f"seed={seed}", None)
    return tmp_path / "sweep"


def runs_of(sweep: Path) -> list[Path]:
    return sorted(sweep.glob("seed=*"))


def launcher(**settings: object) -> SlurmLauncher:
    made = SlurmLauncher(**settings)
    made.check()
    return made


def give(sweep: Path) -> list[str]:
    """Give the sweep's command once more, each time by a launcher of its own; returns what it submits."""
    return [path.name for path in launcher()._submit(sweep, runs_of(sweep))]


def jobs(sweep: Path) -> list[str | None]:
    return [read_json(run / "job.json").get("job_id") for run in runs_of(sweep)]


BOTH = ["seed=0", "seed=1"]


@pytest.mark.parametrize("mode", ["take", "lost", "interrupt"])
def test_what_slurm_has_taken_is_not_submitted_a_second_time(sweep: Path, cluster: StandIn, mode: str) -> None:
    cluster.set(mode=mode)
    if mode == "interrupt":
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs lack
        with pytest.raises(KeyboardInterrupt):
            give(sweep)
        signal.signal(signal.SIGINT, before)
    else:
        assert give(sweep) == BOTH
    cluster.set(mode="take")
    assert give(sweep) == []
    assert jobs(sweep) == ["100_0", "100_1"]
    assert [run.reason for run in read_runs(runs_of(sweep))] == ["Resources"] * 2


def forget(sweep: Path) -> None:
    """Leave what a launcher leaves that is killed within sbatch: the intent alone."""
    for run in runs_of(sweep):
        (run / "job.json").unlink()
    (sheet,) = (sweep / "slurm").glob("*.json")
    sheet.write_text(json.dumps({key: value for key, value in read_json(sheet).items() if key != "array"}))


def test_a_launcher_that_was_killed_in_sbatch_leaves_its_intent(sweep: Path, cluster: StandIn) -> None:
    give(sweep)
    forget(sweep)
    assert give(sweep) == []
    assert jobs(sweep) == ["100_0", "100_1"]


def test_whoever_follows_finds_it_too(sweep: Path, cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    give(sweep)
    forget(sweep)
    monkeypatch.setattr("rlhf.storage.runs.LEASE_SECONDS", 0.0)
    runs = runs_of(sweep)
    assert [run.state for run in read_runs(runs)] == ["lost"] * 2
    assert [run.state for run in launcher().look(sweep, runs)] == ["pending"] * 2


def test_one_that_was_killed_before_sbatch_costs_nothing(sweep: Path, cluster: StandIn) -> None:
    give(sweep)
    forget(sweep)
    cluster.set(jobs={})
    assert give(sweep) == BOTH
    assert jobs(sweep) == ["101_0", "101_1"]
    assert len(list((sweep / "slurm").glob("*.json"))) == 1


def test_what_can_not_be_known_is_neither_submitted_nor_settled(sweep: Path, cluster: StandIn) -> None:
    give(sweep)
    forget(sweep)
    cluster.set(mode="silent")
    assert give(sweep) == []
    launcher()._settle(sweep, runs_of(sweep))
    assert [read_run(run).state for run in runs_of(sweep)] == ["pending"] * 2
    cluster.set(mode="take")
    assert give(sweep) == []
    assert jobs(sweep) == ["100_0", "100_1"]


def test_a_refusal_is_told_at_once_and_the_same_command_submits(sweep: Path, cluster: StandIn) -> None:
    cluster.set(mode="refuse")
    with pytest.raises(ConfigError, match="Invalid partition name"):
        give(sweep)
    assert read_run(sweep / "seed=0").state == "failed"
    cluster.set(mode="take")
    assert give(sweep) == BOTH


def test_two_people_submit_a_sweep_once_and_both_follow_it(
    sweep: Path, cluster: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = launcher(), launcher()
    runs = runs_of(sweep)

    def as_(user: str) -> None:
        cluster.set(user=user)
        monkeypatch.setattr(queue, "me", lambda: user)
        monkeypatch.setattr(intent, "me", lambda: user)
        queue._site.cache_clear()

    as_("ada")
    first.submit_again(sweep, runs)
    for private in (False, True):
        cluster.set(private=private)
        as_("bob")
        assert second.submit_again(sweep, runs) == []
        assert [run.state for run in second.look(sweep, runs)] == ["pending"] * 2
    cluster.set(private=False)
    cluster.end("100_0", "100_1", state="NODE_FAIL")
    as_("bob")
    assert [run.state for run in second.look(sweep, runs)] == ["pending"] * 2  # put back by whoever looks first
    as_("ada")
    assert [run.state for run in first.look(sweep, runs)] == ["pending"] * 2
    assert [call["user"] for call in cluster.calls("sbatch")] == ["ada", "bob"]
    assert [read_json(run / "job.json")["user"] for run in runs] == ["bob"] * 2
    cluster.end("101_0", "101_1", state="FAILED")
    (runs[0] / ".lock").touch()
    RunDirectory(runs[0]).set_status("running", 2)
    first._settle(sweep, runs)
    assert [read_run(run).state for run in runs] == ["running", "failed"]  # nobody settles a run that lives


def test_what_the_cluster_has_stopped_is_put_back_without_its_bad_node_and_not_for_ever(
    sweep: Path, cluster: StandIn
) -> None:
    give(sweep)
    made = launcher(keep_going=2, exclude="node9")
    runs = runs_of(sweep)

    def fail(state: str, *ended: str) -> list[str]:
        """End jobs; returns the runs' states after the follower's next look."""
        cluster.end(*ended, state=state)
        return [run.state for run in made.look(sweep, runs)]

    RunDirectory(runs[0]).set_status("running", 3)
    RunDirectory(runs[1]).set_status("done")
    (runs[1] / "metrics.json").write_text("{}")
    assert fail("NODE_FAIL", "100_0", "100_1") == ["pending", "done"]
    assert cluster.calls("sbatch")[-1]["options"]["exclude"] == "node9,node1"
    assert fail("PREEMPTED", "101_0") == ["pending", "done"]
    assert fail("PREEMPTED", "102_0") == ["preempted", "done"]  # twice without a step between
    RunDirectory(runs[0]).set_status("preempted", 4)
    assert fail("FAILED", "102_0") == ["pending", "done"]
    assert fail("CANCELLED", "103_0") == ["cancelled", "done"]
    assert len(cluster.calls("sbatch")) == 4


def test_nodes_are_excluded_only_where_others_are_left(sweep: Path, cluster: StandIn) -> None:
    give(sweep)
    cluster.set(only_node="node1")
    cluster.end("100_0", "100_1", state="NODE_FAIL")
    assert [run.state for run in launcher().look(sweep, runs_of(sweep))] == ["pending"] * 2
    assert "exclude" not in cluster.calls("sbatch")[-1]["options"]


def test_a_directory_that_is_removed_meanwhile_costs_a_line(sweep: Path, cluster: StandIn) -> None:
    give(sweep)
    runs = runs_of(sweep)
    shutil.rmtree(runs[0])
    made = launcher()
    assert [run.state for run in made.look(sweep, runs)] == ["unreadable", "pending"]
    made._settle(sweep, runs)
    (line,) = {run.reason for run in read_runs(runs[:1])}
    assert line is not None
    assert "No such file or directory" in line


def test_jobs_that_were_held_are_not_so_when_they_are_submitted_again(sweep: Path, cluster: StandIn) -> None:
    launcher(additional={"hold": True, "nice": 1}).submit_again(sweep, runs_of(sweep))
    assert {"hold", "nice"} & cluster.calls("sbatch")[-1]["options"].keys() == {"nice"}
