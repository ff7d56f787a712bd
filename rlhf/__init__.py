"""LoRA RLHF experiments as a library: a configuration, what runs share, and the training loop.

Names are imported when they are first used, so that `import rlhf` takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rlhf.regularizers as regularizers
    from rlhf.compose import load_config
    from rlhf.config.run import Config
    from rlhf.console import show_log
    from rlhf.errors import UserError
    from rlhf.stages.learner import Learner
    from rlhf.stages.setting import Setting
    from rlhf.stages.train import train

HOMES = {
    "Config": "rlhf.config.run",
    "Learner": "rlhf.stages.learner",
    "Setting": "rlhf.stages.setting",
    "UserError": "rlhf.errors",
    "load_config": "rlhf.compose",
    "show_log": "rlhf.console",
    "train": "rlhf.stages.train",
}
"""The module that defines each public name."""

__all__ = ["Config", "Learner", "Setting", "UserError", "load_config", "regularizers", "show_log", "train"]


def __getattr__(name: str) -> Any:
    if name == "regularizers":
        return import_module("rlhf.regularizers")
    if name not in HOMES:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
