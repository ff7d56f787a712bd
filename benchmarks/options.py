"""The options of the measuring commands, and the configuration that they make."""

from dataclasses import dataclass, field
from pathlib import Path

from rlhf.compose import compose_checked
from rlhf.config.run import Config

WORK = "experiment=bench"
"""The default workload; overrides come after it."""

VALUES = ("adapter", "reward_features", "head")


@dataclass
class Options:
    """The command line; each command accepts only what it reads."""

    overrides: list[str] = field(default_factory=list)
    rounds: int = 3
    folder: Path = Path("outputs/bench")
    steps: int = 3
    seeds: int = 2
    mean_length: float | None = None
    values: list[str] = field(default_factory=lambda: ["adapter", "reward_features"])
    device: str = "cuda"
    measured: bool = False
    processes: int = 1
    size: str = "7b"
    commit: str = "HEAD"
    of: str = "run"
    budget: float = 780.0
    worlds: int = 5
    trials: int = 8
    runs: int | None = None
    per_job: int = 20


def configure(overrides: list[str]) -> Config:
    """The checked configuration of the benchmarks' work with `overrides`."""
    return compose_checked("config", [WORK, *overrides])
