"""The command that makes runs again, from the overrides that their directories hold."""

import shlex
from collections.abc import Sequence

from rlhf.report.groups import SEEDS
from rlhf.report.load import Run


def command(runs: Sequence[Run]) -> str:
    """One command for runs that differ in seeds alone, a line for each kind of world; "" where none made them."""
    made_by = runs[0].made_by
    if made_by is None:
        return ""
    chosen = [] if made_by["config"] == "config" else ["-cn", made_by["config"]]
    overrides = [each for each in made_by["overrides"] if each.partition("=")[0] not in SEEDS]
    return written([*chosen, *overrides], runs)


def written(overrides: Sequence[str], runs: Sequence[Run]) -> str:
    """The command line; where the seeds of all worlds are alike one sweep, else a command for each world."""
    worlds: dict[int, list[int]] = {}
    for run in sorted(runs, key=lambda run: (run.world, run.seed)):
        worlds.setdefault(run.world, []).append(run.seed)
    by_seeds: dict[tuple[int, ...], list[int]] = {}
    for world, seeds in worlds.items():
        by_seeds.setdefault(tuple(seeds), []).append(world)
    return "\n".join(line(overrides, found, seeds) for seeds, found in by_seeds.items())


def line(overrides: Sequence[str], worlds: Sequence[int], seeds: Sequence[int]) -> str:
    several = len(worlds) * len(seeds) > 1
    chosen = [f"data.seed={','.join(map(str, worlds))}", f"seed={','.join(map(str, seeds))}"]
    return shlex.join(["python", "-m", "rlhf.run", *["-m"] * several, *overrides, *chosen])
