"""What pruning saves of a search, and whether it costs the winner: the same trials with and without, in some worlds."""

import math
import time
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.options import Options
from benchmarks.runs import fresh
from benchmarks.table import figure, show, spread
from rlhf.compose import load_config
from rlhf.console import console
from rlhf.experiment import run
from rlhf.search.objective import figures_of
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import RunDirectory

FIRST_WORLD = 30
"""Of the worlds that nothing is reported on."""

SPACE = {"ppo.lr": (0.0003, 0.005), "regularizer.strength": (0.1, 10.0)}
"""That of sweeps/search.yaml; trials are drawn from it log-uniformly."""

OBJECTIVE = "win_rate_greedy"
OWN = (f"objective={OBJECTIVE}", "evaluation.split=tune", "evaluation.control_temperatures=[]", "tracker=none")


def measure(options: Options) -> dict[str, Any]:
    """Run both searches in each world, and print their CPU seconds and what their winners reach in the whole one.

    The same command goes on with what it has not done: a search's figures are kept in the folder.
    """
    prune = [each for each in options.overrides if each.startswith("prune")] or ["prune=asha"]
    settings = [each for each in options.overrides if not each.startswith("prune")]
    worlds = {}
    for world in range(FIRST_WORLD, FIRST_WORLD + options.worlds):
        shared = [*OWN, *settings, f"data.seed={world}", f"cache_dir={options.folder / 'cache'}"]
        sampled = trials(world, options.trials)
        kept(options.folder / f"{world}-stages", [*shared, "ppo.steps=1", "evaluation.every=0"], sampled[:1])
        whole = kept(options.folder / f"{world}-whole", shared, sampled)
        pruned = kept(options.folder / f"{world}-pruned", [*shared, *prune], sampled)
        worlds[world] = {"whole": whole, "pruned": pruned, **compared(whole, pruned)}
        console.print(told(world, worlds[world]))
    show_all(worlds, prune)
    return {"worlds": worlds, "prune": prune, "settings": settings}


def trials(world: int, count: int) -> list[list[str]]:
    """Overrides drawn log-uniformly, the same whenever they are asked for."""
    draw = Random(f"{world}/trials")
    return [
        [f"{key}={math.exp(draw.uniform(math.log(low), math.log(high))):.4g}" for key, (low, high) in SPACE.items()]
        for _ in range(count)
    ]


def kept(folder: Path, shared: list[str], sampled: list[list[str]]) -> dict[str, Any]:
    """What a search has found, beside its folder in a file: one that was stopped between two searches goes on there."""
    file, of = folder.with_suffix(".json"), [shared, sampled]
    before = read_json(file) if file.exists() else {}
    if before.get("of") != of:
        before = {"of": of, **search(folder, shared, sampled)}
        write_json(file, before)
    return before


def search(folder: Path, shared: list[str], sampled: list[list[str]]) -> dict[str, Any]:
    """Run the trials one after another in this process: their CPU seconds, ends and last figures."""
    fresh(folder)
    seconds, states, values = [], [], []
    for number, overrides in enumerate(sampled):
        path, start = folder / str(number), time.process_time()
        run(load_config(*shared, *overrides), path)
        seconds.append(time.process_time() - start)
        states.append(RunDirectory(path).state)
        values.append(figures_of(path)[OBJECTIVE])
    return {"seconds": seconds, "states": states, "values": values}


def compared(whole: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The share of the CPU seconds, and the winner of the pruned search by its figure in the whole one."""
    best = max(whole["values"])
    left = [number for number, state in enumerate(pruned["states"]) if state == "done"]
    winner = max(left, key=lambda number: pruned["values"][number])
    return {
        "share": sum(pruned["seconds"]) / sum(whole["seconds"]),
        "pruned_runs": len(pruned["states"]) - len(left),
        "same_winner": whole["values"][winner] == best,
        "lost": best - whole["values"][winner],
    }


def told(world: int, found: dict[str, Any]) -> str:
    winner = "the same winner" if found["same_winner"] else f"a winner {found['lost']:.1f} points lower"
    return f"world {world}: {found['share']:.2f} of the CPU seconds, {winner}"


def show_all(worlds: dict[int, dict[str, Any]], prune: list[str]) -> None:
    rows = [
        [
            str(world),
            *(figure(sum(found[arm]["seconds"])) for arm in ("whole", "pruned")),
            figure(found["share"]),
            f"{found['pruned_runs']} of {len(found['pruned']['states'])}",
            f"{max(found['whole']['values']):.1f}",
            f"{found['lost']:.1f}",
        ]
        for world, found in worlds.items()
    ]
    columns = ("world", "CPU s without", "with", "share", "pruned", "best win rate, %", "lost by pruning, points")
    show(f"the same trials with and without {' '.join(prune)}", columns, rows)
    same = sum(found["same_winner"] for found in worlds.values())
    shares = [found["share"] for found in worlds.values()]
    console.print(f"share {spread(shares)}; the same winner in {same} of {len(worlds)} worlds")
