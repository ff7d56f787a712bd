"""Section: PPO beside other algorithms on the same reward model and penalty."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import FIGURES, GREEDY, SAMPLED
from rlhf.report.compare import Estimate, Measure, extent, final, level, p_values, win_rate_difference
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, p_value, shown, table
from studies.forms import with_lora
from studies.section import Section, missing
from studies.selection import agreeing, described

TITLE = "Algorithms"
ORDER = ("ppo", "rloo", "grpo", "reinforce", "best_of_n")
OWN = ("ppo.steps", "ppo.lr", "ppo.epochs", "ppo.step_batch_size", "ppo.whiten_advantages", "ppo.average")
VARIED = ("algorithm.", "value.", *OWN, "evaluation.best_of")
"""What an algorithm's own file of conf/ sets."""


def algorithm(run: Run) -> str:
    return str(run.config.get("algorithm.name", "ppo"))


def position(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def section(runs: Sequence[Run], figures: Path) -> Section:
    chosen = agreeing(with_lora(runs), VARIED, algorithm)
    names = sorted({algorithm(run) for run in chosen.runs}, key=position)
    if len(names) < 2:
        return Section(TITLE, [missing("study_rest")])
    groups = {name: agreeing([run for run in chosen.runs if algorithm(run) == name]).runs for name in names}
    paragraphs = [
        "Each algorithm at the learning rate that was chosen for it on the tuning people, as PPO's was, and otherwise "
        "at its default settings. "
        f"{described(chosen, extent(chosen.runs))}",
        algorithms_table(groups),
        "*Best of n* trains nothing: it gives the response of the highest score, and has no greedy one. Its KL is the "
        "bound log n - (n - 1) / n. *Minus PPO*: within world and seed and by prompt, of greedy responses where there "
        "are any, else of sampled ones; Holm's p over all rows. *Seconds*: of training.",
    ]
    return Section(TITLE, paragraphs)


def algorithms_table(groups: dict[str, list[Run]]) -> str:
    others = {name: runs for name, runs in groups.items() if name != "ppo" and "ppo" in groups}
    results: dict[str, Pooled | None] = {
        name: win_rate_difference(runs, groups["ppo"]) for name, runs in others.items()
    }
    ps = dict(zip(results, p_values(list(results.values())), strict=True))
    rows = []
    for name, runs in groups.items():
        differences = [shown(results.get(name), signed=True), p_value(ps.get(name))]
        figures = [
            shown(level(runs, final("factuality"))),
            divergence(runs),
            shown(level(runs, final("response_length"))),
        ]
        rates = [shown(level(runs, final(figure))) for figure in (GREEDY, SAMPLED)]
        rows.append([name, extent(runs), *rates, *differences, *figures, seconds(runs)])
    rates = [f"{FIGURES[rate].decoding} win rate, %" for rate in (GREEDY, SAMPLED)]
    header = ["algorithm", "worlds x seeds", *rates, "minus PPO", "Holm p", "factuality, %", "KL, nats/response"]
    return table([*header, "length, tokens", "seconds"], rows)


def divergence(runs: Sequence[Run]) -> str:
    found, bound = level(runs, final("true_kl_per_response")), level(runs, final("kl_bound_per_response"))
    if found is None and bound is not None:
        return f"at most {bound.estimate:.2f}"
    return shown(found, 2)


def seconds(runs: Sequence[Run]) -> str:
    taken = level(runs, Measure(training_seconds))
    return f"{taken.estimate:.0f}" if taken else NOTHING


def training_seconds(runs: Sequence[Run]) -> Estimate | None:
    taken = (runs[0].metrics.get("seconds") or {}).get("ppo")
    return None if taken is None else (float(taken), 0.0)
