"""Models from a directory or the hub: loaded whole or refused, errors in words, and what identifies the weights."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from torch import Tensor

from rlhf.errors import ConfigError, UserError
from rlhf.validate import check

log = logging.getLogger(__name__)

NAMED = 4
"""Names of weights that a message has room for."""

NO_MODEL = "that is an adapter: give it to lora.path, or merge it with its base (python -m rlhf.export --merge)"
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
ADVICE: dict[type[BaseException], str] = {
    GatedRepoError: f"it is gated: accept its licence on its page on the hub, then {LOG_IN}",
    RepositoryNotFoundError: "the hub has no such model, or it is private: check the id; for a private one " + LOG_IN,
    LocalEntryNotFoundError: "it is not on this machine and the hub can't be reached: fetch it where there is a "
    "network, with `hf download {path} --local-dir DIR`, and give {key}=DIR",
}
"""What to do, by the first kind of error that fits."""

LOCAL = ("/", "./", "../", "~")


@contextmanager
def loading(key: str, path: str, wanted: str) -> Iterator[None]:
    """Errors inside the block become a ConfigError that names `key`, what was `wanted` there, and what to do."""
    if not (path.startswith(LOCAL) or Path(path).exists()):
        meet_hub()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file of weights alone has a dozen kinds
        raise ConfigError(
            f"{key}={path} is not allowed: no {wanted} can be loaded from there: {advice(key, path, error, wanted)}"
        ) from error


def meet_hub() -> None:
    """Where the hub can't be reached, look on this machine alone from now on, and not for a minute at each file."""
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:  # of whatever client huggingface_hub has
            log.warning(f"the hub can't be reached: only what is on this machine is used ({error})")
            constants.HF_HUB_OFFLINE = True


def advice(key: str, path: str, error: BaseException, wanted: str) -> str:
    """Why, in one line, and what to do where that is known."""
    if is_adapter(path) and wanted != "adapter":
        return NO_MODEL
    if path.startswith(LOCAL) and not Path(path).exists():
        return "there is no such directory"
    if Path(path).is_file():
        return "it is a file, and a model is a directory"
    cause: BaseException | None = error
    while cause is not None:
        for kind, what_to_do in ADVICE.items():
            if isinstance(cause, kind):
                return what_to_do.format(key=key, path=path)
        cause = cause.__cause__
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").exists()


def load_whole(kind: Any, key: str, path: str, wanted: str, **settings: Any) -> Any:
    """Load a model of the class `kind` with all of its weights, in evaluation mode.

    transformers would fill with random numbers what the files at `path` lack. Raises ConfigError, naming weights, where
    any is missing, of another shape, or of a layer that the model's config does not have. With a device_map to "meta"
    the files are checked and no weight is read.
    """
    check(not is_adapter(path), key, path, NO_MODEL)  # transformers would load its base
    place = {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False}
    with loading(key, path, wanted), without_report():
        model, found = kind.from_pretrained(path, **place, **settings)
    lacking, other = sorted(found["missing_keys"]), sorted(found["mismatched_keys"], key=str)
    left_out = sorted(found["unexpected_keys"])
    hint = f", and has {some(left_out)} instead" if lacking and left_out else ""
    check(not lacking, key, path, f"its weights lack {some(lacking)}{hint}")
    shapes = [f"{name} is {tuple(there)} and should be {tuple(asked)}" for name, there, asked in other]
    check(not shapes, key, path, f"its weights are of another shape than its config.json says: {some(shapes)}")
    layers = {pattern(name) for name in model.state_dict()}
    beyond = [name for name in left_out if pattern(name) in layers]
    check(not beyond, key, path, f"its weights are of more layers than its config.json says: {some(beyond)}")
    if left_out:
        log.info(f"{key}={path}: left out weights that a {type(model).__name__} has not: {some(left_out)}")
    return model.eval()


def check_same_weights(own: Mapping[str, Tensor], given: Mapping[str, Tensor], key: str, path: str, whose: str) -> None:
    """Raise ConfigError, naming weights, where those `given` at `path` are not of the names and shapes of `own`."""
    lacking, foreign = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    check(not lacking, key, path, f"it lacks {some(lacking)} of {whose}")
    check(not foreign, key, path, f"it holds {some(foreign)}, which {whose} has not")
    for name, weight in own.items():
        there, asked = tuple(given[name].shape), tuple(weight.shape)
        check(there == asked, key, path, f"{name} has the shape {there}, and {whose} {asked}")


def some(names: Collection[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(list(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def pattern(name: str) -> str:
    """Return a weight's name with a star for each number, the same for all layers."""
    return re.sub(r"\d+", "*", name)


@contextmanager
def without_report() -> Iterator[None]:
    """Keep transformers' table of weights back, which comes before our own words."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def fingerprint(path: str) -> list[Any]:
    """What identifies the weights at `path`: names, sizes and times of a directory's files, or hub id and commit."""
    if not Path(path).is_dir():
        with suppress(HFValidationError):
            cached = try_to_load_from_cache(path, "config.json")
            return [path, Path(cached).parent.name] if isinstance(cached, str) else [path]
        return [path]
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    return [[entry.name, entry.stat().st_size, entry.stat().st_mtime_ns] for entry in entries if entry.is_file()]
