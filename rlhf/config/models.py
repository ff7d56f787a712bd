"""Settings of the models and of how those before PPO are trained: base, adapters, SFT, reward model, value."""

from dataclasses import dataclass, field
from typing import Any

from rlhf.validate import check, check_choice, check_not_negative, check_positive

MOST = {
    "layers": 1_000,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "vocab_size": 1 << 22,
    "context": 1 << 24,
}
"""Sizes beyond those of any model: to lay out their shape, and then refuse their memory, would take minutes."""


@dataclass
class ModelConfig:
    path: str | None = None  # directory or hub id of a trained causal LM; null: train one from scratch, sized as below
    # of the base: float32, bfloat16, or mixed, bfloat16 in linear layers alone; adapters: lora.dtype
    dtype: str = "float32"
    attention: str | None = None  # eager, sdpa or flash_attention_2; null: as transformers chooses
    # compute activations again in the backward pass instead of keeping them: less memory, more time
    gradient_checkpointing: bool = False
    # 8bit or 4bit: the frozen base's linear layers, by bitsandbytes; null: as dtype says
    quantization: str | None = None
    hidden_size: int = 96  # of the states between layers
    layers: int = 2  # blocks of attention and feed-forward
    heads: int = 4  # of attention, in each block
    intermediate_size: int = 264  # of the feed-forward
    vocab_size: int = 512  # at most; the tokenizer is built from the data. With pretrain.steps=0: the embedding's rows
    context: int = 192  # longest sequence, prompt and response together
    initializer_range: float = 0.04  # standard deviation of the first weights
    tied: bool = True  # one matrix embeds tokens and predicts them
    threads: int | None = 1  # CPU threads; so small a model only loses by more. null: as torch chooses

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
        for name, most in MOST.items():
            check(getattr(self, name) <= most, f"model.{name}", getattr(self, name), f"must be at most {most}")
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
    r: int | None = 8  # rank; null: no LoRA, train all weights against a frozen copy (lora=full)
    alpha: float = 16.0  # the update is scaled by alpha / r (rslora: alpha / sqrt(r))
    dropout: float = 0.0  # on the adapter's input; acts only where ppo.dropout is on
    # names of modules; attention: those of its linear layers; or all-linear
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    rslora: bool = False  # rank-stabilised scaling (arXiv 2312.03732)
    dora: bool = False  # weight-decomposed adapters (arXiv 2402.09353)
    dtype: str = "float32"  # of the adapter and its optimizer; in bfloat16, as published, small steps are rounded away

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
    path: str | None = None  # directory or hub id of an adapter to start from, trained on this base; null: a fresh one

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "all weights are trained: merge the adapter (python -m rlhf.export), and give the model to model.path"
        check(self.path is None or self.r is not None, "lora.path", self.path, allowed)


@dataclass
class PretrainConfig:
    steps: int = 1200  # optimizer steps; 0: random weights are used as they are, and not written
    batch_size: int = 4  # blocks per step
    block_size: int = 128  # tokens per block; documents are packed end to end
    lr: float = 0.008  # at its height; it warms up, then falls to 0
    warmup_steps: int = 50  # steps over which the learning rate rises from 0
    weight_decay: float = 0.05  # AdamW's

    def __post_init__(self) -> None:
        check_positive("pretrain", self, "batch_size", "block_size", "lr")
        check_not_negative("pretrain", self, "steps", "warmup_steps", "weight_decay")


@dataclass
class SFTConfig:
    epochs: int = 2  # 0: the model is fine-tuned already
    batch_size: int = 32  # demonstrations per step
    lr: float = 0.002  # at its height; it warms up, then falls to 0
    warmup_steps: int = 10  # steps over which the learning rate rises from 0
    weight_decay: float = 0.01  # AdamW's

    def __post_init__(self) -> None:
        check_positive("sft", self, "batch_size", "lr")
        check_not_negative("sft", self, "epochs", "warmup_steps", "weight_decay")


TRAINED_REWARDS = ("adapter", "full")
EXTERNAL_REWARDS = ("classifier", "alpaca_farm", "function")


