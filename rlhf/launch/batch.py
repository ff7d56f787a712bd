"""Job arrays: how a sweep's runs are put into them, and what one element does. submitit writes and submits them.

Imports no torch, and submitit only to submit: sweeps are started on login nodes, and elements start often.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlhf.config.launcher import SlurmConfig
from rlhf.errors import ConfigError
from rlhf.launch.intent import FOLDER, Jobs, confirm, intend, resolve

FULL = re.compile("submit limit|MaxJobCount|Resource temporarily unavailable|temporarily unable to accept job")
"""What sbatch says where the queue takes no more jobs for now, of this user or of anybody."""

TOO_LARGE = "Invalid job array specification"


class ArrayTooLargeError(ConfigError):
    """The cluster takes no array of so many elements."""


class QueueFullError(ConfigError):
    """The queue takes no more jobs for now; `said` is sbatch's word on it."""

    said = ""


@dataclass(frozen=True)
class Array:
    """A job array: `elements` are the runs of each, `module` is what does one; `after` is a dependency of sbatch's.

    `about` is what its sheet holds beside that; see intent.py.
    """

    name: str
    module: str
    elements: list[list[Path]]
    processes: int | None = None
    after: str | None = None
    at_once: int = 256
    """So many elements at a time."""
    about: dict[str, Any] = field(default_factory=dict)

    def part(self, elements: list[list[Path]], at_once: int) -> "Array":
        return replace(self, elements=elements, at_once=at_once)


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """In order, as evenly as can be, each of at most `size`."""
    parts = -(-len(items) // size)
    bounds = [len(items) * part // parts for part in range(parts + 1)] if parts else [0]
    return [list(items[first:last]) for first, last in pairwise(bounds)]


def submit(array: Array, sweep: Path, directory: Path, slurm: SlurmConfig) -> Jobs:
    """Submit it; returns the runs' jobs. Raises QueueFullError, or ConfigError with what sbatch said."""
    executor = _executor(array, sweep, directory, slurm)
    sheet = intend(sweep, array.module, array.elements, per_gpu=slurm.runs_per_gpu, **array.about)
    executor.parameters["comment"] = sheet.stem
    try:
        job = executor._submit_command(f"{executor.python} -u -m rlhf.launch.element {shlex.quote(str(sheet))}")
    except BaseException as error:  # submitit has an error of its own for what sbatch answers, among others
        taken = resolve(sheet, error)
        if not isinstance(error, Exception):
            raise
        if taken:
            return taken
        unsure = "" if taken is not None else "; whether it was taken is not known: give the command again"
        raise refusal(array, f"{error}{unsure}") from error
    return confirm(sheet, job.job_id)


def refusal(array: Array, said: str) -> ConfigError:
    """What to raise for what sbatch has said."""
    text = f"sbatch did not take {len(array.elements)} x {array.module}: {said}"
    if FULL.search(said):
        full = QueueFullError(text)
        full.said = said.strip().splitlines()[-1].removeprefix("sbatch: error: ")
        return full
    return ArrayTooLargeError(text) if TOO_LARGE in said else ConfigError(text)


def _executor(array: Array, folder: Path, directory: Path, slurm: SlurmConfig) -> Any:
    from submitit import SlurmExecutor

    alone = array.processes == 1
    gpus = 1 if alone and slurm.gpus_per_node else slurm.gpus_per_node
    kind = {"gpus_per_node": f"{slurm.gpu_type}:{gpus}"} if slurm.gpu_type else {}
    wanted = {
        "job_name": array.name,
        "time": slurm.minutes,
        "nodes": 1 if alone else slurm.nodes,
        "ntasks_per_node": 1 if alone else slurm.tasks,
        "gpus_per_node": gpus,
        "cpus_per_task": slurm.cpus_per_task,
        "mem": None if slurm.mem_gb is None else f"{round(slurm.mem_gb * 1024)}M",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "dependency": ",".join(filter(None, (slurm.dependency, array.after))) or None,
        "setup": slurm.setup,
        "map_count": len(array.elements),
        "array_parallelism": array.at_once,
        "signal_delay_s": slurm.signal_seconds,
        "stderr_to_stdout": True,
        "wckey": "",  # submitit has one of its own, which clusters that check them refuse
        "srun_args": srun_arguments(slurm),
        "additional_parameters": {"requeue": True, "chdir": str(directory), **kind, **slurm.additional},
    }
    executor = SlurmExecutor(folder / FOLDER, python=slurm.python)
    executor.parameters.update({key: value for key, value in wanted.items() if value is not None})
    return executor


def srun_arguments(slurm: SlurmConfig) -> list[str]:
    """A rank that fails ends the others; since 22.05 srun does not take --cpus-per-task from the job."""
    cpus = [] if slurm.cpus_per_task is None else [f"--cpus-per-task={slurm.cpus_per_task}"]
    return ["--kill-on-bad-exit=1", *cpus]


@contextmanager
def own_environment() -> Iterator[None]:
    """Without what a surrounding job has set: a submission from inside a job is as one from a login node."""
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env(extra_names=("GROUP_RANK", "ROLE_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")):
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield
