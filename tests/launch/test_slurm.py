"""What is asked of SLURM and what is made of its answers, without one; tests/slurm has the real thing."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from hydra_plugins.rlhf_launcher import SlurmLauncher
from rlhf.compose import explain
from rlhf.config.launcher import SlurmConfig
from rlhf.errors import ConfigError
from rlhf.launch import queue
from rlhf.launch.batch import own_environment, srun_arguments
from rlhf.launch.launchers import read_runs
from rlhf.launch.queue import Entry, queue_of
from rlhf.storage.runs import RunState, read_run
from tests.configure import composed
from tests.made_up import made_up

PRESETS = ("slurm", "slurm_cpu", "slurm_1xa100", "slurm_2xa100")


class Program:
    """A squeue that answers as told, and notes how it was called; a scontrol; sbatch and srun, which fail."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.called = folder / "called"
        self.path = folder / "squeue"
        self.answers("", code=1)
        config = "printf 'ClusterName = here\nPrivateData = none\n'"
        for name, text in (("sbatch", "exit 1"), ("srun", "exit 1"), ("scontrol", config)):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    def answers(self, out: str, err: str = "", code: int = 0) -> None:
        lines = ["#!/bin/sh", f'echo "$@" >> {self.called}', f"printf '{out}'", f"printf '{err}' >&2", f"exit {code}"]
        self.path.write_text("\n".join(lines) + "\n")
        self.path.chmod(0o755)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Program(tmp_path / "bin")


def launcher(*overrides: str) -> SlurmLauncher:
    settings = composed(f"hydra/launcher={overrides[0]}", *overrides[1:], with_hydra=True).hydra.launcher
    values = OmegaConf.to_container(settings)
    assert isinstance(values, dict)
    assert values.pop("_target_") == "hydra_plugins.rlhf_launcher.SlurmLauncher"
    return SlurmLauncher(**{str(key): value for key, value in values.items()})


def test_no_setting_can_add_a_line_to_the_batch_script() -> None:
    for settings in ({"partition": "a\ntouch x"}, {"additional": {"mail-user": "me\rtouch x"}}):
        with pytest.raises(ConfigError, match="must be one line of printable characters"):
            SlurmConfig(**settings)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_all_that_there_is_to_set(preset: str) -> None:
    made = launcher(preset)
    made.check()
    assert set(made.settings) == set(SlurmConfig.__dataclass_fields__)
    assert made.slurm.tasks == (made.slurm.gpus_per_node or 1)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        ("slurm", "time=0", r"hydra\.launcher\.time=0"),
        ("slurm", "time=soon", r"hydra\.launcher\.time=soon"),
        ("slurm", "mem_gb=-1", r"hydra\.launcher\.mem_gb=-1\.0"),
        ("slurm", "keep_going=-1", r"hydra\.launcher\.keep_going=-1"),
        ("slurm", "signal_seconds=0", r"hydra\.launcher\.signal_seconds=0"),
        ("slurm", "signal_seconds=3600", r"signal_seconds=3600 .* hydra\.launcher\.time, which is 60 min"),
        ("slurm", "gpu_type=a100", r"hydra\.launcher\.gpu_type=a100"),
        ("slurm", "+additional.array=1-3", r"hydra\.launcher\.additional\.array=1-3"),
        ("slurm", "+additional.gpus_per_node=2", r"hydra\.launcher\.additional\.gpus_per_node=2"),
        ("slurm_2xa100", "tasks_per_node=3", r"tasks_per_node=3 .* gpus_per_node=2"),
    ],
)
def test_impossible_settings_are_refused(preset: str, override: str, message: str) -> None:
    plus = "+" if override.startswith("+") else ""
    with pytest.raises(ConfigError, match=message):
        launcher(preset, f"{plus}hydra.launcher.{override.lstrip('+')}").check()


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch"):
        launcher("slurm").check()


@pytest.mark.usefixtures("program")
def test_a_sweep_whose_logs_slurm_could_not_name_is_refused(tmp_path: Path) -> None:
    made = launcher("slurm")
    made.check()
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir=.*%j"):
        made.submit(tmp_path / "100%j", [])


def test_a_key_that_the_launcher_lacks_is_told_as_such() -> None:
    with pytest.raises(HydraException) as told:
        composed("hydra/launcher=slurm", "hydra.launcher.tim=3")
    assert explain(told.value).startswith("Could not override 'hydra.launcher.tim'")
    assert "choose one of" not in explain(told.value)


def test_a_rank_that_fails_ends_the_others() -> None:
    assert srun_arguments(SlurmConfig()) == ["--kill-on-bad-exit=1"]
    assert srun_arguments(SlurmConfig(cpus_per_task=4)) == ["--kill-on-bad-exit=1", "--cpus-per-task=4"]


