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
from rlhf.launch.batch import own_environment
from rlhf.launch.forecast import runs as counted
from rlhf.launch.intent import FOLDER, resolve, sheets
from rlhf.launch.job import JOB_FILE, write_job
from rlhf.launch.queue import JOB_ID, OF_A_NODE, Entry, Job, Queue, ask, base, queue_of, sees, site
from rlhf.launch.submission import Submission
from rlhf.launch.sweep import SweepLauncher
from rlhf.storage.lease import is_leased
from rlhf.storage.reader import ENDED
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import LEFT_TO_DO, RunState, lost, read_run
from rlhf.validate import check

log = logging.getLogger(__name__)

TO_ASK = ("pending", "preempted", "lost")
REPEATED = ("failed", "cancelled")
"""States of runs on which SLURM may know more than their directories; and of those whose job may start once more."""


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
        self.keep_going = self.slurm.keep_going
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
        slurm = self.slurm
        if self.bad_nodes:
            slurm = replace(slurm, exclude=",".join(filter(None, (slurm.exclude, *sorted(self.bad_nodes)))))
        with own_environment():
            submission = Submission(sweep, self.directory, slurm, self._room(sweep), self.again)
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
            RunDirectory(run).set_status("pending", read_run(run, whole=False).step, f"not submitted yet: {why}")
            write_job(run, self.name, "", held_back=True)
        if runs:
            log.info(f"{counted(len(runs))} not submitted yet: {why}; whoever follows submits them as room comes free")

    def submit_again(self, sweep: Path, runs: list[Path]) -> list[Path]:
        """As for all launchers; jobs that were once submitted to be held are not so a second time."""
        additional = self.settings.get("additional") or {}
        self.settings["additional"] = {key: value for key, value in additional.items() if key.strip("-") != "hold"}
        return super().submit_again(sweep, runs)

    def reconcile(self, sweep: Path) -> None:
        for sheet, said in sheets(sweep).items():
            if "array" not in said and (jobs := resolve(sheet)):
                array = base(next(iter(jobs.values())))
                log.info(f"job {array} was taken by SLURM, though its launcher has not been told; it is followed")

    def intended(self, sweep: Path) -> set[Path]:
        open_ones = [said["elements"] for said in sheets(sweep).values() if not said.keys() & {"array", "stages"}]
        return {Path(run) for elements in open_ones for runs in elements for run in runs}

    @staticmethod
    def refine(runs: Sequence[RunState], again: bool = False) -> list[RunState]:
        here = site() if again else None
        asked = [run for run in runs if run.state in TO_ASK]
        if again:  # a shared job starts none twice
            own = [run for run in runs if run.state in REPEATED and job_id(run) and "shares" not in run.job]
            asked += [run for run in own if here is None or sees(run.job, here)]
        queue = queue_of(job for run in asked for job in jobs_of(run))
        begun = {job_id(run) for run in runs if run.state != "pending"}
        paths = {run.path for run in asked if job_id(run)}
        return [refined(run, queue, job_id(run) in begun) if run.path in paths else run for run in runs]

    @staticmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        queue = queue_of(job for run in runs for job in jobs_of(run))
        needed = jobs_of_others(runs)
        own = {job for run in runs for job in job_ids(run) if is_own(queue.get(job), run.path.parent)}
        refused = {run.path: refusal(run, queue) for run in runs if "job_id" in run.job and job_id(run) not in own}
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


def refined(run: RunState, queue: Queue, begun: bool) -> RunState:
    """A run by its job, if there is news of it; `begun`: it has begun, with this run or one that shares it."""
    job = job_id(run)
    entry = queue.get(job)
    if run.state in REPEATED:
        over = job in queue and (entry is None or entry.over)
        return run if over else replace(run, state="pending", reason="its job may still be in the queue")
    if job not in queue:
        return run
    if entry and entry.waits:
        waits = building(run, queue) if entry.reason == "Dependency" else entry.reason
        return replace(run, state="pending", reason=waits)
    if entry and not entry.over:
        if "shares" in run.job:
            return replace(run, state="pending", reason=f"its turn in job {job} is to come")
        return replace(run, state="running", reason="starting")
    run = read_run(run.path)  # it may have started and ended while the queue was asked for
    if run.state not in TO_ASK or is_leased(run.path):
        return run  # nobody's run is lost while its process lives
    return ended(run, entry, begun)


def ended(run: RunState, entry: Entry | None, begun: bool) -> RunState:
    """A run whose job is over, before the run itself could say how or put the job back into the queue."""
    job, state = job_id(run), entry.state if entry else None
    if state == "CANCELLED":
        return replace(run, state="cancelled", reason=f"job {job} was cancelled")
    if state == "PREEMPTED":
        return replace(run, state="preempted", reason=f"job {job} was preempted, and not put back", recoverable=True)
    if run.state == "preempted":
        return replace(run, recoverable=True)
    recoverable = state in OF_A_NODE or (begun and state in (None, "FAILED"))
    nodes = entry.nodes if entry and recoverable else ""
    known = f"has ended as {state}" if state else "is no longer known to SLURM"
    found = lost(run, f"job {job} {known}{nodes and f' on {nodes}'}, and the run has not said how it ended")
    return replace(found, recoverable=recoverable, nodes=nodes)


def is_own(entry: Entry | None, sweep: Path) -> bool:
    """Whether a job was submitted by a script in this very sweep's directory."""
    script = Path(entry.script if entry else "")
    return script.is_absolute() and script.parent.resolve() == (sweep / FOLDER).resolve()


def refusal(run: RunState, queue: Queue) -> str:
    """Why the job of a run is not cancelled, which is not known to be its sweep's."""
    job = job_id(run)
    if JOB_ID.fullmatch(job) and job not in queue:
        return f"squeue is not here, or gives no answer on its job {job}"
    return f"job.json names job {job!r}, which the queue does not have as one of this sweep"


def building(run: RunState, queue: Queue) -> str:
    """What a run waits for that depends on other jobs."""
    left = [job for job in run.job.get("stages", []) if (entry := queue.get(job)) and not entry.over]
    if not left:
        return "Dependency"
    entry = queue[left[0]]
    assert entry is not None
    return f"job {left[0]} of its stages: {entry.reason}" if entry.waits else f"job {left[0]} builds its stages"


def job_id(run: RunState) -> str:
    return str(run.job.get("job_id", ""))


def job_ids(run: RunState) -> list[str]:
    """The job that a run is in, and those that it waits for."""
    return [job_id(run), *run.job.get("stages", [])] if job_id(run) else []


def jobs_of(run: RunState) -> list[Job]:
    """The same as squeue is asked about them."""
    return [{**run.job, "job_id": job} for job in job_ids(run)]


def jobs_of_others(runs: Sequence[RunState]) -> set[str]:
    """Jobs that runs beside these, which are not to be stopped, still need."""
    own = {run.path for run in runs}
    files = (file for sweep in {path.parent for path in own} for file in sweep.glob(f"*/{JOB_FILE}"))
    others = (read_run(file.parent, whole=False) for file in files if file.parent not in own)
    return {job for run in others if run.state not in (*ENDED, "failed", "cancelled") for job in job_ids(run)}
