"""Section: which form of the penalty is best where all are equally far from the SFT model."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY
from rlhf.report.compare import Estimate, Measure, extent, final, gain, level, p_values
from rlhf.report.curves import Point
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, number, p_value, shown, table
from studies import published
from studies.claims import claim, compared, judge, spread
from studies.figures import Axis, Line, draw
from studies.forms import ORDER, PAPER, Forms, at_default, beside_none, by_form, comparable, strength
from studies.frontier import KLS, checkpoint_dots, curve_by_kl, difference_at, gold, gold_curve, level_at
from studies.section import MARGIN, Claim, Section, missing, most, tally
from studies.selection import described

TITLE = "Which form is best at equal KL?"
FIGURE = "win_rate_by_kl.png"


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable(runs)
    forms = by_form(chosen.runs)
    if len(forms) < 2:
        return Section(TITLE, [missing("study_forms")])
    strengths = sorted({strength(run) for run in chosen.runs})
    draw_by_kl(
        figures / FIGURE, forms, GREEDY, "win rate, %", {form: gold_curve(found) for form, found in forms.items()}
    )
    paragraphs = [
        f"All strengths that were run ({', '.join(f'{value:g}' for value in strengths)} times a form's own "
        f"coefficient) and all evaluated steps. {described(chosen, extent(chosen.runs))}",
        f"![Win rate by true KL](figures/{FIGURE})",
        "**Figure 2.** Win rate against true KL to SFT, in nats per response: per token it would mislead where lengths "
        "differ. Points: evaluated checkpoints, darker for a larger coefficient. Line and band: the mean over worlds "
        "at equal KL, and its 95 % interval, where most worlds have it; in grey, no penalty. Dashed: 50 + d (α − β log "
        "d), d the root of the KL (arXiv 2210.10760), fitted to the points.",
        "At a given KL, a run's win rate is read off the straight line, in the root of the KL, between the two "
        "successive checkpoints that enclose it; SFT, at 0, is not one of the two. Of a form's strengths that come by "
        "that KL in three quarters of the worlds, each world's is the one that does best there in the other worlds; "
        "worlds where none does are left out.",
        levels_table(forms),
        f"{NOTHING}: no strength comes by that KL in three quarters of the worlds. *At its best*: the KL of each "
        "seed's checkpoint with the highest win rate, of all strengths, per response and per token. *α, β*: of the "
        "fit.",
    ]
    if "js" in forms:
        lead = "Differences to `js` at equal KL, in points, within world and seed; Holm's p over all forms in a column:"
        paragraphs += [lead, pairs_table(forms)]
    return Section(TITLE, paragraphs, [*js_claim(forms), *peak_claim(forms), *negative_claim(at_default(forms))])


def draw_by_kl(
    path: Path, forms: Forms, figure: str, label: str, fits: Mapping[str, list[Point]] | None = None
) -> None:
    panels = beside_none(
        forms,
        lambda runs, color, band: Line(curve_by_kl(runs, figure), color, band),
        lambda runs, color: checkpoint_dots(runs, figure, color),
    )
    for panel in panels:
        panel.lines.append(Line((fits or {}).get(panel.title, []), panel.color, band=False, dashed=True))
    draw(path, panels, Axis("true KL to SFT, nats per response", log=True), label)


def levels_table(forms: Forms) -> str:
    rows = []
    for form, runs in forms.items():
        levels = [shown(level_at(runs, GREEDY, kl)) for kl in KLS]
        peaks = [shown(level(runs, peak), digits) for peak, digits in ((PEAK, 2), (PEAK_PER_TOKEN, 3))]
        rows.append([form, str(len(runs)), *levels, *peaks, *(number(each) for each in gold(runs) or (None, None))])
    header = ["form", "runs", *(f"win rate at KL {kl:g}" for kl in KLS)]
    return table([*header, "KL at its best, nats/response", "nats/token", "α", "β"], rows)


def kl_at_peak(figure: str, runs: Sequence[Run]) -> Estimate | None:
    """The true KL of the checkpoint with the highest win rate."""
    rows = [row for run in runs for row in run.checkpoints if None not in (row.get(figure), row.get(GREEDY))]
    return (float(max(rows, key=lambda row: row[GREEDY])[figure]), 0.0) if rows else None


PEAK, PEAK_PER_TOKEN = (
    Measure(partial(kl_at_peak, f"true_kl_per_{unit}"), (0.0, math.inf)) for unit in ("response", "token")
)
"""The paper's are per token."""


def pairs(forms: Forms, others: Sequence[str]) -> list[list[Pooled | None]]:
    """A row per form: its win rate minus that of js at each of `KLS`."""
    return [[difference_at(forms[form], forms["js"], GREEDY, kl) for kl in KLS] for form in others]


def pairs_table(forms: Forms) -> str:
    others = [form for form in forms if form != "js"]
    results = pairs(forms, others)
    corrected = zip(*(p_values(column) for column in zip(*results, strict=True)), strict=True)
    rows = []
    for form, row, ps in zip(others, results, corrected, strict=True):
        cells = [(shown(result, signed=True), p_value(p)) for result, p in zip(row, ps, strict=True)]
        rows.append([form, *(text for cell in cells for text in cell)])
    return table(["form minus js", *(text for kl in KLS for text in (f"at KL {kl:g}", "Holm p"))], rows)


def js_claim(forms: Forms) -> list[Claim]:
    others = [form for form in ("none", *PAPER) if form in forms and form != "js"]
    if "js" not in forms or not others:
        return []

    def effects(beyond: float) -> dict[str, Pooled | None]:
        pairs = [(form, kl) for form in others for kl in KLS]
        found = {f"{form} at {kl:g}": difference_at(forms[form], forms["js"], GREEDY, kl, beyond) for form, kl in pairs}
        return {name: result for name, result in found.items() if result is not None}

    results = effects(0.0)
    absent = ", ".join(form for form in others if not any(name.startswith(f"{form} at ") for name in results))
    listed = f"; not there to compare: {absent}" if absent else ""
    here = f"the others minus js, at equal KL, are {spread(list(results.values()))} points{listed}."
    paper = "Jensen-Shannon gives the highest win rate for its divergence."
    return [compared(paper, here, effects, (-math.inf, MARGIN))]


def peak_claim(forms: Forms) -> list[Claim]:
    names = [form for form in ORDER if form in forms and form in ("none", "dropout_only", *PAPER)]
    peaks = [level(forms[form], PEAK_PER_TOKEN) for form in names]
    verdicts = [judge(result, published.PEAK_KL) for result in peaks]
    low, high = published.PEAK_KL
    estimates = [result.estimate for result in peaks if result is not None]
    if not estimates:
        return []
    paper = f"Most variants reach their highest win rate between {low:g} and {high:g} nats per token of true KL."
    here = f"mean KLs per token from {min(estimates):.3f} to {max(estimates):.3f}."
    return [Claim(paper, here, most(verdicts), tally(verdicts))]


def negative_claim(forms: Forms) -> list[Claim]:
    runs = forms.get("negative_kl", [])
    if not runs:
        return []
    kl, rate = published.NEGATIVE_KL_END
    paper = f"Negative KL drifts far ({kl:g} nats per token) and ends no better than SFT ({rate:g})."
    what = f"at a KL of {shown(level(runs, final('true_kl_per_token')), 3)} per token its win rate minus SFT's"
    region = (-math.inf, MARGIN)
    return [claim(paper, what, lambda beyond: {"": level(runs, gain(GREEDY), beyond)}, region)]
