"""A sweep as one SLURM job array: an element per run, a task per rank; submitit writes and submits it.

The runs look after themselves: they save when SLURM signals the time limit or a preemption, requeue their job, and go
on from their directory. What becomes of a job that can't is read from squeue; no accounting database is asked.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config.launcher import COMMANDS, SECTION, SlurmConfig
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.launch.forecast import runs as number_of_runs
from rlhf.launch.job import write_job
from rlhf.launch.prepared import to_prepare
from rlhf.launch.sweep import SweepLauncher
from rlhf.process.slurm import become
from rlhf.storage.runs import RunState, lost, read_run
from rlhf.validate import check

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

FOLDER = "slurm"
"""In the sweep's directory: the batch scripts and the logs, JOB_RANK_log.out and .err."""

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""SLURM's states of jobs that wait, and of jobs that will not run again."""

JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")

TIMEOUT = 5.0
"""Seconds that a command of SLURM may take."""

Queue = dict[str, tuple[str, str]]
"""Job ids, of arrays with the element (123_4), to SLURM's state and reason."""


class SlurmLauncher(SweepLauncher):
    """Its settings are rlhf.config.launcher.SlurmConfig's."""

    name = "slurm"
    poll_seconds = 4.0

    def check(self) -> None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(SlurmConfig), self.settings)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{SECTION}.{error.full_key}: {str(error).splitlines()[0]}") from error
        self.slurm = cast(SlurmConfig, OmegaConf.to_object(merged))
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise ConfigError(f"hydra/launcher=slurm needs {program}, which is not on this machine's PATH")

    def check_restored(self, file: Path) -> None:
        """Commands that a file holds are run once the user has seen them and agreed."""
        commands = {key: value for key in COMMANDS if (value := self.settings.get(key))}
        if not commands:
            return
        shown = ", ".join(f"{key}={value!r}" for key, value in commands.items())
        if not console.is_terminal or not sys.stdin.isatty():
            again = "ask in a terminal, or give the sweep's own command again"
            raise ConfigError(f"{file} has commands, which are not run unseen: {shown}; {again}")
        console.print(f"{file} has these commands run before each run: {shown}", markup=False)
        if input("run them? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ConfigError(f"{file} has commands that were not agreed to; nothing was submitted")

    def processes(self) -> int:
        return self.slurm.nodes * self.slurm.tasks

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        check("%" not in str(sweep), "hydra.sweep.dir", str(sweep), "SLURM gives % a meaning in the names of logs")
        plain = str(sweep).isprintable() and str(self.directory).isprintable()
        check(plain, "hydra.sweep.dir", repr(str(sweep)), "a batch script has no room for its control characters")
        stages = to_prepare(runs, self.directory)
        with own_environment():
            after = self._array(sweep, "rlhf.prepare", stages, processes=1) if stages else []
            jobs = self._array(sweep, "rlhf.resume", runs, after=after)
        for run, job in zip(runs, jobs, strict=True):
            write_job(run, self.name, f"{FOLDER}/{job}_0_log.out", job_id=job)
        if after:
            log.info(f"job {base(after[0])} builds the stages, {len(after)} in all; the runs wait for it")
        log.info(f"job {base(jobs[0])} has {number_of_runs(len(jobs))}; logs are in {sweep / FOLDER}")

    @staticmethod
    def refine(runs: Sequence[RunState]) -> list[RunState]:
        asked = [run for run in runs if "job_id" in run.job and run.state in ("pending", "preempted", "lost")]
        queue = squeue(asked)
        return list(runs) if queue is None else [refined(run, queue) if run in asked else run for run in runs]

    @staticmethod
    def queued(runs: Sequence[RunState]) -> set[Path]:
        queue = squeue([run for run in runs if job_id(run)]) or {}
        return {run.path for run in runs if queue.get(job_id(run), (OVER[0], ""))[0] not in OVER}

    @staticmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        scripts = squeue(runs, "%o")
        if scripts is None:
            return {run.path: f"squeue is not here, or gives no answer on its job {job_id(run)}" for run in runs}
        own = [run for run in runs if is_own(run, scripts)]
        foreign = "job.json names job {!r}, which the queue does not have as one of this sweep"
        refused = {run.path: foreign.format(job_id(run)) for run in runs if run not in own}
        command = ["scancel", *map(job_id, own)]
        answer = ask(command) if own else None
        if answer is None:
            wrong = f"scancel is not here, or gives no answer; where it is: {subprocess.list2cmdline(command)}"
        else:
            wrong = "" if answer.returncode == 0 else answer.stderr.strip() or "scancel failed"
        return refused | (dict.fromkeys((run.path for run in own), wrong) if wrong else {})

    def _array(
        self, sweep: Path, module: str, runs: list[Path], processes: int | None = None, after: list[str] | None = None
    ) -> list[str]:
        """Submit `python -m MODULE RUN` for each run; returns the ids of their jobs."""
        executor = self._executor(sweep, processes)
        if after:
            executor.update_parameters(slurm_dependency=f"afterany:{base(after[0])}")
        try:
            with executor.batch():
                jobs = [executor.submit(become, module, str(run)) for run in runs]
        except Exception as error:  # submitit has an error of its own for what sbatch answers, among others
            if after:
                subprocess.run(["scancel", base(after[0])], check=False)
            raise ConfigError(f"sbatch did not take {len(runs)} x {module}: {error}") from error
        return [job.job_id for job in jobs]

    def _executor(self, sweep: Path, processes: int | None) -> "submitit.AutoExecutor":
        import submitit

        slurm = self.slurm
        name = {"slurm_python": slurm.python} if slurm.python else {}
        executor = submitit.AutoExecutor(sweep / FOLDER, cluster="slurm", **name)
        alone = processes == 1
        gpus = 1 if alone and slurm.gpus_per_node else slurm.gpus_per_node
        kind = {"gpus_per_node": f"{slurm.gpu_type}:{gpus}"} if slurm.gpu_type else {}
        wanted = {
            "name": sweep.name,
            "timeout_min": slurm.time,
            "nodes": 1 if alone else slurm.nodes,
            "tasks_per_node": 1 if alone else slurm.tasks,
            "gpus_per_node": gpus,
            "cpus_per_task": slurm.cpus_per_task,
            "mem_gb": slurm.mem_gb,
            "stderr_to_stdout": True,
            "slurm_partition": slurm.partition,
            "slurm_account": slurm.account,
            "slurm_qos": slurm.qos,
            "slurm_constraint": slurm.constraint,
            "slurm_exclude": slurm.exclude,
            "slurm_setup": slurm.setup,
            "slurm_array_parallelism": slurm.array_parallelism,
            "slurm_signal_delay_s": slurm.signal_seconds,
            "slurm_wckey": "",  # submitit has one of its own, which clusters that check them refuse
            "slurm_srun_args": srun_arguments(slurm),
            "slurm_additional_parameters": {"requeue": True, "chdir": str(self.directory), **kind, **slurm.additional},
        }
        executor.update_parameters(**wanted)  # None is as not given
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


def refined(run: RunState, queue: Queue) -> RunState:
    """A run by its job in the queue; one that has none there, and did not say how it ended, is lost."""
    job = job_id(run)
    state, reason = queue.get(job, (None, ""))
    if state in WAITING:
        return replace(run, state="pending", reason=reason)
    if state is not None and state not in OVER:
        return replace(run, state="running", reason="starting")
    run = read_run(run.path)  # it may have started and ended while the queue was asked for
    if state == "CANCELLED" and run.state in ("pending", "preempted", "lost"):
        return replace(run, state="cancelled", reason=f"job {job} was cancelled")
    if run.state not in ("pending", "lost"):
        return run
    known = "is no longer known to SLURM" if state is None else f"has ended as {state}"
    return lost(run, f"job {job} {known}, and the run has not said how it ended")


def is_own(run: RunState, scripts: Queue) -> bool:
    """Whether the job that a run's job.json names was submitted by a script in this very sweep's directory."""
    script = Path(scripts.get(job_id(run), ("", ""))[1])
    return script.is_absolute() and script.parent.resolve() == (run.path.parent / FOLDER).resolve()


def squeue(runs: Sequence[RunState], told: str = "%r") -> Queue | None:
    """The queue's entries on these runs' jobs, recently ended ones too; None where squeue gives no answer.

    `told` is squeue's letter for what stands beside the state: the reason, or with %o the script.
    """
    arrays = sorted({base(job_id(run)) for run in runs if JOB_ID.fullmatch(job_id(run))})
    if not arrays:
        return {}
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--format=%i|%T|{told}",
        f"--jobs={','.join(arrays)}",
    ]
    answer = ask(command)
    if answer is None:
        return None
    if answer.returncode != 0:  # what SLURM says of a job that ended long ago
        return {} if "Invalid job id" in answer.stderr else None
    rows = [line.strip().split("|", 2) for line in answer.stdout.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A command of SLURM's; None where there is none, or it gives no answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def job_id(run: RunState) -> str:
    return str(run.job.get("job_id", ""))


def base(job_id: str) -> str:
    """The id of an array, without the element's number."""
    return job_id.partition("_")[0]
