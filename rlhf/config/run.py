"""The configuration of a whole run: one dataclass per group of conf/, each checking its own values.

Hydra composes conf/ into these dataclasses (compose.py) and refuses unknown keys and wrong types; `__post_init__`
refuses values out of range, before any work. The comment on a field explains its key.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from rlhf.config.algorithms import needs, training_steps
from rlhf.config.data import DataConfig, TextConfig, WorldConfig
from rlhf.config.evaluation import (
    TEXT,
    WORLD,
    ChecksConfig,
    EvaluationConfig,
    FactualityConfig,
    JudgeConfig,
    OracleJudgeConfig,
    WorldFactualityConfig,
)
from rlhf.config.models import ModelConfig, PolicyLoraConfig, PretrainConfig, RewardConfig, SFTConfig, ValueConfig
from rlhf.config.rl import AlgorithmConfig, PPOConfig, RegularizerConfig, RolloutConfig
from rlhf.config.search import PruneConfig, RuleConfig, objectives
from rlhf.config.tracker import TrackerConfig, WandbConfig
from rlhf.figures import GREEDY
from rlhf.validate import check, check_choice, check_positive

PLAIN_NAME = re.compile(r"[A-Za-z0-9_=,+-][A-Za-z0-9._=,+-]{0,119}")


@dataclass
class DistributedConfig:
    name: str = "ddp"
    processes: int | None = None  # how many are required; null: as many as torchrun, accelerate or SLURM have started

    def __post_init__(self) -> None:
        check_choice("distributed.name", self.name, ("ddp", "fsdp"))
        if self.processes is not None:
            check_positive("distributed", self, "processes")


@dataclass
class Config:
    """A whole run. `__post_init__` holds the checks that need more than one group."""

    name: str | None = None  # of the run's or the sweep's directory in outputs/; null: made of the overrides
    seed: int = 0  # of PPO; unless data.seed is given, also of the data and of all that is trained before PPO
    cache_dir: str = "outputs/cache"  # finished stages, shared by all runs that agree on what they read
    device: str = "auto"  # auto (a GPU where there is one), cpu or cuda
    device_memory: float | None = None  # GiB of the GPU that a run may take; null: all there is
    checkpoint_seconds: float = 60.0  # at least so long between two checkpoints; 0: one after every step
    checkpoint_local_dir: str | None = None  # on a node's own disk; copied to the run now and then (docs/cluster.md)
    # the figure, or several, that the run returns to a sweeper that searches (docs/sweeps.md)
    objective: Any = None
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
    judge: JudgeConfig = field(default_factory=OracleJudgeConfig)
    factuality: FactualityConfig = field(default_factory=WorldFactualityConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    tracker: TrackerConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        self._fill()
        allowed = "must be a plain directory name: up to 120 letters, digits and ._=,+-, no dot first"
        check(self.name is None or PLAIN_NAME.fullmatch(self.name) is not None, "name", self.name, allowed)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        for key, seed in (("seed", self.seed), ("data.seed", self.data_seed)):
            self._check(0 <= seed < 2**63, key, "must be 0 or greater, and below 2^63")
        self._check(self.device_memory is None or self.device_memory > 0, "device_memory", "must be above 0, or null")
        self._check(self.checkpoint_seconds >= 0, "checkpoint_seconds", "must be 0 or greater")
        self._check_data()
        self._check_batches()
        if self.distributed.processes is not None:
            self.micro_batch_size(self.distributed.processes)
        self._check_roles()
        self._check_quantized()
        self._check_sharded()
        self._check_algorithm()
        self._check_context()
        self._check_search()

    @property
    def data_seed(self) -> int:
        """The seed of the data, and of all that is trained before PPO."""
        assert self.data.seed is not None  # filled in
        return self.data.seed

    @property
    def steps(self) -> int:
        """The PPO steps that the run makes."""
        return training_steps(self.algorithm.name, self.ppo.steps)

    @property
    def objectives(self) -> list[str]:
        """The figures that the run is judged by; none where it returns nothing."""
        return objectives(self.objective)

    @property
    def pruned_by(self) -> str:
        """The figure that decides whether the run goes on."""
        return next(iter(self.objectives), GREEDY)

    def micro_batch_size(self, processes: int) -> int:
        """Responses per forward pass of each process: `ppo.micro_batch_size`, at most its share of a step.

        Where that is null, its whole share to begin with. Raises ConfigError where the processes can't share a step's
        responses in whole micro-batches.
        """
        step = self.ppo.step_batch_size
        fits = self.distributed.processes in (None, processes)
        self._check(fits, "distributed.processes", f"{processes} are to be started")
        self._check(step % processes == 0, "ppo.step_batch_size", f"{processes} processes must divide it")
        share = step // processes
        size = min(self.ppo.micro_batch_size or step, share)
        self._check(share % size == 0, "ppo.micro_batch_size", f"must divide ppo.step_batch_size / processes = {share}")
        divided = not self.ppo.repeat_micro_batch or (self.ppo.micro_batch_size or step) % processes == 0
        self._check(
            divided, "ppo.micro_batch_size", f"with ppo.repeat_micro_batch {processes} processes must divide it"
        )
        return size

    @property
    def longest(self) -> int:
        """The most tokens that prompt and response have together, in training or in evaluation."""
        rollout, evaluation = self.rollout, self.evaluation
        prompts = evaluation.max_prompt_tokens or rollout.max_prompt_tokens
        evaluated = prompts + (evaluation.max_response_tokens or rollout.max_response_tokens)
        return max(rollout.max_prompt_tokens + rollout.max_response_tokens, evaluated)

    def _check(self, ok: bool, key: str, allowed: str) -> None:
        """Refuse the value of a dotted key; of a group, the name of the chosen option."""
        value = attrgetter(key)(self)
        check(ok, key, getattr(value, "name", value), allowed)

    def _fill(self) -> None:
        """Take from other groups what null leaves to them, and `~` from the account."""
        if self.cache_dir.startswith("~"):
            with suppress(RuntimeError):  # nobody's home: refused with the other places to write to
                self.cache_dir = str(Path(self.cache_dir).expanduser())
        if self.data.seed is None:
            self.data.seed = self.seed
        if self.regularizer.horizon is None:
            self.regularizer.horizon = self.rollout.batch_size
        for measure in (self.judge, self.factuality):
            measure.fill(self.cache_dir)

    def _check_data(self) -> None:
        for measure in (self.judge, self.factuality):
            measure.check_use(WORLD if isinstance(self.data, WorldConfig) else TEXT)
        if isinstance(self.data, TextConfig):
            fits = self.data.template != "chat" or self.model.path is not None
            allowed = "a model from scratch has no chat template; use model.path of a model made for chats"
            self._check(fits, "data.template", allowed)
            given = self.model.path is not None and self.sft.epochs == 0
            allowed = "without demonstrations use model.path of a fine-tuned model, and sft.epochs=0"
            self._check(self.data.sft_fraction != 0 or given, "data.sft_fraction", allowed)
            learns = not self.reward.is_external or self.judge.second_reward
            allowed = "a reward model or judge is trained on them; without any, use reward=function and judge=none"
            self._check(self.data.preferences is not None or not learns, "data.preferences", allowed)

    def _check_batches(self) -> None:
        batch, step = self.rollout.batch_size, self.ppo.step_batch_size
        micro, samples = self.ppo.micro_batch_size or step, self.algorithm.samples_per_prompt
        self._check(batch % step == 0, "ppo.step_batch_size", f"must divide rollout.batch_size={batch}")
        self._check(step % micro == 0, "ppo.micro_batch_size", f"must divide ppo.step_batch_size={step}")
        self._check(batch % samples == 0, "algorithm.samples_per_prompt", f"must divide rollout.batch_size={batch}")
        horizon = self.regularizer.horizon or batch
        # one update moves the coefficient by at most the factor 1 - 0.2 batch / horizon, which must stay above 0
        self._check(horizon * 5 > batch, "regularizer.horizon", f"must exceed rollout.batch_size / 5 = {batch / 5}")

    def _check_search(self) -> None:
        names, rule = self.objectives, self.prune
        if not isinstance(rule, RuleConfig):
            return
        allowed = f"prune={rule.name} decides at the evaluations on the way: 1 or greater"
        self._check(self.evaluation.every > 0, "evaluation.every", allowed)
        self._check(len(names) < 2, "objective", f"prune={rule.name} compares runs by one figure: name one")
        last = max(0, self.steps - 1) // self.evaluation.every * self.evaluation.every
        allowed = f"the last evaluation on the way to step {self.steps} is at step {last}: nothing would be decided"
        check(0 < last >= rule.first, "prune.first", rule.first, allowed)
        greedy, judged = self.pruned_by.endswith("_greedy"), self.pruned_by.startswith("win_rate")
        allowed = f"prune={rule.name} compares runs by {self.pruned_by}, which this run does not have: set objective"
        self._check(not (judged and self.judge.name == "none"), "judge", allowed)
        self._check(not (greedy and self.evaluation.best_of > 1), "evaluation.best_of", allowed)

    def _check_context(self) -> None:
        if self.model.path is not None:
            return
        needed = max(self.longest, self.pretrain.block_size)
        allowed = f"prompt and response, or pretraining, need {needed}"
        self._check(needed <= self.model.context, "model.context", allowed)

    def _check_algorithm(self) -> None:
        name = self.algorithm.name
        needed = needs(name)
        allowed = f"algorithm={name} " + ("needs a value: choose one" if needed.value else "has none: use value=none")
        self._check((self.value.name != "none") == needed.value, "value", allowed)
        if not needed.trains:
            self._check(self.evaluation.best_of > 1, "evaluation.best_of", "best of how many? 2 or more")
        if self.regularizer.name == "dropout_only":
            drops = self.lora.r is not None and self.lora.dropout > 0 and self.ppo.dropout
            allowed = "regularizer=dropout_only needs LoRA with lora.dropout above 0, and ppo.dropout=true"
            self._check(drops, "lora.dropout", allowed)

    def _check_sharded(self) -> None:
        if self.distributed.name != "fsdp":
            return
        needs = "distributed=fsdp divides a frozen base: use"
        self._check(self.model.dtype != "mixed", "model.dtype", f"{needs} bfloat16 or float32")
        self._check(self.lora.r is not None, "lora.r", f"{needs} LoRA")
        self._check(self.reward.backbone != "full", "reward.backbone", f"{needs} reward=adapter")
        fine_tuned = f"{needs} model.path of a fine-tuned model, and sft.epochs=0"
        self._check(self.sft.epochs == 0, "sft.epochs", fine_tuned)
        self._check(self.model.path is not None, "model.path", fine_tuned)
        self._check(self.value.init != "backbone", "value.init", f"{needs} another, without a base of its own")
        allowed = "with distributed=fsdp all processes work on as many at once: give a number"
        self._check(self.ppo.micro_batch_size is not None, "ppo.micro_batch_size", allowed)

    def _check_roles(self) -> None:
        exact = self.lora.r is not None and not self.lora.dora
        allowed = "lora=full and lora.dora need model.dtype=float32, else policy and reference differ at once"
        self._check(exact or self.model.dtype == "float32", "model.dtype", allowed)
        if isinstance(self.data, TextConfig) and self.reward.backbone == "alpaca_farm":
            allowed = "reward=alpaca_farm was trained on prompts in Alpaca's template: use alpaca"
            self._check(self.data.template == "alpaca", "data.template", allowed)
        hidden = self.value.name == "reward_features" and self.reward.is_external
        allowed = f"reward={self.reward.backbone} shows no states; use value=head, or value=adapter value.init=zero"
        self._check(not hidden, "value", allowed)
        if self.value.name == "adapter" and self.value.init != "zero":
            of_backbone, backbone = self.value.init == "backbone", self.reward.backbone
            allowed = "the value adapter copies the reward adapter: use reward=adapter, or value.init=zero"
            on_model = f"reward={backbone} is no language model of the policy's tokens: use value.init=zero"
            fits = backbone == "adapter" or (of_backbone and backbone in ("full", "alpaca_farm"))
            self._check(fits, "value.init", on_model if of_backbone else allowed)

    def _check_quantized(self) -> None:
        if self.model.quantization is None:
            return
        key, needs = "model.quantization", "a base of few bits is frozen: use"
        self._check(self.lora.r is not None, key, f"{needs} LoRA")
        self._check(self.reward.backbone != "full", key, f"{needs} reward=adapter")
        self._check(self.distributed.name != "fsdp", key, f"{needs} distributed=ddp")
        merges = self.value.init == "backbone" and self.reward.backbone == "adapter"
        self._check(
            not merges, key, f"{needs} another value.init than backbone, which merges the reward adapter into it"
        )
        random = self.model.path is None and self.pretrain.steps == 0 and self.sft.epochs == 0
        allowed = "random weights are made as model.dtype says, not read from files; use model.quantization=null"
        self._check(not random, key, allowed)
