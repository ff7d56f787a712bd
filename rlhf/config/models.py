"""Settings of the models and of how those before PPO are trained: base, adapters, SFT, reward model, value."""

from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_not_negative, check_positive


@dataclass
class ModelConfig:
    path: str | None = MISSING
    dtype: str = MISSING
    hidden_size: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    intermediate_size: int = MISSING
    vocab_size: int = MISSING
    context: int = MISSING
    initializer_range: float = MISSING
    threads: int | None = MISSING

    def __post_init__(self) -> None:
        check_choice("model.dtype", self.dtype, ("float32", "bfloat16"))
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
        check_positive("pretrain", self, "steps", "batch_size", "block_size", "lr")
        check_not_negative("pretrain", self, "warmup_steps", "weight_decay")


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


@dataclass
class RewardConfig:
    backbone: str = MISSING
    head: str = MISSING
    lora: LoraConfig = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    weight_decay: float = MISSING
    score_penalty: float = MISSING
    holdout: float = MISSING

    def __post_init__(self) -> None:
        check_choice("reward.backbone", self.backbone, ("adapter", "full"))
        check_choice("reward.head", self.head, ("last_token", "additive"))
        check(self.lora.r is not None, "reward.lora.r", None, "choose reward.backbone=full for all weights")
        check_positive("reward", self, "epochs", "batch_size", "lr")
        check_not_negative("reward", self, "warmup_steps", "weight_decay", "score_penalty")
        check(0 < self.holdout < 1, "reward.holdout", self.holdout, "must lie between 0 and 1, both excluded")


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
