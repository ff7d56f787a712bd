"""The answer first: which setting wins, by how much, and with what error."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import FIGURES, GREEDY, REWARD, Figure
from rlhf.report.compare import cells, extent, final, gain, level, p_values, win_rate_difference
from rlhf.report.groups import FORM, Ablation, Group
from rlhf.report.load import Run, Unfinished
from rlhf.report.markdown import count, number, span, with_error
from rlhf.report.selection import REMEDY, broken, caveats

SIGNIFICANT = 0.05
MOST_NAMES = 4


@dataclass(frozen=True)
class Fact:
    """A figure worth its own place: what it is of, the figure and what to read beside it."""

    name: str
    figure: str
    note: str


@dataclass(frozen=True)
class Beside:
    """A group's win rate minus the reference's, prompt by prompt within world and seed, and Holm's p-value."""

    group: Group
    difference: Pooled | None
    p_value: float | None


@dataclass(frozen=True)
class Answer:
    """A headline, sentences, and the differences they rest on, in `figure`: to the reference, and to the winner.

    `problem` says of the winner where its objective fell.
    """

    headline: str
    sentences: list[str]
    facts: list[Fact]
    reference: Group | None
    to_reference: list[Beside]
    winner: Group | None
    to_winner: list[Beside]
    problem: str | None = None
    figure: str = GREEDY


def answer(ablation: Ablation, pruned: Sequence[Unfinished] = ()) -> Answer:
    """Answer for the groups compared, which are sorted from the highest win rate down; `pruned` runs are in none.

    There is no verdict where something was chosen by the figures that would give it.
    """
    groups, figure = ablation.compared, ablation.headline
    if not groups:
        return Answer("No finished run yet", caveats([], pruned), [], None, [], None, [])
    runs = [run for group in groups for run in group.runs]
    if reasons := broken(runs, pruned):
        why = f"On the evaluation split, on which these runs would be compared, {'; '.join(reasons)}."
        return Answer("No verdict: these runs were chosen by their own figures", [why, REMEDY], [], None, [], None, [])
    winner, reference = groups[0], reference_of(groups)
    to_reference = beside(groups, reference, figure) if reference is not None else []
    to_winner = beside(groups, winner, figure)
    name = f"{FIGURES[figure].decoding} {FIGURES[figure].label}".strip()
    value = f"{with_error(level(winner.runs, final(figure)), FIGURES[figure].digits)}{FIGURES[figure].unit_after}"
    headline, sentences = f"{winner.label}: {name} {value}", [extent_sentence(ablation, winner)]
    if to_winner:
        headline = f"{winner.label} has the highest {name}: {value}"
        sentences.insert(0, ahead(winner, to_winner, figure))
    sentences += [*chosen_sentence(runs), *caveats(runs, pruned)]
    facts = facts_of(winner, reference, to_reference, figure)
    return Answer(headline, sentences, facts, reference, to_reference, winner, to_winner, problem_of(winner), figure)


def chosen_sentence(runs: Sequence[Run]) -> list[str]:
    """Which steps were chosen, on which split, where `rlhf choose` chose any: figures are those of the last steps."""
    chosen = [run.chosen for run in runs if run.chosen is not None]
    if not chosen:
        return []
    steps, splits = (sorted({each[name] for each in chosen}) for name in ("step", "split"))
    listed_steps, listed_splits = (", ".join(map(str, values)) for values in (steps, splits))
    shown = [each["figures"].get(each["figure"]) for each in chosen]
    known = [value for value in shown if value is not None]
    rate = f", with a mean win rate of {number(sum(known) / len(known))} %" if known else ""
    return [
        f"In {count(len(chosen), 'run')} a kept policy was chosen by its win rate on the split {listed_splits}: step "
        f"{listed_steps}{rate}. All other figures here are those of the last step."
    ]


