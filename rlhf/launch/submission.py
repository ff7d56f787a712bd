"""A sweep's runs as job arrays, within the cluster's limits, and after the jobs that build their stages."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rlhf.config.launcher import SECTION, SlurmConfig
from rlhf.launch.batch import FOLDER, Array, ArrayTooLargeError, QueueFullError, chunks, submit
from rlhf.launch.job import LOG, write_job
from rlhf.launch.prepared import by_stages
from rlhf.launch.squeue import OVER, ask, queue_of
from rlhf.storage.files import read_json, write_json
from rlhf.storage.runs import short_names

STAGES_FILE = "stages.json"
"""In the sweep's slurm/: the jobs that build stages, by what they build."""

MAX_ARRAY_SIZE = 1001
"""SLURM's own, where scontrol does not say."""


class Submission:
    """`submit` once; then `jobs` and `stages` are what was taken, by runs and by stages; `full`: why it was not all.

    `room` is how many jobs may be submitted, None for as many as the queue takes.
    """

    def __init__(self, sweep: Path, directory: Path, slurm: SlurmConfig, room: int | None) -> None:
        self.sweep, self.directory, self.slurm, self.room = sweep, directory, slurm, room
        self.largest = max_array_size()
        self.jobs: dict[Path, str] = {}
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
        write_json(self.sweep / FOLDER / STAGES_FILE, building)

    def _under_way(self) -> dict[str, str]:
        """Jobs of an earlier submission that still build stages."""
        file = self.sweep / FOLDER / STAGES_FILE
        known = read_json(file) if file.exists() else {}
        queue = queue_of(known.values()) or {}
        return {key: job for key, job in known.items() if queue.get(job, (OVER[0],))[0] not in OVER}

    def _prepare(self, firsts: dict[str, Path]) -> None:
        """Have a job for each of these stages; where there is little room, half of it is left for runs."""
        if self.room is not None:
            firsts = dict(list(firsts.items())[: max(1, self.room // 2)])
        elements = [[run] for run in firsts.values()]
        array = Array(f"{self.sweep.name}:stages", "rlhf.prepare", elements, processes=1)
        self.stages = dict(zip(firsts, self._send(array, len(elements)), strict=False))

    def _send_runs(self, runs: list[Path], stages: Sequence[str]) -> None:
        """Submit runs that wait for the jobs of their stages, and write their job.json."""
        elements = chunks(runs, self.slurm.runs_per_job)
        after = f"afterany:{':'.join(dict.fromkeys(stages))}" if stages else None
        array = Array(f"{self.sweep.name}:{self._label(runs)}".rstrip(":"), "rlhf.resume", elements, after=after)
        for element, job in zip(elements, self._send(array, -(-self.total // self.slurm.runs_per_job)), strict=False):
            shared = {"shares": len(element)} if len(element) > 1 else {}
            waits = {"stages": list(stages)} if stages else {}
            for run in element:
                log = f"{run.name}/{LOG}" if shared else f"{FOLDER}/{job}_0_log.out"
                write_job(run, "slurm", log, job_id=job, **shared, **waits)
                self.jobs[run] = job

    def _send(self, array: Array, total: int) -> list[str]:
        """Submit as many of its elements as the queue takes; returns their jobs' ids.

        `total` are all that share array_parallelism: each array that is submitted has its part of it.
        """
        sent: list[str] = []
        while self.full is None and (left := array.elements[len(sent) :]):
            room = len(left) if self.room is None else self.room
            if room == 0:
                self.full = f"{SECTION}.max_submit={self.slurm.max_submit} jobs are in the queue"
                break
            part = chunks(left[:room], self.largest)[0]
            at_once = max(1, self.slurm.array_parallelism * len(part) // max(total, len(part)))
            try:
                sent += submit(array.part(part, at_once), self.sweep, self.directory, self.slurm)
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


def max_array_size() -> int:
    """How many elements an array may have here."""
    answer = ask(["scontrol", "show", "config"])
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer.stdout if answer is not None else "")
    return max(1, int(found[1]) if found else MAX_ARRAY_SIZE)
