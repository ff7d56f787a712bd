"""The runs that compare forms of the penalty under LoRA: one setting, whose groups differ in the penalty alone."""

from collections.abc import Callable, Sequence

from rlhf.report.load import Run
from studies.figures import BLUE, GREY, Dots, Line, Panel
from studies.selection import Selection, agreeing, like, with_others

PAPER = ("kl", "clamped_kl", "js", "bregman", "squared_error")
"""The paper's penalties, beside `none`, `dropout_only` and `negative_kl`, which penalise nothing."""

ORDER = (
    *("none", "dropout_only", *PAPER, "negative_kl"),
    *("js_unbiased", "js_exact", "forward_kl", "full_kl", "full_forward_kl", "full_js", "full_alpha"),
)

Forms = dict[str, list[Run]]
"""Form -> its runs."""

OWN = ("regularizer.", "ppo.lr")
"""What is a form's own: its settings, and the learning rate that was chosen for it."""

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
    """Those of PPO under LoRA that differ in penalty and rate alone; `dropout_only` in its dropout too."""
    candidates = with_lora(by_ppo(runs))
    chosen = agreeing([run for run in candidates if name(run) != "dropout_only"], OWN, name)
    if not chosen.runs:
        return chosen
    dropout = [run for run in candidates if name(run) == "dropout_only"]
    added = like(dropout, chosen.runs[0], (*OWN, *DROPOUT))
    return with_others(chosen, added, len(candidates))


def by_form(runs: Sequence[Run]) -> Forms:
    """Form -> its runs of all strengths, in the order of `ORDER`; another placement or learning rate is another form.

    The form's own name is that of the placement and rate with the most runs, of several the published placement and the
    lowest rate. Of runs that differ in other settings, such as its own coefficient, the most numerous alike are taken.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        placement = str(run.config.get("regularizer.placement"))
        groups.setdefault((name(run), placement, float(run.config.get("ppo.lr") or 0)), []).append(run)
    forms: Forms = {}
    for form in sorted({form for form, _, _ in groups}, key=lambda form: (position(form), form)):
        own = [key for key in groups if key[0] == form]
        main = min(own, key=lambda key: (-len(groups[key]), key[1] != "reward", key))
        for key in sorted(own, key=lambda key: (key != main, key)):
            forms[label(key, main)] = agreeing(groups[key], ("regularizer.strength",)).runs
    return forms


def label(key: tuple[str, str, float], main: tuple[str, str, float]) -> str:
    """As `js`, `js (both)` where the whole gradient is taken, `none (lr 0.004)`."""
    differing = [key[1]] * (key[1] != main[1]) + [f"lr {key[2]:g}"] * (key[2] != main[2])
    return f"{key[0]} ({', '.join(differing)})" if differing else key[0]


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
