"""A reward that is a function or a verifier of the user's: from an instruction and a response to a number."""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from rlhf.data.source import Prompt, Response
from rlhf.errors import CheckError, ConfigError

PROBE = ("Name a colour.", "Blue.")


def load_function(settings: dict[str, Any]) -> Callable[[Sequence[Prompt], Sequence[Response]], Tensor]:
    """`reward.function`: `_target_` is its dotted path, the rest keywords; it is called with (instruction, response).

    Raises ConfigError where it can't be imported, or gives no finite number when tried.
    """
    name, function = settings["_target_"], _find(settings)
    refused = f"reward.function._target_={name} is not allowed"
    try:
        value = function(*PROBE)
    except Exception as error:
        raise ConfigError(f"{refused}: called with {PROBE} it fails ({error!r})") from error
    if not _is_number(value):
        raise ConfigError(f"{refused}: it must return a finite number, and for {PROBE} it returns {value!r}")

    def score(prompt: Prompt, response: Response) -> float:
        value = function(prompt.instruction, response.text)
        if not _is_number(value):
            given = (prompt.instruction, response.text)
            raise CheckError(f"{name} must return a finite number, and for {given} it returned {value!r}")
        return float(value)

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        return torch.tensor([score(*pair) for pair in zip(prompts, responses, strict=True)])

    return scores


def function_fingerprint(settings: dict[str, Any]) -> list[Any]:
    """Its name and keywords, and the file it stands in."""
    try:
        file = inspect.getsourcefile(_find(settings).func)
    except TypeError:  # it is not written in Python
        file = None
    source = Path(file).read_bytes() if file is not None else b""
    return [json.dumps(settings, sort_keys=True), hashlib.sha256(source).hexdigest()]


def _find(settings: dict[str, Any]) -> partial[Any]:
    try:
        return instantiate(settings, _partial_=True)
    except InstantiationException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"reward.function._target_={settings['_target_']} is not allowed: {why}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
