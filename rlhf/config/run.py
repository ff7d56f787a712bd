"""The configuration of a whole run: one dataclass per group of conf/, each checking its own values.

Hydra composes conf/ into these dataclasses (compose.py), so that unknown keys and wrong types are refused while
composing, and `__post_init__` refuses values out of range before any work. What each key does is said where the key is
set, in conf/."""

from dataclasses import dataclass, field

from rlhf.config.data import DataConfig, TextConfig, WorldConfig
from rlhf.config.endpoint import EndpointConfig
from rlhf.config.evaluation import ChecksConfig, EvaluationConfig, FactualityConfig, JudgeConfig
from rlhf.config.models import ModelConfig, PolicyLoraConfig, PretrainConfig, RewardConfig, SFTConfig, ValueConfig
from rlhf.config.rl import AlgorithmConfig, PPOConfig, RegularizerConfig, RolloutConfig
from rlhf.config.tracker import TrackerConfig, WandbConfig
from rlhf.validate import check, check_choice, check_positive


@dataclass
class DistributedConfig:
    name: str = "ddp"
    processes: int | None = None  # how many there must be; null: as many as torchrun, accelerate or SLURM have started

    def __post_init__(self) -> None:
        check_choice("distributed.name", self.name, ("ddp", "fsdp"))
        if self.processes is not None:
            check_positive("distributed", self, "processes")


