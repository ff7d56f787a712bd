"""A published adapter that the policy starts from: `lora.path`, a directory or a hub id.

It must be of the shape that the other keys of lora.* describe, so that what a run records of itself stays true.
"""

from peft import LoraConfig as PeftLoraConfig
from peft import PeftConfig
from peft.utils import load_peft_weights
from torch import Tensor

from rlhf.config.models import PolicyLoraConfig
from rlhf.models.adapters import Role
from rlhf.models.backbone import expand
from rlhf.models.hub import loading
from rlhf.validate import check

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
