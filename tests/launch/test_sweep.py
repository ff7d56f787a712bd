"""What a sweep's launcher does before and after a subclass has taken the runs."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from rich.console import Console

from rlhf.errors import ConfigError, DataError
from rlhf.launch import launchers, slurm
from rlhf.launch.job import write_job
from rlhf.launch.launchers import restored
from rlhf.launch.sweep import SweepError, SweepLauncher
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import RunState, lost
from tests.configure import CONF

SWEEP = Path("outputs/sweeps/multirun")


class Recording(SweepLauncher):
    """Takes runs, and ends each as `ends` says of the seed in its name; none is left in a queue."""

    name = "recording"
    poll_seconds = 0.01
    ends: dict[str, str] = {}  # noqa: RUF012 (set by each test)
    lives, queued = True, False

    def check(self) -> None:
        self.taken: list[list[str]] = []

    def processes(self) -> int:
        return 1

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        self.taken.append([run.name for run in runs])
        for run in runs:
            write_job(run, self.name, f"{run.name}.log", job_id="7")
            run.with_name(f"{run.name}.log").touch()
            write_json(run / "metrics.json", {"win_rate": 50.0})
            if end := self.ends.get(run.name.rpartition("=")[2]):
                RunDirectory(run).set_status(end, 3, "as told")

    @staticmethod
    def refine(runs: Sequence[RunState], again: bool = False) -> list[RunState]:
        if again and Recording.queued:
            return [replace(run, state="pending") if run.state == "cancelled" else run for run in runs]
        left = ("pending", "running", "preempted", "lost")
        wait = [replace(run, state="pending") if run.state in left else run for run in runs]
        return wait if Recording.lives else [lost(run, "gone") if run.state == "pending" else run for run in wait]

    @staticmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recording, "lives", True)
    monkeypatch.setitem(launchers.LAUNCHERS, "recording", Recording)
    SWEEP.mkdir(parents=True)  # as Hydra's sweeper has done by then


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def launch(launcher: SweepLauncher, *jobs: Sequence[str]) -> Sequence[JobReturn]:
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration("config", ["hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=loader, callbacks=None)  # pyright: ignore[reportArgumentType]
    launcher.setup(hydra_context=context, task_function=lambda _: None, config=config)
    return launcher.launch([list(job) for job in jobs], initial_job_idx=0)


def seeds(*numbers: int) -> list[list[str]]:
    return [["experiment=smoke", f"seed={number}"] for number in numbers]


def state(path: Path) -> str | None:
    return RunDirectory(path).state


def run(seed: int) -> Path:
    return SWEEP.absolute() / f"experiment=smoke,seed={seed}"


def test_runs_are_made_ready_submitted_together_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    launcher = Recording(wait=False, colour="red")
    returns = launch(launcher, *seeds(1, 2))
    assert launcher.taken == [["experiment=smoke,seed=1", "experiment=smoke,seed=2"]]
    assert [state(run(seed)) for seed in (1, 2)] == ["pending", "pending"]
    assert RunDirectory(run(2)).config().seed == 2
    assert [one.status for one in returns] == [JobStatus.COMPLETED] * 2
    assert [one.return_value for one in returns] == [None, None]
    assert returns[1].overrides == ["experiment=smoke", "seed=2"]
    path = SWEEP.absolute()
    told = f"follow: python -m rlhf.status {path}\n  cancel: python -m rlhf.status --cancel {path}"
    assert caplog.messages[-1].endswith(told)
    assert read_json(SWEEP / "launcher.json") == {
        "launcher": "recording",
        "settings": {"colour": "red"},
        "directory": str(Path.cwd()),
    }


def test_an_ended_run_returns_its_objective_and_a_failed_one_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "ends", {"1": "done", "2": "failed", "3": "pruned"})
    jobs = [[*job, "objective=win_rate"] for job in seeds(1, 2, 3)]
    for _ in range(2):  # those that have ended are not run again, and return the same
        done, failed, pruned = launch(Recording(), *jobs)
        assert (done.status, done.return_value) == (JobStatus.COMPLETED, 50.0)
        assert failed.status == JobStatus.FAILED
        with pytest.raises(SweepError, match=r"1 of 3 runs in .* did not get done:\n.*: failed, as told"):
            _ = failed.return_value
        assert pruned.status == JobStatus.FAILED
        with pytest.raises(DataError, match="objective=win_rate is not known"):  # it has written no history
            _ = pruned.return_value


def test_one_bad_run_among_many_leaves_nothing_behind() -> None:
    launcher = Recording(wait=False)
    with pytest.raises(ConfigError, match=r"lora\.r=-1 is not allowed"):
        launch(launcher, *seeds(1), ["experiment=smoke", "lora.r=-1"])
    assert launcher.taken == []
    assert list(SWEEP.iterdir()) == []


def test_what_is_done_or_on_its_way_is_not_submitted() -> None:
    first = Recording(wait=False)
    first.ends = {"1": "done", "2": "failed", "3": "cancelled", "5": "preempted", "6": "running"}
    launch(first, *seeds(1, 2, 3, 4, 5, 6))
    again = Recording(wait=False)
    launch(again, *seeds(1, 2, 3, 4, 5, 6, 7))
    assert again.taken == [[f"experiment=smoke,seed={seed}" for seed in (2, 3, 7)]]
    Recording.lives = False
    gone = Recording(wait=False)
    launch(gone, *seeds(4, 5, 6))
    assert gone.taken == [[f"experiment=smoke,seed={seed}" for seed in (4, 5, 6)]]


def test_where_a_process_runs_nothing_is_submitted() -> None:
    first = Recording(wait=False)
    first.ends = {"1": "failed"}
    launch(first, *seeds(1))
    (run(1) / ".lock").touch()
    launch(again := Recording(wait=False), *seeds(1))
    assert again.taken == []
    (run(1) / ".lock").unlink()
    launch(later := Recording(wait=False), *seeds(1))
    assert later.taken == [["experiment=smoke,seed=1"]]


def test_what_is_still_in_a_queue_is_not_submitted_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Recording(wait=False)
    first.ends = {"1": "cancelled"}
    launch(first, *seeds(1))
    monkeypatch.setattr(Recording, "queued", True)
    launch(again := Recording(wait=False), *seeds(1))
    assert again.taken == []


def test_waiting_ends_with_the_names_and_logs_of_what_failed() -> None:
    launcher = Recording()
    launcher.ends = {"1": "done", "2": "failed", "3": "cancelled"}
    returns = launch(launcher, *seeds(1, 2, 3))
    assert [one.status for one in returns] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.FAILED]
    with pytest.raises(SweepError) as told:
        _ = returns[2].return_value
    assert str(told.value).splitlines() == [
        f"2 of 3 runs in {SWEEP.absolute()} did not get done:",
        f"  experiment=smoke,seed=2: failed, as told; log: {run(2)}.log",
        f"  experiment=smoke,seed=3: cancelled, as told; log: {run(3)}.log",
    ]


def test_runs_that_nothing_goes_on_with_end_the_waiting() -> None:
    Recording.lives = False
    (returned,) = launch(Recording(), *seeds(1))
    assert returned.status == JobStatus.FAILED
    assert (state(run(1)), RunDirectory(run(1)).status["reason"]) == ("failed", "gone")


def test_runs_that_could_not_be_submitted_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Recording, sweep: Path, runs: list[Path]) -> None:
        raise ConfigError("no such partition")

    monkeypatch.setattr(Recording, "submit", refuse)
    with pytest.raises(ConfigError, match="no such partition"):
        launch(Recording(wait=False), *seeds(1))
    assert RunDirectory(run(1)).status["reason"] == "could not be submitted: no such partition"


def test_a_sweep_is_submitted_again_by_the_launcher_that_had_it() -> None:
    first = Recording(wait=False, colour="red")
    first.ends = {"1": "failed", "2": "done"}
    launch(first, *seeds(1, 2))
    again = restored(SWEEP.absolute())
    assert isinstance(again, Recording)
    assert (again.settings, again.directory) == ({"colour": "red"}, Path.cwd())
    assert again.submit_again(SWEEP.absolute(), [run(1), run(2)]) == [run(1)]
    assert state(run(1)) == "pending"


def test_a_sweep_that_no_launcher_had_can_not_be_submitted_again() -> None:
    with pytest.raises(ConfigError, match="no launcher has submitted this sweep"):
        restored(SWEEP)


LOCAL = {"launcher": "local", "settings": {"parallel": 1, "gpus_per_run": 1, "threads": 1}, "directory": "."}


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        ({"launcher": "tests.launch.test_sweep.Recording"}, "launcher='tests.launch.test_sweep.Recording' is not one"),
        ({"launcher": "os.system"}, "launcher='os.system' is not one of local, slurm, recording"),
        ({"launcher": ["local"]}, "can't be read"),
        ({"launcher": None}, "launcher=None is not one"),
        ({"settings": {"wait": True}}, "launcher='local' is not one"),
        ({"settings": 3}, "can't be read"),
        ({"directory": None}, "can't be read"),
        ({"directory": "/somewhere/else"}, "this sweep was started in /somewhere/else: go there first"),
    ],
)
def test_a_launcher_file_names_no_code(saved: dict[str, object], reason: str) -> None:
    """Neither by a class nor by a folder that Python would look for modules in."""
    SWEEP.mkdir(parents=True, exist_ok=True)
    write_json(SWEEP / "launcher.json", LOCAL | saved)
    with pytest.raises(ConfigError, match=re.escape(reason)):
        restored(SWEEP)


@pytest.mark.parametrize("commands", [{"setup": ["touch x"]}, {"python": "/tmp/x"}, {"additional": {"wrap": "x"}}])
@pytest.mark.parametrize("answer", [None, "no", "y"])
def test_commands_in_a_launcher_file_are_run_when_they_have_been_seen(
    commands: dict[str, object], answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    SWEEP.mkdir(parents=True, exist_ok=True)
    write_json(SWEEP / "launcher.json", LOCAL | {"launcher": "slurm", "settings": commands})
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr(slurm, "console", Console(force_terminal=answer is not None, file=io.StringIO()))
    monkeypatch.setattr("builtins.input", lambda asked: answer)
    if answer == "y":
        assert restored(SWEEP).settings == commands
    else:
        with pytest.raises(ConfigError, match="which are not run unseen" if answer is None else "not agreed to"):
            restored(SWEEP)


def test_runs_that_their_ranks_can_not_share_are_refused_before_any_is_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recording, "processes", lambda launcher: 3)
    with pytest.raises(ConfigError, match=r"ppo.step_batch_size=4 is not allowed: 3 processes must divide it"):
        launch(Recording(), *seeds(0))
    with pytest.raises(ConfigError, match=r"distributed.processes=2 is not allowed: 3 are to be started"):
        launch(Recording(), [*seeds(0)[0], "distributed.processes=2"])
    assert not run(0).exists()


def test_wait_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.wait=maybe is not allowed"):
        launch(Recording(wait="maybe"), *seeds(1))  # pyright: ignore[reportArgumentType]
