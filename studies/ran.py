"""Sections about the report: what was run, how to read its intervals, what the paper published, what can't be shown."""

from collections.abc import Collection, Sequence
from pathlib import Path

from rlhf.escape import code, markdown
from rlhf.report.load import Outputs, Run
from rlhf.report.markdown import count, table
from rlhf.report.settings import Repeat, repeated
from studies import published
from studies.section import FACTS_MARGIN, LEAST_WORLDS, MARGIN, Section

MOST_PROBLEMS = 20


def ran(outputs: Outputs, repeats: Sequence[Repeat]) -> Section:
    runs = outputs.runs
    paragraphs = [totals(runs)] if runs else ["No finished runs were found."]
    if runs:
        paragraphs.append(sweeps_table(runs))
    if repeats:
        lines = [markdown(repeated(pair)) for pair in repeats]
        paragraphs += listed(f"Left out, for they repeat another's setting, world and seed ({len(lines)}):", lines)
    if outputs.problems:
        lines = [f"{code(path)}: {markdown(shortened(reason))}" for path, reason in outputs.problems]
        paragraphs += listed(f"Left out, being unfinished or unreadable ({len(lines)}):", lines)
    return Section("What was run", paragraphs)


def listed(title: str, lines: Sequence[str]) -> list[str]:
    rest = len(lines) - MOST_PROBLEMS
    return [title, "\n".join(f"- {line}" for line in [*lines[:MOST_PROBLEMS], *[f"and {rest} more"] * (rest > 0)])]


def totals(runs: Sequence[Run]) -> str:
    worlds, seeds = {run.world for run in runs}, {run.seed for run in runs}
    hours = sum(seconds(run) for run in runs) / 3600
    return (
        f"{count(len(runs), 'finished run')} in {count(len(worlds), 'world')} (`data.seed`) with "
        f"{count(len(seeds), 'seed')} (`seed`). Their training and evaluation took {hours:.1f} hours of machine time "
        "in all, without the stages before PPO, which runs share."
    )


def seconds(run: Run) -> float:
    taken = run.metrics.get("seconds") or {}
    return sum(float(taken.get(part) or 0) for part in ("ppo", "evaluation"))


def sweeps_table(runs: Sequence[Run]) -> str:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(command(run), []).append(run)
    rows = []
    for name, found in sorted(groups.items()):
        steps = sorted({int(run.config.get("ppo.steps") or 0) for run in found})
        spread = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        worlds, seeds = spans({run.world for run in found}), len({run.seed for run in found})
        hours = sum(map(seconds, found)) / 3600
        rows.append([name, f"{len(found)}", f"{worlds}", f"{seeds}", spread, f"{hours:.1f}"])
    return table(["made by", "runs", "worlds", "seeds", "PPO steps", "hours"], rows)


def spans(numbers: Collection[int]) -> str:
    """`12: 60 to 63, 65, 68`: how many, and which."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    listed = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in found)
    return f"{len(numbers)}: {listed}"


def command(run: Run) -> str:
    """The sweep that a run's directory belongs to, or where the directory lies."""
    folder = Path(run.path).parent
    in_sweep = folder.parent.name == "sweeps"
    return code(f"rlhf run -cn {folder.name}") if in_sweep else f"in {code(str(folder))}"


def shortened(reason: str, longest: int = 160) -> str:
    return reason if len(reason) <= longest else f"{reason[: longest - 1]}…"


def reading() -> Section:
    paragraphs = [
        "`[low, high]` are 95 % intervals for the mean over worlds, of which those run are a sample. Worlds are "
        "pooled by random effects (Paule and Mandel); the interval is the wider of Hartung and Knapp's, whose t "
        "quantiles have worlds - 1 degrees of freedom, and the normal one. A world's "
        "seeds are averaged first. Errors over prompts enter into levels, and into differences of final win rates, "
        "which are taken prompt by prompt; in other differences they are part of the spread of seeds and worlds. "
        "Intervals of rates are taken on the logit scale, of lengths and KLs on the logarithm's, where no bound is in "
        f"the way. A verdict needs {LEAST_WORLDS} worlds: fewer say little about others.",
        "A *difference* is always taken within one world and seed, between runs that share data, SFT model, reward "
        "model, evaluation prompts and reference responses, and then pooled. Runs are only compared where all "
        "settings agree but those that a section is about; of several such sets of runs the largest is used.",
        "Verdicts are computed: **agrees** where an interval lies wholly inside what the paper's claim allows, "
        "**contradicts** where it lies wholly outside, else **can't tell**. The smallest difference worth having is "
        f"{MARGIN:g} points of win rate, and {FACTS_MARGIN:g} of factuality: what is *no worse*, or *the best*, may be "
        "less than that behind. A claim about several comparisons must hold in each; one that contradicts it must do "
        "so after Holm's correction for the number of all comparisons of all claims. The design was written before "
        "the runs: [study-design.md](study-design.md).",
        "Win rates are against the SFT model's own responses, by the exact oracle, ties one half: 50 is SFT's level. "
        "Where nothing else is said both sides answer greedily: a policy that is merely sharper than the SFT model "
        "would win against its samples. "
        f"The paper's are against text-davinci-003, ties as losses, where SFT has {published.SFT_WIN_RATE:g}. Only "
        "directions and orders can be compared, not numbers.",
    ]
    return Section("How to read it", paragraphs)


def paper() -> Section:
    steps = [
        [
            f"PPO with LoRA, {form}, at step {', '.join(map(str, published.STEPS))}",
            ", ".join(f"{rate:g}" for rate in rates),
        ]
        for form, rates in published.WIN_RATE_BY_STEP.items()
    ]
    low, high = published.PEAK_KL
    least, most = published.PEAK_WIN_RATE
    far, end = published.NEGATIVE_KL_END
    rows = [
        ["SFT10k", f"{published.SFT_WIN_RATE:g}", "text"],
        ["AlpacaFarm's PPO, all weights", f"{published.PPO_WIN_RATE:g}", "text"],
        *([*row, "read off figure 1"] for row in steps),
        [f"most variants at their best, KL {low:g} to {high:g}", f"{least:g} to {most:g}", "read off figure 2"],
        [f"negative KL at its end, KL {far:g}", f"{end:g}", "read off figure 2"],
    ]
    text = (
        f"From {published.SOURCE}; win rates in per cent against text-davinci-003, ties as losses. What was read off "
        "figures is good to about half a point. Of its factuality (FActScore) there are no numbers at hand, only that "
        "PPO lowers it and LoRA largely prevents that."
    )
    return Section("The paper's published values", [text, table(["policy", "win rate, %", "source"], rows, text=3)])


def limits() -> Section:
    points = (
        "Anything about natural language, long texts, reasoning, or models of a useful size: its language has some 40 "
        "sentence patterns, its model 0.27M weights.",
        "How humans or GPT-4 judge. The annotator's weaknesses were chosen, so that policies find them is no "
        "discovery; how penalties deal with it is.",
        "Generalisation to people nobody wrote about: evaluation people are new to the reward model and PPO only.",
        "Figures comparable with published ones: agreement is agreement in direction.",
        "Small effects from few worlds; see [the world's own description](world.md).",
    )
    return Section("What the embedded world can't show", ["\n".join(f"- {point}" for point in points)])
