"""What a run of a sweep costs by each way of starting it: single commands, one process, `hydra/launcher=local`."""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import finish, fresh, run_in
from benchmarks.start import TINY
from benchmarks.table import ratios, show, spread

FORMS = ("none", "kl", "js", "bregman")
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2): processes whose parents have ended become this process's children."""


def measure(options: Options) -> dict[str, Any]:
    """CPU seconds a run of the same sweep by each way in turn, `rounds` times, with the stages in the cache."""
    settings, folder = ["data.seed=0", *(options.overrides or TINY)], options.folder
    finish(run_in(fresh(folder / "first"), settings))  # builds the stages, which the others find in the cache
    runs = [[f"regularizer={form}", f"seed={seed}"] for form, seed in product(FORMS, range(options.seeds))]
    sweep = [f"regularizer={','.join(FORMS)}", f"seed={','.join(map(str, range(options.seeds)))}"]
    start = [sys.executable, "-m", "rlhf.run", "-m", *settings, *sweep]
    found: dict[str, list[float]] = {"single commands": [], "one process": [], "workers": []}
    for _ in range(options.rounds):
        single = [run_in(fresh(folder / "one" / str(number)), [*settings, *run]) for number, run in enumerate(runs)]
        one = [*start, f"hydra.sweep.dir={fresh(folder / 'basic')}"]
        workers = [*start, f"hydra.sweep.dir={fresh(folder / 'local')}", "hydra/launcher=local"]
        for name, commands in zip(found, (single, [one], [workers]), strict=True):
            found[name].append(sum(map(cpu_seconds, commands)) / len(runs))
    shares = {name: ratios(seconds, found["single commands"]) for name, seconds in found.items()}
    rows = [[name, spread(seconds), spread(shares[name])] for name, seconds in found.items()]
    show(f"{len(runs)} runs, stages in the cache; medians (least to most)", ("", "CPU s a run", "/ single"), rows)
    return {"cpu_seconds_per_run": found, "ratios": shares}


def cpu_seconds(command: list[str], folder: Path | None = None) -> float:
    """CPU seconds of a command, run in a folder, and of all that it has started, which may outlive it."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finish(command, folder)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
