"""Section: LoRA against full fine-tuning, each at the learning rate chosen for it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY
from rlhf.report.compare import Measure, extent, final, gain, level, p_values, win_rate_difference
from rlhf.report.load import Run
from rlhf.report.markdown import p_value, shown, table
from studies.claims import claim
from studies.figures import BLUE, ORANGE, Axis, Line, Panel, draw
from studies.forms import OWN, Forms, at_default, by_form, by_ppo, name, with_lora
from studies.frontier import KLS, checkpoint_dots, curve_by_kl, difference_at
from studies.measures import difference
from studies.section import MARGIN, UNITS, Claim, Section, missing
from studies.selection import Selection, agreeing, described

TITLE = "LoRA against full fine-tuning"
FIGURE = "lora_vs_full.png"
EVERYWHERE = "all-linear"
"""LoRA's target modules where it is put on all layers."""

FIGURES = {GREEDY: "win rate, %", "factuality": "factuality, %"}


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen, lora, full = arms(runs)
    if not lora:
        return Section(TITLE, [missing("study_lora")])
    draw_arms(figures / FIGURE, lora, full)
    paragraphs = [
        "Policies trained by LoRA and with all weights, with the same penalty at its own coefficient. Learning rates: "
        f"LoRA {learning_rate(lora)}, full {learning_rate(full)}; the next section has others, on the tuning people. "
        f"{described(chosen, extent(chosen.runs))}",
        f"![LoRA against full fine-tuning](figures/{FIGURE})",
        "**Figure 4.** Greedy win rate and sampled factuality against true KL per response, for LoRA and full "
        "fine-tuning: evaluated checkpoints, and means over worlds at equal KL with 95 % intervals, where most worlds "
        "have them.",
        levels_table(lora, full),
        "LoRA minus full, within world and seed, in points; Holm's p is of the difference at the end, over all rows:",
        differences_table(lora, full),
    ]
    return Section(TITLE, paragraphs, claims(lora, full))


def is_full(run: Run) -> bool:
    return run.config.get("lora.r") is None


def modules(run: Run) -> str:
    """The layers that LoRA is put on, as on the command line: `[q_proj, k_proj]`."""
    return str(run.config.get("lora.target_modules")).replace('"', "")


def arms(runs: Sequence[Run]) -> tuple[Selection, Forms, Forms]:
    """LoRA's runs and those of full fine-tuning by form, for the forms that both have; otherwise of one setting."""
    chosen = agreeing(by_ppo(runs), ("lora.", "ppo.lr", "regularizer."), is_full)
    lora, full = (
        at_default(by_form(agreeing(arm, OWN, name).runs))
        for arm in (with_lora(chosen.runs), [run for run in chosen.runs if is_full(run)])
    )
    shared = [form for form in lora if form in full]
    lora, full = ({form: arm[form] for form in shared} for arm in (lora, full))
    used = [run for arm in (lora, full) for found in arm.values() for run in found]
    return Selection(used, 0, []), lora, full


def learning_rate(forms: Forms) -> str:
    return ", ".join(sorted({f"{run.config.get('ppo.lr'):g}" for runs in forms.values() for run in runs}))


def draw_arms(path: Path, lora: Forms, full: Forms) -> None:
    panels = [arms_panel(form, figure, lora[form], full[form]) for figure in FIGURES for form in lora]
    draw(path, panels, Axis("true KL to SFT, nats per response", log=True), columns=len(lora))


def arms_panel(form: str, figure: str, lora: list[Run], full: list[Run]) -> Panel:
    lines = [Line(curve_by_kl(runs, figure), color) for runs, color in ((full, ORANGE), (lora, BLUE))]
    dots = [*checkpoint_dots(full, figure, ORANGE), *checkpoint_dots(lora, figure, BLUE)]
    return Panel(form, lines, dots, y_label=FIGURES[figure], words=[("full", ORANGE), ("LoRA", BLUE)])


def levels_table(lora: Forms, full: Forms) -> str:
    rows = []
    for form in lora:
        for method, runs in (("LoRA", lora[form]), ("full", full[form])):
            wins = shown(level(runs, final(GREEDY)))
            texts = [shown(level(runs, final("factuality"))), shown(level(runs, gain("factuality")), signed=True)]
            kls = [shown(level(runs, final(f"true_kl_per_{unit}")), digits) for unit, digits in UNITS]
            greedy = shown(level(runs, gain("factuality_greedy")), signed=True)
            rows.append([f"{form}, {method}", extent(runs), wins, *texts, greedy, *kls])
    header = ["policy", "worlds x seeds", "win rate, %", "factuality, %", "minus SFT", "greedy minus SFT"]
    return table([*header, "KL, nats/response", "nats/token"], rows)


Difference = Callable[[Sequence[Run], Sequence[Run]], Pooled | None]


def differences_table(lora: Forms, full: Forms) -> str:
    kinds = [(form, figure) for figure in FIGURES for form in lora]
    at_end = [end_difference(figure)(lora[form], full[form]) for form, figure in kinds]
    rows = []
    for (form, figure), end, p in zip(kinds, at_end, p_values(at_end), strict=True):
        equal = [difference_at(lora[form], full[form], figure, kl) for kl in KLS]
        texts = [shown(result, signed=True) for result in equal]
        rows.append([f"{FIGURES[figure].split(',')[0]}, {form}", shown(end, signed=True), p_value(p), *texts])
    return table(["LoRA minus full", "at the end", "Holm p", *(f"at KL {kl:g}" for kl in KLS)], rows)


def end_difference(figure: str) -> Difference:
    measure: Measure = final(figure)
    return win_rate_difference if figure == GREEDY else lambda one, other: difference(one, other, measure)


def claims(lora: Forms, full: Forms) -> list[Claim]:
    facts = final("factuality")

    def wins(beyond: float) -> dict[str, Pooled | None]:
        return {form: win_rate_difference(lora[form], full[form], beyond) for form in lora}

    def lost(beyond: float) -> dict[str, Pooled | None]:
        return {form: level(full[form], gain("factuality"), beyond) for form in lora}

    def kept(beyond: float) -> dict[str, Pooled | None]:
        return {form: difference(lora[form], full[form], facts, beyond) for form in lora}

    found = [
        claim("LoRA matches or beats full fine-tuning in win rate.", "LoRA minus full", wins, (-MARGIN, math.inf)),
        claim("Full PPO lowers factual precision (FActScore).", "full minus SFT", lost, (-math.inf, 0.0)),
        claim("LoRA protects factual precision beside full fine-tuning.", "LoRA minus full", kept, (0.0, math.inf)),
    ]
    return found[:1] if None in kept(0.0).values() else found
