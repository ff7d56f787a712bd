"""What runs are set to: in which settings they differ, which they share, and the command that makes them again."""

import shlex
from collections.abc import Hashable, Sequence

from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.load import Leaf, Run

IRRELEVANT = (
    *("name", "seed", "data.seed", "cache_dir", "device", "model.threads", "checks.", "tracker."),
    *("objective", "prune.", "checkpoint_seconds", "checkpoint_local_dir", "rollout.cuda_graphs"),
    *("evaluation.every", "evaluation.interim_prompts", "evaluation.control_temperatures"),
)
"""Never part of a setting. A key that ends in a full stop stands for all below it."""

ABSENT = "absent"
SEEDS = ("seed", "data.seed")


def fixed(run: Run, varied: Sequence[str] = ()) -> dict[str, Leaf]:
    """The settings that must be the same for runs to be compared."""
    keys = (*IRRELEVANT, *varied)
    groups = tuple(key for key in keys if key.endswith("."))
    return {key: leaf for key, leaf in run.config.items() if key not in keys and not key.startswith(groups)}


def differences(first: Run, second: Run, varied: Sequence[str] = ()) -> list[str]:
    """The keys on which two runs' settings differ."""
    one, other = fixed(first, varied), fixed(second, varied)
    return [key for key in sorted({*one, *other}) if one.get(key, ABSENT) != other.get(key, ABSENT)]


Repeat = tuple[Run, Run]
"""A run that is left out, and the one of the same setting, world and seed that is used."""


def distinct(runs: Sequence[Run]) -> tuple[list[Run], list[Repeat]]:
    """One run for each setting, world and seed: that with the most evaluated steps, the first of several; the rest."""
    alike: dict[Hashable, list[Run]] = {}
    for run in runs:
        key = (run.world, run.seed, tuple(sorted(fixed(run).items(), key=str)))
        alike.setdefault(key, []).append(run)
    chosen = [max(found, key=lambda run: len(run.checkpoints)) for found in alike.values()]
    pairs = zip(chosen, alike.values(), strict=True)
    repeats = [(run, used) for used, found in pairs for run in found if run is not used]
    return sorted(chosen, key=lambda run: run.path), sorted(repeats, key=lambda pair: pair[0].path)


def repeated(pair: Repeat) -> str:
    """What is said of a run that is left out, and whether it found anything else."""
    run, used = pair
    same = all(run.metrics.get(name) == used.metrics.get(name) for name in (GREEDY, SAMPLED, "objective"))
    return f"{run.path} repeats {used.path}" + ("" if same else ", with other figures")


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The settings in which any two runs differ."""
    return sorted({key for run in runs[1:] for key in differences(runs[0], run)})


def common(runs: Sequence[Run]) -> dict[str, Leaf]:
    """The settings on which all agree; what is no setting is left out."""
    if not runs:
        return {}
    differing = {*differing_keys(runs)}
    return {key: leaf for key, leaf in fixed(runs[0]).items() if key not in differing}


def shown_leaf(value: Leaf) -> str:
    """As it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def command(runs: Sequence[Run]) -> str:
    """The command that makes runs again which differ in seeds alone; "" where none made them.

    One sweep where the seeds of all worlds are alike, else a line for each kind of world.
    """
    made_by = runs[0].made_by
    if made_by is None:
        return ""
    chosen = [] if made_by["config"] == "config" else ["-cn", made_by["config"]]
    chosen = ["-cd", made_by["config_dir"], *chosen] if "config_dir" in made_by else chosen
    overrides = [each for each in made_by["overrides"] if each.partition("=")[0] not in SEEDS]
    seeds_of: dict[int, list[int]] = {}
    for run in sorted(runs, key=lambda run: (run.world, run.seed)):
        seeds_of.setdefault(run.world, []).append(run.seed)
    worlds_of: dict[tuple[int, ...], list[int]] = {}
    for world, seeds in seeds_of.items():
        worlds_of.setdefault(tuple(seeds), []).append(world)
    return "\n".join(line([*chosen, *overrides], worlds, seeds) for seeds, worlds in worlds_of.items())


def line(overrides: Sequence[str], worlds: Sequence[int], seeds: Sequence[int]) -> str:
    several = len(worlds) * len(seeds) > 1
    chosen = [f"data.seed={','.join(map(str, worlds))}", f"seed={','.join(map(str, seeds))}"]
    return shlex.join(["python", "-m", "rlhf.run", *["-m"] * several, *overrides, *chosen])
