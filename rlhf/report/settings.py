"""Which runs may be compared: those that agree on every setting except the ones a comparison varies."""

from collections.abc import Hashable, Sequence

from rlhf.report.load import Leaf, Run

IRRELEVANT = (
    *("seed", "data.seed", "cache_dir", "device", "model.threads", "checks.", "tracker."),
    *("evaluation.every", "evaluation.interim_prompts", "evaluation.control_temperatures"),
)
"""Never part of a setting. A key that ends in a full stop stands for all below it."""

ABSENT = "absent"


def fixed(run: Run, varied: Sequence[str]) -> dict[str, Leaf]:
    """The settings that must be the same for runs to be compared."""
    keys = (*IRRELEVANT, *varied)
    groups = tuple(key for key in keys if key.endswith("."))
    return {key: leaf for key, leaf in run.config.items() if key not in keys and not key.startswith(groups)}


def differences(first: Run, second: Run, varied: Sequence[str]) -> list[str]:
    """The keys on which two runs' settings differ."""
    one, other = fixed(first, varied), fixed(second, varied)
    return [key for key in sorted({*one, *other}) if one.get(key, ABSENT) != other.get(key, ABSENT)]


def distinct(runs: Sequence[Run]) -> list[Run]:
    """One run for each setting, world and seed: that with the most evaluated steps, the first of several."""
    chosen: dict[Hashable, Run] = {}
    for run in runs:
        key = (run.world, run.seed, tuple(sorted(fixed(run, ()).items(), key=str)))
        if key not in chosen or len(run.checkpoints) > len(chosen[key].checkpoints):
            chosen[key] = run
    return sorted(chosen.values(), key=lambda run: run.path)
