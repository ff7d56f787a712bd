"""Section: what PPO does to the share of stated facts that are true."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.report.compare import Estimate, Measure, extent, final, gain, level, p_values
from rlhf.report.load import Run
from rlhf.report.markdown import p_value, shown, table
from studies import published
from studies.claims import claim
from studies.divergence import draw_by_kl
from studies.forms import Forms, at_default, by_form, comparable
from studies.measures import difference
from studies.section import FACTS_MARGIN, Claim, Section, missing
from studies.selection import described

TITLE = "Does PPO hurt factuality?"
FIGURE = "factuality_by_kl.png"


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable(runs)
    all_strengths = by_form(chosen.runs)
    forms = at_default(all_strengths)
    used = [run for found in forms.values() for run in found]
    silent = [run for run in used if run.metrics.get("factuality") is None]
    if len(silent) == len(used):
        return Section(TITLE, [missing("study_forms")])
    draw_by_kl(figures / FIGURE, all_strengths, "factuality", "factuality, %")
    paragraphs = [
        "Factuality is the share of distinct stated facts that are true, in per cent, exact in the embedded world. "
        "*Greedy*: of the most likely responses, which shows what the policy knows apart from the noise of sampling. "
        f"{described(chosen, extent(chosen.runs))}",
        factuality_table(forms),
        "*Minus SFT*, *minus none*: within world and seed; *Holm p* corrects minus SFT for all rows. Policies that "
        f"state no facts at all ({len(silent)} here) have no factuality, nor have means over them.",
        f"![Factuality by true KL](figures/{FIGURE})",
        "**Figure 3.** Factuality against true KL, drawn as Figure 2, at all strengths and evaluated steps.",
    ]
    return Section(TITLE, paragraphs, claims(forms))


def factuality_table(forms: Forms) -> str:
    gains = [level(runs, gain("factuality")) for runs in forms.values()]
    rows = []
    for (form, runs), change, p in zip(forms.items(), gains, p_values(gains), strict=True):
        from_none = difference(runs, forms["none"], final("factuality")) if form != "none" and "none" in forms else None
        levels = [level(runs, final("factuality", "baseline")), level(runs, final("factuality"))]
        changes = [shown(result, signed=True) for result in (level(runs, gain("factuality_greedy")), from_none)]
        rows.append([form, extent(runs), *map(shown, levels), shown(change, signed=True), p_value(p), *changes])
        rows[-1].append(shown(level(runs, FACTS), 2))
    header = ["form", "worlds x seeds", "SFT", "policy", "minus SFT", "Holm p", "greedy minus SFT", "minus none"]
    return table([*header, "facts per biography"], rows)


def facts_per_biography(runs: Sequence[Run]) -> Estimate | None:
    rows = [row for row in runs[0].judgements or [] if row.get("dataset") == "biography"]
    counts = [row["correct"] + row["wrong"] for row in rows if row.get("correct") is not None]
    return (sum(counts) / len(counts), 0.0) if counts else None


FACTS = Measure(facts_per_biography, (0.0, math.inf))


def claims(forms: Forms) -> list[Claim]:
    names = [form for form in published.WIN_RATE_BY_STEP if form in forms]
    if not names:
        return []
    paper = "With LoRA, PPO largely keeps SFT's factual precision (FActScore)."
    region = (-FACTS_MARGIN, math.inf)

    def effects(beyond: float) -> dict[str, Pooled | None]:
        return {form: level(forms[form], gain("factuality"), beyond) for form in names}

    return [claim(paper, "factuality minus SFT's", effects, region)]
