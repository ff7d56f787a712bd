"""Two ranks against one, each with one thread: samples per second of the same run, at a batch as large as the paper's.

At the embedded world's own batch of 64 the ratio is lower: a token of 32 small rows takes nearly as long as one of 64.
"""

from pathlib import Path

from rlhf.bench.runs import finish, fresh, run_in, samples_per_second, spread
from rlhf.infra.progress import console

RANKS = (1, 2)

SETTINGS = (
    *("ppo.steps=6", "evaluation.prompts=8"),
    *("rollout.batch_size=256", "ppo.step_batch_size=128", "ppo.micro_batch_size=64"),
)


def measure_ranks(overrides: list[str], rounds: int, folder: Path) -> None:
    """Run both in turn, and print their samples per second and the ratio."""
    settings = [*SETTINGS, *overrides]
    speeds: dict[int, list[float]] = {ranks: [] for ranks in RANKS}
    for _ in range(rounds):
        for ranks in RANKS:
            path = fresh(folder / f"ranks-{ranks}")
            finish(run_in(path, settings, ranks))
            speeds[ranks].append(samples_per_second(path))
    for ranks in RANKS:
        console.print(f"{ranks} rank{'s' * (ranks > 1)}, one thread each: {spread(speeds[ranks])} samples/s")
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    console.print(f"2 ranks / 1 rank: {spread(ratios)}  median (least to most) of {rounds} rounds")
