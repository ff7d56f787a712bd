"""Section: what the paper could not ask. Each answer is a sentence to quote, with the table that it is read off."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY
from rlhf.report.compare import cells, extent, final, level, win_rate_difference
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, shown, table
from studies import additive
from studies.claims import judge
from studies.forms import Forms, at_default, by_form, by_ppo, comparable, name, with_lora
from studies.frontier import difference_at
from studies.lora import EVERYWHERE, arms, modules
from studies.matched import FACTS, LENGTH
from studies.measures import difference, in_worlds
from studies.overoptimisation import since_best
from studies.section import AGREES, CONTRADICTS, MARGIN, Section
from studies.selection import agreeing, like

TITLE = "Beyond the paper"
SHARES = (0.9, 0.8)
"""Of the SFT model's length, or of the facts it states."""

AT_KL = 2.0
WHOLE = " (both)"
"""How `by_form` labels the whole gradient of a form that was published in the reward alone."""


def section(runs: Sequence[Run], figures: Path) -> Section:
    forms = by_form(comparable(runs).runs)
    parts = [brevity(forms), whole_gradients(forms), adapters(runs), placements(runs), ensembles(runs)]
    answers = [(question, answer) for question, answer, *_ in filter(None, parts)]
    paragraphs = [
        paragraph
        for question, answer, *rest in filter(None, parts)
        for paragraph in (f"### {question}", f"**{answer}**", *rest)
    ]
    return Section(TITLE, paragraphs, answers=answers)


def brevity(forms: Forms) -> list[str]:
    """Whether js wins by its divergence or by being short, beside kl, whose penalty is the divergence itself."""
    if not {"js", "kl"} <= set(forms):
        return []
    ends = at_default(forms)
    model, controlled = modelled(ends, "kl"), modelled(ends, "kl", LENGTH.read)
    rows, matched = [], {}
    for form in (form for form in forms if form != "kl" and not form.startswith("none (")):
        end = win_rate_difference(ends[form], ends["kl"]) if {form, "kl"} <= set(ends) else None
        matched[form] = [difference_at(forms[form], forms["kl"], GREEDY, AT_KL)]
        matched[form] += [difference_at(forms[form], forms["kl"], GREEDY, share, along=LENGTH) for share in SHARES]
        found = [end, model.get(form), *matched[form], controlled.get(form)]
        rows.append([form, *(shown(each, signed=True) for each in found)])
    divergence, *_, length = matched["js"]
    answer = "can't be told"
    if divergence and length and length.low > 0:
        answer = "is more than brevity"
    elif divergence and length and divergence.low > 0 and length.high < MARGIN:
        answer = "is brevity"
    other = f"{shown(length, signed=True)} points" if length else "too few worlds have them to compare"
    header = ["form minus kl", "at the end", "by the model", f"at KL {AT_KL:g}"]
    header += [*(f"at {share:g} of SFT's length" for share in SHARES), "by the model at equal length"]
    return [
        "Does the published js win by its divergence or by brevity?",
        f"At equal KL ({AT_KL:g} nats) js wins {shown(divergence, signed=True)} points more than kl; at equal length "
        f"({SHARES[-1]:g} of SFT's) {other}: what helps it {answer}.",
        table(header, rows),
        "*By the model*: value = world + form + residual, its variance pooled over all forms; *at equal length* with "
        "the mean length of greedy answers, as a share of SFT's, beside them.",
    ]


Read = Callable[[dict, dict], float | None]


def modelled(forms: Forms, reference: str, covariate: Read | None = None) -> Mapping[str, Pooled]:
    """Differences at the end by the additive model, of forms that have a run in every world."""
    finals: dict[str, dict[int, float]] = {}
    beside: dict[str, dict[int, float]] = {}
    everywhere = max((len(cells(runs)) for runs in forms.values()), default=0)
    for form, runs in forms.items():
        worlds = in_worlds(runs)
        rates = {world: level(found, final(GREEDY)) for world, found in worlds.items()}
        shares = {world: mean(covariate, found) for world, found in worlds.items()} if covariate else {}
        if len(rates) == everywhere and None not in (*rates.values(), *shares.values()):
            finals[form] = {world: rate.estimate for world, rate in rates.items() if rate is not None}
            beside[form] = {world: share for world, share in shares.items() if share is not None}
    return additive.differences(finals, reference, beside if covariate else None)


