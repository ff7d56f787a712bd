"""The lease of a run: who has it, who lives, and that a process which has lost it writes no more."""

import os
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import SoftFileLease, Timeout

from rlhf.config.run import Config
from rlhf.errors import ConfigError, Preempted, TakenOverError
from rlhf.storage import lease
from rlhf.storage.rundir import RunDirectory

HOLD = """
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: "elsewhere"
from rlhf.storage import lease
lease.LEASE_SECONDS = float(sys.argv[2])
held = lease.take_lease(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that has the directory, and says that it is on another machine."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_one_that_lives_on_another_machine_is_told_by_its_refreshing(
    directory: RunDirectory, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.prepare(config)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 6.0)  # refreshed every 2 seconds
    holder, start = hold(directory.path, 6.0), time.monotonic()
    with pytest.raises(ConfigError, match="another process is running there"):
        directory.open(config)
    assert time.monotonic() - start < 5
    holder.kill()
    holder.wait()


def test_one_that_died_on_another_machine_is_taken_over_after_its_lease(
    directory: RunDirectory, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.prepare(config)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    holder = hold(directory.path, 2.0)
    holder.kill()
    holder.wait()
    start = time.monotonic()
    assert directory.open(config) is False
    assert time.monotonic() - start > 1.5


SLURM = {"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "c"}


def test_a_later_start_of_its_job_takes_a_run_over_from_a_process_that_lives_on(
    directory: RunDirectory, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    directory.open(config)
    beside, main = RunDirectory(directory.path, writes=False), RunDirectory(directory.path)
    for rank in (beside, main):
        rank.share(directory.token())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    later = RunDirectory(directory.path)
    assert later.open(config) is False
    later.set_status("running", 3)
    with pytest.raises(TakenOverError, match="was taken over"), directory.outcome_recorded():
        directory.append_history({"step": 4})
    for error, old in ((Preempted("SIGTERM"), main), (ValueError("a rank is gone"), beside)):
        with pytest.raises(TakenOverError), old.outcome_recorded():
            raise error
    assert (later.state, later.status["step"], later.history.exists()) == ("running", 3, False)
    with later.outcome_recorded():  # the lease is still its own
        later.append_history({"step": 4})
    assert not (directory.path / ".holder").exists()


@pytest.mark.parametrize(
    "of", [{"SLURM_JOB_ID": "13"}, {"SLURM_CLUSTER_NAME": "d"}, {"SLURM_RESTART_COUNT": "0"}], ids=str
)
def test_another_job_or_an_earlier_start_takes_nothing_over(
    directory: RunDirectory, config: Config, monkeypatch: pytest.MonkeyPatch, of: dict[str, str]
) -> None:
    for name, value in (SLURM | {"SLURM_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(name, value)
    directory.open(config)
    for name, value in ({"SLURM_RESTART_COUNT": "2"} | of).items():
        monkeypatch.setenv(name, value)
    ticks = count()
    monkeypatch.setattr(lease, "refreshed", lambda run: float(next(ticks)))  # as it is after some seconds
    with pytest.raises(ConfigError, match="another process is running there"):
        RunDirectory(directory.path).open(config)
    directory.check_held()


def test_a_directory_that_was_removed_is_not_made_again(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    shutil.rmtree(directory.path)
    with pytest.raises(TakenOverError, match="was removed"), directory.outcome_recorded():
        directory.append_history({"step": 1})
    assert not directory.path.exists()


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_life_is_told_by_change_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """The file's times are those of a machine whose clock is ten minutes off."""
    (tmp_path / ".lock").touch()
    here = SimpleNamespace(now=1000.0, monotonic=lambda: here.now, time=time.time)
    monkeypatch.setattr(lease, "time", here)

    def look(seconds: float, refresh: bool) -> bool:
        here.now += seconds
        if refresh:
            mark = time.time() + skew + here.now
            os.utime(tmp_path / ".lock", (mark, mark))
        return lease.is_leased(tmp_path)

    assert look(0, refresh=True) is False  # nobody can tell yet; nothing is decided by a first look
    assert [look(10, refresh=True), look(25, refresh=False), look(10, refresh=False)] == [True, True, False]
    assert look(100, refresh=True) is True


def test_only_leases_of_the_dead_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    runs = [tmp_path / name for name in ("dead", "alive", "never", "removed")]
    for run in runs[:3]:
        run.mkdir()
    holders = [hold(run, 1.0) for run in runs[:2]]
    holders[0].kill()
    holders[0].wait()
    free = lease.free_leases(runs)
    assert sorted(run.name for run in free) == ["dead", "never"]
    for held in free.values():
        held.release()
    holders[1].kill()
    holders[1].wait()


def test_the_lease_of_another_account_is_respected_and_outlived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: float) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".lock").write_text("of somebody's who is dead")
    file = SoftFileLease(tmp_path / ".lock", lease_duration=30.0)
    monkeypatch.setattr(file, "acquire", refuse)
    for watched, left in ((10.0, True), (31.0, False)):
        with pytest.raises(Timeout):
            lease._acquire(file, 0.0, watched)
        assert (tmp_path / ".lock").exists() is left