def beside(groups: Sequence[Group], reference: Group, figure: str) -> list[Beside]:
    """Each other group beside the reference; p-values are corrected for all of them, and None in one world."""
    others = [group for group in groups if group is not reference]
    differences = [win_rate_difference(group.runs, reference.runs, figure=figure) for group in others]
    return [Beside(*each) for each in zip(others, differences, p_values(differences), strict=True)]


def problem_of(group: Group) -> str | None:
    """In how many of a group's runs the objective fell, and why in the first of them."""
    problems = [str(run.metrics["objective_problem"]) for run in group.runs if run.metrics.get("objective_problem")]
    if not problems or len(group.runs) == 1:
        return problems[0] if problems else None
    return f"in {len(problems)} of {len(group.runs)} runs of {group.label}, as in the first of them: {problems[0]}"


def reference_of(groups: Sequence[Group]) -> Group | None:
    """No penalty, where it is among them in its usual setting and there is something else to compare."""
    none = [group for group in groups if group.runs[0].config.get(FORM) == "none"]
    return min(none, key=lambda group: len(group.label)) if none and len(groups) > 1 else None


def ahead(winner: Group, to_winner: Sequence[Beside], figure: str) -> str:
    """Sentences on the winner's lead, how many settings it beats beyond error, and which it does not."""
    lead = margin(to_winner[0], FIGURES[figure])
    if len(cells(winner.runs)) < 2:
        return f"{lead} All is from one world: errors are over its prompts, and say nothing of other worlds or runs."
    apart = [each for each in to_winner if each.p_value is not None and each.p_value < SIGNIFICANT]
    near = [each.group.label for each in to_winner if each not in apart]
    text = f"{lead} It is ahead of {len(apart)} of {count(len(to_winner), 'other setting')} beyond error (Holm, 5 %)"
    return f"{text}; not told apart from it: {listed(near)}." if near else f"{text}."


def margin(next_best: Beside, figure: Figure) -> str:
    """What the winner has over the setting that comes next."""
    name, found = next_best.group.label, next_best.difference
    if found is None:
        return f"Next comes {name}."
    lead, low, high = (number(-value, figure.digits) for value in (found.estimate, found.high, found.low))
    interval = f" (95 % interval {low} to {high})" if span(found, 1) else ""
    return f"It leads {name}, the next, by {lead} {figure.difference_unit}{interval}."


def listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f", and {more} more" if more > 0 else "")


def extent_sentence(ablation: Ablation, winner: Group) -> str:
    worlds = len(cells(winner.runs))
    others = [f"{count(len(ablation.groups), 'setting')} in the table"] * (len(ablation.groups) > 1)
    if 1 < len(ablation.compared) < len(ablation.groups):
        others.append(f"{len(ablation.compared)} of them compared here, for they differ in their penalty alone")
    basis = f"The winner was run in {count(worlds, 'world')} (worlds x seeds: {extent(winner.runs)})"
    return "; ".join([basis, *others]) + "."


def facts_of(winner: Group, reference: Group | None, to_reference: Sequence[Beside], rate: str) -> list[Fact]:
    """Beside the SFT model, of responses drawn as for the win rate called `rate`, and beside no penalty."""
    suffix = "_greedy" if rate == GREEDY else ""
    names = (rate, "objective", f"factuality{suffix}", f"response_length{suffix}")
    if rate == REWARD:
        names = (REWARD, "raw_reward", "true_kl_per_response", "response_length")
    facts = [fact(name, "SFT", level(winner.runs, gain(name))) for name in names]
    own = [each.difference for each in to_reference if each.group is winner]
    if reference is not None and own:
        facts.insert(1, fact(rate, reference.label, own[0]))
    return [each for each in facts if each is not None]


def fact(name: str, other: str, difference: Pooled | None) -> Fact | None:
    if difference is None:
        return None
    figure = FIGURES[name]
    interval = span(difference, figure.digits)
    return Fact(
        f"{figure.label} minus {other}'s, {figure.difference_unit}",
        number(difference.estimate, figure.digits, signed=True),
        f"95 % interval {interval}" if interval else "one run, no interval",
    )
