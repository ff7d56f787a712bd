"""How much memory a run would take on one device, by arithmetic alone; and what it does take, by running it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.options import WORK, Options, configure
from benchmarks.table import figure, show
from rlhf.errors import UserError
from rlhf.models.memory import GIB
from rlhf.stages.preflight import memory_estimate
from rlhf.storage.files import read_json


def measure(options: Options) -> dict[str, Any]:
    """GiB of each stage that needs much, by what takes them, the program left out; with `measured` a run's too."""
    found = memory_estimate(configure(options.overrides), options.processes)
    stages = {
        name: {part: value / GIB for part, value in parts.items() if value} for name, parts in found.stages.items()
    }
    for name, parts in stages.items():
        rows = [[part, figure(value)] for part, value in parts.items()]
        show(f"an estimate, {name}:", ["", "GiB"], [*rows, ["in all", figure(sum(parts.values()))]])
    return {"gib": stages} | ({"run": carried_out(options.overrides)} if options.measured else {})


def carried_out(overrides: list[str]) -> dict[str, Any]:
    """MiB of a run in a process of its own, program included, by the estimate and at its peak; with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        place = (f"hydra.run.dir={folder}/run", f"cache_dir={folder}/cache", "tracker=none")
        if subprocess.run([sys.executable, "-m", "rlhf.run", WORK, *overrides, *place], check=False).returncode:
            raise UserError("the run has failed: its memory can't be measured")
        memory = read_json(Path(folder) / "run" / "metrics.json")["memory"]
    memory["ratio"] = memory["estimate_mib"] / memory["peak_mib"]
    rows = [[name, figure(memory[f"{name}_mib"])] for name in ("estimate", "peak")]
    show("a run, the program included:", ["", "MiB"], [*rows, ["estimate / peak", figure(memory["ratio"])]])
    return memory