@dataclass
class RewardConfig:
    # adapter: LoRA on the shared base; full: a copy of the SFT model; made elsewhere: classifier, alpaca_farm, function
    backbone: str = "adapter"
    path: str | None = None  # of a classifier or alpaca_farm: its directory, or hub id
    function: dict[str, Any] | None = None  # of a function: `_target_` and keywords
    # of a linear head over the response's tokens: additive, the sum; mean; last_token, at the last only
    head: str = "additive"
    additive_scale: float = 4.0  # divides that sum, so that scores are of order 1: 4 for some twenty tokens
    # of each response token, which the head reads too: the reference's, its own trunk's, or none
    logprobs: str = "reference"
    members: int = 1  # reward models that learn the same comparisons from other seeds; several are an ensemble
    combine: str = "mean"  # of an ensemble's scores: mean, min, or mean_minus_std
    resample: bool = False  # each further member learns from comparisons drawn anew with replacement (bootstrap)
    # the adapter of backbone=adapter, and of value=adapter
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=16))
    epochs: int = 3  # passes over the comparisons
    batch_size: int = 8  # prompts per step, with all their responses
    micro_batch_size: int | None = None  # prompts per forward and backward pass: memory, not the result; null: all
    max_response_tokens: int | None = None  # longer responses are left out with their verdicts; null: as the context
    standard_prompts: int = 512  # training prompts whose SFT responses get mean score 0 and deviation 1
    lr: float = 0.003  # at its height; it warms up, then falls to 0
    warmup_steps: int = 20  # steps over which the learning rate rises from 0
    weight_decay: float = 0.05  # AdamW's
    score_penalty: float = 0.001  # weight of the squared score, which the pairwise loss leaves free to drift
    holdout: float = 0.1  # share of the prompts kept to measure accuracy

    def __post_init__(self) -> None:
        check_choice("reward.backbone", self.backbone, TRAINED_REWARDS + EXTERNAL_REWARDS)
        from_path = self.backbone in ("classifier", "alpaca_farm")
        allowed = "reward=classifier and reward=alpaca_farm need one: a directory or a hub id; no other reward has one"
        check((self.path is not None) == from_path, "reward.path", self.path, allowed)
        has_function = self.function is not None and "_target_" in self.function
        allowed = "reward=function needs a _target_, the dotted path of a function, and no other reward has one"
        check(has_function == (self.backbone == "function"), "reward.function", self.function, allowed)
        check_choice("reward.head", self.head, ("last_token", "mean", "additive"))
        check_choice("reward.logprobs", self.logprobs, ("reference", "own", "none"))
        check_positive("reward", self, "members")
        check_choice("reward.combine", self.combine, ("mean", "min", "mean_minus_std"))
        allowed = "several members are adapters on the one base: use reward=adapter"
        check(self.members == 1 or self.backbone == "adapter", "reward.members", self.members, allowed)
        check(self.lora.r is not None, "reward.lora.r", None, "choose reward.backbone=full for all weights")
        check_positive("reward", self, "epochs", "batch_size", "lr", "additive_scale")
        for name in ("micro_batch_size", "max_response_tokens"):
            if getattr(self, name) is not None:
                check_positive("reward", self, name)
        micro, allowed = self.micro_batch_size or self.batch_size, f"must divide reward.batch_size={self.batch_size}"
        check(self.batch_size % micro == 0, "reward.micro_batch_size", micro, allowed)
        few = "must be 2 or more, so that there is a deviation"
        check(self.standard_prompts > 1, "reward.standard_prompts", self.standard_prompts, few)
        check_not_negative("reward", self, "warmup_steps", "weight_decay", "score_penalty")
        check(0 < self.holdout < 1, "reward.holdout", self.holdout, "must lie between 0 and 1, both excluded")

    @property
    def is_external(self) -> bool:
        """Whether it scores text and was made elsewhere; else it is trained here, and reads the policy's tokens."""
        return self.backbone in EXTERNAL_REWARDS


@dataclass
class ValueConfig:
    name: str = "reward_features"
    # reward: start from the reward model's running score; zero: from 0; backbone: from 0, on the reward model's weights
    init: str = "reward"
    lora: LoraConfig = field(default_factory=LoraConfig)  # the adapter of init=backbone
    lr: float = 0.002  # the value's own
    coef: float = 0.1  # weight of the value loss; it matters for value=head, which shares the policy's weights
    clip: float = 0.2  # how far a value may move from its old one before its loss stops falling
    hidden_size: int = 64  # of that network

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
        allowed = "backbone is an adapter on the reward model's weights: only value=adapter has one"
        check(self.init != "backbone" or self.name == "adapter", "value.init", self.init, allowed)
        check(self.lora.r is not None, "value.lora.r", None, "the value has an adapter: give its rank")
