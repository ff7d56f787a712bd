"""Settings of the models and of how those before PPO are trained: base, adapters, SFT, reward model, value."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_not_negative, check_positive


@dataclass
class ModelConfig:
    path: str | None = MISSING
    dtype: str = MISSING
    attention: str | None = MISSING
    gradient_checkpointing: bool = MISSING
    quantization: str | None = MISSING
    hidden_size: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    intermediate_size: int = MISSING
    vocab_size: int = MISSING
    context: int = MISSING
    initializer_range: float = MISSING
    tied: bool = MISSING
    threads: int | None = MISSING

    def __post_init__(self) -> None:
        check_choice("model.dtype", self.dtype, ("float32", "bfloat16", "mixed"))
        if self.attention is not None:
            check_choice("model.attention", self.attention, ("eager", "sdpa", "flash_attention_2"))
        half = self.dtype == "bfloat16"
        allowed = "flash_attention_2 computes in 16 bits: use model.dtype=bfloat16"
        check(half or self.attention != "flash_attention_2", "model.attention", self.attention, allowed)
        if self.quantization is not None:
            check_choice("model.quantization", self.quantization, ("8bit", "4bit"))
            allowed = "model.quantization says how linear layers are held: use float32 or bfloat16 beside it"
            check(self.dtype != "mixed", "model.dtype", self.dtype, allowed)
        check_positive("model", self, "hidden_size", "layers", "heads", "intermediate_size", "vocab_size", "context")
        check_positive("model", self, "initializer_range")
        if self.threads is not None:
            check_positive("model", self, "threads")
        divisible = self.hidden_size % (2 * self.heads) == 0
        check(
            divisible,
            "model.hidden_size",
            self.hidden_size,
            f"must be a multiple of 2 x model.heads = {2 * self.heads}",
        )


@dataclass
class LoraConfig:
    r: int | None = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    target_modules: list[str] = MISSING
    rslora: bool = MISSING
    dora: bool = MISSING
    dtype: str = MISSING

    def __post_init__(self) -> None:
        if self.r is not None:
            check_positive("lora", self, "r")
        check_positive("lora", self, "alpha")
        check_choice("lora.dtype", self.dtype, ("float32", "bfloat16"))
        allowed = "lora.dora=true rounds its magnitudes, and the policy would differ from its reference at once"
        check(self.dtype == "float32" or not self.dora, "lora.dtype", self.dtype, allowed)
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must lie in [0, 1)")
        check(len(self.target_modules) > 0, "lora.target_modules", self.target_modules, "name at least one module")


@dataclass
class PolicyLoraConfig(LoraConfig):
    path: str | None = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "all weights are trained: merge the adapter (python -m rlhf.export), and give the model to model.path"
        check(self.path is None or self.r is not None, "lora.path", self.path, allowed)


@dataclass
class PretrainConfig:
    steps: int = MISSING
    batch_size: int = MISSING
    block_size: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    weight_decay: float = MISSING

    def __post_init__(self) -> None:
        check_positive("pretrain", self, "batch_size", "block_size", "lr")
        check_not_negative("pretrain", self, "steps", "warmup_steps", "weight_decay")


@dataclass
class SFTConfig:
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    weight_decay: float = MISSING

    def __post_init__(self) -> None:
        check_positive("sft", self, "batch_size", "lr")
        check_not_negative("sft", self, "epochs", "warmup_steps", "weight_decay")


TRAINED_REWARDS = ("adapter", "full")
GIVEN_REWARDS = ("classifier", "alpaca_farm", "function")


@dataclass
class RewardConfig:
    backbone: str = MISSING
    path: str | None = MISSING
    function: dict[str, Any] | None = MISSING
    head: str = MISSING
    logprobs: str = MISSING
    members: int = MISSING
    combine: str = MISSING
    resample: bool = MISSING
    lora: LoraConfig = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    weight_decay: float = MISSING
    score_penalty: float = MISSING
    holdout: float = MISSING

    def __post_init__(self) -> None:
        check_choice("reward.backbone", self.backbone, TRAINED_REWARDS + GIVEN_REWARDS)
        from_path = self.backbone in ("classifier", "alpaca_farm")
        allowed = "reward=classifier and reward=alpaca_farm need one: a directory or a hub id; no other reward has one"
        check((self.path is not None) == from_path, "reward.path", self.path, allowed)
        has_function = self.function is not None and "_target_" in self.function
        allowed = "reward=function needs a _target_, the dotted path of a function, and no other reward has one"
        check(has_function == (self.backbone == "function"), "reward.function", self.function, allowed)
        check_choice("reward.head", self.head, ("last_token", "additive"))
        check_choice("reward.logprobs", self.logprobs, ("reference", "own", "none"))
        check_positive("reward", self, "members")
        check_choice("reward.combine", self.combine, ("mean", "min", "mean_minus_std"))
        allowed = "several members are adapters on the one base: use reward=adapter"
        check(self.members == 1 or self.backbone == "adapter", "reward.members", self.members, allowed)
        check(self.lora.r is not None, "reward.lora.r", None, "choose reward.backbone=full for all weights")
        check_positive("reward", self, "epochs", "batch_size", "lr")
        check_not_negative("reward", self, "warmup_steps", "weight_decay", "score_penalty")
        check(0 < self.holdout < 1, "reward.holdout", self.holdout, "must lie between 0 and 1, both excluded")

    @property
    def is_given(self) -> bool:
        """Whether it scores text and was made elsewhere; else it is trained here, and reads the policy's tokens."""
        return self.backbone in GIVEN_REWARDS


@dataclass
class ValueConfig:
    name: str = MISSING
    init: str = MISSING
    lr: float = MISSING
    coef: float = MISSING
    clip: float = MISSING
    hidden_size: int = MISSING

    def __post_init__(self) -> None:
        check_choice("value.name", self.name, ("adapter", "head", "reward_features", "none"))
        check_choice("value.init", self.init, ("reward", "backbone", "zero"))
        check_positive("value", self, "lr", "coef", "clip", "hidden_size")
        if self.name == "head":
            check(
                self.init == "zero",
                "value.init",
                self.init,
                "value=head starts at zero, having no reward model's states",
            )
        allowed = "backbone copies the reward adapter without its head: only value=adapter has one"
        check(self.init != "backbone" or self.name == "adapter", "value.init", self.init, allowed)