@dataclass
class Config:
    """A whole run. `__post_init__` holds the checks that need more than one group."""

    seed: int = 0  # of PPO; unless data.seed is given, also of the data and of all that is trained before PPO
    cache_dir: str = "outputs/cache"  # finished stages, shared by all runs that agree on what they read
    device: str = "auto"  # auto (a GPU where there is one), cpu or cuda
    device_memory: float | None = None  # GiB of the GPU that a run may take; null: all there is
    checkpoint_seconds: float = 60.0  # at least so long between two checkpoints; 0: one after every step
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    data: DataConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: PolicyLoraConfig = field(default_factory=PolicyLoraConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    factuality: FactualityConfig = field(default_factory=FactualityConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    tracker: TrackerConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        self._fill()
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        for key, seed in (("seed", self.seed), ("data.seed", self.data_seed)):
            check(0 <= seed < 2**63, key, seed, "must be 0 or greater, and below 2^63")
        if self.device_memory is not None:
            check(self.device_memory > 0, "device_memory", self.device_memory, "must be greater than 0, or null")
        check(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "must be 0 or greater")
        self._check_world_only()
        self._check_template()
        self._check_batches()
        if self.distributed.processes is not None:
            self.micro_batch_size(self.distributed.processes)
        self._check_roles()
        self._check_sharded()
        self._check_algorithm()
        self._check_context()

    @property
    def data_seed(self) -> int:
        """The seed of the data, and of all that is trained before PPO."""
        assert self.data.seed is not None  # filled in
        return self.data.seed

    def _fill(self) -> None:
        """Take from other groups what null leaves to them."""
        if self.data.seed is None:
            self.data.seed = self.seed
        if self.regularizer.horizon is None:
            self.regularizer.horizon = self.rollout.batch_size
        for asked in (self.judge, self.factuality):
            if isinstance(asked, EndpointConfig):
                asked.fill(self.cache_dir)

    def micro_batch_size(self, processes: int) -> int:
        """Responses that each of so many processes works on at once: `ppo.micro_batch_size`, at most all of its share.

        Where that is null, all of its share to begin with.

        Raises ConfigError where they can't share a step's responses in whole micro-batches.
        """
        asked, step = self.distributed.processes, self.ppo.step_batch_size
        micro = self.ppo.micro_batch_size or step
        check(asked in (None, processes), "distributed.processes", asked, f"{processes} are to be started")
        check(step % processes == 0, "ppo.step_batch_size", step, f"{processes} processes must divide it")
        size = min(micro, step // processes)
        allowed = f"must divide ppo.step_batch_size / processes = {step // processes}"
        check(step // processes % size == 0, "ppo.micro_batch_size", micro, allowed)
        return size

    def _check_world_only(self) -> None:
        judge, factuality = self.judge.name, self.factuality.name
        if isinstance(self.data, WorldConfig):
            check(judge == "oracle", "judge", judge, "data=world is judged by its oracle; use judge=oracle")
            allowed = "data=world counts its facts itself; use factuality=world"
            check(factuality in ("world", "none"), "factuality", factuality, allowed)
            return
        allowed = "judgements made before are not of this run's outputs; use python -m rlhf.evaluate"
        check(judge != "annotations", "judge", judge, allowed)
        check(judge != "oracle", "judge", judge, "only data=world has an oracle; use judge=reward_model or judge=llm")
        check(
            factuality != "world",
            "factuality",
            factuality,
            "only data=world has facts; use factuality=none or factuality=factscore",
        )

    def _check_template(self) -> None:
        if isinstance(self.data, TextConfig):
            fits = self.data.template != "chat" or self.model.path is not None
            allowed = "a model from scratch has no chat template; use model.path of a model made for chats"
            check(fits, "data.template", self.data.template, allowed)

    def _check_batches(self) -> None:
        batch, step = self.rollout.batch_size, self.ppo.step_batch_size
        micro = self.ppo.micro_batch_size or step
        check(batch % step == 0, "ppo.step_batch_size", step, f"must divide rollout.batch_size={batch}")
        check(step % micro == 0, "ppo.micro_batch_size", micro, f"must divide ppo.step_batch_size={step}")
        horizon = self.regularizer.horizon or batch
        # one update moves the coefficient by at most the factor 1 - 0.2 batch / horizon, which must stay above 0
        check(horizon * 5 > batch, "regularizer.horizon", horizon, f"must exceed rollout.batch_size / 5 = {batch / 5}")

    def _check_context(self) -> None:
        if self.model.path is not None:
            return
        context = self.model.context
        longest = max(self.rollout.max_response_tokens, self.evaluation.max_response_tokens or 0)
        needed = max(self.rollout.max_prompt_tokens + longest, self.pretrain.block_size)
        check(needed <= context, "model.context", context, f"prompt and response, or pretraining, need {needed}")

    def _check_algorithm(self) -> None:
        name, samples, batch = self.algorithm.name, self.algorithm.samples_per_prompt, self.rollout.batch_size
        allowed = f"must divide rollout.batch_size={batch}"
        check(batch % samples == 0, "algorithm.samples_per_prompt", samples, allowed)
        needs_value = name == "ppo"
        allowed = f"algorithm={name} " + ("needs a value: choose one" if needs_value else "has none: use value=none")
        check((self.value.name != "none") == needs_value, "value", self.value.name, allowed)
        if name == "best_of_n":
            allowed = "best of how many? 2 or more"
            check(self.evaluation.best_of > 1, "evaluation.best_of", self.evaluation.best_of, allowed)
        if self.regularizer.name == "dropout_only":
            drops = self.lora.r is not None and self.lora.dropout > 0 and self.ppo.dropout
            allowed = "regularizer=dropout_only needs LoRA with lora.dropout above 0, and ppo.dropout=true"
            check(drops, "lora.dropout", self.lora.dropout, allowed)

    def _check_sharded(self) -> None:
        if self.distributed.name != "fsdp":
            return
        needs = "distributed=fsdp divides a frozen base: "
        check(self.model.dtype != "mixed", "model.dtype", self.model.dtype, f"{needs}use bfloat16 or float32")
        check(self.lora.r is not None, "lora.r", self.lora.r, f"{needs}use LoRA")
        check(self.reward.backbone != "full", "reward.backbone", self.reward.backbone, f"{needs}use reward=adapter")
        allowed = f"{needs}use model.path of a fine-tuned model, and sft.epochs=0"
        check(self.sft.epochs == 0, "sft.epochs", self.sft.epochs, allowed)
        check(self.model.path is not None, "model.path", self.model.path, allowed)
        allowed = "with distributed=fsdp all processes work on as many at once: give a number"
        check(self.ppo.micro_batch_size is not None, "ppo.micro_batch_size", None, allowed)

    def _check_roles(self) -> None:
        dtype = self.model.dtype
        exact = self.lora.r is not None and not self.lora.dora
        allowed = "lora=full and lora.dora need model.dtype=float32, else policy and reference differ at once"
        check(exact or dtype == "float32", "model.dtype", dtype, allowed)
        self._check_quantized()
        if self.value.name == "reward_features":
            allowed = f"reward={self.reward.backbone} shows no states; use value=head, or value=adapter value.init=zero"
            check(not self.reward.is_given, "value", self.value.name, allowed)
        copies_reward = self.value.name == "adapter" and self.value.init != "zero"
        allowed = "the value adapter copies the reward adapter: use reward=adapter, or value.init=zero"
        check(not copies_reward or self.reward.backbone == "adapter", "value.init", self.value.init, allowed)

    def _check_quantized(self) -> None:
        quantization, needs = self.model.quantization, "a base of few bits is frozen: "
        if quantization is None:
            return
        check(self.lora.r is not None, "model.quantization", quantization, f"{needs}use LoRA")
        check(self.reward.backbone != "full", "model.quantization", quantization, f"{needs}use reward=adapter")
        check(self.distributed.name != "fsdp", "model.quantization", quantization, f"{needs}use distributed=ddp")
        random = self.model.path is None and self.pretrain.steps == 0 and self.sft.epochs == 0
        allowed = "random weights are made as model.dtype says, not read from files; use model.quantization=null"
        check(not random, "model.quantization", quantization, allowed)