def mean(read: Read, runs: Sequence[Run]) -> float | None:
    """Of the final figures, over the runs of a world."""
    values = [read(run.metrics, run.metrics["baseline"]) for run in runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def whole_gradients(forms: Forms) -> list[str]:
    """The published placement beside the whole gradient of the same expectation."""
    twins = [form for form in forms if f"{form}{WHOLE}" in forms]
    if not twins:
        return []
    rows, leads = [], []
    for form in twins:
        published, whole = forms[form], forms[f"{form}{WHOLE}"]
        ends = at_default({"published": published, "whole": whole})
        end = win_rate_difference(ends["whole"], ends["published"]) if len(ends) == 2 else None
        found = [difference_at(whole, published, GREEDY, kl) for kl in (1.0, AT_KL)]
        found += [difference_at(whole, published, GREEDY, share, along=LENGTH) for share in SHARES[:1]]
        rows.append([form, *(shown(each, signed=True) for each in (end, *found))])
        leads.append(judge(found[1], (0.0, math.inf)))
    better, worse = leads.count(AGREES), leads.count(CONTRADICTS)
    header = ["whole minus published", "at the end", "at KL 1", f"at KL {AT_KL:g}", f"at {SHARES[0]:g} of SFT's length"]
    return [
        "Does a penalty's whole gradient do better than the published placement?",
        f"At a KL of {AT_KL:g} nats the whole gradient wins more in {better} of {len(twins)} forms, and less in "
        f"{worse}.",
        table(header, rows),
        "*Published*: the penalty in the reward alone, which leaves out the gradient of the penalty itself.",
    ]


def adapters(runs: Sequence[Run]) -> list[str]:
    """LoRA beside full fine-tuning where both are as far from SFT, and where they state as many facts."""
    _, lora, full = arms(runs)
    if not lora:
        return []
    rows, told, kept = [], [], []
    for form in lora:
        wins = [difference_at(lora[form], full[form], GREEDY, kl) for kl in (1.0, AT_KL)]
        facts = [difference_at(lora[form], full[form], "factuality", kl) for kl in (1.0, AT_KL)]
        facts.append(difference_at(lora[form], full[form], "factuality", SHARES[0], along=FACTS))
        rows.append([form, *(shown(each, signed=True) for each in (*wins, *facts))])
        for sentence, result in ((told, wins[0]), (kept, facts[0])):
            sentence.append(f"{form} {shown(result, signed=True) if result else '(not comparable)'}")
    header = ["LoRA minus full", *(f"win rate at KL {kl:g}" for kl in (1.0, AT_KL))]
    header += [*(f"factuality at KL {kl:g}" for kl in (1.0, AT_KL)), f"factuality at {SHARES[0]:g} of SFT's facts"]
    return [
        "Is LoRA as good as full fine-tuning at equal KL, and does it protect factuality beyond its KL?",
        f"At a KL of 1 nat LoRA less full fine-tuning is {', '.join(told)} points of win rate, and {', '.join(kept)} "
        "points of factuality.",
        table(header, rows),
    ]


def placements(runs: Sequence[Run]) -> list[str]:
    """LoRA on some of the layers, each at its own rate."""
    chosen = agreeing(with_lora(by_ppo(runs)), ("lora.target_modules", "ppo.lr"), modules).runs
    groups: dict[str, list[Run]] = {}
    for run in chosen:
        groups.setdefault(modules(run), []).append(run)
    whole = next((place for place in groups if EVERYWHERE in place), None)
    if whole is None or len(groups) < 2:
        return []
    rows, told = [], []
    for place, found in groups.items():
        other = None if place == whole else win_rate_difference(found, groups[whole])
        levels = [level(found, final(figure)) for figure in (GREEDY, "true_kl_per_response")]
        rows.append([f"`{place}`", extent(found), f"{found[0].config.get('ppo.lr'):g}", shown(levels[0])])
        rows[-1] += [NOTHING if place == whole else shown(other, signed=True), shown(levels[1], 2)]
        told += [] if place == whole else [f"on {place} {shown(other, signed=True)}"]
    header = ["LoRA on", "worlds x seeds", "rate", "win rate, %", "minus all layers", "KL, nats/response"]
    return [
        "Does it matter where LoRA is put?",
        f"Compared with LoRA on all layers, LoRA {', '.join(told)} points at the end.",
        table(header, rows),
    ]


ENSEMBLE = ("reward.members", "reward.combine")


def members(run: Run) -> int:
    return int(run.config.get("reward.members") or 1)


def ensembles(runs: Sequence[Run]) -> list[str]:
    """What several reward models change, at the end and from the best step on."""
    candidates = with_lora(by_ppo(runs))
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in (run for run in candidates if members(run) > 1):
        groups.setdefault((name(run), str(run.config.get("reward.combine"))), []).append(run)
    rows, told = [], []
    for (form, how), mine in sorted(groups.items()):
        single = like([run for run in candidates if members(run) == 1], mine[0], ENSEMBLE)
        alone = [run for run in agreeing([*mine, *single], ENSEMBLE, members).runs if members(run) == 1]
        end, facts = win_rate_difference(mine, alone), difference(mine, alone, final("factuality"))
        found = [end, since_best(alone, GREEDY), since_best(mine, GREEDY), facts]
        rows.append(
            [f"{form}, {members(mine[0])} by {how}", extent(mine), *(shown(each, signed=True) for each in found)]
        )
        told.append(f"{form} by {how} {shown(end, signed=True)}")
    if not rows:
        return []
    header = ["ensemble", "worlds x seeds", "win rate less one's", "one's since its best step", "the ensemble's"]
    return [
        "What do ensembles of reward models remove?",
        f"At the end an ensemble of reward models less a single one is {', '.join(told)} points.",
        table([*header, "factuality less one's"], rows),
    ]
