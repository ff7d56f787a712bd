"""A sweep's runs, handed over together: checked, given their directories, submitted once, followed from their files.

Where they run is a subclass's: rlhf.launch.slurm, rlhf.launch.local. Imports no torch.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from rlhf.compose import to_config
from rlhf.config.run import Config
from rlhf.errors import ConfigError, UserError
from rlhf.launch.forecast import runs as number_of_runs
from rlhf.launch.sweep_loader import SweepLoader
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import MadeBy, RunDirectory
from rlhf.storage.runs import holds_lease
from rlhf.validate import check

log = logging.getLogger(__name__)

ENDED = ("done", "failed", "cancelled")
"""States that a run does not leave unless it is submitted again."""

LAUNCHER_FILE = "launcher.json"
JOB_FILE = "job.json"
POLL_SECONDS = 2.0


class SweepError(UserError, RuntimeError):
    """Runs of a sweep that did not get done: names each, why, and its log."""


@dataclass
class Job:
    """One run of the sweep: what Hydra composed, without and with its own part, and what has been made of it."""

    overrides: list[str]
    task: DictConfig
    hydra: DictConfig
    config: Config
    path: Path


class SweepLauncher(Launcher, ABC):
    """Set up by Hydra, or by `restored` from a sweep's launcher.json.

    `settings` are the keys of conf/hydra/launcher/NAME.yaml; `wait` follows the runs until all have ended.
    """

    name: ClassVar[str]
    """Of the kind of launcher, as job.json has it."""

    def __init__(self, wait: Any = True, **settings: Any) -> None:
        plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        self.wait = wait
        self.settings: dict[str, Any] = {str(key): value for key, value in plain.items()}  # pyright: ignore
        self.directory = Path.cwd()

    @abstractmethod
    def check(self) -> None:
        """Raises ConfigError where the settings can't be used, or this machine can't; before anything is made."""

    @abstractmethod
    def processes(self) -> int:
        """Of each run."""

    @abstractmethod
    def submit(self, sweep: Path, runs: list[Path]) -> None:
        """Have `python -m rlhf.resume RUN` started for each, in `self.directory`, and write each one's job.json."""

    @abstractmethod
    def lost(self, runs: list[Path]) -> dict[Path, tuple[str, str]]:
        """Of these unfinished runs, those that nothing will go on with: the state they end in, and why."""

    def queued(self, runs: list[Path]) -> set[Path]:
        """Of these runs, whatever their state, those whose job is still in a queue that may start it once more."""
        return set()

    @abstractmethod
    def cancelling(self, sweep: Path, runs: list[Path]) -> str:
        """The command that stops these runs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        check(isinstance(self.wait, bool), "hydra.launcher.wait", self.wait, "must be true or false")
        self.check()
        hydra_context.config_loader = self.loader = SweepLoader(hydra_context.config_loader)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra's sweeper, which raises what the first failed JobReturn holds."""
        setup_globals()
        jobs = [self._compose(list(one), initial_job_idx + number) for number, one in enumerate(job_overrides)]
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        runs = [job.path for job in jobs]
        with FileLock(sweep / ".launcher.lock"):  # the same sweep given twice at once is submitted once
            for job in jobs:
                made_by = MadeBy(config=job.hydra.hydra.job.config_name, overrides=list(job.overrides))
                RunDirectory(job.path).prepare(job.config, made_by)
            free = self._free(runs)
            if free:
                self._submit(sweep, free)
        if self.wait:
            self._follow(sweep, runs)
        self._tell(sweep, runs)
        return self._returns(sweep, jobs)

    def submit_again(self, sweep: Path, runs: list[Path]) -> list[Path]:
        """Submit those of `runs` that are neither done nor still on their way; returns them."""
        self.check()
        with FileLock(sweep / ".launcher.lock"):
            free = self._free(runs)
            if free:
                self._submit(sweep, free)
        return free

    def _compose(self, overrides: list[str], number: int) -> Job:
        composed = self.loader.take(self.config, overrides)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
            path = Path(composed.hydra.sweep.dir).absolute() / composed.hydra.sweep.subdir
            hydra = OmegaConf.create({"hydra": composed.pop("hydra")})
        config = to_config(composed)
        config.micro_batch_size(self.processes())
        return Job(overrides, composed, hydra, config, path)

    def _free(self, runs: list[Path]) -> list[Path]:
        """Those that are neither done nor still queued or running."""
        unfinished = [run for run in dict.fromkeys(runs) if state(run) != "done"]
        idle = [run for run in unfinished if not holds_lease(run)]
        waiting = [run for run in idle if state(run) not in (None, *ENDED) and (run / JOB_FILE).exists()]
        taken = set(waiting) - set(self.lost(waiting)) | self.queued(idle)
        return [run for run in idle if run not in taken]

    def _submit(self, sweep: Path, runs: list[Path]) -> None:
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        saved = {"class": kind, "settings": self.settings, "directory": str(self.directory)}
        write_json(sweep / LAUNCHER_FILE, saved)
        for run in runs:
            RunDirectory(run).set_status("pending", RunDirectory(run).status.get("step"))
        try:
            self.submit(sweep, runs)
        except BaseException as error:
            for run in runs:
                RunDirectory(run).set_status("failed", reason=f"could not be submitted: {error}")
            raise

    def _follow(self, sweep: Path, runs: list[Path]) -> None:
        """Until all runs have ended, telling whenever their states change; Ctrl-C leaves them to themselves."""
        told = ""
        try:
            while waiting := self._waiting(runs):
                text = summary(runs)
                if text != told:
                    log.info(text)
                told = text
                self._settle(waiting)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self._tell(sweep, runs)
            raise

    def _waiting(self, runs: list[Path]) -> list[Path]:
        """Those that have not ended, or have and may be started once more."""
        queued = self.queued([run for run in runs if state(run) in ("failed", "cancelled")])
        return [run for run in runs if state(run) not in ENDED or run in queued]

    def _settle(self, waiting: list[Path]) -> None:
        """Write down the end of runs that can't do so themselves any more."""
        for run, (end, reason) in self.lost(waiting).items():
            directory = RunDirectory(run)
            if directory.state not in ENDED:
                directory.set_status(end, directory.status.get("step"), reason)

    def _tell(self, sweep: Path, runs: list[Path]) -> None:
        log.info(f"{sweep}: {summary(runs)}")
        left = [run for run in runs if state(run) not in ENDED]
        if left:
            log.info(f"  follow: python -m rlhf.status {sweep}\n  cancel: {self.cancelling(sweep, left)}")

    def _returns(self, sweep: Path, jobs: list[Job]) -> list[JobReturn]:
        failed = [job.path for job in jobs if state(job.path) != "done"] if self.wait else []
        error = SweepError(failures(sweep, failed, len(jobs)))
        return [job_return(job, error if job.path in failed else None) for job in jobs]


