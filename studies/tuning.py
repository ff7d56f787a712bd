"""Section: learning rates, compared on the people set aside for choosing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rlhf.figures import GREEDY
from rlhf.report.compare import extent, final, level
from rlhf.report.load import Run
from rlhf.report.markdown import number, shown, table
from studies import algorithms
from studies.forms import name
from studies.lora import EVERYWHERE, is_full, modules
from studies.measures import in_worlds
from studies.section import Section, missing
from studies.selection import agreeing, described

TITLE = "Learning rates, on the tuning people"
VARIED = (*algorithms.VARIED, "regularizer.", "lora.")
WITHIN = 1.0
"""Points of greedy win rate by which a higher rate must beat a lower one to be chosen."""

Rates = dict[float, list[Run]]
"""Learning rate -> its runs."""


def section(runs: Sequence[Run], figures: Path) -> Section:
    """The section on learning rates, from tuning runs alone."""
    chosen = agreeing(runs, VARIED, learning_rate)
    tried = by_setting(chosen.runs)
    if not tried:
        return Section(TITLE, [missing("study_rates")])
    header = ["trained", "penalty", "algorithm", "worlds x seeds", "mean win rate, % (at rate)", "chosen"]
    note = (
        "Mean greedy win rates at the end over the worlds. *Chosen*: the lowest rate that is at most "
        f"{WITHIN:g} point behind the best, and the KL at its end. Where the study ran another rate, "
        "[its design](study-design.md#changed-afterwards) says why."
    )
    rows = [tuning_row(setting, rates) for setting, rates in tried.items()]
    answer = ratios(tried)
    paragraphs = [
        described(chosen, extent(chosen.runs)),
        *[f"**{answer}**"] * bool(answer),
        table([*header, "KL, nats/response"], rows, text=3),
        note,
    ]
    return Section(TITLE, paragraphs, answers=[("How much higher is LoRA's rate?", answer)] * bool(answer))


Setting = tuple[str, str, str]
"""What is trained, the penalty, the algorithm."""


def by_setting(runs: Sequence[Run]) -> dict[Setting, Rates]:
    """The runs of each setting that was tried at several learning rates and has a greedy win rate."""
    tried: dict[Setting, Rates] = {}
    for run in sorted(runs, key=lambda run: (is_full(run), run.config.get("lora.r") or 0, learning_rate(run))):
        setting = trained(run), name(run), algorithms.algorithm(run)
        tried.setdefault(setting, {}).setdefault(learning_rate(run), []).append(run)
    agreed = {
        setting: {rate: agreeing(found).runs for rate, found in rates.items() if world_means(found)}
        for setting, rates in tried.items()
    }
    return {setting: rates for setting, rates in agreed.items() if len(rates) > 1}


def trained(run: Run) -> str:
    """As `rank 8`, `rank 8 on [q_proj,k_proj]`, `all weights`."""
    if is_full(run):
        return "all weights"
    return f"rank {run.config['lora.r']}" + ("" if EVERYWHERE in modules(run) else f" on {modules(run)}")


def learning_rate(run: Run) -> float:
    return float(run.config.get("ppo.lr") or 0)


def best(rates: Rates) -> float:
    """The lowest of those rates whose mean win rate is at most a point behind the highest."""
    means = {rate: fmean(world_means(runs)) for rate, runs in rates.items()}
    return min(rate for rate, mean in means.items() if mean >= max(means.values()) - WITHIN)


def ratios(tried: Mapping[Setting, Rates]) -> str:
    """How many times the rate of all weights LoRA's is; "" where no penalty was tried with both in the same worlds."""
    told = []
    for (what, penalty, algorithm), rates in tried.items():
        full = tried.get(("all weights", penalty, algorithm))
        if full is not None and what.startswith("rank") and worlds(full) == worlds(rates):
            told.append(f"{what} {best(rates) / best(full):.3g} ({penalty})")
    return f"LoRA's chosen rate, as a multiple of that of all weights: {', '.join(told)}." if told else ""


def worlds(rates: Rates) -> set[int]:
    return {run.world for runs in rates.values() for run in runs}


def tuning_row(setting: Setting, rates: Rates) -> list[str]:
    rate = best(rates)
    means = [f"{number(fmean(world_means(runs)), 1)} ({each:g})" for each, runs in rates.items()]
    kl = shown(level(rates[rate], final("true_kl_per_response")), 2)
    return [*setting, extent(rates[rate]), ", ".join(means), f"{rate:g}", kl]


def world_means(runs: Sequence[Run]) -> list[float]:
    """The mean greedy win rate over seeds in each world that has one."""
    worlds = [level(own, final(GREEDY)) for own in in_worlds(runs).values()]
    return [found.estimate for found in worlds if found is not None]
