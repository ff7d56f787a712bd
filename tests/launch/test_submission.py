"""How a sweep becomes job arrays, on a stand-in of SLURM's commands."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config.launcher import minutes
from rlhf.errors import ConfigError
from rlhf.launch import submission
from rlhf.launch.batch import chunks
from rlhf.launch.launchers import read_runs
from rlhf.launch.slurm import SlurmLauncher
from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from tests.launch.stand_in import StandIn
from tests.made_up import made_up


@pytest.fixture(autouse=True)
def _worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of seed 0 have their stages; those of any other seed are a world that is to be built."""

    def by_stages(runs: list[Path], directory: Path) -> tuple[list[Path], dict[str, list[Path]]]:
        others: dict[str, list[Path]] = {}
        for run in runs:
            others.setdefault(run.name.rpartition("=")[2], []).append(run)
        return others.pop("0", []), others

    monkeypatch.setattr(submission, "by_stages", by_stages)


def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: int) -> StandIn:
    made = StandIn(tmp_path / "cluster", **limits)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


def sweep_of(tmp_path: Path, *seeds: int) -> list[Path]:
    return [made_up(tmp_path / "s" / f"lora.r={number},seed={seed}", "pending") for number, seed in enumerate(seeds)]


def launcher(**settings: object) -> SlurmLauncher:
    made = SlurmLauncher(**settings)
    made.check()
    return made


def elements(cluster: StandIn) -> list[tuple[str, int]]:
    return [(call["options"]["job-name"], call["count"]) for call in cluster.calls("sbatch") if "job" in call]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        *(
            (60, 60),
            ("60", 60),
            ("90:00", 90),
            ("4:00:00", 240),
            ("1-12", 2160),
            ("1-00:00:00", 1440),
            ("2-1:30", 2970),
        ),
        *(("0:30", 1), ("soon", None), ("1-", None), ("-5", None), (1.5, None)),
    ],
)
def test_times_as_sbatch_has_them(time: object, expected: int | None) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize(("count", "size", "lengths"), [(5, 3, [2, 3]), (6, 3, [3, 3]), (0, 3, []), (2, 9, [2])])
def test_parts_are_even(count: int, size: int, lengths: list[int]) -> None:
    parts = chunks(range(count), size)
    assert [len(part) for part in parts] == lengths
    assert [item for part in parts for item in part] == list(range(count))


def test_more_runs_than_an_array_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch, max_array_size=3)
    runs = sweep_of(tmp_path, *[0] * 5)
    launcher(array_parallelism=2).submit(tmp_path / "s", runs)
    assert [count for _, count in elements(made)] == [2, 3]
    assert [call["options"]["array"] for call in made.calls("sbatch")] == ["0-1%1", "0-2%1"]
    assert [read_json(run / "job.json")["job_id"] for run in runs] == ["100_0", "100_1", "101_0", "101_1", "101_2"]


def test_runs_beyond_a_limit_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch, max_jobs=3)
    runs = sweep_of(tmp_path, *[0] * 5)
    slurm = launcher()
    slurm.submit_again(tmp_path / "s", runs)
    found = slurm.look(tmp_path / "s", runs)
    assert [run.state for run in found] == ["pending"] * 5
    assert found[0].reason == "Resources"
    assert "not submitted yet: Batch job submission failed: Job violates" in (found[4].reason or "")
    assert sum(count for _, count in elements(made)) == 3
    tries = len(made.calls("sbatch"))
    slurm.look(tmp_path / "s", runs)
    assert len(made.calls("sbatch")) == tries  # none has ended: there can be no room
    for run in runs[:3]:
        RunDirectory(run).set_status("done", 3)
    made.end()
    found = slurm.look(tmp_path / "s", runs)
    assert [run.state for run in found] == ["unreadable"] * 3 + ["pending"] * 2  # done, without figures
    assert [run.reason for run in found[3:]] == ["Resources"] * 2


