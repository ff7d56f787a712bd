from pathlib import Path

import pytest
import torch
from torch import tensor

from rlhf.config.models import RewardConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import collate
from rlhf.models.ensemble import COMBINE, RewardEnsemble
from rlhf.models.reward import RewardModel, at_last_token
from rlhf.models.value import build_value
from tests.models.test_reward import reward_config
from tests.models.test_value import value_config
from tests.tiny import tiny_lm

BATCH = collate([[1, 4], [5]], [[7, 2], [9, 8, 2]], pad_id=0, device=torch.device("cpu"))


def ensemble(combine: str, members: int = 3) -> tuple[SharedBase, RewardEnsemble]:
    """Reward models on one base, each moved away from its start another way."""
    torch.manual_seed(0)
    config: RewardConfig = reward_config("adapter", "additive", members=members, combine=combine)
    base = SharedBase(tiny_lm())
    models = [RewardModel.create(base, config, f"reward_{number}") for number in range(members)]
    with torch.no_grad():
        for weight in [weight for model in models for weight in model.parameters()]:
            weight += 0.1 * torch.randn_like(weight)
    return base, RewardEnsemble(config, models)


def test_scores_are_combined_by_hand() -> None:
    scores = tensor([[1.0, -2.0], [4.0, 0.0], [1.0, 2.0]])
    assert COMBINE["mean"](scores).tolist() == [2.0, 0.0]
    assert COMBINE["min"](scores).tolist() == [1.0, -2.0]
    # deviations over members: sqrt((1 + 4 + 1) / 3) = sqrt(2) and sqrt((4 + 0 + 4) / 3)
    assert torch.allclose(COMBINE["mean_minus_std"](scores), tensor([2 - 2**0.5, -((8 / 3) ** 0.5)]))


@pytest.mark.parametrize("combine", list(COMBINE))
def test_an_ensemble_scores_as_its_members_combined(combine: str) -> None:
    _, whole = ensemble(combine)
    alone = torch.stack([member.scores(BATCH) for member in whole.members])
    assert torch.allclose(whole.scores(BATCH), COMBINE[combine](alone), atol=1e-6)
    hidden, running = whole.members_running(BATCH)
    assert torch.equal(hidden, whole.members[0].trunk.hidden(BATCH))
    assert torch.allclose(at_last_token(whole.combine(running), BATCH), whole.scores(BATCH))


def test_its_scale_is_that_of_the_combined_scores_and_is_saved(tmp_path: Path) -> None:
    _, whole = ensemble("min")
    raw = whole.scores(BATCH)
    whole.standardize(raw)
    assert whole.scores(BATCH).mean().item() == pytest.approx(0.0, abs=1e-5)
    assert whole.scores(BATCH).std().item() == pytest.approx(1.0, abs=1e-5)
    whole.save(tmp_path)
    again = RewardEnsemble(whole.config, whole.members).load(tmp_path)
    assert torch.equal(again.scores(BATCH), whole.scores(BATCH))


def test_members_of_one_kind_alone_are_no_spread() -> None:
    _, whole = ensemble("mean_minus_std", members=1)
    assert torch.allclose(whole.scores(BATCH), whole.members[0].scores(BATCH))


def test_the_value_adapter_starts_from_the_first_member() -> None:
    base, whole = ensemble("mean")
    value = build_value(base, whole, value_config("adapter", "reward"))
    given = value(BATCH, None, torch.zeros(2, 3, 17), torch.zeros(2, 3))
    first = whole.members[0].running_scores(BATCH)[1]
    assert torch.allclose(given, BATCH.before_responses(first), atol=1e-6)


def test_only_adapters_on_the_base_can_be_several() -> None:
    with pytest.raises(ConfigError, match=r"reward\.members=2"):
        reward_config("full", "additive", members=2)
