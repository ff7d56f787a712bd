"""Section: learning rates, compared on the people set aside for choosing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rlhf.figures import GREEDY
from rlhf.report.compare import extent, final, level
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, number, table
from studies.forms import by_ppo, name
from studies.lora import is_full
from studies.measures import in_worlds
from studies.section import Section, missing
from studies.selection import agreeing, described

TITLE = "Learning rates, on the tuning people"


def section(runs: Sequence[Run], figures: Path) -> Section:
    """The section on learning rates, from tuning runs alone."""
    chosen = agreeing(by_ppo(runs), ("lora.", "ppo.lr"), learning_rate)
    if not chosen.runs:
        return Section(TITLE, [missing("study_rates")])
    groups: dict[tuple[bool, float], list[Run]] = {}
    for run in chosen.runs:
        groups.setdefault((is_full(run), learning_rate(run)), []).append(run)
    rows = [tuning_row(method(full), rate, agreeing(groups[full, rate]).runs) for full, rate in sorted(groups)]
    header = ["method", "learning rate", "worlds x seeds", "win rate, %", "factuality, %", "KL, nats/response"]
    names = ", ".join(sorted({f"`{name(run)}`" for run in chosen.runs}))
    best = [f"{method(full)} at {rate:g}" for full, rate in highest(groups).items()]
    note = (
        f"Means over the worlds, and in brackets each world's own. The highest win rates here: {', '.join(best)}; "
        "compare the rates that the section before this one names. All with the penalty "
        f"{names}; another one may want another rate."
    )
    return Section(TITLE, [described(chosen, extent(chosen.runs)), table(header, rows), note])


def method(full: bool) -> str:
    return "full" if full else "LoRA"


def highest(groups: Mapping[tuple[bool, float], Sequence[Run]]) -> dict[bool, float]:
    """The learning rate with the highest mean win rate over worlds: of LoRA (False) and of all weights (True)."""
    means = {group: fmean(found) for group, runs in groups.items() if (found := world_means(runs, GREEDY))}
    ranked = sorted(means, key=lambda group: (group[0], means[group]))
    return dict(ranked)  # of each method the last one stays


def learning_rate(run: Run) -> float:
    return float(run.config.get("ppo.lr") or 0)


def tuning_row(kind: str, rate: float, runs: Sequence[Run]) -> list[str]:
    shown = ((GREEDY, 1), ("factuality", 1), ("true_kl_per_response", 2))
    figures = [by_world(runs, figure, digits) for figure, digits in shown]
    return [kind, f"{rate:g}", extent(runs), *figures]


def by_world(runs: Sequence[Run], figure: str, digits: int) -> str:
    """`60.1 (58.9, 61.3)`: the mean over worlds, and each world's mean over its seeds."""
    values = world_means(runs, figure)
    if not values:
        return NOTHING
    return f"{number(fmean(values), digits)} ({', '.join(number(value, digits) for value in values)})"


def world_means(runs: Sequence[Run], figure: str) -> list[float]:
    """The mean over seeds in each world that has the figure."""
    worlds = [level(own, final(figure)) for own in in_worlds(runs).values()]
    return [found.estimate for found in worlds if found is not None]
