from pathlib import Path

import pytest
import torch
from torch import tensor

from rlhf.config.models import LoraConfig, RewardConfig
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import collate
from rlhf.models.reward import RewardModel, ScoreHead, at_last_token
from tests.tiny import tiny_lm

CPU = torch.device("cpu")
BATCH = collate([[1, 4], [5]], [[7, 2], [9, 8, 2]], pad_id=0, device=CPU)


def reward_config(backbone: str, head: str) -> RewardConfig:
    lora = LoraConfig(
        r=2, alpha=4.0, dropout=0.0, target_modules=["all-linear"], rslora=False, dora=False, dtype="float32"
    )
    return RewardConfig(
        backbone=backbone,
        path=None,
        function=None,
        head=head,
        lora=lora,
        epochs=1,
        batch_size=2,
        lr=1e-3,
        warmup_steps=0,
        weight_decay=0.0,
        score_penalty=0.0,
        holdout=0.5,
    )


def head_that_reads_the_first_feature(kind: str) -> ScoreHead:
    head = ScoreHead(2, kind)
    with torch.no_grad():
        head.linear.weight.copy_(tensor([[1.0, 0.0]]))
    return head


# Rows of width 2 + 3: prompts fill two columns, responses of 2 and 3 tokens the rest. The first feature counts 1 to 5.
HIDDEN = torch.stack([torch.arange(1.0, 6.0), torch.full((5,), 100.0)], dim=-1).expand(2, 5, 2)


def test_additive_scores_are_running_sums_over_the_response_alone() -> None:
    scores = head_that_reads_the_first_feature("additive")(HIDDEN, BATCH)
    # features 3, 4, 5 at the response's columns, a quarter of their running sum; row 0 has two tokens, then padding
    assert scores.tolist() == [[0, 0, 3 / 4, 7 / 4, 7 / 4], [0, 0, 3 / 4, 7 / 4, 12 / 4]]
    assert at_last_token(scores, BATCH).tolist() == [7 / 4, 12 / 4]


def test_last_token_scores_are_those_of_each_position() -> None:
    scores = head_that_reads_the_first_feature("last_token")(HIDDEN, BATCH)
    assert scores.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    assert at_last_token(scores, BATCH).tolist() == [4, 5]


def test_standardized_scores_have_mean_0_and_deviation_1() -> None:
    head = head_that_reads_the_first_feature("last_token")
    head.standardize(tensor([2.0, 4.0, 6.0]))
    # mean 4, sd(ddof=1) 2
    assert head(HIDDEN, BATCH)[0].tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize("backbone", ["adapter", "full"])
@pytest.mark.parametrize("head", ["additive", "last_token"])
def test_a_score_does_not_depend_on_what_the_response_is_batched_with(backbone: str, head: str) -> None:
    torch.manual_seed(0)
    model = RewardModel.create(SharedBase(tiny_lm()), reward_config(backbone, head), "reward")
    alone = [model.scores(collate([[1, 4]], [[7, 2]], 0, CPU)), model.scores(collate([[5]], [[9, 8, 2]], 0, CPU))]
    assert torch.allclose(model.scores(BATCH), torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("backbone", ["adapter", "full"])
def test_a_saved_reward_model_gives_the_same_scores_and_is_frozen(tmp_path: Path, backbone: str) -> None:
    torch.manual_seed(0)
    config = reward_config(backbone, "additive")
    model = RewardModel.create(SharedBase(tiny_lm()), config, "reward")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.head.standardize(tensor([1.0, 2.0, 4.0]))
    model.save(tmp_path)
    base = SharedBase(tiny_lm())
    loaded = RewardModel.create(base, config, "reward").load(tmp_path)
    assert torch.equal(loaded.scores(BATCH), model.scores(BATCH))
    base.add("policy", config.lora, trainable=True)  # adding an adapter must not thaw another
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_full_reward_model_leaves_the_base_alone() -> None:
    base = SharedBase(tiny_lm())
    model = RewardModel.create(base, reward_config("full", "additive"), "reward")
    shared = {weight.data_ptr() for weight in base.lm.parameters()}
    assert not shared & {weight.data_ptr() for weight in model.parameters()}
