"""What comes before PPO: each stage from the cache or built now, and the models that they leave, loaded.

`rlhf.config.stages` says what each stage reads.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil

from rlhf.config.run import Config
from rlhf.config.stages import READS, picked
from rlhf.data.load import load_source
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Resources, load_judge
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import CPU, expand, prepare_torch, resolve_device
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import external_fingerprint, load_external
from rlhf.models.hub import fingerprint
from rlhf.models.layers import shard
from rlhf.models.randomness import kept_random_state
from rlhf.models.reward import RewardModel
from rlhf.models.sampler import Sampler
from rlhf.models.value import Reward
from rlhf.process.distributed import ALONE, Ranks
from rlhf.process.signals import StopSignals
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.baseline import FIGURES_VERSION as BASELINE_FIGURES_VERSION
from rlhf.stages.baseline import VERSION as BASELINE_VERSION
from rlhf.stages.baseline import Baseline, draw_baseline, evaluation_prompts, load_baseline, measure_baseline
from rlhf.stages.checks import check_factuality, check_finite, check_reward
from rlhf.stages.evaluator import Evaluator
from rlhf.stages.pretrain import VERSION as PRETRAIN_VERSION
from rlhf.stages.pretrain import load_model, pretrain
from rlhf.stages.progress import NOT_KEPT, Progress, Saver
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
from rlhf.storage.cache import Finished, Stage, finish, unfinished_work
from rlhf.storage.files import read_json, write_json

log = logging.getLogger(__name__)

Build = Callable[[Path, Progress], dict[str, Any]]
"""Fills a directory with a stage's result, from where it was stopped, and returns its figures."""

ENSEMBLE = ("members", "combine", "resample")
"""Keys of `reward` that a single model does not read."""


@dataclass(frozen=True)
class Models:
    """The SFT model with the adapters on it, its sampler, the reward, and the second reward that may judge."""

    base: SharedBase
    sampler: Sampler
    reward: Reward
    judge: Reward | None


