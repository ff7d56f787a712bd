import pytest
import torch
from torch import Tensor

from rlhf.config.models import ValueConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import collate
from rlhf.models.reward import RewardModel
from rlhf.models.value import AdapterValue, build_value, reward_features
from tests.models.test_reward import reward_config
from tests.tiny import tiny_lm

BATCH = collate([[1, 4], [5]], [[7, 2], [9, 8, 2]], pad_id=0, device=torch.device("cpu"))

REF_LOGPROBS = torch.tensor([[-1.0, -4.0, 0.0], [-7.0, -0.5, -2.0]])


def value_config(name: str, init: str) -> ValueConfig:
    return ValueConfig(name=name, init=init, lr=1e-3, coef=0.1, clip=0.2, hidden_size=8)


def roles(backbone: str, logprobs: str = "none") -> tuple[SharedBase, RewardModel]:
    """A base with a reward model that has been moved away from its start, as training would."""
    torch.manual_seed(0)
    base = SharedBase(tiny_lm())
    reward = RewardModel.create(base, reward_config(backbone, "additive", logprobs), "reward")
    with torch.no_grad():
        for weight in reward.parameters():
            weight += 0.1 * torch.randn_like(weight)
    reward.head.standardize(torch.tensor([1.0, 2.0, 4.0]))
    return base, reward


def values(base: SharedBase, reward: RewardModel, config: ValueConfig) -> tuple[Tensor, Tensor]:
    """The values at the start, and the reward model's running scores before each response token."""
    hidden, running = reward.running_scores(BATCH, REF_LOGPROBS)
    states = BATCH.before_responses(base.reference().hidden(BATCH))
    value = build_value(base, reward, config)
    features = reward_features(hidden, running, BATCH)
    return value(BATCH, states, features, REF_LOGPROBS), BATCH.before_responses(running)


@pytest.mark.parametrize(
    ("name", "backbone"), [("reward_features", "full"), ("reward_features", "adapter"), ("adapter", "adapter")]
)
@pytest.mark.parametrize("logprobs", ["none", "reference", "own"])
def test_a_value_from_the_reward_model_starts_at_its_running_score(name: str, backbone: str, logprobs: str) -> None:
    given, expected = values(*roles(backbone, logprobs), value_config(name, "reward"))
    assert torch.allclose(given, expected, atol=1e-6)
    assert expected.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "init", "backbone"),
    [
        ("reward_features", "zero", "full"),
        ("head", "zero", "full"),
        ("adapter", "zero", "full"),
        ("adapter", "backbone", "adapter"),
    ],
)
def test_a_value_without_the_rewards_head_starts_at_zero(name: str, init: str, backbone: str) -> None:
    given, expected = values(*roles(backbone), value_config(name, init))
    assert torch.equal(given, torch.zeros_like(given))
    assert expected.abs().max() > 0


@pytest.mark.parametrize(("init", "same_trunk", "same_head"), [("reward", True, True), ("zero", False, False)])
def test_what_the_value_adapter_copies_of_the_reward_model(init: str, same_trunk: bool, same_head: bool) -> None:
    base, reward = roles("adapter")
    value = build_value(base, reward, value_config("adapter", init))
    assert isinstance(value, AdapterValue)
    own, rewards = value.trunk.state(), reward.trunk.state()
    assert own.keys() == rewards.keys()
    assert all(torch.equal(own[name], rewards[name]) for name in own) == same_trunk
    for name in ("linear.weight", "linear.bias", "mean", "deviation"):
        assert torch.equal(value.head.state_dict()[name], reward.head.state_dict()[name]) == same_head, name
    assert value.head.linear.weight.any().item() == same_head


def test_no_value_is_0_everywhere_and_trains_nothing() -> None:
    base, reward = roles("full")
    adapters = len(base.lm.state_dict())
    value = build_value(base, reward, value_config("none", "zero"))
    given = value(BATCH, None, torch.zeros(2, 3, 17), REF_LOGPROBS)
    assert torch.equal(given, torch.zeros(2, 3))
    assert not given.requires_grad
    assert value.weights() == []
    assert len(base.lm.state_dict()) == adapters


def test_the_value_adapter_can_tell_prompts_apart_before_a_response_begins() -> None:
    base, reward = roles("adapter")
    value = build_value(base, reward, value_config("adapter", "reward"))
    wanted = torch.tensor([1.0, -1.0])
    optimizer = torch.optim.Adam(value.weights(), lr=0.05)
    for _ in range(100):
        first = value(BATCH, None, torch.zeros(2, 3, 17), REF_LOGPROBS)[:, 0]
        optimizer.zero_grad()
        (first - wanted).square().sum().backward()
        optimizer.step()
    assert torch.allclose(first, wanted, atol=0.1)


def test_the_value_adapter_trains_apart_from_the_reward_adapter() -> None:
    base, reward = roles("adapter")
    value = build_value(base, reward, value_config("adapter", "reward"))
    before = reward.scores(BATCH)
    optimizer = torch.optim.Adam(value.weights(), lr=0.1)
    value(BATCH, None, torch.zeros(2, 3, 17), REF_LOGPROBS).square().sum().backward()
    optimizer.step()
    assert torch.equal(reward.scores(BATCH), before)


@pytest.mark.parametrize(("name", "expected"), [("reward_features", 17 * 8 + 8 + 8 + 1), ("head", 17)])
def test_what_the_value_trains(name: str, expected: int) -> None:
    # reward_features: 16 states and a score to 8, then 1, with biases; head: 16 states to 1, with bias
    value = build_value(*roles("full"), value_config(name, "zero"))
    assert sum(weight.numel() for weight in value.weights()) == expected


def test_features_end_in_the_running_score() -> None:
    _, reward = roles("full")
    hidden, running = reward.running_scores(BATCH)
    features = reward_features(hidden, running, BATCH)
    assert features.shape == (2, 3, 17)
    assert torch.equal(features[..., -1], BATCH.before_responses(running))
    assert torch.equal(features[..., :-1], BATCH.before_responses(hidden))


def test_a_head_on_the_policys_states_has_no_reward_model_to_start_from() -> None:
    with pytest.raises(ConfigError, match=r"value\.init=reward"):
        value_config("head", "reward")


@pytest.mark.parametrize("name", ["head", "reward_features"])
def test_only_an_adapter_can_start_from_the_rewards_backbone(name: str) -> None:
    with pytest.raises(ConfigError, match=r"value\.init=backbone"):
        value_config(name, "backbone")
