"""Which runs a section compares: the largest set that agrees on every setting but those that it varies."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rlhf.escape import code
from rlhf.report.load import Run
from rlhf.report.settings import differences, fixed


@dataclass(frozen=True)
class Selection:
    """Runs of one setting; how many others there were, on which keys those differ, how many have none beside them."""

    runs: list[Run]
    left_out: int
    differing: list[str]
    alone: int = 0


def agreeing(
    runs: Sequence[Run], varied: Sequence[str] = (), contrast: Callable[[Run], Hashable] = lambda run: None
) -> Selection:
    """The largest set of runs that agree on all keys but `varied`; one in which `contrast` differs comes first.

    Of that one, runs of a world and seed in which `contrast` does not differ are left out: levels are then of the same
    worlds, as differences are.
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(fixed(run, varied).items(), key=str)), []).append(run)
    if not groups:
        return Selection([], 0, [])
    chosen = max(groups.values(), key=lambda group: (len({contrast(run) for run in group}) > 1, len(group)))
    differing = sorted({key for group in groups.values() for key in differences(chosen[0], group[0], varied)})
    used = beside_others(chosen, contrast)
    return Selection(used, len(runs) - len(chosen), differing, len(chosen) - len(used))


def beside_others(runs: Sequence[Run], contrast: Callable[[Run], Hashable]) -> list[Run]:
    """Those of worlds and seeds in which `contrast` differs; all, where it differs in none."""
    kinds: dict[tuple[int, int], set[Hashable]] = {}
    for run in runs:
        kinds.setdefault((run.world, run.seed), set()).add(contrast(run))
    return [run for run in runs if len(kinds[run.world, run.seed]) > 1] or list(runs)


def with_others(chosen: Selection, others: Sequence[Run], candidates: int) -> Selection:
    """The selection with more runs, of so many candidates; those in worlds and seeds of its own alone."""
    places = {(run.world, run.seed) for run in chosen.runs}
    added = [run for run in others if (run.world, run.seed) in places]
    used = [*chosen.runs, *added]
    alone = chosen.alone + len(others) - len(added)
    return Selection(used, candidates - len(used) - alone, chosen.differing, alone)


def like(runs: Sequence[Run], sample: Run, varied: Sequence[str]) -> list[Run]:
    """Those that agree with `sample` on all keys but `varied`."""
    return [run for run in runs if not differences(run, sample, varied)]


SHOWN = ("algorithm.name", "regularizer.name", "lora.r", "ppo.lr", "ppo.steps", "evaluation.prompts")


MOST_KEYS = 6


def described(chosen: Selection, extent: str) -> str:
    """A sentence on what a section's runs have in common, and what was left out."""
    common = [key for key in SHOWN if len({str(run.config.get(key)) for run in chosen.runs}) == 1]
    settings = ", ".join(code(f"{key}={chosen.runs[0].config[key]}") for key in common if key in chosen.runs[0].config)
    text = (
        f"{len(chosen.runs)} runs (worlds x seeds: {extent}) that agree on every setting not compared here: {settings}."
    )
    if chosen.alone:
        text += f" Left out: {chosen.alone} of worlds that have nothing to set beside them."
    if not chosen.left_out:
        return text
    keys = [f"`{key}`" for key in chosen.differing[:MOST_KEYS]] + ["others"] * (len(chosen.differing) > MOST_KEYS)
    return f"{text} Left out: {chosen.left_out} of other settings ({', '.join(keys)})."
