"""Section: whether the reward model's score goes on rising where wins no longer do."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY
from rlhf.report.compare import Measure, extent, final, level
from rlhf.report.curves import Point, curve
from rlhf.report.load import Run
from rlhf.report.markdown import shown, table
from studies.claims import judge
from studies.figures import Axis, Line, draw
from studies.forms import Forms, at_default, beside_none, by_form, comparable, name
from studies.measures import at_best, best_steps, difference_of
from studies.section import OPEN, Claim, Section, missing
from studies.selection import described

TITLE = "Over-optimisation"
FIGURE = "reward_and_win_rate.png"


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable(runs)
    forms = at_default(by_form(chosen.runs))
    if not forms:
        return Section(TITLE, [missing("study_forms")])
    draw_paths(figures / FIGURE, forms)
    paragraphs = [
        "The reward model's score beside the greedy win rate, along training. "
        f"{described(chosen, extent(chosen.runs))}",
        f"![Reward and win rate along training](figures/{FIGURE})",
        "**Figure 6.** Each point is an evaluated step, from SFT on the left: the reward model's mean score, in "
        "deviations of SFT's scores, and the win rate with its 95 % interval. In grey, no penalty.",
        changes_table(forms),
        "*From the best step to the last*: the best step is chosen in the other worlds, as in section 1. A win rate "
        "that falls while the reward rises is over-optimisation.",
    ]
    return Section(TITLE, paragraphs, claims(forms))


def draw_paths(path: Path, forms: Forms) -> None:
    panels = beside_none(forms, lambda runs, color, bars: Line(reward_path(runs), color, band=False, bars=bars))
    draw(path, panels, Axis("reward model's score, SFT deviations"), "win rate, %")


def reward_path(runs: Sequence[Run]) -> list[Point]:
    """The win rate with its interval by mean score, step by step."""
    rewards = {point[0]: point[1] for point in curve(runs, "reward")}
    return [(rewards[step], rate, low, high) for step, rate, low, high in curve(runs, GREEDY) if step in rewards]


def changes_table(forms: Forms) -> str:
    rows = []
    for form, runs in forms.items():
        changes = [since_best(runs, GREEDY), since_best(runs, "reward")]
        steps = ", ".join(str(step) for step in sorted(set(best_steps(runs).values())))
        total = difference_of(runs, final("reward"), runs, final("reward", "baseline"))
        rows.append(
            [form, steps, *(shown(result, digits, True) for result, digits in zip(changes, (1, 2), strict=True))]
        )
        rows[-1].append(shown(total, 2, signed=True))
    header = ["form", "best step", "win rate since, points", "reward since, deviations"]
    return table([*header, "reward in all"], rows)


def since_best(runs: Sequence[Run], figure: str) -> Pooled | None:
    """The change of a figure from the best step to the last."""
    best: Measure = at_best(figure, runs)
    return difference_of(runs, final(figure), runs, best) if best_steps(runs) else None


def claims(forms: Forms) -> list[Claim]:
    if "none" not in forms:
        return []
    runs = [found for found in forms.values() if name(found[0]) == "none"][-1]
    win_rate, reward = since_best(runs, GREEDY), since_best(runs, "reward")
    divergence = level(runs, final("true_kl_per_response"))
    here = (
        f"without a penalty, at a rate of {runs[0].config.get('ppo.lr'):g}, from the best step to the last, the "
        f"win rate moves by {shown(win_rate, signed=True)} points and the reward by {shown(reward, 2, signed=True)} "
        f"deviations; KL per response at the end {shown(divergence, 2)}."
    )
    steps = {run.checkpoints[-1]["step"] for run in runs}
    at_end = set(best_steps(runs).values()) == steps  # training ended at its best: nothing lies beyond
    verdict = OPEN if at_end else judge(win_rate, (-math.inf, 0.0))
    paper = "Beyond their best divergence, policies lose wins (its second figure)."
    return [Claim(paper, here, verdict, "", (verdict,), (win_rate and win_rate.p_value,))]