def test_a_limit_of_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch)
    runs = sweep_of(tmp_path, 0, 0, 0)
    slurm = launcher(max_submit=2)
    slurm.submit_again(tmp_path / "s", runs)
    assert elements(made) == [("s", 2)]
    assert read_runs(runs)[2].reason == "not submitted yet: hydra.launcher.max_submit=2 jobs are in the queue"


def test_runs_wait_for_the_stages_of_their_own_world_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch)
    runs = sweep_of(tmp_path, 0, 1, 2, 1, 0)
    launcher(dependency="afterok:7", time="1-00:00:00").submit_again(tmp_path / "s", runs)
    calls = [call["options"] for call in made.calls("sbatch")]
    assert [(call["job-name"], call["array"]) for call in calls] == [
        ("s:stages", "0-1%2"),
        ("s:seed=0", "0-1%2"),
        ("s:seed=1", "0-1%2"),
        ("s:lora.r=2,seed=2", "0-0%1"),
    ]
    assert [call["dependency"] for call in calls] == [
        "afterok:7",
        "afterok:7",
        "afterok:7,afterany:100_0",
        "afterok:7,afterany:100_1",
    ]
    assert {call["time"] for call in calls} == {"1440"}
    launcher().submit_again(tmp_path / "s", sweep_of(tmp_path, 0, 1, 2, 1, 0, 2)[-1:])
    assert made.calls("sbatch")[-1]["options"]["dependency"] == "afterany:100_1"  # which builds them already

    assert SlurmLauncher.stop(read_runs(runs[:3])) == {}
    (call,) = made.calls("scancel")
    assert call["arguments"] == ["101_0", "102_0", "103_0"]  # others need the stages
    left = [*runs[3:], tmp_path / "s" / "lora.r=5,seed=2"]
    for run in runs[:3]:
        RunDirectory(run).set_status("cancelled")
    assert SlurmLauncher.stop(read_runs(left)) == {}
    assert {"100_0", "100_1"} <= set(made.calls("scancel")[-1]["arguments"])


def test_where_nothing_is_submitted_no_stages_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"sbatch did not take 1 x rlhf\.resume: [^$]*bad account"):
        launcher(account="refused").submit_again(tmp_path / "s", sweep_of(tmp_path, 1))
    assert set(made.state["jobs"].values()) == {"CANCELLED"}


def test_several_runs_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(tmp_path, monkeypatch)
    runs = sweep_of(tmp_path, *[0] * 5)
    launcher(runs_per_job=3).submit_again(tmp_path / "s", runs)
    assert elements(made) == [("s", 2)]
    assert [read_json(run / "job.json")["job_id"] for run in runs] == ["100_0"] * 2 + ["100_1"] * 3
    made.end("100_0", state="RUNNING")
    made.end("100_1", state="FAILED")
    found = read_runs(runs)
    assert [run.state for run in found] == ["pending"] * 2 + ["lost"] * 3
    assert found[0].reason == "its turn in job 100_0 is to come"
    assert SlurmLauncher.stop([replace(found[0], state="running")]) == {
        runs[0]: "job 100_0 does other runs too; cancel these as well"
    }
    assert made.calls("scancel") == []


def test_python_may_be_that_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in of apptainer has what the batch script gives it, and does the element with what comes after it."""
    made = cluster(tmp_path, monkeypatch)
    container = made.bin / "apptainer"
    container.write_text(f'#!/bin/sh\nshift 4\nexec {sys.executable} "$@"\n')
    container.chmod(0o755)
    (run,) = runs = sweep_of(tmp_path, 0)
    launcher(python="apptainer exec --nv rlhf.sif python").submit(run.parent, runs)
    script, *_ = (run.parent / "slurm").glob("*.sh")
    (line,) = (line for line in script.read_text().splitlines() if line.startswith("srun "))
    (run / "config.yaml").unlink(missing_ok=True)
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0"}
    inside = ["sh", "-c", line[line.index("apptainer ") :]]
    done = subprocess.run(inside, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, f"{run} holds no run that can be started" in done.stderr) == (1, True), done.stderr
