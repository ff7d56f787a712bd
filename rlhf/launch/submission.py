"""A sweep's runs as job arrays, within the cluster's limits, and after the jobs that build their stages."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.launcher import SECTION, SlurmConfig
from rlhf.launch.batch import Array, ArrayTooLargeError, QueueFullError, chunks, submit
from rlhf.launch.intent import Jobs, sheets
from rlhf.launch.prepared import by_stages
from rlhf.launch.queue import MAX_ARRAY_SIZE, queue_of, site
from rlhf.storage.runs import short_names


class Submission:
    """`submit` once; then `jobs` and `stages` are what was taken, by runs and by stages; `full`: why it was not all.

    `room` is how many jobs may be submitted, None for as many as the queue takes; `again` is what job.json tells of
    runs that are submitted once more.
    """

    def __init__(
        self, sweep: Path, directory: Path, slurm: SlurmConfig, room: int | None, again: Mapping[Path, Any]
    ) -> None:
        self.sweep, self.directory, self.slurm, self.room = sweep, directory, slurm, room
        self.again = {run.name: told for run, told in again.items()}
        here = site()
        self.largest = here.max_array_size if here else MAX_ARRAY_SIZE
        self.jobs: Jobs = {}
        self.stages: dict[str, str] = {}
        self.full: str | None = None

    def submit(self, runs: list[Path]) -> None:
        """Submit the runs until all are, or the queue is full. Raises ConfigError with what sbatch said."""
        self.names, self.total = short_names(runs), len(runs)
        built, others = by_stages(runs, self.directory)
        under_way = self._under_way()
        try:
            self._prepare({key: group[0] for key, group in others.items() if key not in under_way})
            building = under_way | self.stages
            self._send_runs(built, [])
            worlds = [key for key in others if key in building]
            for keys in chunks(worlds, max(1, -(-len(worlds) // self.slurm.array_parallelism))):
                self._send_runs([run for key in keys for run in others[key]], [building[key] for key in keys])
        except BaseException:
            unused = [job for key, job in self.stages.items() if self.jobs.keys().isdisjoint(others[key])]
            if unused:
                subprocess.run(["scancel", *unused], check=False)
            raise

    def _under_way(self) -> dict[str, str]:
        """Jobs of an earlier submission that still build stages."""
        known: dict[str, dict[str, Any]] = {}
        for said in sheets(self.sweep).values():
            for number, (run,) in enumerate(said["elements"] if "stages" in said and "array" in said else []):
                known[said["stages"][run]] = {"job_id": f"{said['array']}_{number}", **said["where"]}
        queue = queue_of(known.values())
        left = {key: job["job_id"] for key, job in known.items()}
        return {key: job for key, job in left.items() if (entry := queue.get(job)) and not entry.over}

    def _prepare(self, firsts: dict[str, Path]) -> None:
        """Have a job for each of these stages; where there is little room, half of it is left for runs."""
        if self.room is not None:
            firsts = dict(list(firsts.items())[: max(1, self.room // 2)])
        elements = [[run] for run in firsts.values()]
        about = {"stages": {str(run): key for key, run in firsts.items()}}
        array = Array(f"{self.sweep.name}:stages", "rlhf.prepare", elements, processes=1, about=about)
        jobs = self._send(array, len(elements))
        self.stages = {key: jobs[run] for key, run in firsts.items() if run in jobs}

    def _send_runs(self, runs: list[Path], stages: Sequence[str]) -> None:
        """Submit runs that wait for the jobs of their stages."""
        elements = chunks(runs, self.slurm.runs_per_job)
        after = f"afterany:{':'.join(dict.fromkeys(stages))}" if stages else None
        about = {"job": {"stages": list(stages)} if stages else {}, "again": self.again}
        name = f"{self.sweep.name}:{self._label(runs)}".rstrip(":")
        array = Array(name, "rlhf.resume", elements, after=after, about=about)
        self.jobs |= self._send(array, -(-self.total // self.slurm.runs_per_job))

    def _send(self, array: Array, total: int) -> Jobs:
        """Submit as many of its elements as the queue takes; returns their runs' jobs.

        `total` are all that share array_parallelism: each array that is submitted has its part of it.
        """
        sent: Jobs = {}
        while self.full is None and (left := [runs for runs in array.elements if runs[0] not in sent]):
            room = len(left) if self.room is None else self.room
            if room == 0:
                self.full = f"{SECTION}.max_submit={self.slurm.max_submit} jobs are in the queue"
                break
            part = chunks(left[:room], self.largest)[0]
            at_once = max(1, self.slurm.array_parallelism * len(part) // max(total, len(part)))
            try:
                sent |= submit(array.part(part, at_once), self.sweep, self.directory, self.slurm)
                self.room = None if self.room is None else self.room - len(part)
            except (QueueFullError, ArrayTooLargeError) as error:
                if len(part) == 1:
                    if isinstance(error, ArrayTooLargeError):
                        raise
                    self.full = error.said
                self.largest = max(1, len(part) // 2)
        return sent

    def _label(self, runs: Sequence[Path]) -> str:
        """What these runs have in common, and the sweep's others do not; of a single run, its name."""
        parts = [self.names[run].split(",") for run in runs]
        return ",".join(part for part in parts[0] if all(part in other for other in parts)) if parts else ""
