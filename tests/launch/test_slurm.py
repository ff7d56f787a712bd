"""What is asked of SLURM and what is made of its answers, without one; tests/slurm has the real thing."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.rlhf_launcher import SlurmLauncher
from rlhf.config.launcher import SlurmConfig
from rlhf.errors import ConfigError
from rlhf.launch import slurm
from rlhf.launch.slurm import ending, own_environment, srun_arguments
from rlhf.launch.sweep import write_job
from tests.configure import composed

PRESETS = ("slurm", "slurm_cpu", "slurm_1xa100", "slurm_2xa100")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's commands, which fail if they are called."""
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def launcher(*overrides: str) -> SlurmLauncher:
    settings = composed(f"hydra/launcher={overrides[0]}", *overrides[1:], with_hydra=True).hydra.launcher
    values = OmegaConf.to_container(settings)
    assert isinstance(values, dict)
    assert values.pop("_target_") == "hydra_plugins.rlhf_launcher.SlurmLauncher"
    return SlurmLauncher(**{str(key): value for key, value in values.items()})


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_all_that_there_is_to_set(preset: str) -> None:
    made = launcher(preset)
    made.check()
    assert set(made.settings) == set(SlurmConfig.__dataclass_fields__)
    assert made.slurm.tasks == (made.slurm.gpus_per_node or 1)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("time=0", "hydra.launcher.time=0 is not allowed: must be greater than 0"),
        ("time=soon", "hydra.launcher.time: Value 'soon' of type 'str' could not be converted to Integer"),
        ("mem_gb=-1", "hydra.launcher.mem_gb=-1.0 is not allowed"),
        ("signal_seconds=0", "hydra.launcher.signal_seconds=0 is not allowed: must lie between 1 and 65535"),
        ("signal_seconds=3600", "must be less than hydra.launcher.time, which is 60 min"),
        ("gpu_type=a100", "hydra.launcher.gpu_type=a100 is not allowed: how many of them"),
        ("+additional.array=1-3", "hydra.launcher.additional.array=1-3 is not allowed: the launcher sets it"),
        ("+additional.gpus_per_node=2", "hydra.launcher.additional.gpus_per_node=2 is not allowed"),
    ],
)
def test_impossible_settings_are_refused(override: str, message: str) -> None:
    plus = "+" if override.startswith("+") else ""
    with pytest.raises(ConfigError) as told:
        launcher("slurm", f"{plus}hydra.launcher.{override.lstrip('+')}").check()
    assert message in str(told.value)


@pytest.mark.usefixtures("programs")
def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks_per_node=3 is not allowed: .* at most gpus_per_node=2"):
        launcher("slurm_2xa100", "hydra.launcher.tasks_per_node=3").check()


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch, which is not on this machine's PATH"):
        launcher("slurm").check()


@pytest.mark.usefixtures("programs")
def test_a_sweep_whose_logs_slurm_could_not_name_is_refused(tmp_path: Path) -> None:
    made = launcher("slurm")
    made.check()
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir=.*%j is not allowed"):
        made.submit(tmp_path / "100%j", [])


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


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("PENDING", None),
        ("RUNNING", None),
        ("COMPLETING", None),
        ("CANCELLED", ("cancelled", "job 5_1 was cancelled")),
        ("NODE_FAIL", ("failed", "job 5_1 has ended as NODE_FAIL, and the run has not said how it ended")),
        (None, ("failed", "job 5_1 is no longer known to SLURM, and the run has not said how it ended")),
    ],
)
def test_the_end_of_a_run_that_can_not_tell_it(
    found: str | None, expected: tuple[str, str] | None, tmp_path: Path
) -> None:
    write_job(tmp_path, "slurm", "5_1", "slurm/5_1_0_log.out")
    assert ending(tmp_path, {"5_0": "RUNNING"} | ({"5_1": found} if found else {})) == expected


def test_without_a_job_a_run_lives_as_long_as_its_process(tmp_path: Path) -> None:
    assert ending(tmp_path, {}) == ("failed", "no job has it, and no process runs there")
    (tmp_path / ".lock").touch()
    assert ending(tmp_path, {}) is None


@pytest.mark.usefixtures("programs")
def test_while_slurm_is_silent_nothing_is_taken_for_lost(tmp_path: Path) -> None:
    write_job(tmp_path, "slurm", "5_1", "slurm/5_1_0_log.out")
    assert slurm.job_states() is None
    assert launcher("slurm").lost([tmp_path]) == {}
    assert launcher("slurm").queued([tmp_path]) == set()
