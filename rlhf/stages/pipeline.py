"""What comes before PPO: each stage from the cache or built now, and what each one's result depends on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.config import ChecksConfig, Config
from rlhf.data.load import load_source
from rlhf.data.world import World
from rlhf.errors import CheckError
from rlhf.evaluation.judge import Judge, ScoreJudge
from rlhf.infra.cache import Finished, Stage, finish
from rlhf.infra.progress import console
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import fingerprint, load_backbone, prepare_torch, resolve_device
from rlhf.models.reward import RewardModel
from rlhf.rl.rollout import Sampler
from rlhf.stages.baseline import VERSION as BASELINE_VERSION
from rlhf.stages.baseline import draw_baseline, evaluation_prompts, load_baseline
from rlhf.stages.evaluate import Evaluator, score_with
from rlhf.stages.pretrain import VERSION as PRETRAIN_VERSION
from rlhf.stages.pretrain import pretrain
from rlhf.stages.reward import VERSION as REWARD_VERSION
from rlhf.stages.reward import train_reward
from rlhf.stages.sft import VERSION as SFT_VERSION
from rlhf.stages.sft import sft


class Pipeline:
    """The stages of one configuration; asking for one builds those it needs. `finished` tells which were asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        prepare_torch(config.model.threads)
        self.device = resolve_device(config.device)
        self.source = load_source(config.data)
        self.finished: dict[str, Finished] = {}

    def base(self) -> tuple[str, str]:
        """Where the model to fine-tune lies and the key it is known by: pretrained here, or `model.path`."""
        path = self.config.model.path
        if path is not None:
            return path, str(fingerprint(path))
        reads = {"model": self.config.model, "pretrain": self.config.pretrain}
        done = self._finish("pretrain", PRETRAIN_VERSION, reads, [], partial(pretrain, self.config, self.source))
        return str(done.directory), done.key

    def sft(self) -> Finished:
        path, key = self.base()
        reads = {"sft": self.config.sft, "factuality": self.config.factuality, "decoding": self._decoding()}
        done = self._finish("sft", SFT_VERSION, reads, [key], partial(sft, self.config, self.source, path))
        check_factuality(done.figures["factuality"], self.config.checks)
        return done

    def reward(self, judge: bool = False) -> Finished:
        """The reward model, or the second one that judges text."""
        name = "judge" if judge else "reward"
        reads = {"reward": self.config.reward, "dtype": self.config.model.dtype, "decoding": self._decoding()}

        def build(directory: Path) -> dict[str, Any]:
            return train_reward(self.config, self.source, *self.load_base(), directory, judge)

        done = self._finish(name, REWARD_VERSION, reads | {"judge": judge}, [self.sft().key], build)
        check_reward(name, done.figures, self.config.checks)
        return done

    def baseline(self) -> Finished:
        settings = self.config.evaluation
        wanted = {name: getattr(settings, name) for name in ("split", "prompts", "references", "temperature")}
        reads = {"evaluation": wanted, "dtype": self.config.model.dtype, "decoding": self._decoding()}

        def build(directory: Path) -> dict[str, Any]:
            return draw_baseline(self.config, self.source, *self.load_base(), directory)

        return self._finish("baseline", BASELINE_VERSION, reads, [self.sft().key], build)

    def load_base(self) -> tuple[SharedBase, Sampler]:
        """A fresh copy of the SFT model, to carry adapters, and the sampler of its tokenizer."""
        lm, tokenizer = load_backbone(self.sft().directory, self.config.model.dtype)
        return SharedBase(lm.to(self.device)), Sampler(tokenizer, self.config.rollout, self.device)  # pyright: ignore[reportArgumentType]

    def load_reward(self, base: SharedBase, judge: bool = False) -> RewardModel:
        done = self.reward(judge)
        return RewardModel.create(base, self.config.reward, done.directory.name.split("-")[0]).load(done.directory)

    def evaluator(self, base: SharedBase, reward: RewardModel, sampler: Sampler) -> Evaluator:
        _, references = load_baseline(self.baseline().directory)
        prompts = evaluation_prompts(self.config, self.source)
        judge = self._judge(base, sampler)
        return Evaluator(self.config, self.source, sampler, base.reference(), reward, judge, prompts, references)

    def _judge(self, base: SharedBase, sampler: Sampler) -> Judge:
        if self.config.judge.name == "reward_model":
            return ScoreJudge(score_with(self.load_reward(base, judge=True), sampler))
        source = self.source
        assert isinstance(source, World)
        return ScoreJudge(lambda prompts, responses: list(map(source.utility, prompts, responses)))

    def _decoding(self) -> dict[str, Any]:
        """What of the rollout's settings acts on stages before PPO."""
        names = ("max_prompt_tokens", "max_response_tokens", "temperature", "decode_batch_size")
        return {name: getattr(self.config.rollout, name) for name in names}

    def _finish(
        self,
        name: str,
        version: int,
        reads: dict[str, Any],
        parents: list[str],
        build: Callable[[Path], dict[str, Any]],
    ) -> Finished:
        if name not in self.finished:
            everyone = {"data": self.source.fingerprint(), "seed": self.config.data.seed}
            done = finish(Path(self.config.cache_dir), Stage(name, version, everyone | reads, parents), build)
            self.finished[name] = done
            origin = f"built in {done.seconds:.0f} s" if done.built_now else "from the cache"
            console.print(f"{name}: {origin}, {describe(done.figures)}")
        return self.finished[name]


def describe(figures: dict[str, Any]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def check_factuality(factuality: float | None, checks: ChecksConfig) -> None:
    """Raises CheckError where the SFT model's factuality leaves PPO nothing to show."""
    if factuality is None:
        return
    if checks.min_factuality is not None and factuality < checks.min_factuality:
        raise CheckError(
            f"the SFT model's factuality is {factuality:.1f} %, below checks.min_factuality={checks.min_factuality}: "
            "it has not learnt its facts; raise pretrain.steps or sft.epochs"
        )
    if checks.max_factuality is not None and factuality > checks.max_factuality:
        raise CheckError(
            f"the SFT model's factuality is {factuality:.1f} %, above checks.max_factuality={checks.max_factuality}: "
            "PPO could hardly change it; lower pretrain.steps or sft.epochs"
        )


def check_reward(name: str, figures: dict[str, Any], checks: ChecksConfig) -> None:
    """Raises CheckError where a reward model has learnt too little to be optimized."""
    accuracy, error = figures["accuracy"], figures["accuracy_se"]
    if accuracy < checks.min_accuracy:
        raise CheckError(
            f"the {name} model ranks {100 * accuracy:.1f} % (standard error {100 * error:.1f}) of the pairs kept aside "
            f"as their annotator did, below checks.min_accuracy={checks.min_accuracy}: it has learnt too little; "
            "raise reward.epochs or give it more comparisons"
        )
    agreement = figures.get("oracle_agreement")
    if agreement is not None and checks.min_oracle_agreement is not None and agreement < checks.min_oracle_agreement:
        raise CheckError(
            f"the {name} model agrees with the oracle on {100 * agreement:.1f} % of the pairs kept aside, below "
            f"checks.min_oracle_agreement={checks.min_oracle_agreement}: raise reward.epochs or data.comparison_prompts"
        )
