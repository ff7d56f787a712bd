"""Section: how much LoRA's rank matters."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.figures import GREEDY
from rlhf.report.compare import Measure, cells, extent, final, level, p_values, win_rate_difference
from rlhf.report.curves import Point
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, p_value, shown, table
from studies.figures import BLUE, Axis, Line, Panel, draw
from studies.forms import by_ppo, with_lora
from studies.lora import is_full
from studies.section import LEAST_WORLDS, Section, missing
from studies.selection import Selection, agreeing, described, like, with_others

TITLE = "Rank"
FIGURE = "rank.png"
FULL = "full"
REFERENCE = "8"
"""The paper's rank."""

PANELS = {
    GREEDY: "win rate, %",
    "factuality": "factuality, %",
    "true_kl_per_response": "true KL, nats per response",
    "trainable_weights": "trained weights",
}

Ranks = dict[str, list[Run]]


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = comparable(runs)
    ranks = by_rank(chosen.runs)
    if len(ranks) < 3:
        return Section(TITLE, [missing("study_lora")])
    draw_ranks(figures / FIGURE, ranks)
    answer = spread(ranks)
    paragraphs = [
        f"LoRA's rank from {next(iter(ranks))} on, and all weights (`{FULL}`) at their own learning rate. "
        f"{described(chosen, extent(chosen.runs))}",
        f"![Rank](figures/{FIGURE})",
        f"**Figure 5.** By rank: means over worlds, with 95 % intervals from {LEAST_WORLDS} worlds on.",
        *[f"**{answer}**"] * bool(answer),
        ranks_table(ranks),
        f"*Minus rank {REFERENCE}*: win rate at the end, within world and seed and by prompt; Holm's p over all rows.",
    ]
    return Section(TITLE, paragraphs, answers=[("Does LoRA's rank matter?", answer)] * bool(answer))


def rank(run: Run) -> str:
    return FULL if is_full(run) else str(run.config["lora.r"])


def comparable(runs: Sequence[Run]) -> Selection:
    """Runs that differ in their rank alone; those of full fine-tuning in LoRA's other settings and the rate too."""
    candidates = by_ppo(runs)
    chosen = agreeing(with_lora(candidates), ("lora.r", "ppo.lr"), rank)
    if not chosen.runs:
        return chosen
    everything = [run for run in candidates if is_full(run)]
    full = agreeing(like(everything, chosen.runs[0], ("lora.", "ppo.lr"))).runs
    return with_others(chosen, full, len(candidates))


def by_rank(runs: Sequence[Run]) -> Ranks:
    ranks: Ranks = {}
    for run in sorted(runs, key=lambda run: (is_full(run), run.config["lora.r"] or 0)):
        ranks.setdefault(rank(run), []).append(run)
    return ranks


def draw_ranks(path: Path, ranks: Ranks) -> None:
    ticks = {float(place): label for place, label in enumerate(ranks)}
    panels = [
        Panel("", [Line(by_place(ranks, final(figure)), BLUE, band=False, bars=True)], y_label=label, x_ticks=ticks)
        for figure, label in PANELS.items()
    ]
    panels[-1] = Panel("", panels[-1].lines, y_label=panels[-1].y_label, x_ticks=ticks, log_y=True)
    draw(path, panels, Axis("LoRA rank"), columns=2)


def by_place(ranks: Ranks, measure: Measure) -> list[Point]:
    points: list[Point] = []
    for place, runs in enumerate(ranks.values()):
        found = level(runs, measure)
        if found is not None:
            bars = (found.low, found.high) if len(cells(runs)) >= LEAST_WORLDS else (found.estimate, found.estimate)
            points.append((float(place), found.estimate, *bars))
    return points


def spread(ranks: Ranks) -> str:
    """How far the other ranks lie from the paper's; "" where there is none to compare."""
    own = ranks.get(REFERENCE, [])
    found = [win_rate_difference(runs, own) for label, runs in ranks.items() if label not in (REFERENCE, FULL)]
    known = [result for result in found if result is not None]
    if not known:
        return ""
    low, high = (pick(result.estimate for result in known) for pick in (min, max))
    apart = sum(result.low > 0 or result.high < 0 for result in known)
    return (
        f"LoRA's other ranks end {low:+.1f} to {high:+.1f} points of win rate from rank {REFERENCE}; {apart or 'none'} "
        f"of the {len(known)} intervals exclude{'s' * (apart < 2)} 0."
    )


def ranks_table(ranks: Ranks) -> str:
    reference = ranks.get(REFERENCE)
    others = {label: runs for label, runs in ranks.items() if label != REFERENCE and reference is not None}
    results = {label: win_rate_difference(runs, reference or []) for label, runs in others.items()}
    ps = dict(zip(results, p_values(list(results.values())), strict=True))
    rows = []
    for label, runs in ranks.items():
        weights = level(runs, final("trainable_weights"))
        figures = [
            shown(level(runs, final(GREEDY))),
            shown(results.get(label), signed=True),
            p_value(ps.get(label)),
        ]
        facts, kl = level(runs, final("factuality")), level(runs, final("true_kl_per_response"))
        count = f"{weights.estimate:,.0f}" if weights else NOTHING
        rows.append([label, extent(runs), count, *figures, shown(facts), shown(kl, 2)])
    header = ["rank", "worlds x seeds", "trained weights", "win rate, %", f"minus rank {REFERENCE}", "Holm p"]
    return table([*header, "factuality, %", "KL, nats/response"], rows)
