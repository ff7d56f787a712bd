"""A sweep as one SLURM job array: an element per run, a task per rank; submitit writes and submits it.

The runs look after themselves: they save when SLURM signals the time limit or a preemption, requeue their job, and go
on from their directory. What becomes of a job that can't is read from squeue; no accounting database is asked.
"""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config.launcher import SECTION, SlurmConfig
from rlhf.errors import ConfigError
from rlhf.launch.forecast import runs as number_of_runs
from rlhf.launch.job import become
from rlhf.launch.prepared import to_prepare
from rlhf.launch.queue import ask
from rlhf.launch.sweep import JOB_FILE, SweepLauncher, write_job
from rlhf.storage.files import read_json
from rlhf.storage.runs import holds_lease
from rlhf.validate import check

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

FOLDER = "slurm"
"""In the sweep's directory: the batch scripts and the logs, JOB_RANK_log.out and .err."""

OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""SLURM's states of jobs that will not run again."""


class SlurmLauncher(SweepLauncher):
    """Its settings are rlhf.config.launcher.SlurmConfig's."""

    name = "slurm"

    def check(self) -> None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(SlurmConfig), self.settings)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{SECTION}.{error.full_key}: {str(error).splitlines()[0]}") from error
        self.slurm = cast(SlurmConfig, OmegaConf.to_object(merged))
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise ConfigError(f"hydra/launcher=slurm needs {program}, which is not on this machine's PATH")

    def processes(self) -> int:
        return self.slurm.nodes * self.slurm.tasks

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        check("%" not in str(sweep), "hydra.sweep.dir", str(sweep), "SLURM gives % a meaning in the names of logs")
        stages = to_prepare(runs, self.directory)
        with own_environment():
            after = self._array(sweep, "rlhf.prepare", stages, processes=1) if stages else []
            jobs = self._array(sweep, "rlhf.resume", runs, after=after)
        for run, job in zip(runs, jobs, strict=True):
            write_job(run, self.name, job, f"{FOLDER}/{job}_0_log.out")
        if after:
            log.info(f"job {base(after[0])} builds the stages, {len(after)} in all; the runs wait for it")
        log.info(f"job {base(jobs[0])} has {number_of_runs(len(jobs))}; logs are in {sweep / FOLDER}")

    def lost(self, runs: list[Path]) -> dict[Path, tuple[str, str]]:
        states = job_states() if runs else {}
        return {} if states is None else {run: end for run in runs if (end := ending(run, states))}

    def queued(self, runs: list[Path]) -> set[Path]:
        states = (job_states() or {}) if runs else {}
        return {run for run in runs if states.get(job_id(run) or "", OVER[0]) not in OVER}

    def cancelling(self, sweep: Path, runs: list[Path]) -> str:
        return " ".join(("scancel", *sorted({base(job) for run in runs if (job := job_id(run))})))

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


def job_states() -> dict[str, str] | None:
    """SLURM's word for each of this user's jobs, those that ended in the last minutes too; None where it is silent."""
    command = ["squeue", f"--user={os.getuid()}", "--noheader", "--array", "--states=all", "--format=%i|%T"]
    answer = ask(command)
    if answer is None or answer.returncode != 0:
        return None
    return dict(line.strip().rsplit("|", 1) for line in answer.stdout.splitlines())


def ending(run: Path, states: dict[str, str]) -> tuple[str, str] | None:
    """The state that an unfinished run ends in for want of a job, and why; None while it has one, or a process."""
    job = job_id(run)
    if job is None:
        return None if holds_lease(run) else ("failed", "no job has it, and no process runs there")
    found = states.get(job)
    if found is not None and found not in OVER:
        return None
    if found == "CANCELLED":
        return "cancelled", f"job {job} was cancelled"
    known = "is no longer known to SLURM" if found is None else f"has ended as {found}"
    return "failed", f"job {job} {known}, and the run has not said how it ended"


def job_id(run: Path) -> str | None:
    """The SLURM job that has this run; None where it has been with another launcher, or none."""
    job = read_json(run / JOB_FILE) if (run / JOB_FILE).exists() else {}
    return job["job_id"] if job.get("launcher") == SlurmLauncher.name else None


def base(job_id: str) -> str:
    """Of an array, without the element's number."""
    return job_id.partition("_")[0]
