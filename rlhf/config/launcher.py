"""Settings of the SLURM launcher: the keys of conf/hydra/launcher/slurm.yaml, which explains them."""

import re
from dataclasses import dataclass, field
from typing import Any

from rlhf.config.gate import entries
from rlhf.validate import check

SECTION = "hydra.launcher"

COMMANDS = ("setup", "python", "additional")
"""Keys whose values are run, or may be."""

RESERVED = (
    *("array", "chdir", "comment", "dependency", "error", "job-name", "open-mode", "output", "requeue", "signal"),
    *("partition", "account", "qos", "time", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task"),
    *("mem", "constraint", "exclude", "kill-on-bad-exit"),
)
"""Options of sbatch that the launcher sets itself, or that have a key of their own."""

TIME = re.compile(r"(?:(?P<days>\d+)-(?P<rest>\d+(?::\d+){0,2})|(?P<minutes>\d+)|(?P<clock>\d+:\d+(?::\d+)?))")
"""As sbatch --time has it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""


def minutes(time: object) -> int | None:
    """A time limit in whole minutes, rounded up; None where it is none."""
    found = TIME.fullmatch(str(time))
    if found is None:
        return None
    if found["minutes"]:
        return int(found["minutes"])
    parts = [int(part) for part in (found["rest"] or found["clock"]).split(":")]
    if found["days"]:
        hours, mins, seconds = (*parts, 0, 0)[:3]
    else:
        hours, mins, seconds = (0, *parts)[-3:]
    return -(-(int(found["days"] or 0) * 86400 + hours * 3600 + mins * 60 + seconds) // 60)


COUNTED = (
    *("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb"),
    *("array_parallelism", "max_submit", "runs_per_job", "runs_per_gpu", "poll_seconds"),
)


@dataclass
class SlurmConfig:
    """A sweep's job arrays, `runs_per_job` runs to an element; null leaves a choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: Any = 60
    nodes: int = 1
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    array_parallelism: int = 256
    max_submit: int | None = None
    runs_per_job: int = 1
    runs_per_gpu: int = 1
    dependency: str | None = None
    poll_seconds: float = 30.0
    keep_going: int = 3
    constraint: str | None = None
    exclude: str | None = None
    setup: list[str] = field(default_factory=list)
    signal_seconds: int = 120
    additional: dict[str, Any] = field(default_factory=dict)
    python: str | None = None

    def __post_init__(self) -> None:
        for name in COUNTED:
            value = getattr(self, name)
            check(value is None or value > 0, f"{SECTION}.{name}", value, "must be greater than 0")
        check(self.keep_going >= 0, f"{SECTION}.keep_going", self.keep_going, "must be 0 or greater")
        limit = None if isinstance(self.time, bool) else minutes(self.time)
        check(
            bool(limit), f"{SECTION}.time", self.time, "minutes above 0, or as sbatch has it: 1-12, 1-00:00:00, 90:00"
        )
        self._check_sharing()
        for name, value in entries(vars(self)):  # a second line in a batch script would be a command
            plain = not isinstance(value, str) or name.startswith("setup.") or value.isprintable()
            check(plain, f"{SECTION}.{name}", repr(value), "must be one line of printable characters")
        self._check_signal()
        if self.gpus_per_node is not None:
            allowed = f"a rank has a GPU of its own: at most gpus_per_node={self.gpus_per_node}"
            check(self.tasks <= self.gpus_per_node, f"{SECTION}.tasks_per_node", self.tasks_per_node, allowed)
        allowed = "how many of them? set gpus_per_node"
        check(self.gpu_type is None or self.gpus_per_node is not None, f"{SECTION}.gpu_type", self.gpu_type, allowed)
        for name, value in self.additional.items():
            reserved = name.lstrip("-").replace("_", "-") in RESERVED
            check(not reserved, f"{SECTION}.additional.{name}", value, "the launcher sets it, or has a key for it")

    def _check_signal(self) -> None:
        seconds, key = self.signal_seconds, f"{SECTION}.signal_seconds"
        # SLURM keeps them in 16 bits
        check(0 < seconds < 2**16, key, seconds, "must lie between 1 and 65535")
        check(
            seconds < 60 * self.minutes, key, seconds, f"must be less than {SECTION}.time, which is {self.minutes} min"
        )

    def _check_sharing(self) -> None:
        several, several_key = self.runs_per_job, f"{SECTION}.runs_per_job"
        one = self.nodes == 1 and self.tasks == 1
        check(
            several == 1 or one,
            several_key,
            several,
            "runs that share a job have one process each: nodes=1 and one rank",
        )
        beside = self.runs_per_gpu
        allowed = f"so many runs of a job at a time: at most {several_key}={several}"
        check(beside <= several, f"{SECTION}.runs_per_gpu", beside, allowed)
        allowed = "a chain that ? makes can't take in the jobs that build stages: join with a comma"
        check("?" not in (self.dependency or ""), f"{SECTION}.dependency", self.dependency, allowed)

    @property
    def minutes(self) -> int:
        """The time limit."""
        return minutes(self.time) or 0

    @property
    def tasks(self) -> int:
        """Ranks on a node: one per GPU, or one."""
        return self.tasks_per_node or self.gpus_per_node or 1
