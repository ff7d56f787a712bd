"""From what Hydra composed to a checked configuration, and from Hydra's complaints to what is allowed.

Imports no torch: composing and refusing stay fast on a login node.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TypeVar, cast, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config.data import DATA_KINDS, DataConfig, TextConfig
from rlhf.config.evaluate import EvaluateConfig
from rlhf.config.evaluation import FACTUALITY_KINDS, JUDGE_KINDS, FactualityConfig, JudgeConfig
from rlhf.config.run import Config
from rlhf.config.tracker import TRACKER_KINDS, TrackerConfig
from rlhf.errors import ConfigError
from rlhf.validate import check

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE, PACKAGE.parent)
"""Where conf/ and sweeps/ may stand: in the package where it was installed, beside it in its repository."""

CONF, SWEEPS = (next(place / name for place in PLACES if (place / name).is_dir()) for name in ("conf", "sweeps"))
LONGEST_NAME = 120
"""Characters of a run directory's name; longer ones are cut, and made unique by a hash."""

KINDS: dict[type, Mapping[str, type]] = {
    DataConfig: DATA_KINDS,
    JudgeConfig: {f"judge_{name}": kind for name, kind in JUDGE_KINDS.items()},
    FactualityConfig: {f"factuality_{name}": kind for name, kind in FACTUALITY_KINDS.items()},
    TrackerConfig: {f"tracker_{name}": kind for name, kind in TRACKER_KINDS.items()},
}
"""The sections that have keys of their own for each kind."""

Whole = TypeVar("Whole", Config, EvaluateConfig)


def register() -> None:
    """Hand Hydra what conf/ names: the schemas (`schema` a run, `schema_NAME` a kind of section) and two resolvers."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema())
    store.store(name="schema_evaluate", node=EvaluateConfig)
    for kinds in KINDS.values():
        for name, kind in kinds.items():
            store.store(name=f"schema_{name}", node=kind)
    OmegaConf.register_new_resolver("run_name", lambda overrides: run_name(list(overrides)), replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def schema() -> DictConfig:
    """A whole run for Hydra, which is told by a group's file of what kind the sections in KINDS are."""
    whole = OmegaConf.structured(Config)
    for name, hint in get_type_hints(Config).items():
        if hint in KINDS:
            whole[name] = MISSING
    return whole


def run_name(overrides: list[str]) -> str:
    """A directory name made of the overrides alone, in any order: the same command finds the same directory again.

    Who follows a run makes no other run of it.
    """
    text = ",".join(sorted(each for each in overrides if not re.match(r"[+~]*tracker\b", each))) or "default"
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text)
    if safe != text or len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return safe


def sweep_name(config_name: str) -> str:
    """A sweep's own name, where it is a file of sweeps/."""
    return "multirun" if config_name == "config" else config_name


def compose_evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    """conf/evaluate.yaml with a command line's overrides, checked."""
    names = [override.partition("=")[0] for override in overrides]
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.partition(".")[0]
        there = group not in ("judge", "factuality") or group in names  # where it is not, Hydra only trips over it
        check(there, key, value, f"choose one first, {group}=NAME")
    return compose_checked("evaluate", overrides, EvaluateConfig)


def compose_checked(name: str, overrides: Sequence[str], whole: type[Whole] = Config) -> Whole:
    """conf/NAME.yaml with overrides, checked; raises ConfigError where they can't be used."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return to_config(compose(name, overrides=list(overrides)), whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def to_config(composed: DictConfig, whole: type[Whole] = Config) -> Whole:
    """The composed configuration as checked dataclasses; raises ConfigError on a key or value that can't be used."""
    missing = OmegaConf.missing_keys(composed)
    check(not missing, ", ".join(sorted(missing)), "???", "has no default; set it")
    config = cast(Whole, OmegaConf.to_object(composed))
    known = {key for key, _ in leaves(asdict(config))}
    for key, value in leaves(OmegaConf.to_container(composed, resolve=True)):
        if key not in known:  # Hydra's +key=value adds what no schema knows
            check(False, key, value, allowed_keys(key, whole))
        check(not isinstance(value, float) or math.isfinite(value), key, value, "must be a finite number")
    return config


def from_yaml(path: Path) -> Config:
    """The configuration of a run directory's config.yaml, checked again."""
    saved = OmegaConf.load(path)
    schema = OmegaConf.structured(Config)
    schema.data = DATA_KINDS.get(str(OmegaConf.select(saved, "data.name")), TextConfig)
    schema.judge = JUDGE_KINDS.get(str(OmegaConf.select(saved, "judge.name")), JudgeConfig)
    schema.factuality = FACTUALITY_KINDS.get(str(OmegaConf.select(saved, "factuality.name")), FactualityConfig)
    schema.tracker = TRACKER_KINDS.get(str(OmegaConf.select(saved, "tracker.name")), TrackerConfig)
    return to_config(cast(DictConfig, OmegaConf.merge(schema, saved)))


def leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting of nested dictionaries: its dotted key and its value."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for name, branch in tree.items():
        yield from leaves(branch, f"{prefix}.{name}" if prefix else str(name))


def allowed_keys(key: str, whole: type = Config) -> str:
    """For a key that does not exist: the nearest one that does, or all of the deepest section on its way."""
    kinds: list[type] = [whole]
    path = ""
    for name in key.split(".")[:-1]:
        hints = [hint for kind in kinds for hint in alternatives(get_type_hints(kind).get(name))]
        sections = [hint for hint in hints if isinstance(hint, type) and is_dataclass(hint)]
        if not sections:
            break
        kinds = [each for section in sections for each in (section, *KINDS.get(section, {}).values())]
        path += f"{name}."
    names = dict.fromkeys(path + field.name for kind in kinds for field in fields(kind))
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    return "there is no such key; " + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}")


def alternatives(hint: object) -> tuple[object, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def explain(error: Exception) -> str:
    """An error of composing in a few lines, with what is allowed."""
    message = str(error).split("\nConfig search path:")[0].strip()
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown and "\nTo append" in message and not unknown[1].startswith("hydra."):
        return f"{unknown[1]} is not allowed: {allowed_keys(unknown[1])}"
    if error.__cause__ is not None and message.startswith("Error merging override"):
        return f"{message}: {str(error.__cause__).splitlines()[0]}"
    return message


register()  # on import: a launcher's job on another machine imports this, and runs no main of ours
