"""What a configuration may name and hold: functions in two places, no secrets, and what must not be written resolved.

The one gate for values from command lines, sweeps and the directories of runs. Imports no torch.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from rlhf.errors import ConfigError

FUNCTIONS = ("regularizer.function", "reward.function")
"""Sections whose `_target_` is the dotted path of a function. No other key of a configuration becomes code."""

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
INSTRUCTION = re.compile(r"_[A-Za-z]+_")
"""Hydra's instructions to build objects: `_target_`, `_args_`, `_partial_` and the like."""

SECRET_NAME = re.compile(
    r"apikey|secret|passw|authori[sz]ation|bearer|credential|cookie|signature|privatekey|(?:^|[_-])(?:key|token|auth)$",
    re.IGNORECASE,
)
"""Names that a secret goes by, after the ends of words are marked and `api_key` has become `apikey`."""

SECRET = re.compile(
    r"(?<![\w-])(?:sk-[\w-]{8,}|(?:hf|gh[opsu]|gsk|glpat|r8|nvapi|xai|[pr]k)[-_][A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,})"
    r"|\bbearer\s+\S{6,}|://[^/\s@]+@|[?&;](?:[\w-]*(?:key|token|secret|passw\w*|auth|sig|signature))=",
    re.IGNORECASE,
)
"""What secrets look like: keys of the known makers, a header's value, a user in a URL, a key in its query."""

NAMED = re.compile(r"""([\w.-]+)["']?\s*[:=]\s*["']?([^\s,}\]"']*)""")
"""Names with values, at any depth of an override."""

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
"""The names that environment variables usually have."""

SHORTEST = 6
"""Characters of a value from the environment that is looked for within other texts."""

HIDDEN = "(not shown)"
ADVICE = "it would be saved with the run: put keys into the environment, and the variable's name into api_key_env"


@lru_cache(maxsize=10_000)
def is_secret_name(name: str) -> bool:
    """Whether a key by that name would hold a secret."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    joined = re.sub(r"(?i)(api|private|access)[_-]?(key|token)", r"apikey", words)
    return joined.lower() != "apikey_env" and SECRET_NAME.search(joined) is not None


def is_variable(name: str) -> bool:
    """Whether that is, or may well be, the name of an environment variable rather than a key."""
    return name in os.environ or (VARIABLE.fullmatch(name) is not None and SECRET.search(name) is None)


def holds_secret(key: str, value: object) -> bool:
    """Whether a setting is one that must not be saved; `key` is dotted."""
    if value is None or value == "":
        return False
    if key.endswith("api_key_env"):
        return not is_variable(str(value))
    return any(map(is_secret_name, key.split("."))) or (isinstance(value, str) and SECRET.search(value) is not None)


def refuse_secrets(overrides: Iterable[str]) -> None:
    """Raise ConfigError, without the value, for an override with a secret, before Hydra prints or saves any of it."""
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.strip("'\" +~")
        nested = NAMED.findall(value) if set(value) & set("{[") else []
        address = key.endswith("base_url") and re.search(r"[?#@]", value) is not None
        if SECRET.search(override) or address or any(_refused(*pair) for pair in [(key, value.strip("'\" ")), *nested]):
            shown = HIDDEN if SECRET.search(key) else key
            raise ConfigError(f"{shown}={HIDDEN} is not allowed: {ADVICE}")


def _refused(key: str, text: str) -> bool:
    """Whether an override's text for a key is one: choices of a sweep by commas, all of them names of variables."""
    if key.endswith("api_key_env"):
        return not all(each in ("null", "") or each.startswith("$") or is_variable(each) for each in text.split(","))
    return text not in ("null", "") and not text.startswith("$") and holds_secret(key, text)


def check_tree(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for a secret, or for the name of code in another place than FUNCTIONS, in nested settings."""
    for key, value in entries(tree):
        if holds_secret(key, value):
            raise ConfigError(f"{key}={HIDDEN} is not allowed: {ADVICE}")
        section, _, name = key.rpartition(".")
        for part in key.split("."):
            if INSTRUCTION.fullmatch(part) and not (part == name == "_target_" and section in FUNCTIONS):
                places = " and ".join(f"{each}._target_" for each in FUNCTIONS)
                raise ConfigError(
                    f"{key}={value} is not allowed: {places} alone name code, and nothing below them does"
                )
        if name == "_target_" and not (isinstance(value, str) and DOTTED.fullmatch(value)):
            raise ConfigError(f"{key}={value} is not allowed: it must be the dotted path of a function")


def entries(tree: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of nested mappings and lists: its dotted key and its value."""
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from entries(branch, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(tree, list):
        for number, branch in enumerate(tree):
            yield from entries(branch, f"{prefix}.{number}")
    else:
        yield prefix, tree


# ---- What comes from the environment is written as it was given. ----------------------------------------------------


def note_environment(given: Mapping[str, Any], tree: Mapping[str, Any], config: object) -> None:
    """Note on a configuration, and on each section, which texts were read from the environment, and as what.

    `given` are its settings by dotted keys, unresolved, and `tree` the same resolved and nested. Numbers are none of
    them: they are no secrets, and those who read a run's directory need them.
    """
    own = {key for key, text in given.items() if isinstance(text, str) and "${oc.env:" in text}
    if not own:
        return
    resolved = dict(entries(tree))
    values = [str(resolved[key]) for key in own if resolved.get(key) not in (None, "")]
    for key, text in given.items():
        refers = isinstance(text, str) and "${" in text
        value = resolved.get(key)
        if isinstance(value, str) and (key in own or (refers and any(each in value for each in values))):
            _note(config, key, text)


def _note(config: object, key: str, text: str) -> None:
    """Note it on each dataclass on the key's path, by the rest of the key."""
    names = key.split(".")
    for depth, name in enumerate(names):
        if not is_dataclass(config):
            return
        config.__dict__.setdefault("unresolved", {})[".".join(names[depth:])] = text
        config = getattr(config, name, None)


def as_written(config: Any) -> dict[str, Any]:
    """Return a configuration, or a section of one, as it is saved: what the environment gave as `${oc.env:...}`."""
    tree = asdict(config)
    noted: dict[str, str] = getattr(config, "unresolved", {})
    if not noted:
        return tree
    found = dict(entries(tree))
    texts = {found[key]: text for key, text in noted.items() if len(str(found.get(key, ""))) >= SHORTEST}
    return _unresolved(tree, noted, texts)


def _unresolved(tree: Any, noted: Mapping[str, str], texts: Mapping[str, str], key: str = "") -> Any:
    """Nested settings with the noted texts; what was made of them, as a path in a directory, is written by them too."""
    if isinstance(tree, dict):
        return {
            name: _unresolved(part, noted, texts, f"{key}.{name}" if key else str(name)) for name, part in tree.items()
        }
    if isinstance(tree, list):
        return [_unresolved(part, noted, texts, f"{key}.{number}") for number, part in enumerate(tree)]
    if key in noted or not isinstance(tree, str):
        return noted.get(key, tree)
    for value, text in texts.items():
        tree = tree.replace(value, text)
    return tree


def own_text(overrides: Any) -> list[str]:
    """Return Hydra's list of overrides as they were given: reading its items would resolve what they refer to."""
    plain: Any = OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_config(overrides) else overrides
    return [str(each) for each in plain]
