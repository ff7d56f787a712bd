"""The command that runs a setting again: from its directory's name, or from what differs from conf/'s defaults."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.compose import CONF, register
from rlhf.report.groups import SEEDS
from rlhf.report.load import Leaf, Run, effective, flatten
from rlhf.report.settings import ABSENT, fixed

CUT = re.compile(r"-[0-9a-f]{8}$")
"""How a directory's name ends that does not hold all of its overrides; see rlhf.compose.run_name."""


PLAIN = re.compile(r"[A-Za-z0-9_./@+-]+")


@dataclass(frozen=True)
class Command:
    """`checked`: conf/ composes to the run's settings by it; else conf/ has changed, or names no such run."""

    text: str
    checked: bool


class Commands:
    """Composes each choice of files once, since that takes a tenth of a second or two."""

    def __init__(self, conf: Path = CONF) -> None:
        self.conf = conf
        self.composed: dict[tuple[str, ...], dict[str, Leaf] | None] = {}

    def of(self, runs: Sequence[Run]) -> Command:
        """One command for runs that differ in seeds alone."""
        overrides, checked = self.overrides(runs[0])
        return Command(written(overrides, runs), checked)

    def overrides(self, run: Run) -> tuple[list[str], bool]:
        """Those of a run but its seeds, and whether they were checked; by its directory's name if that will do."""
        named = named_overrides(Path(run.path).name)
        if named is not None and self.gives(named, run):
            return named, True
        differing = self.differing(run)
        return differing, self.gives(differing, run)

    def gives(self, overrides: Sequence[str], run: Run) -> bool:
        """Whether conf/ composes with these to the settings that the run recorded."""
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
        except HydraException:
            return False
        groups = [each for each in parsed if (self.conf / each.key_or_group).is_dir()]
        base = self.compose(tuple(str(each.input_line) for each in groups))  # without single keys: runs share it
        leaves = flatten({each.key_or_group: each.value() for each in parsed if each not in groups})
        if base is None or not leaves.keys() <= base.keys():
            return False
        config = effective(base | leaves)
        return all(config.get(key, ABSENT) == leaf for key, leaf in fixed(run, ()).items())

    def differing(self, run: Run) -> list[str]:
        """What differs from the defaults, key by key; the kind of data by its file in conf/data/."""
        defaults = self.compose(()) or {}
        kind = run.config.get("data.name")
        chosen = [] if kind == defaults.get("data.name") else [f"data={kind}"]
        base = effective(self.compose(tuple(chosen)) or defaults)
        rate = {"ppo.lr": "ppo.lr_full"} if run.config.get("lora.r") is None else {}  # see load.effective
        differing = {key: leaf for key, leaf in fixed(run, ()).items() if base.get(key, ABSENT) != leaf}
        return chosen + [f"{rate.get(key, key)}={value_of(leaf)}" for key, leaf in differing.items()]

    def compose(self, groups: tuple[str, ...]) -> dict[str, Leaf] | None:
        """The settings with these files of conf/ chosen; None where it refuses."""
        if groups not in self.composed:
            self.composed[groups] = composed(self.conf, list(groups))
        return self.composed[groups]


def composed(conf: Path, overrides: list[str]) -> dict[str, Leaf] | None:
    register()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return flatten(OmegaConf.to_container(compose("config", overrides=overrides), resolve=True))
    except (HydraException, OmegaConfBaseException):
        return None


def named_overrides(name: str) -> list[str] | None:
    """The overrides that a run's directory is named by, seeds left out; None where the name does not hold them all."""
    if CUT.search(name) or (name != "default" and "=" not in name.split(",")[0]):
        return None
    parts: list[str] = []
    for part in name.split(",") if name != "default" else []:
        if "=" in part:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    return [part for part in parts if part.partition("=")[0] not in SEEDS]


def value_of(leaf: Leaf) -> str:
    """As Hydra reads it: plain where it can be, else in quotes; a list is one leaf of JSON already."""
    if leaf is None or isinstance(leaf, bool):
        return json.dumps(leaf)
    if not isinstance(leaf, str) or PLAIN.fullmatch(leaf) or leaf.startswith("["):
        return str(leaf)
    quoted = leaf.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"


def written(overrides: Sequence[str], runs: Sequence[Run]) -> str:
    """The command line; where the seeds of all worlds are alike one sweep, else a command for each world."""
    worlds: dict[int, list[int]] = {}
    for run in sorted(runs, key=lambda run: (run.world, run.seed)):
        worlds.setdefault(run.world, []).append(run.seed)
    by_seeds: dict[tuple[int, ...], list[int]] = {}
    for world, seeds in worlds.items():
        by_seeds.setdefault(tuple(seeds), []).append(world)
    return "\n".join(line(overrides, found, seeds) for seeds, found in by_seeds.items())


def line(overrides: Sequence[str], worlds: Sequence[int], seeds: Sequence[int]) -> str:
    several = len(worlds) * len(seeds) > 1
    chosen = [f"data.seed={','.join(map(str, worlds))}", f"seed={','.join(map(str, seeds))}"]
    return shlex.join(["python", "-m", "rlhf.run", *["-m"] * several, *overrides, *chosen])
