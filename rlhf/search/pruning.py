"""Whether a run goes on: decided at evaluations by `prune`, and at any step by `rlhf stop`, from files alone.

Each decision is in decisions.jsonl before it is acted on, and one that is there is not made anew: so a run that is
resumed ends where it would have ended, whatever the others have reached by then.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.config.run import Config
from rlhf.config.search import AshaConfig, MedianConfig, RuleConfig
from rlhf.config.stages import STAGES, identity
from rlhf.errors import DataError, Pruned
from rlhf.search.objective import evaluated
from rlhf.search.rules import asha, median_rule, rung
from rlhf.storage.reader import DECISIONS, Row, read_decisions, read_parent, read_settings
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import find_runs

log = logging.getLogger(__name__)

COMPARABLE = (*STAGES, "evaluation")
"""What runs of a sweep agree on where their figures at a step say which is better: world, judge and prompts."""

REQUEST = ".stop"
"""Made by `rlhf stop` in a run's directory."""


class Pruning:
    """One run's decisions: `check` after each step, on the process that writes."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self.rule, self.figure, self.every = config.prune, config.pruned_by, config.evaluation.every
        self.steps, self.key = config.steps, identity(asdict(config), COMPARABLE)
        self.directory, self.path = directory, directory.path

    def check(self, step: int, figures: Row | None) -> Pruned | None:
        """Why the run ends after this step, with the `figures` of its evaluation if there was one; None: it goes on."""
        known = {row["step"]: row for row in read_decisions(self.path)}
        decision = known.get(step) or self._asked(step) or (self._by_rule(step, figures) if figures else None)
        if decision is None:
            return None
        if step not in known:
            self.directory.write_rows(DECISIONS, [*known.values(), decision])
            (self.path / REQUEST).unlink(missing_ok=True)
        return Pruned(step, str(decision["reason"])) if decision.get("reason") else None

    def _asked(self, step: int) -> Row | None:
        """The decision of somebody who has called `rlhf stop`."""
        if not (self.path / REQUEST).exists():
            return None
        return {"step": step, "rule": "stop", "reason": f"stopped at step {step} by rlhf stop"}

    def _by_rule(self, step: int, figures: Row) -> Row | None:
        rule, value = self.rule, figures.get(self.figure)
        if not isinstance(rule, RuleConfig) or not rule.first <= step < self.steps or value is None:
            return None
        if isinstance(rule, AshaConfig) and not rung(step, self.every, rule.first, rule.reduction):
            return None
        sign = -1 if rule.direction == "minimize" else 1
        others = {path.name: [sign * value for value in values] for path, values in self._others(step)}
        own = [sign * row[self.figure] for row in self._rows(self.path, step - 1)] + [sign * float(value)]
        goes_on = decide(rule, own, list(others.values()))
        seen = {name: sign * values[-1] for name, values in others.items()}
        ahead = sum(values[-1] > own[-1] for values in others.values())
        about = (
            f"{self.figure} {value:.4g} at step {step}; of {len(seen)} runs that came as far before, {ahead} are ahead"
        )
        decision = {"step": step, "rule": rule.name, "figure": self.figure, "value": value, "others": seen}
        return decision | {"reason": None if goes_on else f"prune={rule.name}: {about}"}

    def _others(self, step: int) -> Iterator[tuple[Path, list[float]]]:
        """The other runs of the sweep that have come as far, with their values up to this step."""
        for path in find_runs([self.path.resolve().parent]):
            try:
                if path == self.path.resolve() or identity(read_settings(path), COMPARABLE) != self.key:
                    continue
                rows = self._rows(path, step)
            except (DataError, LookupError, TypeError) as error:
                log.info(f"{path} can't be compared with: {error}")
                continue
            if rows and rows[-1]["step"] == step:
                yield path, [float(row[self.figure]) for row in rows]

    def _rows(self, path: Path, last: int) -> list[dict[str, Any]]:
        """A run's evaluated rows up to a step, but those before its first step or a branch, which others have too."""
        parent = read_parent(path)
        first = 0 if parent is None else parent["step"]
        return [row for row in evaluated(path) if first < row["step"] <= last and row.get(self.figure) is not None]


def decide(rule: RuleConfig, own: list[float], others: list[list[float]]) -> bool:
    """Whether a run goes on, whose values so far are `own`; more is better."""
    if isinstance(rule, AshaConfig):
        return asha(own[-1], [values[-1] for values in others], rule.reduction)
    assert isinstance(rule, MedianConfig)
    return median_rule(own, others, rule.others)


def request_stop(run: Path) -> None:
    """Have a run end for good after the step that it is at."""
    (run / REQUEST).touch()
