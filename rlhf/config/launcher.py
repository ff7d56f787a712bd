"""Settings of the SLURM launcher: the keys of conf/hydra/launcher/slurm.yaml, which explains them."""

from dataclasses import dataclass, field
from typing import Any

from rlhf.config.gate import entries
from rlhf.validate import check

SECTION = "hydra.launcher"

COMMANDS = ("setup", "python", "additional")
"""Keys whose values are run, or may be."""

RESERVED = (
    *("array", "chdir", "dependency", "error", "job-name", "open-mode", "output", "requeue", "signal"),
    *("partition", "account", "qos", "time", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task"),
    *("mem", "constraint", "exclude", "kill-on-bad-exit"),
)
"""Options of sbatch that the launcher sets itself, or that have a key of their own."""


@dataclass
class SlurmConfig:
    """One SLURM job array per sweep, one element per run; null leaves a choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = 60
    nodes: int = 1
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    array_parallelism: int = 256
    constraint: str | None = None
    exclude: str | None = None
    setup: list[str] = field(default_factory=list)
    signal_seconds: int = 120
    additional: dict[str, Any] = field(default_factory=dict)
    python: str | None = None

    def __post_init__(self) -> None:
        counted = ("time", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "array_parallelism")
        for name in counted:
            value = getattr(self, name)
            check(value is None or value > 0, f"{SECTION}.{name}", value, "must be greater than 0")
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
        check(seconds < 60 * self.time, key, seconds, f"must be less than {SECTION}.time, which is {self.time} min")

    @property
    def tasks(self) -> int:
        """Ranks on a node: one per GPU, or one."""
        return self.tasks_per_node or self.gpus_per_node or 1
