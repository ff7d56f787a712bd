"""A configured regularizer: a form of `rlhf.regularizers`, where its penalty is placed, and its coefficient.

The tokens of an older policy are weighted by the ratio p / p_old, so that value and gradient in the loss stay those of
an expectation under p. Where advantages are whitened, the loss is divided by the same deviation, so that a coefficient
weighs the same in either place.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from rlhf.config.rl import RegularizerConfig
from rlhf.errors import ConfigError
from rlhf.regularizers import FULL_FORMS, SAMPLED_FORMS, FullForm, Logprobs, Penalty, SampledForm
from rlhf.rl.loss import probability_ratio

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Regularizer:
    """A form and its placement; one of `sampled` and `full` is set."""

    sampled: SampledForm | None
    full: FullForm | None
    in_reward: bool
    in_loss: bool

    @classmethod
    def create(cls, config: RegularizerConfig) -> "Regularizer":
        """The one that is configured; raises ConfigError where a custom one can't be imported."""
        in_reward, in_loss = config.placement in ("reward", "both"), config.placement in ("loss", "both")
        if config.name in FULL_FORMS:
            options = {"alpha": config.alpha} if config.name == "full_alpha" else {}
            return cls(None, partial(FULL_FORMS[config.name], **options), in_reward, in_loss)
        sampled = custom_form(config.function) if config.name == "custom" else SAMPLED_FORMS[config.name]
        return cls(sampled, None, in_reward, in_loss)

    def penalties(self, logprobs: Logprobs, ref_logprobs: Logprobs, divergence: Penalty) -> Penalty:
        """The form's value at each token; `divergence` is that of a full-vocabulary form."""
        return divergence if self.sampled is None else self.sampled(logprobs, ref_logprobs)

    def loss(self, logprobs: Logprobs, old_logprobs: Logprobs, ref_logprobs: Logprobs, divergence: Penalty) -> Penalty:
        """The loss per token, before its coefficient; 0 where the placement is the reward alone.

        `old_logprobs` are those of the policy that sampled the tokens. A full-vocabulary `divergence` needs no ratio.
        """
        if not self.in_loss:
            return torch.zeros_like(logprobs)
        if self.sampled is None:
            return divergence
        return probability_ratio(logprobs, old_logprobs).detach() * self.sampled(logprobs, ref_logprobs)


def custom_form(function: dict[str, Any] | None) -> SampledForm:
    """A function (logprobs, ref_logprobs) -> penalty of the user's: `_target_` is its dotted path, the rest keywords.

    It gets float32 tensors of one shape, and gives one of that shape. Raises ConfigError where it can't be imported, or
    does not do so when tried.
    """
    assert function is not None
    refused = f"regularizer.function._target_={function['_target_']} is not allowed"
    try:
        form = instantiate(function, _partial_=True, _recursive_=False)
    except InstantiationException as error:
        raise ConfigError(f"{refused}: {str(error).splitlines()[0]}") from error

    def penalty(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
        try:
            result = form(logprobs.float(), ref_logprobs.float())
        except TypeError as error:
            raise ConfigError(f"{refused}: it must take log-probabilities of policy and reference ({error})") from error
        if not isinstance(result, Tensor) or result.shape != logprobs.shape:
            raise ConfigError(f"{refused}: it must return a tensor of its arguments' shape")
        return result

    penalty(torch.zeros(1, 2), torch.zeros(1, 2))
    return penalty


# ---- The coefficient. ---------------------------------------------------------------------------------------------

LARGEST_CHANGE = 10.0
"""An adaptive coefficient stays between its start over this and its start times this."""


def clipped_error(value: float, target: float) -> float:
    """The relative deviation from the target, between -0.2 and 0.2."""
    return min(max(value / target - 1, -0.2), 0.2)


class Coefficient:
    """The weight of the penalty: constant, linear in the PPO step, or following the true KL or the penalty.

    The adaptive rule is that of Ziegler et al. (arXiv 1909.08593, section 2.2): a proportional controller in log space,
    whose error is the relative deviation from the target, clipped at 0.2. Unlike theirs, it is bounded. The published
    one (the code of arXiv 2309.09055) follows the penalty's sum over a response, by a gain of its own, without bounds.
    """

    def __init__(self, config: RegularizerConfig, steps: int) -> None:
        """`steps` is the number of PPO steps; with schedule=linear the last has the weight `end_coef`."""
        self.config, self.steps = config, steps
        self.start = self.value = config.strength * config.coef
        self.step_count = 0
        self.warned = False

    def update(self, true_kl: float, penalty: float, responses: int) -> None:
        """After a PPO step: `true_kl` in nats per token and `penalty` per response, over its rollout of `responses`."""
        self.step_count += 1
        config = self.config
        if config.schedule == "adaptive":
            assert config.horizon is not None  # the whole configuration has filled it in
            error = clipped_error(true_kl, config.target_kl)
            self.value = self._bounded(self.value * (1 + error * responses / config.horizon))
        elif config.schedule == "published":
            self.value *= 1 + config.k_beta * clipped_error(min(max(penalty, 1e-6), 500.0), config.target_penalty)
        elif config.schedule == "linear":
            progress = min(1.0, self.step_count / max(1, self.steps - 1))
            self.value = config.strength * (config.coef + progress * (config.end_coef - config.coef))

    def _bounded(self, value: float) -> float:
        """The value, or the bound that it would pass; the first time that is said on the console."""
        bounded = min(max(value, self.start / LARGEST_CHANGE), self.start * LARGEST_CHANGE)
        if bounded != value and not self.warned:
            self.warned = True
            side = "above" if bounded < value else "below"
            log.info(
                f"regularizer: the true KL stays {side} regularizer.target_kl={self.config.target_kl}; the coefficient "
                f"goes from its start {self.start:g} to {bounded:g} and no further"
            )
        return bounded
