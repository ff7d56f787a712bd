"""What comes before PPO: each stage from the cache or built now, and what each one's result depends on."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from rlhf.config.evaluation import BASELINE_READS, LlmJudgeConfig
from rlhf.config.run import Config
from rlhf.data.load import load_source
from rlhf.evaluation.factuality import TextFactuality, load_factuality
from rlhf.evaluation.judge import Judge, ScoreJudge, TextJudge, oracle_scores
from rlhf.evaluation.llm_judge import LlmJudge
from rlhf.evaluation.verdicts import describe_verdicts
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import CPU, expand, model_shape, prepare_torch, resolve_device
from rlhf.models.dtypes import DTYPES
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import check_given, given_fingerprint, given_weights, load_given
from rlhf.models.hub import fingerprint
from rlhf.models.initial_adapter import check_start
from rlhf.models.logprobs import CHUNK
from rlhf.models.memory import Estimate, advise, check_fits, empty_model, estimate
from rlhf.models.reward import RewardModel
from rlhf.models.sampler import Sampler
from rlhf.models.sharding import shard
from rlhf.models.value import Reward
from rlhf.process.distributed import ALONE, Ranks
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.baseline import FIGURES_VERSION as BASELINE_FIGURES_VERSION
from rlhf.stages.baseline import VERSION as BASELINE_VERSION
from rlhf.stages.baseline import (
    Baseline,
    draw_baseline,
    evaluation_at_start,
    evaluation_prompts,
    load_baseline,
    measure_baseline,
)
from rlhf.stages.checks import check_context, check_factuality, check_reward
from rlhf.stages.evaluator import Evaluation, Evaluator
from rlhf.stages.pretrain import VERSION as PRETRAIN_VERSION
from rlhf.stages.pretrain import load_model, pretrain
from rlhf.stages.reward import (
    ENSEMBLE_VERSION,
    JUDGE,
    REWARD,
    SAMPLES_VERSION,
    combine_rewards,
    draw_samples,
    load_samples,
    score,
    settings_of,
    train_reward,
)
from rlhf.stages.reward import VERSION as REWARD_VERSION
from rlhf.stages.sft import FIGURES_VERSION, measure_sft, sft
from rlhf.stages.sft import VERSION as SFT_VERSION
from rlhf.storage.cache import Finished, Stage, finish
from rlhf.storage.files import read_json, write_json
from rlhf.validate import check

log = logging.getLogger(__name__)

SHAPE = ("hidden_size", "layers", "heads", "intermediate_size", "vocab_size", "context", "initializer_range", "tied")
"""What a model without weights is made by."""

ENSEMBLE = ("members", "combine", "resample")
"""What a reward model that is alone does not read."""


class Pipeline:
    """The stages of one configuration; asking for one builds those it needs. `finished` tells which were asked for."""

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        prepare_torch(config.model.threads)
        self.device = resolve_device(config.device, config.device_memory)
        self.source = load_source(config.data)
        self.prompts = evaluation_prompts(config, self.source)
        judged = sum(not self.source.seen_by_reward(prompt) for prompt in self.prompts)
        allowed = f"the reward model's comparisons leave {judged} of these prompts to judge, and 2 are needed"
        check(judged > 1, "evaluation.prompts", config.evaluation.prompts, allowed)
        if config.model.path is not None:
            check_context(expand(config.model.path), config)
        check_start(config.lora)
        Regularizer.create(config.regularizer)  # a custom one that can't be used is refused here, before any work
        self.llm_judge = LlmJudge(config.judge) if isinstance(config.judge, LlmJudgeConfig) else None
        self.factuality = load_factuality(config.factuality, self.source, ranks.run_on_main)
        if isinstance(self.factuality, TextFactuality):
            self.factuality.choose(self.prompts)  # none of that dataset is told before any work
        if config.reward.is_given:
            check_given(config.reward)
        self.memory = self._estimate_memory()
        self.finished: dict[str, Finished] = {}

    def build(self) -> None:
        """All stages, before any model is loaded to stay; of several ranks one builds, and the others find them."""
        if not (self.ranks.is_main or self.sharded):
            self.ranks.barrier()
        self._build()
        if self.ranks.is_main and not self.sharded:
            self.ranks.barrier()

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of the base, so that whatever runs it runs on all ranks together."""
        return self.config.distributed.name == "fsdp" and self.ranks.size > 1

    def _build(self) -> None:
        figures = self.sft_figures()
        if self.config.factuality.name == "world":
            check_factuality(figures["factuality"], self.config.checks)
        for name in self._rewards():
            check_reward(name, self.finished_reward(name).figures, self.config.checks)
        self.baseline()
        if not self._asks_endpoint:
            self.baseline_figures()

    def _rewards(self) -> list[str]:
        return [REWARD, JUDGE] if self.config.judge.name == "reward_model" else [REWARD]

    def _estimate_memory(self) -> Estimate:
        """Told of a model that was there already, or on a GPU; raises ConfigError where it can't fit that."""
        config, on_gpu = self.config, self.device.type == "cuda"
        program = 0.0 if on_gpu else float(psutil.Process().memory_info().rss)
        reward = given_weights(config.reward) * float(DTYPES[config.model.dtype].itemsize)
        found = estimate(config, empty_model(model_shape(config.model)), CHUNK, self.ranks.size, program, reward)
        if on_gpu:
            capacity = float(torch.cuda.get_device_properties(self.device).total_memory)
            check_fits(found, capacity)
            log.info(f"memory: {advise(found, capacity)}")
        elif config.model.path is not None:
            log.info(f"memory: {found}")
        return found

    def base(self) -> tuple[str | None, str]:
        """Where the model to fine-tune lies and the key it is known by: pretrained here, or `model.path`.

        It lies nowhere where `pretrain.steps` is 0: it is made of random weights whenever it is needed.
        """
        model = self.config.model
        if model.path is not None:
            path = expand(model.path)
            return path, str(fingerprint(path))
        shape = {name: getattr(model, name) for name in SHAPE}
        reads = {"model": shape, "pretrain": self.config.pretrain}
        if self.config.pretrain.steps == 0:
            return None, Stage("random", PRETRAIN_VERSION, self._everyone(comparisons=False) | reads).key
        done = self._finish("pretrain", PRETRAIN_VERSION, reads, [], partial(pretrain, self.config, self.source))
        return str(done.directory), done.key

    def sft(self) -> tuple[str | None, str]:
        """Where the SFT model lies and its key: fine-tuned here, or the base itself where `sft.epochs` is 0."""
        path, key = self.base()
        if self.config.sft.epochs == 0:
            return path, key
        build = partial(sft, self.config, self.source, path)
        done = self._finish("sft", SFT_VERSION, {"sft": self.config.sft}, [key], build)
        return str(done.directory), done.key

    def sft_figures(self) -> dict[str, Any]:
        """What the SFT model's own responses are like, on the tuning split."""
        reads = self._model_reads() | {"factuality": {"name": self.config.factuality.name}}

        def build(directory: Path) -> dict[str, Any]:
            return measure_sft(self.config, self.source, *self.load_base())

        return self._finish("sft_figures", FIGURES_VERSION, reads, [self.sft()[1]], build).figures

    def samples(self) -> Finished:
        """The SFT model's responses that reward models learn from and are measured on."""

        def build(directory: Path) -> dict[str, Any]:
            return draw_samples(self.config, self.source, *self.load_base(), directory)

        sampled = getattr(self.config.data, "comparison_prompts", None)  # of text the comparisons are there already
        reads = self._model_reads() | {"comparison_prompts": sampled}
        return self._finish("samples", SAMPLES_VERSION, reads, [self.sft()[1]], build)

    def reward(self, name: str = REWARD, member: int = 0) -> Finished:
        """One reward model, of an ensemble one member, or the second one that judges text."""
        reads = self._model_reads() | self._reward_reads(name, member)
        samples = self.samples()

        def build(directory: Path) -> dict[str, Any]:
            drawn = load_samples(samples.directory)
            return train_reward(self.config, self.source, *self.load_base(), drawn, directory, name, member)

        stage = f"{name}_{member}" if member else name
        return self._finish(stage, REWARD_VERSION, reads, [samples.key], build, comparisons=True)

    def ensemble(self) -> Finished:
        """The scale and the figures of several reward models together."""
        members = [self.reward(REWARD, member) for member in range(self.config.reward.members)]
        samples = self.samples()

        def build(directory: Path) -> dict[str, Any]:
            base, sampler = self.load_base()
            drawn, together = load_samples(samples.directory), RewardEnsemble(self.config.reward, self._members(base))
            return combine_rewards(together, self.config, self.source, base, sampler, drawn, directory)

        reads = self._model_reads() | {"combine": self.config.reward.combine}
        parents = [member.key for member in members]
        return self._finish("ensemble", ENSEMBLE_VERSION, reads, parents, build, comparisons=True)

    def finished_reward(self, name: str = REWARD) -> Finished:
        """What PPO optimizes, or the judge: an ensemble where there are several members."""
        return self.ensemble() if name == REWARD and self.config.reward.members > 1 else self.reward(name)

    def baseline(self) -> Finished:
        settings = self.config.evaluation
        wanted = {name: getattr(settings, name) for name in BASELINE_READS}
        reads = self._model_reads() | {"evaluation": wanted}

        def build(directory: Path) -> dict[str, Any]:
            return draw_baseline(self.config, self.prompts, *self.load_base(), directory)

        return self._finish("baseline", BASELINE_VERSION, reads, [self.sft()[1]], build)

    def baseline_figures(self) -> Finished:
        """The SFT model's own figures, and those of its controls, by a judge that costs nothing to ask."""

        def build(directory: Path) -> dict[str, Any]:
            base, sampler = self.load_base()
            evaluator = self.evaluator(base, self.load_reward(base), sampler)
            write_json(directory / "figures.json", measure_baseline(evaluator, self.load_baseline()))
            return {}

        scored = {"missing_eos_score": self.config.ppo.missing_eos_score}
        reads = self._model_reads() | {"judge": asdict(self.config.judge), "ppo": scored}
        reads |= {"factuality": asdict(self.config.factuality)}
        rewards = [self.finished_reward(name).key for name in self._rewards()]
        parents = [self.baseline().key, *rewards]
        return self._finish("baseline_figures", BASELINE_FIGURES_VERSION, reads, parents, build, comparisons=True)

    def measured_baseline(self, evaluator: Evaluator) -> dict[str, Any]:
        """The same; where an endpoint is asked, whose answers may fail, measured for this run."""
        if self._asks_endpoint:
            return measure_baseline(evaluator, self.load_baseline())
        return read_json(self.baseline_figures().directory / "figures.json")

    @property
    def _asks_endpoint(self) -> bool:
        return self.llm_judge is not None or isinstance(self.factuality, TextFactuality)

    def load_baseline(self) -> Baseline:
        return load_baseline(self.baseline().directory)

    def evaluation_at_start(self, evaluator: Evaluator) -> Evaluation | None:
        """The evaluation before the first step, where the policy is the SFT model and that is measured already."""
        config = self.config
        is_reference = config.lora.path is None and config.evaluation.best_of == 1
        if self._asks_endpoint or not is_reference or config.regularizer.name == "custom":
            return None
        return evaluation_at_start(self.load_baseline(), self.measured_baseline(evaluator))

    def load_base(self, ranks: Ranks = ALONE) -> tuple[SharedBase, Sampler]:
        """A fresh copy of the SFT model, to carry adapters, and the sampler of its tokenizer."""
        path, _ = self.sft()
        model, place = self.config.model, CPU if self.sharded else self.device
        lm, tokenizer = load_model(self.config, self.source, path, model, place)
        lm = shard(lm, self.device, self.ranks) if self.sharded else lm
        base = SharedBase(lm, lasting_path(path), model.gradient_checkpointing)
        if self.sharded:
            # the parts of a layer come together in its forward pass only
            by_model = replace(self.config.rollout, engine="hf")
            return base, Sampler(tokenizer, by_model, self.device, agree=self.ranks.broadcast)
        return base, Sampler(tokenizer, self.config.rollout, self.device, ranks)

    def load_reward(self, base: SharedBase, name: str = REWARD) -> Reward:
        settings, directory = settings_of(self.config.reward, name), self.finished_reward(name).directory
        if settings.is_given:
            return load_given(settings, self.config.model.dtype, self.device).load(directory)
        if name == REWARD and settings.members > 1:
            return RewardEnsemble(settings, self._members(base)).load(directory)
        return self._trained(base, name)

    def _members(self, base: SharedBase) -> list[RewardModel]:
        return [self._trained(base, REWARD, member) for member in range(self.config.reward.members)]

    def _trained(self, base: SharedBase, name: str, member: int = 0) -> RewardModel:
        settings, adapter = settings_of(self.config.reward, name), f"{name}_{member}" if member else name
        model = RewardModel.create(base, settings, adapter, self.config.rollout.temperature)
        return model.load(self.reward(name, member).directory)

    def evaluator(self, base: SharedBase, reward: Reward, sampler: Sampler) -> Evaluator:
        drawn, regularizer = self.load_baseline(), Regularizer.create(self.config.regularizer)
        return Evaluator(
            self.config,
            self.source,
            sampler,
            base.reference(),
            reward,
            self._judge(base, sampler),
            self.prompts,
            drawn.references,
            drawn.greedy,
            self.factuality,
            regularizer,
        )

    def asked(self) -> dict[str, Any]:
        """Of the language models that were asked: questions, tokens, costs, and how the judge leant, over the run."""
        asked: dict[str, Any] = {}
        if self.llm_judge is not None:
            asked["judge"] = asdict(self.llm_judge.endpoint.usage) | describe_verdicts(self.llm_judge.verdicts)
        if isinstance(self.factuality, TextFactuality):
            asked["factuality"] = asdict(self.factuality.scorer.endpoint.usage)
        return asked

    def _judge(self, base: SharedBase, sampler: Sampler) -> Judge:
        if self.config.judge.name == "reward_model":
            return ScoreJudge(partial(score, self.load_reward(base, JUDGE), sampler))
        if self.llm_judge is not None:
            return TextJudge(self.llm_judge, self.ranks.run_on_main)
        return ScoreJudge(oracle_scores(self.source))

    def _model_reads(self) -> dict[str, Any]:
        """What all stages read that run the SFT model: how it is loaded, and how it is sampled from."""
        names = ("max_prompt_tokens", "max_response_tokens", "temperature", "decode_batch_size")
        decoding = {name: getattr(self.config.rollout, name) for name in names}
        loaded = {name: getattr(self.config.model, name) for name in ("dtype", "attention", "quantization")}
        return {name: value for name, value in loaded.items() if value is not None} | {"decoding": decoding}

    def _reward_reads(self, name: str, member: int) -> dict[str, Any]:
        """A first member reads what a single model does, so that they share one stage."""
        settings = settings_of(self.config.reward, name)
        reads = {name: value for name, value in asdict(settings).items() if name not in ENSEMBLE and value is not None}
        more = {"member": member, "resample": settings.resample} if member else {}
        return {"reward": reads | more} | ({"given": given_fingerprint(settings)} if settings.is_given else {})

    def _everyone(self, comparisons: bool) -> dict[str, Any]:
        """What all stages read."""
        return {"data": self.source.fingerprint(comparisons), "seed": self.config.data_seed}

    def _finish(
        self,
        name: str,
        version: int,
        reads: dict[str, Any],
        parents: list[str],
        build: Callable[[Path], dict[str, Any]],
        comparisons: bool = False,
    ) -> Finished:
        if name not in self.finished:
            stage = Stage(name, version, self._everyone(comparisons) | reads, parents)
            finish_here = self._finish_together if self.sharded else finish
            done = finish_here(Path(self.config.cache_dir), stage, build)
            self.finished[name] = done
            origin = f"built in {done.seconds:.0f} s" if done.built_now else "from the cache"
            log.info(f"{name}: {origin}, {describe(done.figures)}")
        return self.finished[name]

    def _finish_together(self, cache: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> Finished:
        """As `finish`, where the main rank can't build without the others: what they make of it is thrown away."""

        def build_on_all(directory: Path) -> dict[str, Any]:
            self.ranks.run_on_main(lambda: True)
            return build(directory)

        if self.ranks.is_main:
            done = finish(cache, stage, build_on_all)
            if not done.built_now:
                self.ranks.run_on_main(lambda: False)
            self.ranks.barrier()
            return done
        if self.ranks.run_on_main(lambda: False):  # the main rank's word: whether it builds
            with tempfile.TemporaryDirectory() as directory:
                build(Path(directory))
        self.ranks.barrier()
        return finish(cache, stage, build)


def describe(figures: dict[str, Any]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def lasting_path(path: str | None) -> str:
    """What an adapter remembers of its base: a directory in full, a hub id as it is, of random weights nothing."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path or ""
