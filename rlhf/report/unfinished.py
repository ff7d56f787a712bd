"""Runs that did not finish, or can't be read: what is known of each, for a report that leaves nothing out silently."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.report.groups import Group
from rlhf.report.load import Leaf, Run, effective, flatten, read_object, read_rows
from rlhf.report.settings import differences


@dataclass(frozen=True)
class Unfinished:
    """A run without results: `state` is that of status.json, or unreadable.

    `step` is the last that history.jsonl holds, `steps` how many were asked for, `config` the settings, each None where
    it is not known.
    """

    path: str
    state: str
    reason: str
    step: int | None
    steps: int | None
    config: dict[str, Leaf] | None

    @property
    def progress(self) -> str:
        if self.step is None:
            return "before the first step"
        return f"step {self.step}" if self.steps is None else f"step {self.step} of {self.steps}"


def unfinished(problems: Sequence[tuple[str, str]]) -> list[Unfinished]:
    """Of each directory that load_outputs could not use, with its reason."""
    return [describe(Path(path), reason) for path, reason in problems]


def describe(directory: Path, reason: str) -> Unfinished:
    state, told = state_of(directory, reason)
    config = config_of(directory)
    steps = None if config is None else config.get("ppo.steps")
    return Unfinished(
        str(directory), state, told, last_step(directory), int(steps) if isinstance(steps, int) else None, config
    )


def state_of(directory: Path, reason: str) -> tuple[str, str]:
    """The state, and the reason that status.json gives, or the one of its being unreadable."""
    try:
        status = read_object(directory / "status.json")
    except ValueError:
        return "unreadable", reason
    state = str(status.get("state"))
    if state == "done":
        return "unreadable", reason
    told = status.get("reason")
    return state, str(told) if told else "no end recorded: it is still running, or was killed"


def config_of(directory: Path) -> dict[str, Leaf] | None:
    try:
        return effective(flatten(read_object(directory / "config.yaml")))
    except ValueError:
        return None


def last_step(directory: Path) -> int | None:
    try:
        steps = [row["step"] for row in read_rows(directory / "history.jsonl") if isinstance(row.get("step"), int)]
    except (OSError, ValueError):
        return None
    return max(steps, default=None)


def trouble_of(groups: Sequence[Group], found: Sequence[Unfinished]) -> dict[str, list[str]]:
    """By the id of the group whose setting they have: the states of its unfinished runs."""
    trouble: dict[str, list[str]] = {}
    for each in found:
        for group in groups if each.config is not None else ():
            if not differences(group.runs[0], Run(each.path, each.config or {}, {}, [], None), ()):
                trouble.setdefault(group.id, []).append(each.state)
    return trouble