class Pipeline:
    """The stages of one configuration; asking for one builds those it needs.

    `finished` holds those asked for; `program` is the bytes on the device that the process holds without a model.
    A signal that `stop` receives while a stage is built has it save, and ends the process.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE, stop: StopSignals | None = None) -> None:
        self.config, self.ranks, self.stop = config, ranks, stop or StopSignals()
        prepare_torch(config.model.threads)
        self.device = resolve_device(config.device, config.device_memory)
        self.source = load_source(config.data)
        self.prompts = evaluation_prompts(config, self.source)
        self.program = 0.0 if self.device.type == "cuda" else float(psutil.Process().memory_info().rss)
        self.finished: dict[str, Finished] = {}

    def build(self) -> None:
        """Build all stages, before any model is loaded to stay; of several ranks one builds, the others find them.

        Raises CheckError where a stage's result is not fit to go on with.
        """
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
            figures = self.finished_reward(name).figures
            if settings_of(self.config.reward, name).function is None:
                check_reward(name, figures, self.config.checks)
        self.baseline()
        if not self.asks_endpoint:
            self.baseline_figures()

    def _rewards(self) -> list[str]:
        return [REWARD, JUDGE] if self.config.judge.second_reward else [REWARD]

    @property
    def asks_endpoint(self) -> bool:
        """Whether figures come from a language model elsewhere, whose answers may fail: they are not cached."""
        return self.config.judge.asks_endpoint or self.config.factuality.asks_endpoint

    def base(self) -> tuple[str | None, str]:
        """Return where the model to fine-tune lies, pretrained here or `model.path`, and its key.

        It lies nowhere where `pretrain.steps` is 0: it is made of random weights whenever it is needed.
        """
        model = self.config.model
        if model.path is not None:
            path = expand(model.path)
            return path, str(fingerprint(path))
        if self.config.pretrain.steps == 0:
            return None, Stage("random", PRETRAIN_VERSION, self._reads("pretrain")).key
        done = self._finish("pretrain", PRETRAIN_VERSION, [], partial(pretrain, self.config, self.source))
        return str(done.directory), done.key

    def sft(self) -> tuple[str | None, str]:
        """Return where the SFT model lies and its key: fine-tuned here, or the base where `sft.epochs` is 0."""
        path, key = self.base()
        if self.config.sft.epochs == 0:
            return path, key
        done = self._finish("sft", SFT_VERSION, [key], partial(sft, self.config, self.source, path))
        return str(done.directory), done.key

    def planned_sft(self) -> str | None:
        """Return where the SFT model lies or will lie, building nothing; None where its weights are random."""
        config, cache = self.config, Path(self.config.cache_dir)
        pretrained = Stage("pretrain", PRETRAIN_VERSION, self._reads("pretrain"))
        path, key = str(cache / pretrained.place), pretrained.key
        if config.model.path is not None:
            path = expand(config.model.path)
            key = str(fingerprint(path))
        elif config.pretrain.steps == 0:
            path, key = None, Stage("random", PRETRAIN_VERSION, self._reads("pretrain")).key
        if config.sft.epochs == 0:
            return path
        return str(cache / Stage("sft", SFT_VERSION, self._reads("sft"), [key]).place)

    def sft_figures(self) -> dict[str, Any]:
        """Return what the SFT model's own responses are like, on the tuning split."""

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            return measure_sft(self.config, self.source, *self.load_base(progress=progress))

        return self._finish("sft_figures", FIGURES_VERSION, [self.sft()[1]], build).figures

    def samples(self) -> Finished:
        """Draw the SFT model's responses that reward models learn from and are measured on."""

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            return draw_samples(self.config, self.source, *self.load_base(progress=progress), directory)

        return self._finish("samples", SAMPLES_VERSION, [self.sft()[1]], build)

    def reward(self, name: str = REWARD, member: int = 0) -> Finished:
        """Train one reward model: the one to optimize, a member of its ensemble, or the second one that judges text."""
        samples = self.samples()

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            loaded, drawn = self.load_base(progress=progress), load_samples(samples.directory)
            return train_reward(self.config, self.source, *loaded, drawn, directory, name, member, progress)

        reads = self._reads("reward") | self._reward_reads(name, member)
        return self._finish(member_name(name, member), REWARD_VERSION, [samples.key], build, reads)

    def ensemble(self) -> Finished:
        """Measure the scale and the figures of several reward models together."""
        members = [self.reward(REWARD, member) for member in range(self.config.reward.members)]
        samples = self.samples()

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            base, sampler = self.load_base(progress=progress)
            drawn, together = load_samples(samples.directory), RewardEnsemble(self.config.reward, self._members(base))
            return combine_rewards(together, self.config, self.source, base, sampler, drawn, directory)

        return self._finish("ensemble", ENSEMBLE_VERSION, [member.key for member in members], build)

    def finished_reward(self, name: str = REWARD) -> Finished:
        """Return what PPO optimizes, or the judge: an ensemble where there are several members."""
        return self.ensemble() if name == REWARD and self.config.reward.members > 1 else self.reward(name)

    def baseline(self) -> Finished:
        """Draw the SFT model's responses to the evaluation prompts."""

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            return draw_baseline(self.config, self.prompts, *self.load_base(progress=progress), directory)

        return self._finish("baseline", BASELINE_VERSION, [self.sft()[1]], build)

    def baseline_figures(self) -> Finished:
        """Measure the SFT model and its controls, by a judge that costs nothing to ask."""

        def build(directory: Path, progress: Progress) -> dict[str, Any]:
            evaluator = self.evaluator(self.load(progress=progress), self.config)
            write_json(directory / "figures.json", measure_baseline(evaluator, self.load_baseline()))
            return {}

        parents = [self.baseline().key, *(self.finished_reward(name).key for name in self._rewards())]
        return self._finish("baseline_figures", BASELINE_FIGURES_VERSION, parents, build)

    def measured_baseline(self, evaluator: Evaluator) -> dict[str, Any]:
        """Return the baseline's figures: cached, or where an endpoint is asked measured by this run's evaluator."""
        if self.asks_endpoint:
            return measure_baseline(evaluator, self.load_baseline())
        return self._cached_figures

    def load_baseline(self) -> Baseline:
        """Return the drawn responses of the SFT model."""
        return self._baseline

    @cached_property
    def _baseline(self) -> Baseline:
        return load_baseline(self.baseline().directory)

    @cached_property
    def _cached_figures(self) -> dict[str, Any]:
        return read_json(self.baseline_figures().directory / "figures.json")

    def read(self) -> None:
        """Read what is asked for at a run's end too: the cache may be gone by then."""
        self.load_baseline()
        if not self.asks_endpoint:
            _ = self._cached_figures

    def load(self, ranks: Ranks = ALONE, progress: Progress = NOT_KEPT) -> Models:
        """Load a fresh copy of all models that PPO and evaluation read."""
        base, sampler = self.load_base(ranks, progress, quick=True)
        judge = self._load_reward(base, JUDGE) if JUDGE in self._rewards() else None
        reward = self._load_reward(base, REWARD)
        if self.config.ppo.raw_scores:
            reward.use_raw()
        return Models(base, sampler, reward, judge)

    def load_base(
        self, ranks: Ranks = ALONE, progress: Progress = NOT_KEPT, quick: bool = False
    ) -> tuple[SharedBase, Sampler]:
        """Load a fresh copy of the SFT model, to carry adapters, and the sampler of its tokenizer.

        What the sampler is asked for are pieces of the `progress` of a stage. What stages train is kept, and so stays
        the same to the last bit: `quick` is for the runs on them.
        """
        path, _ = self.sft()
        model, place = self.config.model, CPU if self.sharded else self.device
        with kept_random_state():
            lm, tokenizer = load_model(self.config, self.source, path, model, place)
        lm = shard(lm, self.device, self.ranks) if self.sharded else lm
        base = SharedBase(lm, lasting_path(path), model.gradient_checkpointing, quick)
        if self.sharded:
            # the parts of a layer come together in its forward pass only
            by_model = replace(self.config.rollout, engine="hf")
            sampler = Sampler(tokenizer, by_model, self.device, agree=self.ranks.broadcast)
        else:
            sampler = Sampler(tokenizer, self.config.rollout, self.device, ranks)
        return base, sampler.in_pieces(progress.piece)

    def _load_reward(self, base: SharedBase, name: str) -> Reward:
        settings, directory = settings_of(self.config.reward, name), self.finished_reward(name).directory
        if settings.is_external:
            return load_external(settings, self.config.model.dtype, self.device).load(directory)
        if name == REWARD and settings.members > 1:
            return RewardEnsemble(settings, self._members(base)).load(directory)
        return self._trained(base, name)

    def _members(self, base: SharedBase) -> list[RewardModel]:
        return [self._trained(base, REWARD, member) for member in range(self.config.reward.members)]

    def _trained(self, base: SharedBase, name: str, member: int = 0) -> RewardModel:
        settings = settings_of(self.config.reward, name)
        model = RewardModel.create(base, settings, member_name(name, member), self.config.rollout.temperature)
        return model.load(self.reward(name, member).directory)

    def evaluator(self, models: Models, config: Config) -> Evaluator:
        """Return what evaluates the policies of a run of `config`, which shares these models."""
        drawn, regularizer = self.load_baseline(), Regularizer.create(config.regularizer)
        by_model = models.reward if config.judge.name == "reward" else models.judge
        by_judge = None if by_model is None else partial(score, by_model, models.sampler)
        resources = Resources(self.source, self.prompts, by_judge, self.ranks.run_on_main)
        return Evaluator(
            config,
            self.source,
            models.sampler,
            models.base.reference(),
            models.reward,
            load_judge(config.judge, resources),
            self.prompts,
            drawn.references,
            drawn.greedy,
            load_factuality(config.factuality, resources),
            regularizer,
        )

    def _reads(self, stage: str) -> dict[str, Any]:
        """What a stage reads of the configuration and the data, and of what comparisons it learns, if of any."""
        compared = stage in ("reward", "ensemble", "baseline_figures")
        everyone = {"source": self.source.fingerprint(compared), "seed": self.config.data_seed}
        return everyone | picked(asdict(self.config), READS[stage])

    def _reward_reads(self, name: str, member: int) -> dict[str, Any]:
        """What one reward model reads: a first member reads what a single model does, so that they share one stage."""
        settings = settings_of(self.config.reward, name)
        reads = {name: value for name, value in asdict(settings).items() if name not in ENSEMBLE and value is not None}
        more = {"member": member, "resample": settings.resample} if member else {}
        return {"reward": reads | more} | ({"given": external_fingerprint(settings)} if settings.is_external else {})

    def _finish(
        self,
        name: str,
        version: int,
        parents: list[str],
        build: Build,
        reads: dict[str, Any] | None = None,
    ) -> Finished:
        if name not in self.finished:
            stage = Stage(name, version, self._reads(name) if reads is None else reads, parents)
            finish_here = self._finish_together if self.sharded else finish
            with kept_random_state():  # building seeds the global generators
                done = finish_here(Path(self.config.cache_dir), stage, partial(self._go_on, stage, build))
            self.finished[name] = done
            origin = f"built in {done.seconds:.0f} s" if done.built_now else "from the cache"
            log.info(f"{name}: {', '.join([origin, *describe(done.figures)])}")
        return self.finished[name]

    def _go_on(self, stage: Stage, build: Build, directory: Path) -> dict[str, Any]:
        """Build a stage from where it was stopped, if it was."""
        folder = unfinished_work(Path(self.config.cache_dir), stage)
        ranks = self.ranks if self.sharded else ALONE
        saver = Saver(folder, self.stop, self.config.checkpoint_seconds, ranks, device=self.device)
        progress = Progress(stage.name, saver)
        figures = build(directory, progress)
        check_finite(stage.name, figures, "look at the data, and the weights that it starts from")
        return figures

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


def member_name(name: str, member: int) -> str:
    """Return the name of a reward model's stage and adapter."""
    return f"{name}_{member}" if member else name


def describe(figures: dict[str, Any]) -> list[str]:
    """Figures in words."""
    return [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]


def lasting_path(path: str | None) -> str:
    """What an adapter remembers of its base: a directory in full, a hub id as it is, of random weights nothing."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path or ""
