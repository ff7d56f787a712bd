"""Settings of a search: what runs are judged by, and the rule by which those that can't win are stopped on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.figures import COUNTED, EVALUATION
from rlhf.validate import check, check_choice, check_positive

OBJECTIVES = tuple(figure.name for figure in (*EVALUATION, *COUNTED))
"""The figures that a finished run has: those that can be an objective."""

DIRECTIONS = ("maximize", "minimize")


def objectives(value: object) -> list[str]:
    """The names that `objective` holds: none, one, or a list; raises ConfigError for one that is no figure."""
    names = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    names = [] if value is None else names
    for name in names:
        check(name in OBJECTIVES, "objective", name, f"choose of {', '.join(OBJECTIVES)}")
    check(value is None or 0 < len(names) == len(set(names)), "objective", value, "null, or different figures")
    return [str(name) for name in names]


@dataclass
class PruneConfig:
    """No pruning; a rule's settings are a subclass's."""

    name: str = "none"  # the rule: none, asha or median

    def __post_init__(self) -> None:
        check_choice("prune.name", self.name, ("none",))


@dataclass
class RuleConfig(PruneConfig):
    """What all rules read."""

    # maximize or minimize: which way the figure is better that is compared, `objective` or else the greedy win rate
    direction: str = "maximize"
    first: int = 10  # PPO steps before the first decision

    def __post_init__(self) -> None:
        kind = PRUNE_KINDS.get(self.name)
        check(type(self) is kind, "prune.name", self.name, "choose it by prune=NAME, with its keys")
        check_choice("prune.direction", self.direction, DIRECTIONS)
        check_positive("prune", self, "first")


@dataclass
class AshaConfig(RuleConfig):
    name: str = "asha"
    reduction: int = 3  # decided after first x reduction^k steps: one run of so many goes on

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.reduction > 1, "prune.reduction", self.reduction, "must be 2 or greater")


@dataclass
class MedianConfig(RuleConfig):
    name: str = "median"
    others: int = 4  # so many other runs must have come as far before one is stopped

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("prune", self, "others")


PRUNE_KINDS: Mapping[str, type[PruneConfig]] = {"none": PruneConfig, "asha": AshaConfig, "median": MedianConfig}