def test_a_surrounding_job_is_out_of_sight_while_submitting(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = ("SLURM_ARRAY_JOB_ID", "SLURM_NTASKS", "SUBMITIT_EXECUTOR", "RANK", "LOCAL_WORLD_SIZE")
    for name in (*hidden, "SLURM_CONF", "HF_HOME"):
        monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    with own_environment():
        assert set(before) - set(os.environ) == set(hidden)
    assert dict(os.environ) == before


def run(path: Path, job_id: str, state: str = "pending", **job: object) -> RunState:
    about = {"launcher": "slurm", "job_id": job_id, "log": "x", **job}
    written = state if state != "lost" else "running"
    return replace(read_run(made_up(path, written, 7, job=about, metrics={"win_rate": 50.0})), state=state)


def refined(runs: list[RunState], again: bool = False) -> list[tuple[str, str | None]]:
    return [(run.state, run.reason) for run in SlurmLauncher.refine(runs, again)]


def row(job_id: str, state: str, reason: str = "None", node: str = "node1") -> str:
    return f"{job_id}|{state}|{node}||{reason}|/s.sh\\n"


SILENT = ", and the run has not said how it ended"


@pytest.mark.parametrize(
    ("state", "job", "expected", "recoverable"),
    [
        ("pending", ("PENDING", "Resources"), ("pending", "Resources"), False),
        ("pending", ("PENDING", "None"), ("pending", ""), False),
        ("pending", ("RUNNING",), ("running", "starting"), False),
        ("pending", ("CONFIGURING",), ("running", "starting"), False),
        ("pending", ("COMPLETING",), ("running", "starting"), False),
        ("pending", ("CANCELLED",), ("cancelled", "job 12_1 was cancelled"), False),
        ("pending", ("NODE_FAIL",), ("lost", f"job 12_1 has ended as NODE_FAIL on node1{SILENT}"), True),
        ("pending", ("FAILED",), ("lost", f"job 12_1 has ended as FAILED{SILENT}"), False),  # it can't start at all
        ("pending", None, ("lost", f"job 12_1 is no longer known to SLURM{SILENT}"), False),
        ("pending", ("PREEMPTED",), ("preempted", "job 12_1 was preempted, and not put back"), True),
        ("preempted", ("PENDING", "BeginTime"), ("pending", "BeginTime"), False),  # put back into the queue
        ("preempted", ("CANCELLED",), ("cancelled", "job 12_1 was cancelled"), False),
        ("preempted", ("FAILED",), ("preempted", None), True),  # could not be put back
        ("preempted", None, ("preempted", None), True),
        ("lost", ("PENDING", "BeginTime"), ("pending", "BeginTime"), False),
        ("lost", ("PREEMPTED",), ("preempted", "job 12_1 was preempted, and not put back"), True),
        ("lost", ("FAILED",), ("lost", f"job 12_1 has ended as FAILED on node1{SILENT}"), True),
        ("lost", ("OUT_OF_MEMORY",), ("lost", f"job 12_1 has ended as OUT_OF_MEMORY{SILENT}"), False),
        ("lost", None, ("lost", f"job 12_1 is no longer known to SLURM{SILENT}"), True),
    ],
)
def test_a_run_by_its_job(
    tmp_path: Path,
    program: Program,
    state: str,
    job: tuple[str, ...] | None,
    expected: tuple[str, str | None],
    recoverable: bool,
) -> None:
    program.answers(row("12_0", "RUNNING") + (" " + row("12_1", *job) if job else ""))
    (found,) = SlurmLauncher.refine([run(tmp_path / "a", "12_1", state)])
    assert (found.state, found.reason, found.recoverable) == (*expected, recoverable)


def test_runs_of_a_job_that_has_begun_with_another_are_put_back_with_it(tmp_path: Path, program: Program) -> None:
    program.answers(row("12_1", "FAILED"))
    runs = [
        run(tmp_path / name, "12_1", state, shares=3)
        for name, state in zip("abc", ("done", "lost", "pending"), strict=True)
    ]
    assert [found.recoverable for found in SlurmLauncher.refine(runs)] == [False, True, True]


def test_all_jobs_are_asked_for_in_one_call(tmp_path: Path, program: Program) -> None:
    program.answers(row("12_0", "PENDING", "Resources") + row("34", "RUNNING") + row("56_1", "COMPLETED"))
    local = made_up(tmp_path / "c", "preempted", job={"launcher": "local", "job_id": "56"})
    done = run(tmp_path / "d", "78_0", "done")
    paths = [run(tmp_path / "a", "12_0").path, run(tmp_path / "b", "34").path, local, done.path]
    assert [found.state for found in read_runs(paths)] == ["pending", "running", "preempted", "done"]
    command = "--noheader --array --states=all --format=%i|%T|%N|%k|%r|%o --jobs="
    assert program.called.read_text() == f"{command}12,34\n"
    also = [read_run(path) for path in paths[:2]] + [run(tmp_path / "e", "56_1", "failed")]
    assert [found.state for found in SlurmLauncher.refine(also, again=True)] == ["pending", "running", "failed"]
    assert program.called.read_text() == f"{command}12,34\n{command}12,34,56\n"


@pytest.mark.parametrize("job", [{"user": "somebody"}, {"cluster": "elsewhere"}], ids=str)
def test_what_this_account_or_cluster_can_not_see_is_not_lost(
    tmp_path: Path, program: Program, job: dict[str, str]
) -> None:
    hidden = "printf 'ClusterName = here\nPrivateData = jobs,nodes\n'"
    (program.path.parent / "scontrol").write_text(f"#!/bin/sh\n{hidden}\n")
    program.answers("", "slurm_load_jobs error: Invalid job id specified", 1)
    assert refined([run(tmp_path / "a", "12_0", **job)]) == [("pending", None)]
    assert refined([run(tmp_path / "c", "12_1", "failed", **job)], again=True) == [("failed", None)]
    assert refined([run(tmp_path / "b", "12_0")])[0][0] == "lost"


def test_whose_process_lives_is_not_lost_whatever_the_queue_says(tmp_path: Path, program: Program) -> None:
    program.answers(row("12_0", "NODE_FAIL"))
    before = run(tmp_path / "a", "12_0", "lost")
    (tmp_path / "a" / ".lock").touch()
    assert refined([before]) == [("running", None)]


def test_a_run_that_ended_meanwhile_is_not_lost(tmp_path: Path, program: Program) -> None:
    program.answers(row("12_0", "FAILED"))
    before = run(tmp_path / "a", "12_0")
    made_up(tmp_path / "a", "failed", 9, "why")
    assert refined([before]) == [("failed", "why")]


def test_those_that_may_be_started_once_more(tmp_path: Path, program: Program) -> None:
    program.answers(row("12_0", "PENDING") + row("12_1", "FAILED") + row("12_2", "COMPLETING"))
    runs = [run(tmp_path / str(number), f"12_{number}", "failed") for number in range(4)]
    again = ("pending", "its job may still be in the queue")
    assert refined(runs, again=True) == [again, ("failed", None), again, ("failed", None)]
    assert refined(runs) == [("failed", None)] * 4


def test_where_there_is_nothing_to_ask_squeue_is_not_called(tmp_path: Path, program: Program) -> None:
    program.answers("")
    runs = [run(tmp_path / "b", "12_0", "done"), run(tmp_path / "c", "12_1", "failed")]
    assert SlurmLauncher.refine(runs) == runs
    assert not program.called.exists()


def test_jobs_that_slurm_has_forgotten_are_asked_for_once(tmp_path: Path, program: Program) -> None:
    program.answers("", "slurm_load_jobs error: Invalid job id specified", 1)
    assert queue_of([{"job_id": "12_0"}]) == {"12_0": None}
    program.answers("")
    unknown = 'case "$*" in *jobs=13,14*) exit 0;; esac\necho "Invalid job id specified" >&2\nexit 1\n'
    script = program.path.read_text().replace("exit 0\n", unknown)
    program.path.write_text(script)  # of several squeue passes over what it does not know
    jobs = [{"job_id": job} for job in ("12_0", "13_0", "14_1", "--user=root")]
    assert queue_of(jobs) == {"12_0": None, "13_0": None, "14_1": None}
    asked = program.called.read_text()
    assert queue_of(jobs) == {"12_0": None, "13_0": None, "14_1": None}
    assert program.called.read_text() == asked
    program.answers(row("15_0", "RUNNING"))
    assert queue_of([{"job_id": "15_0"}, {"job_id": "15_1"}, {"job_id": "16"}]) == {
        "15_0": Entry("RUNNING", "node1", "", "", "/s.sh"),
        "15_1": None,
        "16": None,
    }


@pytest.mark.parametrize("how", ["absent", "fails", "hangs", "empty"])
def test_a_silent_squeue_changes_nothing(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    runs = [run(tmp_path / "a", "12_0"), run(tmp_path / "b", "12_1", "lost")]
    if how == "absent":
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    elif how == "fails":
        program.answers("", "Unable to contact slurm controller", 1)
    elif how == "empty":
        program.answers("")
    else:
        program.path.write_text("#!/bin/sh\nexec sleep 60\n")
        monkeypatch.setattr(queue, "TIMEOUT", 0.3)
    assert SlurmLauncher.refine(runs) == runs
    failed = run(tmp_path / "c", "12_2", "failed")
    assert refined([failed], again=True)[0][0] == "pending"  # in doubt it is not submitted a second time
