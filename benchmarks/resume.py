"""What stopping costs: a run that is stopped half-way and started again, against the same run in one piece."""

from typing import Any

from benchmarks.options import Options
from benchmarks.runs import finish, fresh, history, run_in, stop_after
from benchmarks.table import ratios, spread
from rlhf.console import console


def measure(options: Options) -> dict[str, Any]:
    """Run both in turn, with a checkpoint after every step, and print their seconds and the overhead."""
    settings, folder = ["checkpoint_seconds=0", *options.overrides], options.folder
    finish(run_in(fresh(folder / "first"), settings))  # builds the stages, which the others find in the cache
    half = history(folder / "first")[-1]["step"] // 2
    wholes, overheads = [], []
    for _ in range(options.rounds):
        wholes.append(finish(run_in(fresh(folder / "whole"), settings)))
        path = fresh(folder / "stopped")
        stopped = stop_after(run_in(path, settings), path, half)
        overheads.append(stopped + finish(run_in(path, settings)) - wholes[-1])
    console.print(f"in one piece: {spread(wholes)} s")
    console.print(f"stopped after step {half} and started again: {spread(overheads)} s more")
    shares = ratios(overheads, wholes)
    console.print(f"overhead / run: {spread(shares)}  median (least to most) of {options.rounds} rounds")
    return {"seconds": wholes, "overheads": overheads, "ratios": shares}
