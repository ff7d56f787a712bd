"""Rows of an ablation: runs of one setting, pooled over seeds and worlds, named by what sets them apart."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlhf.errors import UserError
from rlhf.escape import one_line
from rlhf.report.compare import final, headline_of, level
from rlhf.report.load import Leaf, Run, Unfinished
from rlhf.report.settings import SEEDS, Repeat, differences, differing_keys, distinct, shown_leaf

FORM = "regularizer.name"
BY_REWARD = ("none", "reward", "reward_model")
"""Judges that measure by the reward, or by a second one of its kind."""
LONGEST_LABEL = 120
"""Characters; what is cut off is told apart by a hash."""


@dataclass(frozen=True)
class Group:
    """Runs of one setting; `values` are those of the keys that distinguish the groups of an ablation."""

    label: str
    values: dict[str, Leaf]
    runs: list[Run]

    @property
    def id(self) -> str:
        return short_hash(self.label)

    def mean(self, figure: str) -> float:
        result = level(self.runs, final(figure))
        return float("-inf") if result is None else result.estimate


@dataclass(frozen=True)
class Ablation:
    """Groups from the highest win rate down; `compared` are those that differ in what the ablation is about alone.

    `keys` distinguish the groups, `along` differ together with them; `left_out` runs fit into no group, for they differ
    in `differing` too; of `repeats` one each is used; `headline` names the win rate that those compared have.
    """

    keys: list[str]
    along: list[str]
    groups: list[Group]
    compared: list[Group]
    left_out: list[Run]
    differing: list[str]
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def headline(self) -> str:
        return headline_of(members(self.compared))


def members(groups: Sequence[Group]) -> list[Run]:
    return [run for group in groups for run in group.runs]


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def ablation(runs: Sequence[Run], by: Sequence[str] = ()) -> Ablation:
    """The groups by the keys given, or by all keys in which the runs differ, seeds apart."""
    runs, repeats = distinct(runs)
    if not runs:
        return Ablation(list(by), [], [], [], [], [])
    return replace(by_keys(runs, by) if by else by_setting(runs), repeats=repeats)


def by_keys(runs: Sequence[Run], by: Sequence[str]) -> Ablation:
    """The largest set of runs that agree in all but `by` and what follows from it. Raises UserError."""
    differing = differing_keys(runs)
    unknown = [key for key in by if not any(key in run.config for run in runs)]
    if unknown:
        allowed = ", ".join([*differing, *SEEDS])
        raise UserError(f"--by {unknown[0]}: no run has this key; the runs differ in {allowed}")
    others = [key for key in distinguishing(runs, differing, [*by, *yardsticks(runs, by)]) if key not in by]
    chosen = largest(runs, others, by)
    kept = {run.path for run in chosen}
    groups = best_first(partition(chosen, by), headline_of(chosen))
    along = [key for key in differing_keys(chosen) if key not in by]
    return Ablation(list(by), along, groups, groups, [run for run in runs if run.path not in kept], others)


def by_setting(runs: Sequence[Run]) -> Ablation:
    """A group for each setting; compared are those that differ in their penalty alone, if there are several."""
    differing = differing_keys(runs)
    measured = yardsticks(runs)
    keys = distinguishing(runs, differing, measured)
    keys.sort(key=lambda key: key in measured)
    groups = partition(runs, keys)
    chosen = {run.path for run in largest(runs, [key for key in keys if not key.startswith("regularizer.")], [FORM])}
    compared = [group for group in groups if group.runs[0].path in chosen]
    if FORM not in keys or len(compared) < 2:
        alike = {run.path for run in largest(runs, measured, keys)}
        compared = [group for group in groups if group.runs[0].path in alike]
    figure = headline_of(members(compared))
    groups, compared = best_first(groups, figure), best_first(compared, figure)
    return Ablation(keys, [key for key in differing if key not in keys], groups, compared, [], [])


def yardsticks(runs: Sequence[Run], by: Sequence[str] = ()) -> list[str]:
    """The settings of what measures, in which the runs differ: figures by different judges or rewards do not compare.

    The reward is one of them where it, or a second one of its kind, is the judge too.
    """
    by_reward = any(run.config.get("judge.name") in BY_REWARD for run in runs)
    prefixes = ("judge.", "reward.") if by_reward else ("judge.",)
    differing = [key for key in differing_keys(runs) if key.startswith(prefixes) and key not in by]
    return distinguishing(runs, differing)


def largest(runs: Sequence[Run], keys: Sequence[str], contrast: Sequence[str]) -> list[Run]:
    """The largest set of runs that agree on the keys; one in which `contrast` differs comes first."""
    sets: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        sets.setdefault(values_of(run, keys), []).append(run)
    return max(sets.values(), key=lambda found: (len({values_of(run, contrast) for run in found}) > 1, len(found)))


def values_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(run.config.get(key)) for key in keys)


def follows(runs: Sequence[Run], key: str, others: Sequence[str]) -> bool:
    """Whether the other keys' values determine this key's in all runs."""
    seen: dict[tuple[str, ...], str] = {}
    for run in runs:
        place = values_of(run, others)
        if seen.setdefault(place, str(run.config.get(key))) != str(run.config.get(key)):
            return False
    return True


def distinguishing(runs: Sequence[Run], keys: Sequence[str], needed: Sequence[str] = ()) -> list[str]:
    """The fewest keys, among them `needed`, that still distinguish all settings.

    Found by leaving out, one by one, what follows from the others: those of few values first, names last.
    """
    values = {key: len({values_of(run, [key]) for run in runs}) for key in keys}
    rest = sorted({*keys} - {*needed}, key=lambda key: (key != FORM, not key.endswith(".name"), -values[key], key))
    kept = [*needed, *rest]
    for key in reversed(rest):
        others = [other for other in kept if other != key]
        if follows(runs, key, others):
            kept = others
    return kept


def partition(runs: Sequence[Run], keys: Sequence[str]) -> list[Group]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(values_of(run, keys), []).append(run)
    usual = {key: Counter(str(run.config.get(key)) for run in runs).most_common(1)[0][0] for key in keys}
    found = []
    for members in groups.values():
        values = {key: members[0].config.get(key) for key in keys}
        found.append(Group(label(values, usual), values, members))
    return found


def best_first(groups: Sequence[Group], figure: str) -> list[Group]:
    return sorted(groups, key=lambda group: (-group.mean(figure), group.label))


def label(values: dict[str, Leaf], usual: dict[str, str]) -> str:
    """The first key's value, and of the others those that are not the usual ones: `js (strength=3)`.

    Of no penalty without its strength, which scales nothing.
    """
    text = full_label(values, usual)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 10]}… {short_hash(text)}"


def full_label(values: dict[str, Leaf], usual: dict[str, str]) -> str:
    if not values:
        return "all runs"
    first, *others = values
    name = str(values[first]) if first.endswith(".name") else written(first, values)
    inert = {"regularizer.strength"} if values.get(FORM) == "none" else set[str]()
    unusual = [written(key, values) for key in others if str(values[key]) != usual[key] and key not in inert]
    return one_line(f"{name} ({', '.join(unusual)})" if unusual else name)


def written(key: str, values: dict[str, Leaf]) -> str:
    if key == "lora.r" and values[key] is None:
        return "all weights"
    return f"{short(key, list(values))}={shown_leaf(values[key])}"


def short(key: str, keys: Sequence[str]) -> str:
    """A key's last part, or the one before `name`; all of it where that is not enough."""

    def last(text: str) -> str:
        return text.removesuffix(".name").split(".")[-1]

    return last(key) if [last(other) for other in keys].count(last(key)) == 1 else key


def trouble_of(groups: Sequence[Group], found: Sequence[Unfinished]) -> dict[str, list[str]]:
    """The states of unfinished runs by the id of the group that has their setting."""
    trouble: dict[str, list[str]] = {}
    for each in found:
        for group in groups if each.config is not None else ():
            if not differences(group.runs[0], Run(each.path, each.config or {}, {}, [], None)):
                trouble.setdefault(group.id, []).append(each.state)
    return trouble
