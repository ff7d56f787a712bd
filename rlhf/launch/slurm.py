"""A sweep as SLURM job arrays: by default an element per run, a task per rank; submitit writes and submits them.

The runs look after themselves: they save when SLURM signals the time limit or a preemption, requeue their job, and go
on from their directory. What becomes of a job that can't is read from squeue; no accounting database is asked.
"""

import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config.launcher import COMMANDS, SECTION, SlurmConfig
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.launch.batch import FOLDER, own_environment
from rlhf.launch.forecast import runs as counted
from rlhf.launch.job import JOB_FILE, write_job
from rlhf.launch.squeue import OVER, WAITING, Queue, ask, base, queue_of
from rlhf.launch.submission import Submission
from rlhf.launch.sweep import SweepLauncher
from rlhf.storage.lease import is_leased
from rlhf.storage.reader import ENDED
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import LEFT_TO_DO, RunState, lost, read_run
from rlhf.validate import check

log = logging.getLogger(__name__)


class SlurmLauncher(SweepLauncher):
    """Its settings are rlhf.config.launcher.SlurmConfig's."""

    name = "slurm"

    def check(self) -> None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(SlurmConfig), self.settings)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{SECTION}.{error.full_key}: {str(error).splitlines()[0]}") from error
        self.slurm = cast(SlurmConfig, OmegaConf.to_object(merged))
        self.poll_seconds, self.longest_poll = self.slurm.poll_seconds, 4 * self.slurm.poll_seconds
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
        console.print(f"{file} has these commands run before each run: {shown}")
        if input("run them? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ConfigError(f"{file} has commands that were not agreed to; nothing was submitted")

    def processes(self) -> int:
        return self.slurm.nodes * self.slurm.tasks

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        check("%" not in str(sweep), "hydra.sweep.dir", str(sweep), "SLURM gives % a meaning in the names of logs")
        plain = str(sweep).isprintable() and str(self.directory).isprintable()
        check(plain, "hydra.sweep.dir", repr(str(sweep)), "a batch script has no room for its control characters")
        with own_environment():
            submission = Submission(sweep, self.directory, self.slurm, self._room(sweep))
            submission.submit(runs)
        if submission.stages:
            log.info(f"{counted(len(submission.stages), 'job')} to build stages, and the runs of each wait for it")
        arrays = dict.fromkeys(base(job) for job in submission.jobs.values())
        for array in arrays:
            log.info(f"job {array} has {counted(sum(base(job) == array for job in submission.jobs.values()))}")
        self._hold_back([run for run in runs if run not in submission.jobs], submission.full)
        log.info(f"logs are in {sweep / FOLDER}")

    def _hold_back(self, runs: list[Path], why: str | None) -> None:
        """Have the runs that found no room wait for `top_up`, or for the same command."""
        for run in runs:
            RunDirectory(run).set_status("pending", read_run(run).step, f"not submitted yet: {why}")
            write_job(run, self.name, "", held_back=True)
        if runs:
            log.info(f"{counted(len(runs))} not submitted yet: {why}; whoever follows submits them as room comes free")

    @staticmethod
    def refine(runs: Sequence[RunState]) -> list[RunState]:
        asked = [run for run in runs if "job_id" in run.job and run.state in ("pending", "preempted", "lost")]
        queue = queue_of(job for run in asked for job in job_ids(run))
        return list(runs) if queue is None else [refined(run, queue) if run in asked else run for run in runs]

    @staticmethod
    def queued(runs: Sequence[RunState]) -> set[Path]:
        own = [run for run in runs if "job_id" in run.job and "shares" not in run.job]  # a shared job starts none twice
        queue = queue_of(map(job_id, own)) or {}
        return {run.path for run in own if queue.get(job_id(run), (OVER[0], ""))[0] not in OVER}

    @staticmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        scripts = queue_of([job for run in runs for job in job_ids(run)], "%o")
        if scripts is None:
            return {run.path: f"squeue is not here, or gives no answer on its job {job_id(run)}" for run in runs}
        needed = jobs_of_others(runs)
        own = {job for run in runs for job in job_ids(run) if is_own(job, run.path.parent, scripts)}
        foreign = "job.json names job {!r}, which the queue does not have as one of this sweep"
        refused = {
            run.path: foreign.format(job_id(run)) for run in runs if "job_id" in run.job and job_id(run) not in own
        }
        sharing = [run for run in runs if run.state == "running" and job_id(run) in needed]
        refused |= {run.path: f"job {job_id(run)} does other runs too; cancel these as well" for run in sharing}
        command = ["scancel", *sorted(own - needed)]
        answer = ask(command) if own - needed else None
        if own - needed and answer is None:
            wrong = f"scancel is not here, or gives no answer; where it is: {subprocess.list2cmdline(command)}"
        else:
            wrong = "" if answer is None or answer.returncode == 0 else answer.stderr.strip() or "scancel failed"
        return refused | {run.path: wrong for run in runs if wrong and job_id(run) in command}

    def _room(self, sweep: Path) -> int | None:
        """How many jobs the queue may take of this sweep now, where the settings limit them."""
        if self.slurm.max_submit is None:
            return None
        there = self._read([file.parent for file in sweep.glob(f"*/{JOB_FILE}")])
        jobs = {job for run in there if run.state in LEFT_TO_DO for job in job_ids(run)}
        return max(0, self.slurm.max_submit - len(jobs))


def refined(run: RunState, queue: Queue) -> RunState:
    """A run by its job in the queue; one that has none there, and did not say how it ended, is lost."""
    job = job_id(run)
    state, reason = queue.get(job, (None, ""))
    if state in WAITING:
        return replace(run, state="pending", reason=building(run, queue) if reason == "Dependency" else reason)
    if state is not None and state not in OVER:
        if "shares" in run.job:
            return replace(run, state="pending", reason=f"its turn in job {job} is to come")
        return replace(run, state="running", reason="starting")
    run = read_run(run.path)  # it may have started and ended while the queue was asked for
    if run.state not in ("pending", "preempted", "lost") or is_leased(run.path):
        return run  # nobody's run is lost while its process lives
    if state == "CANCELLED":
        return replace(run, state="cancelled", reason=f"job {job} was cancelled")
    if state == "PREEMPTED":
        return replace(run, state="preempted", reason=f"job {job} was preempted, and not put back")
    if run.state == "preempted":
        return run
    known = "is no longer known to SLURM" if state is None else f"has ended as {state}"
    return lost(run, f"job {job} {known}, and the run has not said how it ended")


def is_own(job: str, sweep: Path, scripts: Queue) -> bool:
    """Whether a job was submitted by a script in this very sweep's directory."""
    script = Path(scripts.get(job, ("", ""))[1])
    return script.is_absolute() and script.parent.resolve() == (sweep / FOLDER).resolve()


def building(run: RunState, queue: Queue) -> str:
    """What a run waits for that depends on other jobs."""
    left = [job for job in run.job.get("stages", []) if queue.get(job, (OVER[0], ""))[0] not in OVER]
    if not left:
        return "Dependency"
    state, reason = queue[left[0]]
    return f"job {left[0]} builds its stages" if state not in WAITING else f"job {left[0]} of its stages: {reason}"


def job_id(run: RunState) -> str:
    return str(run.job.get("job_id", ""))


def job_ids(run: RunState) -> list[str]:
    """The job that a run is in, and those that it waits for."""
    return [job_id(run), *run.job.get("stages", [])] if job_id(run) else []


def jobs_of_others(runs: Sequence[RunState]) -> set[str]:
    """Jobs that runs beside these, which are not to be stopped, still need."""
    own = {run.path for run in runs}
    files = (file for sweep in {path.parent for path in own} for file in sweep.glob(f"*/{JOB_FILE}"))
    others = (read_run(file.parent) for file in files if file.parent not in own)
    return {job for run in others if run.state not in (*ENDED, "failed", "cancelled") for job in job_ids(run)}
