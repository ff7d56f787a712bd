"""Two ranks against one, each with one thread: samples per second of the same run, at a batch as large as the paper's.

At the embedded world's own batch of 64 the ratio is lower: a token of 32 small rows takes nearly as long as one of 64.
"""

from typing import Any

from benchmarks.options import Options
from benchmarks.runs import finish, fresh, run_in, samples_per_second
from benchmarks.table import ratios, spread
from rlhf.console import console

RANKS = (1, 2)

SETTINGS = (
    *("ppo.steps=6", "evaluation.prompts=8"),
    *("rollout.batch_size=256", "ppo.step_batch_size=128", "ppo.micro_batch_size=64"),
)


def measure(options: Options) -> dict[str, Any]:
    """Run both in turn, and print their samples per second and the ratio."""
    settings = [*SETTINGS, *options.overrides]
    speeds: dict[int, list[float]] = {ranks: [] for ranks in RANKS}
    for _ in range(options.rounds):
        for ranks in RANKS:
            path = fresh(options.folder / f"ranks-{ranks}")
            finish(run_in(path, settings, ranks))
            speeds[ranks].append(samples_per_second(path))
    for ranks in RANKS:
        console.print(f"{ranks} rank{'s' * (ranks > 1)}, one thread each: {spread(speeds[ranks])} samples/s")
    gains = ratios(speeds[2], speeds[1])
    console.print(f"2 ranks / 1 rank: {spread(gains)}  median (least to most) of {options.rounds} rounds")
    return {"samples_per_second": speeds, "ratios": gains}
