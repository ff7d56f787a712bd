"""Composing: from conf/ and a command line to a checked configuration, from Hydra's errors to what is allowed.

Imports no torch, so that composing stays fast on a login node.
"""

import difflib
import hashlib
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config import evaluation, gate
from rlhf.config.data import DATA_KINDS, TextConfig
from rlhf.config.evaluation import EvaluateConfig
from rlhf.config.run import Config
from rlhf.config.search import PRUNE_KINDS
from rlhf.config.tracker import TRACKER_KINDS
from rlhf.errors import ConfigError, UserError
from rlhf.validate import check

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE, PACKAGE.parent)
"""Where conf/ and sweeps/ may be: inside the installed package, or beside it in its repository."""

CONF, SWEEPS = (next(place / name for place in PLACES if (place / name).is_dir()) for name in ("conf", "sweeps"))
TAKE_ALL = ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "hydra_plugins.rlhf_sweeper.GridsSweeper")
"""The sweepers that take all combinations; any other one searches, by what runs return."""

BFLOAT16 = re.compile(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)
FUNCTION_OF = {"reward": "function", "regularizer": "custom"}
LONGEST_NAME = 120
"""Characters of a run directory's name; longer ones are cut and made unique by a hash."""

KINDS: dict[str, Mapping[str, type]] = {
    "data": DATA_KINDS,
    **evaluation.KINDS,
    "prune": PRUNE_KINDS,
    "tracker": TRACKER_KINDS,
}
"""Sections whose keys depend on their `name`: the dataclass of each name that has keys of its own."""

PLAIN: dict[str, type] = {"data": TextConfig, **evaluation.PLAIN}
"""The dataclass of all other names."""

PLAIN_KEY, NO_NAME = (
    re.compile(r"[a-z_/]+"),
    re.compile(r"[-+]?[\d._]+([eE][-+]?\d+)?|true|false|nan|[-+]?inf", re.IGNORECASE),
)

NO_IDENTITY = ("name", "objective", "prune", "tracker", "checkpoint_local_dir")
"""Keys that do not change what is computed: what is done with a run's figures, and where its state is kept."""

Whole = TypeVar("Whole", Config, EvaluateConfig)


def register() -> None:
    """Give Hydra what conf/ refers to: schemas (`schema` for a run, `schema_SECTION_NAME`) and two resolvers."""
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    for section, kinds in KINDS.items():
        schema[section] = MISSING  # the option's file says which kind it is
        for name, kind in kinds.items():
            store.store(name=f"schema_{section}_{name}", node=kind)
    store.store(name="schema", node=schema)
    store.store(name="schema_evaluate", node=EvaluateConfig)
    OmegaConf.register_new_resolver(
        "run_name", lambda overrides, *name: run_name(gate.own_text(overrides), *name), replace=True
    )
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("packaged_prompts", lambda: str(PACKAGE / "data" / "prompts"), replace=True)
    OmegaConf.register_new_resolver("given_dtype", given_dtype, replace=True)


def given_dtype(_root_: DictConfig) -> str:
    """The model.dtype of a model that is given: mixed on a CPU that multiplies in bfloat16, where a run can have it."""
    model, lora = _root_.model, _root_.lora
    frozen = lora.r is not None and not lora.dora and model.quantization is None and _root_.distributed.name == "ddp"
    on_cpu = _root_.device == "cpu" or (_root_.device == "auto" and not Path("/dev/nvidia0").exists())
    return "mixed" if model.path is not None and frozen and on_cpu and multiplies_bfloat16() else "float32"


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU says that it does; Linux alone is asked."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and BFLOAT16.search(path.read_text()) is not None


