"""A sweep's runs, handed over together: checked, given their directories, submitted once, followed from their files.

Where they run is a subclass's: see rlhf.launch.launchers. Imports no torch.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rlhf.config.run import Config
from rlhf.console import PlainConsole
from rlhf.errors import DataError, Preempted, UserError
from rlhf.launch.forecast import runs as number_of_runs
from rlhf.launch.job import JOB_FILE
from rlhf.launch.overview import overview
from rlhf.launch.sweep_loader import Run, sweep_loader
from rlhf.launch.watch import watch
from rlhf.process.signals import SYSTEM, StopSignals
from rlhf.search.objective import Value, value_of
from rlhf.storage.files import write_json
from rlhf.storage.lease import free_leases, is_leased
from rlhf.storage.reader import ENDED, read_job
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import LEFT_TO_DO, RunState, read_run
from rlhf.validate import check

log = logging.getLogger(__name__)

MembersCheck = Callable[[Sequence[Config], bool], None]

LAUNCHER_FILE = "launcher.json"

ENDS = {"lost": "failed", "cancelled": "cancelled", "preempted": "preempted"}
"""States of runs that whoever follows them has found out, and what is set down; never of one whose process lives."""


class SweepError(UserError, RuntimeError):
    """Runs of a sweep that did not get done: names each, why, and its log."""


class SweepLauncher(Launcher, ABC):
    """Set up by Hydra, or by rlhf.launch.launchers.restored from a sweep's launcher.json.

    `settings` are the keys of conf/hydra/launcher/NAME.yaml; `wait` follows the runs until all have ended. The static
    methods are what a launcher knows of runs that it has, by their job.json, whatever its settings.
    """

    name: ClassVar[str]
    check_members: ClassVar[MembersCheck | None] = None
    """Raises UserError where a run of these can't be done, here or (false) on another machine; `rlhf.run` sets it."""

    poll_seconds: float
    longest_poll: float | None = None
    """Between two looks at the runs that are followed; the longest while nothing changes, where that is another."""

    keep_going = 0
    """So often is a run that the cluster has stopped submitted again, without a step between."""

    def __init__(self, wait: Any = True, **settings: Any) -> None:
        plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        self.wait = wait
        self.settings: dict[str, Any] = {str(key): value for key, value in plain.items()}  # pyright: ignore
        self.directory = Path.cwd()
        self.ended = 0
        self.again: dict[Path, dict[str, int]] = {}
        self.bad_nodes: set[str] = set()

    @abstractmethod
    def check(self) -> None:
        """Raises ConfigError where the settings can't be used, or this machine can't; before anything is made."""

    def check_restored(self, file: Path) -> None:
        """Raises ConfigError where settings read back from `file` can't be used without the user's seeing them."""

    @abstractmethod
    def processes(self) -> int:
        """The number of processes of each run."""

    @abstractmethod
    def submit(self, sweep: Path, runs: list[Path]) -> None:
        """Have `python -m rlhf.resume RUN` started for each, in `self.directory`, and write each one's job.json."""

    def reconcile(self, sweep: Path) -> None:
        """Find out about what an earlier launcher was about to submit when it ended."""

    def intended(self, sweep: Path) -> set[Path]:
        """Runs of which it is not known whether an earlier launcher has submitted them."""
        return set()

    @staticmethod
    @abstractmethod
    def refine(runs: Sequence[RunState], again: bool = False) -> list[RunState]:
        """The same runs, with what is known of them beside their directories: what they wait for, whether lost.

        `again`: one that has failed or was cancelled, but whose job may start it once more, is pending.
        """

    @staticmethod
    @abstractmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        """Ask these runs, which run or wait, to save and end; returns those that can't be asked, and why."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        check(isinstance(self.wait, bool), "hydra.launcher.wait", self.wait, "must be true or false")
        self.check()
        self.loader = sweep_loader(hydra_context.config_loader)
        hydra_context.config_loader = self.loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra's sweeper, which raises what the first failed JobReturn holds."""
        setup_globals()
        numbered = enumerate(job_overrides, start=initial_job_idx)
        jobs = [self.loader.run(self.config, overrides, number) for number, overrides in numbered]
        for job in jobs:
            job.config.micro_batch_size(self.processes())
        if SweepLauncher.check_members is not None:
            SweepLauncher.check_members([job.config for job in jobs], self.name == "local")
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        with launcher_lock(sweep):
            for job in jobs:
                RunDirectory(job.path).prepare(job.config, job.made_by)
            self._submit(sweep, [job.path for job in jobs])
        runs = list(dict.fromkeys(job.path for job in jobs))
        if self.wait:
            self._follow(sweep, runs)
        self._tell(sweep, runs)
        return self._returns(sweep, jobs)

    def submit_again(self, sweep: Path, runs: list[Path]) -> list[Path]:
        """Submit those of `runs` that are neither done nor still on their way; returns them."""
        self.check()
        with launcher_lock(sweep):
            return self._submit(sweep, runs)

    def _submit(self, sweep: Path, runs: list[Path]) -> list[Path]:
        """Submit those that are neither done nor queued nor running; returns them."""
        self.reconcile(sweep)
        unknown = self.intended(sweep).intersection(runs)
        if unknown:
            log.info(
                f"{number_of_runs(len(unknown))} may be in the queue already, which gives no answer: not submitted"
            )
        found = self._read([run for run in dict.fromkeys(runs) if run not in unknown and not is_leased(run)])
        free = [run for run in found if run.state not in ENDED and not is_taken(run)]
        leases = free_leases(run.path for run in free)
        free = [run for run in free if run.path in leases]
        if not free:
            return []
        saved = {"launcher": self.name, "settings": self.settings, "directory": str(self.directory)}
        write_json(sweep / LAUNCHER_FILE, saved)
        for run in free:
            RunDirectory(run.path).set_status("pending", run.step)
            (run.path / JOB_FILE).unlink(missing_ok=True)
            leases[run.path].release()
        try:
            self.submit(sweep, [run.path for run in free])
        except BaseException as error:
            unknown = self.intended(sweep)
            for run in free:
                if not read_job(run.path) and run.path not in unknown:  # else it was taken before the error
                    why = str(error) or type(error).__name__
                    RunDirectory(run.path).set_status("failed", run.step, f"could not be submitted: {why}")
            raise
        return [run.path for run in free]

    def _read(self, runs: list[Path], whole: bool = False) -> list[RunState]:
        return self.refine([read_run(run, whole) for run in runs], again=True)

    def _follow(self, sweep: Path, runs: list[Path]) -> None:
        """Show what becomes of the runs until none is left to do; set down the end of those that can't any more."""
        self._tell(sweep, runs)
        console = PlainConsole()
        with StopSignals().handled(SYSTEM):  # runs go on when the terminal closes
            try:
                found = watch(lambda: self.look(sweep, runs), self.poll_seconds, console, self.longest_poll)
            except (KeyboardInterrupt, Preempted):
                self.interrupted(sweep, runs)
                raise
        if console.is_terminal:
            console.print(overview(found, time.time(), console.width), crop=False)
        with launcher_lock(sweep):
            self._settle(sweep, runs)

    def _settle(self, sweep: Path, runs: list[Path]) -> None:
        """Set down the end of runs that can't say it any more; of none that somebody has submitted again meanwhile."""
        self.reconcile(sweep)
        unknown = self.intended(sweep)
        ends = {run.path: run for run in self._read(runs) if run.state in ENDS and run.path not in unknown}
        for path, lease in free_leases(ends).items():
            run, directory = ends[path], RunDirectory(path)
            if directory.state not in (*ENDED, "failed", "cancelled"):
                directory.set_status(ENDS[run.state], run.step, run.reason)
            lease.release()

    def look(self, sweep: Path, runs: list[Path]) -> list[RunState]:
        """The states of the runs, after submitting what the cluster has stopped, or has had no room for."""
        found = self._read(runs, whole=True)
        if any(run.state == "lost" and not run.job for run in found) and self.intended(sweep):
            with launcher_lock(sweep):
                self.reconcile(sweep)
            found = self._read(runs, whole=True)
        stopped = self._to_put_back(found)
        held_back = [run.path for run in found if run.state == "pending" and run.job.get("held_back")]
        ended = sum(run.state not in LEFT_TO_DO for run in found)
        room = ended != self.ended  # where none has ended, there can be none
        self.ended = ended
        if not stopped and not (held_back and room):
            return found
        self._submit_once_more(sweep, stopped + held_back)
        return self._read(runs, whole=True)

    def _to_put_back(self, found: list[RunState]) -> list[Path]:
        """Runs that the cluster has stopped, and may be submitted again."""
        self.again = {}
        for run in (run for run in found if run.recoverable):
            step, tried = run.step or 0, run.job.get("tries", 0)
            tries = 1 if step > run.job.get("step", 0) else tried + 1
            if tries <= self.keep_going:
                log.info(f"{run.path.name}: {run.reason}; submitted again, {tries} of {self.keep_going} times")
                self.again[run.path] = {"tries": tries, "step": step}
                self.bad_nodes |= {run.nodes} - {""}
        return list(self.again)

    def _submit_once_more(self, sweep: Path, runs: list[Path]) -> None:
        try:
            self.submit_again(sweep, runs)
        except UserError as error:
            log.info(f"could not be submitted again: {error}")
            if self.bad_nodes:
                log.info(f"trying with {', '.join(sorted(self.bad_nodes))}")
                self.bad_nodes = set()
                self._submit_once_more(sweep, runs)

    def interrupted(self, sweep: Path, runs: list[Path]) -> None:
        """On Ctrl-C while the runs are followed: leave them to themselves."""
        self._tell(sweep, runs)

    def _tell(self, sweep: Path, runs: list[Path]) -> None:
        found = self._read(runs)
        counts = sorted(Counter(run.state for run in found).items())
        states = ", ".join(f"{number} {name}" for name, number in counts)
        log.info(f"{sweep}: {number_of_runs(len(runs))}: {states}")
        if any(run.state in LEFT_TO_DO for run in found):
            log.info(f"  follow: python -m rlhf.status {sweep}\n  cancel: python -m rlhf.status --cancel {sweep}")

    def _returns(self, sweep: Path, jobs: list[Run]) -> list[JobReturn]:
        paths = dict.fromkeys(job.path for job in jobs) if self.wait else ()
        failed = [run for run in (read_run(path, whole=False) for path in paths) if run.state not in ENDED]
        title = f"{len(failed)} of {number_of_runs(len(jobs))} in {sweep} did not get done:"
        lines = [f"  {run.path.name}: {run.state}, {run.reason}; log: {run.log or 'none'}" for run in failed]
        error = SweepError("\n".join([title, *lines]))
        undone = {run.path for run in failed}
        return [job_return(job, self.wait, error if job.path in undone else None) for job in jobs]


def launcher_lock(sweep: Path) -> FileLock:
    """Held while runs are submitted, or their ends set down: two that are at it do everything once; of any account."""
    return FileLock(sweep / ".launcher.lock", mode=0o666)


def is_taken(run: RunState) -> bool:
    """Whether a launcher has a run, and it is on its way."""
    return run.state in LEFT_TO_DO and bool(run.job) and not run.job.get("held_back")


def job_return(job: Run, ended: bool, error: Exception | None) -> JobReturn:
    """What a sweeper is told of a run: its objective where it has ended, or the error that it failed by."""
    value: Value = None
    try:
        value = value_of(job.path, job.config) if ended and error is None else None
    except DataError as unknown:
        error = unknown
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    given = value if error is None else error
    return JobReturn(job.overrides, working_dir=str(Path.cwd()), task_name="run", status=status, _return_value=given)
