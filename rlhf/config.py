"""The configuration: one dataclass per group of conf/, each checking its own values.

Hydra composes conf/ into these dataclasses (compose.py), so that unknown keys and wrong types are refused while
composing, and `__post_init__` refuses values out of range before any work. What each key does is said where the key is
set, in conf/.
"""

from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_fraction, check_not_negative, check_positive


@dataclass
class DataConfig:
    name: str = MISSING
    seed: int = MISSING


@dataclass
class WorldConfig(DataConfig):
    people: int = MISSING
    tune_people: int = MISSING
    eval_people: int = MISSING
    demonstrations: int = MISSING
    comparison_prompts: int = MISSING
    annotator_temperature: float = MISSING
    annotator_flips: float = MISSING

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, ("world",))
        check_positive("data", self, "people", "tune_people", "eval_people", "demonstrations", "comparison_prompts")
        check_positive("data", self, "annotator_temperature")
        check_fraction("data", self, "annotator_flips")
        held_out = self.tune_people + self.eval_people
        check(held_out < self.people, "data.people", self.people, f"must exceed tune_people + eval_people = {held_out}")


@dataclass
class TextConfig(DataConfig):
    root: str = MISSING
    instructions: str = MISSING
    preferences: str = MISSING
    evaluation: str = MISSING
    sft_fraction: float = MISSING
    tune_fraction: float = MISSING
    judge_fraction: float = MISSING

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, ("alpaca_farm",))
        for name in ("sft_fraction", "tune_fraction", "judge_fraction"):
            value = getattr(self, name)
            check(0 < value < 1, f"data.{name}", value, "must lie between 0 and 1, both excluded")
        used = self.sft_fraction + self.tune_fraction
        check(used < 1, "data.sft_fraction", self.sft_fraction, "with tune_fraction it must leave prompts for PPO")


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
    enabled: bool = MISSING
    r: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    target_modules: list[str] = MISSING
    rslora: bool = MISSING
    dora: bool = MISSING

    def __post_init__(self) -> None:
        check_positive("lora", self, "r", "alpha")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must lie in [0, 1)")
        check(len(self.target_modules) > 0, "lora.target_modules", self.target_modules, "name at least one module")


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
        check(
            self.lora.enabled, "reward.lora.enabled", self.lora.enabled, "choose reward.backbone=full for all weights"
        )
        check_positive("reward", self, "epochs", "batch_size", "lr")
        check_not_negative("reward", self, "warmup_steps", "weight_decay", "score_penalty")
        check(0 < self.holdout < 1, "reward.holdout", self.holdout, "must lie between 0 and 1, both excluded")


@dataclass
class RolloutConfig:
    batch_size: int = MISSING
    max_prompt_tokens: int = MISSING
    max_response_tokens: int = MISSING
    temperature: float = MISSING
    decode_batch_size: int = MISSING

    def __post_init__(self) -> None:
        check_positive("rollout", self, "batch_size", "max_prompt_tokens", "max_response_tokens", "decode_batch_size")
        check_positive("rollout", self, "temperature")


@dataclass
class RegularizerConfig:
    name: str = MISSING
    coef: float = MISSING
    controller: str = MISSING
    target_kl: float = MISSING
    horizon: int = MISSING

    def __post_init__(self) -> None:
        names = ("none", "kl", "clamped_kl", "js", "bregman", "squared_error", "negative_kl")
        check_choice("regularizer.name", self.name, names)
        check_not_negative("regularizer", self, "coef")
        check_choice("regularizer.controller", self.controller, ("constant", "adaptive"))
        check_positive("regularizer", self, "target_kl", "horizon")
        if self.controller == "adaptive":
            check(self.coef > 0, "regularizer.coef", self.coef, "controller=adaptive scales it: start above 0")


@dataclass
class ValueConfig:
    name: str = MISSING
    init: str = MISSING
    lr: float = MISSING
    coef: float = MISSING
    clip: float = MISSING
    hidden_size: int = MISSING

    def __post_init__(self) -> None:
        check_choice("value.name", self.name, ("adapter", "head", "reward_features"))
        check_choice("value.init", self.init, ("reward", "zero"))
        check_positive("value", self, "lr", "coef", "clip", "hidden_size")
        if self.name == "head":
            check(
                self.init == "zero",
                "value.init",
                self.init,
                "value=head starts at zero, having no reward model's states",
            )


@dataclass
class PPOConfig:
    steps: int = MISSING
    epochs: int = MISSING
    step_batch_size: int = MISSING
    micro_batch_size: int = MISSING
    lr: float = MISSING
    lr_schedule: str = MISSING
    warmup_steps: int = MISSING
    adam_eps: float = MISSING
    max_grad_norm: float = MISSING
    clip: float = MISSING
    gamma: float = MISSING
    lam: float = MISSING
    whiten_rewards: bool = MISSING
    whiten_advantages: bool = MISSING
    missing_eos_score: float = MISSING
    early_stop_kl: float | None = MISSING
    dropout: bool = MISSING

    def __post_init__(self) -> None:
        check_not_negative("ppo", self, "steps", "warmup_steps")
        check_positive(
            "ppo", self, "epochs", "step_batch_size", "micro_batch_size", "lr", "adam_eps", "max_grad_norm", "clip"
        )
        check_choice("ppo.lr_schedule", self.lr_schedule, ("constant", "linear"))
        check_fraction("ppo", self, "gamma", "lam")
        if self.early_stop_kl is not None:
            check_positive("ppo", self, "early_stop_kl")


