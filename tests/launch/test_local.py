"""`hydra/launcher=local`, as a user meets it: real runs in miniature, several at a time."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from rlhf.infra.files import read_json
from rlhf.infra.processes import find
from rlhf.infra.runs import read_run
from rlhf.launch.sweep import restored
from tests.configure import composed
from tests.launch.processes import until
from tests.made_up import made_up
from tests.terminal import CTRL_C, Terminal
from tests.test_cli import Done, command, error

LOCAL = ("-m", "hydra/launcher=local", "experiment=smoke", "device=cpu")
SWEEP = Path("outputs/sweeps/multirun")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A sweep of which one run fails: no accuracy is above 1."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return folder, command(*LOCAL, "regularizer=none,js", "reward.weight_decay=0", cwd=folder)


def test_the_settings_are_those_of_the_file() -> None:
    launcher = composed("hydra/launcher=local", with_hydra=True).hydra.launcher
    assert launcher == {
        "_target_": "hydra_plugins.rlhf_launcher.LocalLauncher",
        "wait": True,
        "parallel": None,
        "gpus_per_run": 1,
        "threads": 1,
    }


@pytest.mark.parametrize("setting", ["parallel=0", "threads=none", "gpus_per_run=-1"])
def test_a_setting_that_cannot_be_used_is_told_before_any_work(tmp_path: Path, setting: str) -> None:
    done = command(*LOCAL, f"hydra.launcher.{setting}", "seed=0,1", cwd=tmp_path)
    assert error(done).startswith(f"hydra.launcher.{setting} is not allowed: must be a whole number above 0")
    assert not list(tmp_path.rglob("config.yaml"))


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    done = command(*LOCAL, "hydra.launcher.gpus_per_run=4", "seed=0,1", cwd=tmp_path)
    assert error(done).startswith("hydra.launcher.gpus_per_run=4 is not allowed: only 2 GPUs are visible here")
