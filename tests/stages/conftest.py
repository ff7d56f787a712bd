"""A PPO learner on the tiny model and a small world, without any stage trained before it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from rlhf.config.data import WorldConfig
from rlhf.config.run import Config
from rlhf.data.world import World
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import build_backbone
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.reward import RewardModel
from rlhf.models.sampler import Sampler
from rlhf.stages.learner import Learner
from rlhf.stages.published import build_learner
from tests.configure import configure


@dataclass
class Setting:
    """Untrained roles of a smoke configuration."""

    config: Config
    source: World
    base: SharedBase
    sampler: Sampler
    reward: RewardModel | RewardEnsemble

    @property
    def members(self) -> list[RewardModel]:
        """Of a reward that is no ensemble, itself."""
        return self.reward.members if isinstance(self.reward, RewardEnsemble) else [self.reward]

    def learner(self) -> Learner:
        return build_learner(self.config, self.source, self.base, self.reward, self.sampler)


MakeSetting = Callable[..., Setting]


@pytest.fixture(scope="session")
def make_setting() -> MakeSetting:
    """Untrained roles for `experiment=smoke` with overrides; reward models are moved away from their start."""

    def make(*overrides: str) -> Setting:
        config = configure("experiment=smoke", "model.initializer_range=0.2", *overrides)
        assert isinstance(config.data, WorldConfig)
        source, device = World(config.data), torch.device("cpu")
        torch.manual_seed(0)
        tokenizer = source.build_tokenizer(config.model.vocab_size)
        base = SharedBase(build_backbone(config.model, tokenizer, device))
        names = ["reward", *(f"reward_{member}" for member in range(1, config.reward.members))]
        members = [RewardModel.create(base, config.reward, name, config.rollout.temperature) for name in names]
        with torch.no_grad():
            for weight in (weight for member in members for weight in member.parameters()):
                weight += 0.02 * torch.randn_like(weight)
        for member in members:
            member.freeze()
        reward = RewardEnsemble(config.reward, members) if len(members) > 1 else members[0]
        return Setting(config, source, base, Sampler(tokenizer, config.rollout, device), reward)

    return make
