"""Room for a sweep's runs on this machine: sets of GPUs, or cores. Imports no torch."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from rlhf.validate import check

OF_ANOTHER_JOB = re.compile(r"SLURM_.*|(LOCAL_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)")
"""Variables of a job that this sweep may itself be part of, and that would be taken for a run's own."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """Room for one run; `devices` as CUDA_VISIBLE_DEVICES has them, None where there is no GPU."""

    slot: int
    devices: str | None


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or else the numbers of all that `nvidia-smi -L` lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for part in named.split(",") if (name := part.strip()) not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listed.stdout, flags=re.MULTILINE)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slots(settings: Settings, gpus: list[str], cores: int) -> list[Slot]:
    """Room for as many runs as `parallel` says, on sets of GPUs in turn; by default one per set, or all cores.

    Raises ConfigError where a key's value can't be used on this machine.
    """
    for key in ("parallel", "gpus_per_run", "threads"):
        value = settings.get(key)
        ok = (value is None and key == "parallel") or (type(value) is int and value > 0)
        check(ok, f"hydra.launcher.{key}", value, "must be a whole number above 0")
    parallel, size, threads = settings["parallel"], settings["gpus_per_run"], settings["threads"]
    if not gpus:
        return [Slot(number, None) for number in range(parallel or max(1, cores // (size * threads)))]
    check(size <= len(gpus), "hydra.launcher.gpus_per_run", size, f"only {len(gpus)} GPUs are visible here")
    sets = [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]
    return [Slot(number, devices) for number, devices in enumerate(islice(cycle(sets), parallel or len(sets)))]


def environment(slot: Slot, threads: int) -> dict[str, str]:
    """The environment of runs in a slot: its GPUs and threads, nothing that belongs to a surrounding job."""
    kept = {key: value for key, value in os.environ.items() if not OF_ANOTHER_JOB.fullmatch(key)}
    devices = {} if slot.devices is None else {"CUDA_VISIBLE_DEVICES": slot.devices}
    return kept | devices | {"OMP_NUM_THREADS": str(threads)}
