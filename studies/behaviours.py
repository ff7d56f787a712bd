"""Section: what the published code does differently from PPO as it should be, all on against all off."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.figures import GREEDY
from rlhf.report.compare import extent, final, level, p_values, win_rate_difference
from rlhf.report.load import Leaf, Run
from rlhf.report.markdown import p_value, shown, table
from studies.forms import Forms, at_default, by_form, name
from studies.section import Section
from studies.selection import agreeing, described

TITLE = "The published code's behaviours"
PUBLISHED: dict[str, Leaf] = {
    "ppo.average": "positions",
    "ppo.repeat_micro_batch": True,
    "ppo.whiten_padding": True,
    "ppo.bootstrap_padding": True,
    "ppo.retokenize": True,
}
BESIDE = (
    "ppo.dropout",
    "ppo.micro_batch_size",
    "lora.dtype",
    "value.init",
    "ppo.whiten_rewards",
    "ppo.missing_eos_score",
)
"""What `ppo=paper` changes with them, and runs may set back or leave."""


def all_on(run: Run) -> bool:
    return all(run.config.get(key) == value for key, value in PUBLISHED.items())


def all_off(run: Run) -> bool:
    return all(run.config.get(key) != value for key, value in PUBLISHED.items())


def section(runs: Sequence[Run], figures: Path) -> Section:
    """Without paragraphs where no runs of one setting have them all on and all off."""
    ends = [run for run in runs if all_on(run) or all_off(run)]
    chosen = agreeing(ends, (*PUBLISHED, *BESIDE, "regularizer."), all_on)
    published = at_default(by_form(agreeing([run for run in chosen.runs if all_on(run)], ("regularizer.",), name).runs))
    proper = at_default(by_form(agreeing([run for run in chosen.runs if all_off(run)], ("regularizer.",), name).runs))
    shared = [form for form in published if form in proper]
    if not shared:
        return Section(TITLE, [])
    paragraphs = [
        "All on (" + ", ".join(f"`{key}={value}`" for key, value in PUBLISHED.items()) + ") against all off. "
        f"{described(chosen, extent(chosen.runs))}",
        behaviours_table({form: published[form] for form in shared}, {form: proper[form] for form in shared}),
        "*Difference*: on minus off at the end, within world and seed and by prompt; Holm's p over all rows.",
    ]
    return Section(TITLE, paragraphs)


def behaviours_table(published: Forms, proper: Forms) -> str:
    results = [win_rate_difference(published[form], proper[form]) for form in published]
    rows = []
    for form, result, p in zip(published, results, p_values(results), strict=True):
        arms = (published[form], proper[form])
        levels = [shown(level(runs, final(GREEDY))) for runs in arms]
        kls = [shown(level(runs, final("true_kl_per_response")), 2) for runs in arms]
        rows.append([form, extent(published[form]), *levels, shown(result, signed=True), p_value(p), *kls])
    header = ["form", "worlds x seeds", "win rate, on", "off", "difference", "Holm p", "KL per response, on", "off"]
    return table(header, rows)
