"""What the tables show of a group of runs: figures with their errors, pooled over seeds and worlds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf.evaluation.pooling import Pooled
from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.compare import Estimate, Measure, extent, final, level, p_values, win_rate_difference
from rlhf.report.groups import Group
from rlhf.report.load import Run
from rlhf.report.markdown import NOTHING, number


@dataclass(frozen=True)
class Column:
    """A figure of metrics.json, or what `measure` takes of a run."""

    name: str
    label: str
    unit: str
    digits: int = 1
    measure: Measure | None = None

    def taken(self, *part: str) -> Measure:
        return self.measure or final(self.name, *part)

    @property
    def title(self) -> str:
        return f"{self.label}, {self.unit}" if self.unit else self.label


def seconds(runs: Sequence[Run]) -> Estimate | None:
    """Training and evaluation, without the stages that runs share."""
    taken = runs[0].metrics.get("seconds") or {}
    found = [float(taken[part]) for part in ("ppo", "evaluation") if taken.get(part) is not None]
    return (sum(found), 0.0) if found else None


COLUMNS = (
    Column(GREEDY, "win rate", "%, greedy"),
    Column(f"{GREEDY}_length_controlled", "at equal length", "%, greedy"),
    Column(SAMPLED, "win rate", "%, sampled"),
    Column("objective", "objective", "SFT deviations", 2),
    Column("true_kl_per_response", "true KL", "nats/response", 2),
    Column("true_kl_per_token", "true KL", "nats/token", 3),
    Column("response_length_greedy", "length", "tokens, greedy"),
    Column("response_length", "length", "tokens, sampled"),
    Column("factuality_greedy", "factuality", "%, greedy"),
    Column("factuality", "factuality", "%, sampled"),
    Column("reward", "reward", "SFT deviations", 2),
    Column("cost", "cost", "s", 0, Measure(seconds)),
)


@dataclass(frozen=True)
class Row:
    """A group's figures, one for each column; None where a run lacks it."""

    group: Group
    extent: str
    figures: list[Pooled | None]
    trouble: list[str] = field(default_factory=list)
    """Of its runs that did not finish: their states."""


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """Those that any run has a figure for."""
    return [column for column in COLUMNS if any(column.taken().take([run]) is not None for run in runs)]


def rows_of(groups: Sequence[Group], columns: Sequence[Column], trouble: dict[str, list[str]]) -> list[Row]:
    return [
        Row(
            group,
            extent(group.runs),
            [level(group.runs, column.taken()) for column in columns],
            trouble.get(group.id, []),
        )
        for group in groups
    ]


POLICY_ALONE = ("cost", "objective")
"""What the SFT model at another temperature does not have: nothing was to be raised with it."""


def sft_figures(runs: Sequence[Run], columns: Sequence[Column]) -> dict[str, list[Pooled | None]]:
    """The SFT model's own, and those of its controls, one for each column; what only a policy has is None."""
    own = {"SFT": [None if column.measure else level(runs, column.taken("baseline")) for column in columns]}
    temperatures = dict.fromkeys(name for run in runs for name in run.metrics.get("controls") or {})
    return own | {f"SFT, T={name}": control_figures(runs, columns, name) for name in temperatures}


def control_figures(runs: Sequence[Run], columns: Sequence[Column], temperature: str) -> list[Pooled | None]:
    parts = ("controls", temperature)
    return [None if column.name in POLICY_ALONE else level(runs, column.taken(*parts)) for column in columns]


def with_error(figure: Pooled | None, digits: int) -> str:
    """`63.8 ± 1.3`; without an error where there is none."""
    if figure is None:
        return NOTHING
    text = number(figure.estimate, digits)
    return text if figure.standard_error == 0 else f"{text} ± {number(figure.standard_error, digits)}"


def span(figure: Pooled | None, digits: int) -> str:
    """The 95 % interval, as a reader is told it."""
    if figure is None or figure.low == figure.high:
        return ""
    return f"{number(figure.low, digits)} to {number(figure.high, digits)}"


@dataclass(frozen=True)
class Beside:
    """A group's win rate minus the reference's, prompt by prompt within world and seed, and Holm's p-value."""

    group: Group
    difference: Pooled | None
    p_value: float | None


def beside(groups: Sequence[Group], reference: Group, figure: str) -> list[Beside]:
    """Each other group beside the reference; p-values are corrected for all of them, and None in one world."""
    others = [group for group in groups if group is not reference]
    differences = [win_rate_difference(group.runs, reference.runs, figure=figure) for group in others]
    columns = zip(others, differences, p_values(differences), strict=True)
    return [Beside(group, difference, p) for group, difference, p in columns]