def job_return(job: Job, error: SweepError | None) -> JobReturn:
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    return JobReturn(job.overrides, job.task, job.hydra, str(Path.cwd()), "run", status, error)


def restored(sweep: Path) -> SweepLauncher:
    """The launcher that has submitted this sweep, with its settings; raises ConfigError where none has."""
    path = sweep / LAUNCHER_FILE
    if not path.exists():
        raise ConfigError(f"{path} does not exist: no launcher has submitted this sweep; give its own command again")
    saved = read_json(path)
    module, _, name = saved["class"].rpartition(".")
    launcher = getattr(import_module(module), name)(wait=False, **saved["settings"])
    launcher.directory = Path(saved["directory"])
    return launcher


def state(run: Path) -> str | None:
    return RunDirectory(run).state


def write_job(run: Path, launcher: str, job_id: str | int, log: str) -> None:
    """job.json: who has the run, and where its log lies in the sweep's directory."""
    write_json(run / JOB_FILE, {"launcher": launcher, "job_id": job_id, "log": log, "time": round(time.time(), 3)})


def summary(runs: list[Path]) -> str:
    counts = Counter(state(run) or "pending" for run in runs)
    return f"{number_of_runs(len(runs))}: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))


def failures(sweep: Path, failed: list[Path], total: int) -> str:
    lines = [f"{len(failed)} of {number_of_runs(total)} in {sweep} did not get done:"]
    for run in failed:
        status = RunDirectory(run).status
        job = read_json(run / JOB_FILE) if (run / JOB_FILE).exists() else {}
        log = sweep / job["log"] if "log" in job else "none"
        lines.append(f"  {run.name}: {status['state']}, {status.get('reason')}; log: {log}")
    return "\n".join(lines)
