"""Room for runs on this machine, and the environment of those that have it."""

import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.launch.slots import Slot, environment, slots, visible_gpus

SETTINGS = {"parallel": None, "gpus_per_run": 1, "threads": 1}


@pytest.mark.parametrize(
    ("settings", "gpus", "devices"),
    [
        ({}, "0123", ["0", "1", "2", "3"]),
        ({"gpus_per_run": 2}, "0123", ["0,1", "2,3"]),
        ({"gpus_per_run": 2}, "01234", ["0,1", "2,3"]),  # one that makes no set stays idle
        ({"parallel": 1}, "01", ["0"]),
        ({"parallel": 3}, "01", ["0", "1", "0"]),  # runs may share a GPU
        ({}, "", [None] * 8),  # as many as cores allow
        ({"threads": 3}, "", [None] * 2),
        ({"threads": 2, "gpus_per_run": 2}, "", [None] * 2),
        ({"threads": 64}, "", [None]),
        ({"parallel": 3, "threads": 64}, "", [None] * 3),
    ],
)
def test_one_run_per_set_of_gpus_or_cores(settings: dict[str, Any], gpus: str, devices: list[str | None]) -> None:
    assert slots(SETTINGS | settings, list(gpus), 8) == [Slot(number, name) for number, name in enumerate(devices)]


@pytest.mark.parametrize(
    "setting", [{"parallel": 0}, {"threads": None}, {"threads": "many"}, {"gpus_per_run": 1.5}, {"gpus_per_run": 3}]
)
def test_settings_that_cannot_be_used(setting: dict[str, Any]) -> None:
    ((key, value),) = setting.items()
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{key}={value}"):
        slots(SETTINGS | setting, ["0", "1"], 8)


@pytest.mark.parametrize(
    ("named", "gpus"), [("2,3", ["2", "3"]), ("GPU-8f, 1", ["GPU-8f", "1"]), ("", []), ("-1", []), ("1,-1", ["1"])]
)
def test_gpus_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, named: str, gpus: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_gpus_that_nvidia_smi_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    listed = "GPU 0: H100 (UUID: GPU-1)\\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\\nGPU 1: H100 (UUID: GPU-3)"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && printf '{listed}\\n'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert visible_gpus() == []


def test_a_surrounding_job_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {"SLURM_JOB_ID": "7", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1"}
    for name, value in (outer | {"HF_HOME": "/data", "MY_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    found = environment(Slot(1, "2,3"), threads=5)
    assert not outer.keys() & found.keys()
    kept = {"HF_HOME": "/data", "MY_RANK": "1", "CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "5"}
    assert kept.items() <= found.items()
