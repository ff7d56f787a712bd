"""Section: what PPO does to the share of stated facts that are true."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.report import published
from rlhf.report.claims import claim, p_values
from rlhf.report.compare import Measure, difference, extent, final, gain, level, shown
from rlhf.report.divergence import draw_by_kl
from rlhf.report.forms import Forms, at_default, by_form, comparable
from rlhf.report.load import Run
from rlhf.report.markdown import MARGIN, Claim, Section, missing, p_value, table
from rlhf.report.matched import Estimate
from rlhf.report.settings import described

TITLE = "Does PPO hurt factuality?"
FIGURE = "factuality_by_kl.png"


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable([run for run in runs if run.metrics.get("factuality") is not None])
    all_strengths = by_form(chosen.runs)
    forms = at_default(all_strengths)
    if not forms:
        return Section(TITLE, [missing("regularizers")])
    draw_by_kl(figures / FIGURE, all_strengths, "factuality", "factuality, %")
    paragraphs = [
        "Factuality is the share of distinct stated facts that are true, in per cent, exact in the embedded world. "
        "*Greedy*: of the most likely responses, which shows what the policy knows apart from the noise of sampling. "
        f"{described(chosen, extent(chosen.runs))}",
        factuality_table(forms),
        "*Minus SFT*, *minus none*: within world and seed; *Holm p* corrects minus SFT for all rows. Facts are "
        "counted per biography; false ones of all facts are 100 minus factuality.",
        f"![Factuality by true KL](figures/{FIGURE})",
        "**Figure 3.** Factuality against true KL, drawn as Figure 2, at all strengths and evaluated steps.",
    ]
    return Section(TITLE, paragraphs, claims(forms))


def factuality_table(forms: Forms) -> str:
    gains = [level(runs, gain("factuality")) for runs in forms.values()]
    rows = []
    for (form, runs), change, p in zip(forms.items(), gains, p_values(gains), strict=True):
        from_none = difference(runs, forms["none"], final("factuality")) if form != "none" and "none" in forms else None
        changes = [change, level(runs, gain("factuality_greedy")), from_none]
        levels = [level(runs, final("factuality", "baseline")), level(runs, final("factuality"))]
        texts = [*map(shown, levels), *(shown(result, signed=True) for result in changes)]
        rows.append(
            [
                form,
                extent(runs),
                *texts[:3],
                p_value(p),
                *texts[3:],
                shown(level(runs, Measure(facts_per_biography, (0.0, math.inf))), 2),
            ]
        )
    header = ["form", "worlds x seeds", "SFT", "policy", "minus SFT", "Holm p", "greedy minus SFT", "minus none"]
    return table([*header, "facts"], rows)


def facts_per_biography(runs: Sequence[Run]) -> Estimate | None:
    rows = [row for row in runs[0].judgements or [] if row.get("dataset") == "biography"]
    counts = [row["correct"] + row["wrong"] for row in rows if row.get("correct") is not None]
    return (sum(counts) / len(counts), 0.0) if counts else None


def claims(forms: Forms) -> list[Claim]:
    names = [form for form in published.WIN_RATE_BY_STEP if form in forms]
    if not names:
        return []
    paper = "With LoRA, PPO largely keeps SFT's factual precision (FActScore)."
    region = (-MARGIN, math.inf)

    def effects(beyond: float) -> dict[str, Pooled | None]:
        return {form: level(forms[form], gain("factuality"), beyond) for form in names}

    return [claim(paper, "factuality minus SFT's", effects, region)]
