"""The value function, in three forms (and none at all) that differ in whose states they read, and so in price.

`reward_features` reads the frozen reward model's states, which scoring has computed already: no pass. `head` reads
the policy's own states: no second trunk. `adapter` reads those of a LoRA adapter of its own: a second pass, forward
and back; that adapter is on the shared base, or as published on a copy of the reward model.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.config.models import ValueConfig
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import ExternalReward
from rlhf.models.layers import state_width
from rlhf.models.logprobs import Tokens
from rlhf.models.reward import RewardModel
from rlhf.validate import check

ADAPTER = "value"

Reward = RewardModel | RewardEnsemble | ExternalReward

States = Float[Tensor, "batch response hidden"]
Features = Float[Tensor, "batch response features"]
Values = Float[Tensor, "batch response"]


class Value(nn.Module):
    """Predicts the return from before each response token, in the reward's units."""

    reads_features = False

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        """`policy_states` are the policy's, before each response token; `features` come from `reward_features`."""
        raise TypeError("choose one of VALUES")

    def weights(self) -> list[nn.Parameter]:
        """All that the value's optimizer trains."""
        return list(self.parameters())

    def remove(self) -> None:
        """Take what the value has added to the base off it again."""


class RewardFeaturesValue(Value):
    """The reward model's running score (if init is `reward`) plus a network on its states, 0 at first."""

    reads_features = True

    def __init__(self, hidden_size: int, config: ValueConfig) -> None:
        super().__init__()
        self.starts_from_score = config.init == "reward"
        self.network = nn.Sequential(
            nn.Linear(hidden_size + 1, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, 1)
        )
        _zero(self.network[2])

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        correction = self.network(features).squeeze(-1)
        return correction + features[..., -1] if self.starts_from_score else correction


class HeadValue(Value):
    """A linear head on the policy's states, starting at 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        _zero(self.linear)

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        assert policy_states is not None
        return self.linear(policy_states.float()).squeeze(-1)


class AdapterValue(Value):
    """An adapter with a score head: the reward model's, copied whole (init is `reward`), or a fresh one, its head at 0.

    An additive head says nothing before the response begins; a linear correction, 0 at first, can.
    """

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model, self.trunk = model, model.trunk
        self.head = model.head  # as a module, so that its weights are this one's
        self.correction = nn.Linear(state_width(self.trunk.lm), 1)
        _zero(self.correction)

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        hidden, running_scores = self.model.running_scores(batch, ref_logprobs)
        values = running_scores + self.correction(hidden.float()).squeeze(-1)
        return batch.before_responses(values)

    def weights(self) -> list[nn.Parameter]:
        return self.trunk.parameters() + list(self.parameters())

    def remove(self) -> None:
        self.trunk.remove()


class BackboneValue(Value):
    """A fresh adapter on weights of its own, the reward model's, and a linear head at 0 (arXiv 2309.09055).

    At padding states are 0, and the value is the head's bias.
    """

    def __init__(self, trunk: Role) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(state_width(trunk.lm), 1)
        _zero(self.head)

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        return self.head(batch.before_responses(self.trunk.hidden(batch)).float()).squeeze(-1)

    def train(self, mode: bool = True) -> "BackboneValue":
        """Turn dropout on or off, the adapter's too."""
        self.trunk.lm.train(mode)
        return super().train(mode)

    def weights(self) -> list[nn.Parameter]:
        return self.trunk.parameters() + list(self.parameters())


def reward_features(
    hidden: Float[Tensor, "batch length hidden"], running_scores: Float[Tensor, "batch length"], batch: Batch
) -> Float[Tensor, "batch response features"]:
    """The reward model's state and running score before each response token, the score last."""
    return batch.before_responses(torch.cat([hidden.float(), running_scores[..., None]], dim=-1))


def _reward_features_value(base: SharedBase, reward: Reward, config: ValueConfig) -> Value:
    return RewardFeaturesValue(state_width(base.lm), config)


def _head_value(base: SharedBase, reward: Reward, config: ValueConfig) -> Value:
    return HeadValue(state_width(base.lm))


def check_words(config: ValueConfig, policy: int, reward: int) -> None:
    """Raise ConfigError where the value is to be a copy of a reward model that embeds other tokens than the policy."""
    allowed = f"the reward model embeds {reward} tokens, and the policy writes in {policy}: use value.init=zero"
    check(policy == reward, "value.init", config.init, allowed)


def _backbone_value(base: SharedBase, source: RewardModel | ExternalReward, config: ValueConfig) -> Value:
    backbone = source.backbone if isinstance(source, ExternalReward) else source.trunk
    assert backbone is not None
    role = Role(backbone) if isinstance(backbone, PreTrainedModel) else backbone
    words = [lm.get_input_embeddings().num_embeddings for lm in (base.lm, role.lm)]  # pyright: ignore[reportAttributeAccessIssue]
    check_words(config, *map(int, words))  # pyright: ignore[reportArgumentType]
    own = SharedBase(role.copy().to(base.lm.dtype), "", base.recompute, base.quick)  # pyright: ignore[reportArgumentType]
    return BackboneValue(own.add(ADAPTER, config.lora, trainable=True))


def _adapter_value(base: SharedBase, reward: Reward, config: ValueConfig) -> Value:
    source = reward.members[0] if isinstance(reward, RewardEnsemble) else reward
    if config.init == "backbone":
        return _backbone_value(base, source, config)
    reads = source.config.logprobs if isinstance(source, RewardModel) and config.init != "zero" else "none"
    temperature = source.temperature if isinstance(source, RewardModel) else 1.0
    settings = replace(source.config, backbone="adapter", path=None, function=None, logprobs=reads)
    model = RewardModel.create(base, settings, ADAPTER, temperature)
    _zero(model.head.linear)
    if config.init != "zero":
        assert isinstance(source, RewardModel)
        model.trunk.load_state(source.trunk.state())
        model.head.load_state_dict(source.head.state_dict())
    return AdapterValue(model)


class NoValue(Value):
    """0 everywhere, and nothing to train: for algorithms that compare returns with each other."""

    def forward(self, batch: Batch, policy_states: States | None, features: Features, ref_logprobs: Tokens) -> Values:
        return torch.zeros(batch.mask.shape, device=batch.mask.device)


VALUES: dict[str, Callable[[SharedBase, Reward, ValueConfig], Value]] = {
    "reward_features": _reward_features_value,
    "head": _head_value,
    "adapter": _adapter_value,
    "none": lambda base, reward, config: NoValue(),
}


def build_value(base: SharedBase, reward: Reward, config: ValueConfig) -> Value:
    return VALUES[config.name](base, reward, config).to(base.lm.device)


def _zero(linear: nn.Module) -> None:
    assert isinstance(linear, nn.Linear)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