def identifying(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a run what it is, sorted."""
    return sorted(each for each in overrides if not re.match(rf"[+~]*({'|'.join(NO_IDENTITY)})\b", each))


def run_name(overrides: Sequence[str], name: str | None = None) -> str:
    """A run's directory name: `name`, or made of the overrides, so that the same command finds its directory again."""
    text = name or ",".join(identifying(overrides)) or "default"
    safe = re.sub(r"^\.|[^A-Za-z0-9._=,+-]", "-", text)
    if safe != text or len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return safe


def sweep_name(config_name: str, name: str | None = None) -> str:
    """A sweep's directory name: `name`, or that of its file in sweeps/."""
    return run_name([], name or ("multirun" if config_name == "config" else config_name))


def compose_evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    """conf/evaluate.yaml with a command line's overrides, checked."""
    names = [override.partition("=")[0] for override in overrides]
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.partition(".")[0]
        chosen = group not in ("judge", "factuality") or group in names  # Hydra's own error would not say so
        check(chosen, key, value, f"choose one first, {group}=NAME")
    return compose_checked("evaluate", overrides, EvaluateConfig)


def load_config(*overrides: str) -> Config:
    """Compose a run's configuration, as `python -m rlhf.run OVERRIDE ...` does; raises ConfigError."""
    return compose_checked("config", overrides)


def is_of_hydra(error: Exception) -> bool:
    """Whether an error comes from the own code of Hydra, OmegaConf or a sweeper's library, of whatever class."""
    own = isinstance(error, HydraException | OmegaConfBaseException)
    return own or raised_in(error, "hydra", "omegaconf", "optuna", "sqlalchemy")


def raised_in(error: Exception, *packages: str) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return name.startswith(packages)


def refuse_numbers(overrides: Iterable[str]) -> None:
    """Raise ConfigError where a group of conf/ is set to a number or the like, which Hydra ends in a traceback for."""
    for override in overrides:
        key, _, values = override.lstrip("+").partition("=")
        if PLAIN_KEY.fullmatch(key) and (CONF / key).is_dir():
            options = ", ".join(sorted(path.stem for path in (CONF / key).glob("*.yaml")))
            for value in values.split(","):
                check(NO_NAME.fullmatch(value) is None, key, value, f"choose one of {options}")


def compose_checked(name: str, overrides: Sequence[str], whole: type[Whole] = Config) -> Whole:
    """conf/NAME.yaml with overrides, checked; raises ConfigError on a bad override."""
    gate.refuse_secrets(overrides)
    refuse_numbers(overrides)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return to_config(compose(name, overrides=list(overrides)), whole)
    except Exception as error:
        if isinstance(error, UserError) or not is_of_hydra(error):
            raise
        raise ConfigError(explain(error, overrides)) from error


def to_config(composed: DictConfig, whole: type[Whole] = Config) -> Whole:
    """The composed configuration as checked dataclasses; raises ConfigError on a key or value that can't be used."""
    values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    given = dict(gate.entries(values))
    missing = [key for key, value in given.items() if value == MISSING]
    check(not missing, ", ".join(sorted(missing)), MISSING, "has no default; set it")
    if any(isinstance(value, str) and "${" in value for value in given.values()):
        values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    gate.check_tree(values)
    config = cast(Whole, OmegaConf.to_object(composed))
    gate.note_environment(given, values, config)
    known = {key for key, _ in leaves(asdict(config))}
    for key, value in leaves(values):
        if key not in known:  # Hydra's +key=value adds what no schema knows
            check(False, key, value, allowed_keys(key, whole))
        check(not isinstance(value, float) or math.isfinite(value), key, value, "must be a finite number")
        check(not isinstance(value, str) or value.strip() != "", key, value, "it is empty; give it a value")
    return config


def from_saved(settings: Mapping[str, object]) -> Config:
    """A run directory's config.yaml, read as nested mappings, checked again."""
    saved = OmegaConf.create(dict(settings))
    schema = OmegaConf.structured(Config)
    for section, kinds in KINDS.items():
        kind = kinds.get(OmegaConf.select(saved, f"{section}.name"), PLAIN.get(section))
        if kind is not None:
            schema[section] = kind
    return to_config(cast(DictConfig, OmegaConf.merge(schema, saved)))


def leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield each setting of nested dictionaries: its dotted key and its value."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for name, branch in tree.items():
        yield from leaves(branch, f"{prefix}.{name}" if prefix else str(name))


def allowed_keys(key: str, whole: type = Config) -> str:
    """For an unknown key: who has it, the nearest that exists, or all keys of the deepest section on its path."""
    kinds: list[type] = [whole]
    path = ""
    section, _, last = key.rpartition(".")
    if owners := [f"{section}={name}" for name, kind in KINDS.get(section, {}).items() if last in names_of(kind)]:
        return f"the {section} that is chosen has no {last}, as {', '.join(owners)} have"
    for name in key.split(".")[:-1]:
        hints = [hint for kind in kinds for hint in alternatives(get_type_hints(kind).get(name))]
        sections = [hint for hint in hints if isinstance(hint, type) and is_dataclass(hint)]
        if not sections:
            break
        kinds = [*sections, *KINDS.get(name, {}).values()]
        path += f"{name}."
    names = dict.fromkeys(path + name for kind in kinds for name in names_of(kind))
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    return "there is no such key; " + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}")


def names_of(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def alternatives(hint: object) -> tuple[object, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """An error of Hydra's in a few lines, with what is allowed; `overrides` are those that were given."""
    if isinstance(error, OverrideParseException):
        return no_override(error.override, str(error.message))
    if isinstance(error, OmegaConfBaseException) and "interpolation" in str(error).lower():
        # Hydra's own keys hold all overrides, and may be resolved first
        given = next((each for each in overrides if "${" in each), None) if "hydra" in str(error.full_key) else None
        return f"{given or error.full_key} is not allowed: {str(error).splitlines()[0]}"
    below = [each for each in overrides if each.lstrip("+").startswith(tuple(f"{place}." for place in gate.FUNCTIONS))]
    if below and "for root: NoneType" in str(error):
        group = below[0].lstrip("+").partition(".")[0]
        return f"{below[0]} is not allowed: choose what has a function first: {group}={FUNCTION_OF[group]}"
    message = str(error).split("\nConfig search path:")[0].strip()
    if raised_in(error, "optuna") and message.startswith("No trials are completed"):
        return "no trial of this search has gone to its end; why each has failed stands above"
    if raised_in(error, "sqlalchemy"):
        return f"hydra.sweeper.storage can't be used: {message.splitlines()[0]}"
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown and "\nTo append" in message and not unknown[1].startswith("hydra."):
        return f"{unknown[1]} is not allowed: {allowed_keys(unknown[1])}"
    if error.__cause__ is not None and message.startswith("Error merging override"):
        return f"{message}: {str(error.__cause__).splitlines()[0]}"
    return message


def no_override(text: str, reason: str) -> str:
    """What is wrong with an argument that Hydra's grammar refuses, and how a value is written that it does not."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        return f"{text} is no override: write KEY=VALUE"
    found = next((line for line in reason.splitlines() if not line.startswith(("Error", "LexerNo", " ", "See"))), None)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    written = shlex.quote(f'{key}="{escaped}"')
    return f"{text} is not allowed{f': {found}' if found else ''}; a value with = , ~ # or such is quoted: {written}"


register()  # on import: a launcher's job on another machine imports this, but runs no main of ours
