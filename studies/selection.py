"""Which runs a section compares: the largest set that agrees on every setting but those that it varies."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rlhf.escape import code
from rlhf.report.load import Run
from rlhf.report.settings import differences, fixed


@dataclass(frozen=True)
class Selection:
    """Runs of one setting; how many others there were, and on which keys those differ."""

    runs: list[Run]
    left_out: int
    differing: list[str]


def agreeing(
    runs: Sequence[Run], varied: Sequence[str] = (), contrast: Callable[[Run], Hashable] = lambda run: None
) -> Selection:
    """The largest set of runs that agree on all keys but `varied`; one in which `contrast` differs comes first."""
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(fixed(run, varied).items(), key=str)), []).append(run)
    if not groups:
        return Selection([], 0, [])
    chosen = max(groups.values(), key=lambda group: (len({contrast(run) for run in group}) > 1, len(group)))
    differing = sorted({key for group in groups.values() for key in differences(chosen[0], group[0], varied)})
    return Selection(chosen, len(runs) - len(chosen), differing)


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
    if not chosen.left_out:
        return text
    keys = [f"`{key}`" for key in chosen.differing[:MOST_KEYS]] + ["others"] * (len(chosen.differing) > MOST_KEYS)
    return f"{text} Left out: {chosen.left_out} of other settings ({', '.join(keys)})."
