"""The runs that compare forms of the penalty under LoRA: one setting, whose groups differ in the penalty alone."""

from collections.abc import Callable, Sequence

from rlhf.report.load import Run
from studies.figures import BLUE, GREY, Dots, Line, Panel
from studies.selection import Selection, agreeing, like

PAPER = ("kl", "clamped_kl", "js", "bregman", "squared_error")
"""The paper's penalties, beside `none`, `dropout_only` and `negative_kl`, which penalise nothing."""

ORDER = (
    *("none", "dropout_only", *PAPER, "negative_kl"),
    *("js_unbiased", "js_exact", "forward_kl", "full_kl", "full_forward_kl", "full_js", "full_alpha"),
)

Forms = dict[str, list[Run]]
"""Form -> its runs."""

DROPOUT = ("ppo.dropout", "lora.dropout")
"""What `dropout_only` changes beside the penalty."""


def name(run: Run) -> str:
    return str(run.config["regularizer.name"])


def strength(run: Run) -> float:
    return float(run.config.get("regularizer.strength") or 1.0)


def with_lora(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.config.get("lora.r") is not None]


def by_ppo(runs: Sequence[Run]) -> list[Run]:
    """Those of PPO with a constant penalty."""
    found = [run for run in runs if run.config.get("algorithm.name", "ppo") == "ppo"]
    return [run for run in found if run.config.get("regularizer.schedule", "constant") == "constant"]


def comparable(runs: Sequence[Run]) -> Selection:
    """Those of PPO under LoRA that differ in their penalties alone; `dropout_only` in its dropout too."""
    candidates = with_lora(by_ppo(runs))
    chosen = agreeing([run for run in candidates if name(run) != "dropout_only"], ("regularizer.",), name)
    if not chosen.runs:
        return chosen
    dropout = [run for run in candidates if name(run) == "dropout_only"]
    added = like(dropout, chosen.runs[0], ("regularizer.", *DROPOUT))
    return Selection([*chosen.runs, *added], len(candidates) - len(chosen.runs) - len(added), chosen.differing)


def by_form(runs: Sequence[Run]) -> Forms:
    """Form -> its runs of all strengths, in the order of `ORDER`; with several placements, each is a form.

    Of runs that differ in the form's other settings, such as its own coefficient, the most numerous alike are taken.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((name(run), str(run.config.get("regularizer.placement"))), []).append(run)
    names = [form for form, _ in groups]
    forms: Forms = {}
    for form, placement in sorted(groups, key=lambda key: (position(key[0]), key)):
        label = form if names.count(form) == 1 else f"{form} ({placement})"
        forms[label] = agreeing(groups[form, placement], ("regularizer.strength",)).runs
    return forms


def position(form: str) -> int:
    return ORDER.index(form) if form in ORDER else len(ORDER)


def at_default(forms: Forms) -> Forms:
    """The forms that were run at their own coefficient, and those runs."""
    found = {form: [run for run in runs if strength(run) == 1] for form, runs in forms.items()}
    return {form: runs for form, runs in found.items() if runs}


def beside_none(
    forms: Forms,
    line: Callable[[list[Run], str, bool], Line],
    dots: Callable[[list[Run], str], list[Dots]] = lambda runs, color: [],
) -> list[Panel]:
    """A panel for each form, with `none` in grey; `line` draws runs in a colour, with their interval or without."""
    reference = [line(forms["none"], GREY, False)] if "none" in forms else []
    panels = []
    for form, runs in forms.items():
        color, behind = (GREY, []) if form == "none" else (BLUE, reference)
        panels.append(Panel(form, [*behind, line(runs, color, True)], dots(runs, color), color=color))
    return panels