@dataclass
class EvaluationConfig:
    split: str = MISSING
    prompts: int = MISSING
    references: int = MISSING
    temperature: float = MISSING
    every: int = MISSING

    def __post_init__(self) -> None:
        check_choice("evaluation.split", self.split, ("eval", "tune"))
        check(
            self.prompts > 1, "evaluation.prompts", self.prompts, "must be 2 or more, so that there is a standard error"
        )
        check_positive("evaluation", self, "references", "temperature")
        check_not_negative("evaluation", self, "every")


@dataclass
class JudgeConfig:
    name: str = MISSING

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("oracle", "reward_model"))


@dataclass
class FactualityConfig:
    name: str = MISSING

    def __post_init__(self) -> None:
        check_choice("factuality.name", self.name, ("world", "none"))


@dataclass
class ChecksConfig:
    min_factuality: float | None = MISSING
    max_factuality: float | None = MISSING
    min_accuracy: float = MISSING
    min_oracle_agreement: float | None = MISSING

    def __post_init__(self) -> None:
        check_fraction("checks", self, "min_accuracy")
        if self.min_oracle_agreement is not None:
            check_fraction("checks", self, "min_oracle_agreement")
        for name in ("min_factuality", "max_factuality"):
            value = getattr(self, name)
            ok = value is None or 0 <= value <= 100
            check(ok, f"checks.{name}", value, "must be a percentage, or null for no check")
        low, high = self.min_factuality, self.max_factuality
        if low is not None and high is not None:
            check(low < high, "checks.min_factuality", low, f"must be below checks.max_factuality={high}")


@dataclass
class Config:
    """A whole run. `__post_init__` holds the checks that need more than one group."""

    seed: int = MISSING
    cache_dir: str = MISSING
    device: str = MISSING
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    lora: LoraConfig = MISSING
    pretrain: PretrainConfig = MISSING
    sft: SFTConfig = MISSING
    reward: RewardConfig = MISSING
    rollout: RolloutConfig = MISSING
    regularizer: RegularizerConfig = MISSING
    value: ValueConfig = MISSING
    ppo: PPOConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    judge: JudgeConfig = MISSING
    factuality: FactualityConfig = MISSING
    checks: ChecksConfig = MISSING

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        for key, seed in (("seed", self.seed), ("data.seed", self.data.seed)):
            check(0 <= seed < 2**63, key, seed, "must be 0 or greater, and below 2^63")
        self._check_world_only()
        self._check_batches()
        self._check_roles()
        self._check_context()

    def _check_world_only(self) -> None:
        judge, factuality = self.judge.name, self.factuality.name
        if isinstance(self.data, WorldConfig):
            check(judge == "oracle", "judge", judge, "data=world is judged by its oracle; use judge=oracle")
            return
        check(judge != "oracle", "judge", judge, "only data=world has an oracle; use judge=reward_model")
        check(factuality != "world", "factuality", factuality, "only data=world has facts; use factuality=none")

    def _check_batches(self) -> None:
        batch, step, micro = self.rollout.batch_size, self.ppo.step_batch_size, self.ppo.micro_batch_size
        check(batch % step == 0, "ppo.step_batch_size", step, f"must divide rollout.batch_size={batch}")
        check(step % micro == 0, "ppo.micro_batch_size", micro, f"must divide ppo.step_batch_size={step}")
        horizon = self.regularizer.horizon
        # one update moves the coefficient by at most the factor 1 - 0.2 batch / horizon, which must stay above 0
        check(horizon * 5 > batch, "regularizer.horizon", horizon, f"must exceed rollout.batch_size / 5 = {batch / 5}")

    def _check_context(self) -> None:
        if self.model.path is not None:
            return
        context = self.model.context
        needed = max(self.rollout.max_prompt_tokens + self.rollout.max_response_tokens, self.pretrain.block_size)
        check(needed <= context, "model.context", context, f"prompt and response, or pretraining, need {needed}")

    def _check_roles(self) -> None:
        dtype = self.model.dtype
        exact = self.lora.enabled and not self.lora.dora
        allowed = "lora=full and lora.dora need model.dtype=float32, else policy and reference differ at once"
        check(exact or dtype == "float32", "model.dtype", dtype, allowed)
        copies_reward = self.value.name == "adapter" and self.value.init == "reward"
        allowed = "the value adapter copies the reward adapter: use reward=adapter, or value.init=zero"
        check(not copies_reward or self.reward.backbone == "adapter", "value.init", self.value.init, allowed)


DATA_KINDS: dict[str, type[DataConfig]] = {"world": WorldConfig, "text": TextConfig}
