"""What runs share in one process: the data, the SFT model, the reward, the judge and the sampler, loaded once.

A run adds a learner: an adapter, an optimizer and random generators of its own. So several learners can work on one
Setting, one after another or stepped in turn, and each computes what it would compute alone, to the last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rlhf.config.run import Config
from rlhf.config.stages import SETTING, identity, picked
from rlhf.data.source import Prompt, Source
from rlhf.errors import ConfigError
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.memory import Estimate
from rlhf.models.sampler import Sampler
from rlhf.models.value import Reward
from rlhf.process.distributed import ALONE, Ranks
from rlhf.process.signals import StopSignals
from rlhf.stages.baseline import evaluation_at_start
from rlhf.stages.evaluator import Evaluation, Evaluator
from rlhf.stages.learner import Learner
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.preflight import check_memory, check_run, checked_pipeline, memory_estimate
from rlhf.stages.published import build_learner


class Setting:
    """The stages of a configuration, built or found in the cache, and their models in memory; a context manager."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Load what `pipeline`, which is built, has left."""
        self.pipeline, self.config, self.ranks = pipeline, pipeline.config, pipeline.ranks
        self.models = pipeline.load(pipeline.ranks)
        pipeline.read()
        self.key = setting_key(self.config)

    @classmethod
    def open(cls, config: Config, ranks: Ranks = ALONE, stop: StopSignals | None = None) -> "Setting":
        """Check the configuration, build its stages where the cache lacks them, and load the models.

        A stage is saved as it is built, and when `stop` has received a signal, which then ends the process.
        Raises UserError (ConfigError, DataError, CheckError) where it can't be run.
        """
        pipeline = _checked.pop() if _checked and _checked[0].config is config else checked_pipeline(config, ranks)
        pipeline.stop = stop or pipeline.stop
        pipeline.build()
        return cls(pipeline)

    def __enter__(self) -> "Setting":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the models."""
        del self.models

    @property
    def source(self) -> Source:
        """The data."""
        return self.pipeline.source

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts of the evaluation."""
        return self.pipeline.prompts

    @property
    def base(self) -> SharedBase:
        """The SFT model, which carries the adapters."""
        return self.models.base

    @property
    def reference(self) -> Role:
        """The SFT model itself, adapters off."""
        return self.models.base.reference()

    @property
    def reward(self) -> Reward:
        """The reward model, or the ensemble of them."""
        return self.models.reward

    @property
    def sampler(self) -> Sampler:
        """What draws responses from the policy and the reference."""
        return self.models.sampler

    def learner(self, config: Config | None = None) -> Learner:
        """Return a new learner for a run of `config`, by default the Setting's own.

        Raises ConfigError where that run reads something else than this Setting holds, or can't be run.
        """
        config = self._shared(config)
        if config is not self.config:  # which was checked when the Setting was opened
            check_run(self.pipeline, config)
            check_memory(self.pipeline, config)
        return build_learner(config, self.source, self.base, self.reward, self.sampler, self.ranks)

    def memory(self, config: Config) -> Estimate:
        """Return the estimated memory of a run."""
        return memory_estimate(config, self.pipeline.ranks.size, self.pipeline.program)

    def evaluator(self, config: Config | None = None) -> Evaluator:
        """Return what evaluates the policies of a run of `config`, by default the Setting's own."""
        return self.pipeline.evaluator(self.models, self._shared(config))

    def evaluate(self, policy: Role, config: Config | None = None, coef: float = 0.0) -> dict[str, Any]:
        """Return the figures of metrics.json for a policy; `coef` weighs the penalty in `objective`."""
        evaluator = self.evaluator(config)
        return evaluator(policy, evaluator.config.seed, coef).figures

    def baseline(self, evaluator: Evaluator) -> dict[str, Any]:
        """Return the SFT model's `own` figures, the `scores` of its own draw, and its `controls` by temperature."""
        return self.pipeline.measured_baseline(evaluator)

    def evaluation_at_start(self, evaluator: Evaluator) -> Evaluation | None:
        """Return the evaluation before the first step, where the policy is the SFT model and that is measured."""
        config = evaluator.config
        is_reference = config.lora.path is None and config.evaluation.best_of == 1
        if self.pipeline.asks_endpoint or not is_reference or config.regularizer.name == "custom":
            return None
        return evaluation_at_start(self.pipeline.load_baseline(), self.baseline(evaluator))

    def _shared(self, config: Config | None) -> Config:
        """The configuration of a run, if it shares what is loaded; raises ConfigError, naming what differs."""
        if config is None or config is self.config:
            return self.config
        own, asked = (picked(asdict(each), SETTING) for each in (self.config, config))
        if asked != own:
            differing = ", ".join(sorted(name for name in own | asked if own.get(name) != asked.get(name)))
            raise ConfigError(f"this run can't share the open Setting, from which it differs in {differing}")
        return config


def setting_key(config: Config) -> str:
    """Return what runs must have alike to share a Setting, as a SHA-256."""
    return identity(asdict(config), SETTING)


_checked: list[Pipeline] = []
"""What `check_before` has read for a run that is about to begin; at most one."""

_kept: list[Setting] = []
"""The Setting that this process has opened last; at most one."""


def check_before(config: Config, ranks: Ranks = ALONE) -> None:
    """Raise UserError where a run can't be done; what is read for that serves the run's Setting."""
    _checked.clear()
    if _kept and ranks.size == 1 and _kept[0].key == setting_key(config):
        check_run(_kept[0].pipeline, config)
    else:
        _checked.append(checked_pipeline(config, ranks))


@contextmanager
def lent_setting(config: Config, ranks: Ranks = ALONE, stop: StopSignals | None = None) -> Iterator[Setting]:
    """Lend a Setting to one run, and keep it for the next one of this process that can share it.

    A run that fails or is stopped leaves none behind, and a run of several processes shares none.
    """
    setting = _kept.pop() if _kept else None
    if setting is not None and (ranks.size > 1 or setting.key != setting_key(config)):
        setting.close()
        setting = None
    if setting is None:
        setting = Setting.open(config, ranks, stop)
    yield setting
    _kept.append(setting)
