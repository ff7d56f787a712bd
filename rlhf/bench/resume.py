"""What stopping costs: a run that is stopped half-way and started again, against the same run in one piece."""

from pathlib import Path

from rlhf.bench.runs import finish, fresh, history, run_in, spread, stop_after
from rlhf.infra.progress import console


def measure_resume(overrides: list[str], rounds: int, folder: Path) -> None:
    """Run both in turn, with a checkpoint after every step, and print their seconds and the overhead."""
    settings = ["checkpoint_seconds=0", *overrides]
    finish(run_in(fresh(folder / "first"), settings))  # builds the stages, which the others find in the cache
    half = history(folder / "first")[-1]["step"] // 2
    wholes, overheads = [], []
    for _ in range(rounds):
        wholes.append(finish(run_in(fresh(folder / "whole"), settings)))
        path = fresh(folder / "stopped")
        stopped = stop_after(run_in(path, settings), path, half)
        overheads.append(stopped + finish(run_in(path, settings)) - wholes[-1])
    console.print(f"in one piece: {spread(wholes)} s")
    console.print(f"stopped after step {half} and started again: {spread(overheads)} s more")
    shares = [overhead / whole for overhead, whole in zip(overheads, wholes, strict=True)]
    console.print(f"overhead / run: {spread(shares)}  median (least to most) of {rounds} rounds")
