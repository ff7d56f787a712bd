"""Section: whether the penalty matters under LoRA, at each form's own coefficient."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.compare import extent, final, gain, level, p_values, win_rate_difference
from rlhf.report.curves import Point, curve
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, p_value, shown, table
from studies import published
from studies.claims import Effects, claim, judge
from studies.figures import GREEN, GREY, ORANGE, Axis, Line, Panel, draw
from studies.forms import PAPER, Forms, at_default, beside_none, by_form, comparable
from studies.frontier import KLS, difference_at
from studies.measures import at_best, best_steps, difference_of
from studies.section import MARGIN, Claim, Section, missing
from studies.selection import described

TITLE = "Does the penalty matter under LoRA?"
FIGURE = "win_rate_by_step.png"


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable(runs)
    forms = at_default(by_form(chosen.runs))
    if len(forms) < 2:
        return Section(TITLE, [missing("study_forms")])
    draw_steps(figures / FIGURE, forms)
    paragraphs = [
        "Every form at its own coefficient (`regularizer.strength=1`), each at its own learning rate. "
        f"{described(chosen, extent(chosen.runs))}",
        f"![Win rate by PPO step](figures/{FIGURE})",
        "**Figure 1.** Win rate against the SFT model by PPO step, greedy against greedy, mean over worlds with its "
        "95 % interval; in grey, no penalty. Last panel: the paper's, against text-davinci-003, read off its first "
        "figure.",
        levels_table(forms),
        "*At its best step*: of the evaluated steps, each world's is the one with the highest mean win rate in the "
        "other worlds. *Equal length*: `win_rate_greedy_length_controlled`. *Sampled*: of sampled responses against "
        "sampled ones. *Repeats*: share of 4-grams that stood in the "
        "response before.",
    ]
    if "none" in forms:
        all_strengths = by_form(chosen.runs)
        paragraphs += [
            "Differences to no penalty, in points of win rate, within world and seed:",
            differences_table(forms, all_strengths),
            "*Holm p*: of the difference at the end, corrected for all rows. *As good without*: whether no penalty is "
            f"at most {MARGIN:g} points behind at the end. *At KL*: where both are equally far from SFT, as in "
            "section 2.",
        ]
    return Section(TITLE, paragraphs, claims(forms))


def draw_steps(path: Path, forms: Forms) -> None:
    panels = beside_none(forms, lambda runs, color, band: Line(curve(runs, GREEDY), color, band, markers=True))
    draw(path, [*panels, published_panel()], Axis("PPO step"), "win rate, %")


def published_panel() -> Panel:
    colors = dict(zip(published.WIN_RATE_BY_STEP, (GREY, ORANGE, GREEN), strict=True))
    curves = zip(published.WIN_RATE_BY_STEP.values(), colors.values(), strict=True)
    lines = [Line(exact(published.STEPS, rates), color, band=False, markers=True) for rates, color in curves]
    return Panel("the paper's", lines, alone=True, words=list(colors.items()))


def exact(steps: Sequence[int], rates: Sequence[float]) -> list[Point]:
    """Points without an interval."""
    return [(float(step), rate, rate, rate) for step, rate in zip(steps, rates, strict=True)]


def levels_table(forms: Forms) -> str:
    header = ["form", "worlds x seeds", "win rate, %", "at equal length", "at its best step", "sampled, %"]
    header += ["KL, nats/response", "nats/token", "length, tokens", "repeats"]
    return table(header, [levels_row(form, runs) for form, runs in forms.items()])


def levels_row(form: str, runs: Sequence[Run]) -> list[str]:
    best = level(runs, at_best(GREEDY, runs))
    steps = ", ".join(str(step) for step in sorted(set(best_steps(runs).values())))
    return [
        form,
        extent(runs),
        shown(level(runs, final(GREEDY))),
        shown(level(runs, final(f"{GREEDY}_length_controlled"))),
        f"{shown(best)} (step {steps})" if best else NOTHING,
        shown(level(runs, final(SAMPLED))),
        shown(level(runs, final("true_kl_per_response")), 2),
        shown(level(runs, final("true_kl_per_token")), 3),
        shown(level(runs, final("response_length_greedy"))),
        shown(level(runs, final("repeats")), 3),
    ]


def differences_table(forms: Forms, all_strengths: Forms) -> str:
    penalties = {form: runs for form, runs in forms.items() if form != "none"}
    none = forms["none"]
    at_end = [win_rate_difference(runs, none) for runs in penalties.values()]
    none_best = at_best(GREEDY, none)
    rows = []
    for form, end, p in zip(penalties, at_end, p_values(at_end), strict=True):
        best = difference_of(penalties[form], at_best(GREEDY, penalties[form]), none, none_best)
        equal = [difference_at(all_strengths[form], all_strengths["none"], GREEDY, kl) for kl in KLS]
        cells = [shown(result, signed=True) for result in (best, *equal)]
        rows.append([form, shown(end, signed=True), p_value(p), judge(end, (-math.inf, MARGIN)), *cells])
    header = ["form minus none", "at the end", "Holm p", "as good without", "at the best step"]
    return table([*header, *(f"at KL {kl:g}" for kl in KLS)], rows)


def claims(forms: Forms) -> list[Claim]:
    others = [form for form in ("none", *PAPER) if form in forms]
    found = [gain_claim(forms[form], form) for form in published.WIN_RATE_BY_STEP if form in forms]
    if "none" in forms and len(others) > 1:
        paper = "Without a penalty, PPO under LoRA does about as well as with one."
        effects = beside(forms, others, "none")
        found.append(claim(paper, "at the end the win rate minus none's", effects, (-math.inf, MARGIN)))
    if "js" in forms and len(others) > 1:
        effects = beside(forms, others, "js")
        paper = "Jensen-Shannon ends with the highest win rate."
        found.append(claim(paper, "at the end the win rate minus js's", effects, (-math.inf, MARGIN)))
    return found


def gain_claim(runs: Sequence[Run], form: str) -> Claim:
    last = published.WIN_RATE_BY_STEP[form][-1]
    paper = f"PPO with LoRA, penalty {form}, raises the win rate over SFT's ({published.SFT_WIN_RATE:g} to {last:g})."
    region = (0.0, math.inf)
    return claim(paper, "the win rate minus SFT's", lambda beyond: {form: level(runs, gain(GREEDY), beyond)}, region)


def beside(forms: Forms, names: Sequence[str], reference: str) -> Effects:
    """How far forms end from the reference."""
    others = [form for form in names if form != reference]
    return lambda beyond: {form: win_rate_difference(forms[form], forms[reference], beyond) for form in others}
