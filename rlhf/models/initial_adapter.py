"""A published adapter that the policy starts from: `lora.path`, a directory or a hub id.

It must be of the shape that the other keys of lora.* describe, so that what a run records of itself stays true.
"""

import hashlib
import logging
from pathlib import Path

from peft import LoraConfig as PeftLoraConfig
from peft import PeftConfig
from peft.utils import load_peft_weights
from torch import Tensor

from rlhf.config.models import PolicyLoraConfig
from rlhf.models.adapters import Role
from rlhf.models.backbone import expand
from rlhf.models.hub import loading
from rlhf.validate import check

log = logging.getLogger(__name__)

SAMPLES, SAMPLE_BYTES = 64, 2**16
"""How often, and how much each time, a file of weights is read to know it again."""

SETTINGS = {"r": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}
"""Keys of lora.*, and what they are called in an adapter_config.json."""


def check_start(config: PolicyLoraConfig) -> None:
    """Raises ConfigError where `lora.path` holds no LoRA adapter, or one of other settings; reads no weights."""
    if config.path is None:
        return
    found = read_settings(config.path)
    for key, name in SETTINGS.items():
        asked, there = getattr(config, key), getattr(found, name)
        check(asked == there, f"lora.{key}", asked, f"the adapter in lora.path={config.path} has {there}")
    plain = not (found.rank_pattern or found.alpha_pattern or found.modules_to_save or found.bias != "none")
    allowed = "its layers differ in rank or scale, or it holds whole weights beside its factors"
    check(plain, "lora.path", config.path, allowed)


def check_base(path: str, base: str | None) -> None:
    """Raise ConfigError where the adapter at `path` names another base than the run's, whatever their shapes.

    `base` is a directory, which may still be to come, or a hub id; None where the run's base has random weights. Two
    directories are one base where their weights are the same; else their names decide.
    """
    named = str(read_settings(path).base_model_name_or_path or "")
    if not named:
        log.warning(
            "lora.path=%s: the adapter doesn't say which base it was trained on; it is taken for this run's", path
        )
        return
    places = [each for each in (Path(expand(path)) / named, Path(named)) if each.is_dir()]
    if places and base is not None and Path(base).is_dir():
        same = weights_digest(places[0]) == weights_digest(Path(base))
    else:
        same = base is not None and Path(named).name.lower() == Path(base).name.lower()
    allowed = (
        f"its adapter was trained on {named}, and this run's base is {base or 'made of random weights'}; where that is "
        "the same model, make it the base_model_name_or_path of its adapter_config.json"
    )
    check(same, "lora.path", path, allowed)


def weights_digest(directory: Path) -> str:
    """SHA-256 (hex) of a model's weights: the sizes of its files, and some of their bytes from beginning to end."""
    digest = hashlib.sha256()
    for file in sorted(each for each in directory.iterdir() if each.suffix in (".safetensors", ".bin")):
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as weights:
            for part in range(SAMPLES):
                weights.seek(max(0, (size - SAMPLE_BYTES) * part // (SAMPLES - 1)))
                digest.update(weights.read(SAMPLE_BYTES))
    return digest.hexdigest()


def load_start(policy: Role, config: PolicyLoraConfig) -> None:
    """Give a fresh policy the weights of `lora.path`; raises ConfigError where they are of other layers or shapes."""
    if config.path is None:
        return
    start, own = load_peft_weights(expand(config.path), device="cpu"), policy.state()
    refused = f"the adapter in lora.path={config.path} has {', '.join(modules(start)) or 'none'}"
    if start.keys() != own.keys() and modules(start) == modules(own):
        refused = f"the adapter in lora.path={config.path} is of a base with other layers than model.path's"
    check(start.keys() == own.keys(), "lora.target_modules", list(config.target_modules), refused)
    for name, weight in own.items():
        there, asked = tuple(start[name].shape), tuple(weight.shape)
        allowed = f"it is of another base: {name} has the shape {there}, and this base's adapter {asked}"
        check(there == asked, "lora.path", config.path, allowed)
    policy.load_state(start)


def read_settings(path: str) -> PeftLoraConfig:
    with loading("lora.path", path, "adapter"):
        found = PeftConfig.from_pretrained(expand(path))
    kind = f"it holds a {type(found).__name__}, and LoRA's adapters can be gone on with"
    check(isinstance(found, PeftLoraConfig), "lora.path", path, kind)
    assert isinstance(found, PeftLoraConfig)
    return found


def modules(state: dict[str, Tensor]) -> list[str]:
    """The names of the layers, block for block alike, that an adapter's weights belong to."""
    return sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in state})
