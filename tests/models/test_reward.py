from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

from rlhf.config.models import LoraConfig, RewardConfig
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import collate
from rlhf.models.logprobs import token_logprobs
from rlhf.models.reward import RewardModel, ScoreHead, at_last_token
from tests.tiny import tiny_lm

CPU = torch.device("cpu")
BATCH = collate([[1, 4], [5]], [[7, 2], [9, 8, 2]], pad_id=0, device=CPU)


def reward_config(backbone: str, head: str, logprobs: str = "none", **more: Any) -> RewardConfig:
    return RewardConfig(backbone=backbone, head=head, logprobs=logprobs, lora=LoraConfig(r=2, alpha=4.0), **more)


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


def test_mean_scores_are_running_means_over_the_response_alone() -> None:
    scores = head_that_reads_the_first_feature("mean")(HIDDEN, BATCH)
    assert scores.tolist() == [[0, 0, 3, 7 / 2, 7 / 2], [0, 0, 3, 7 / 2, 4]]
    assert at_last_token(scores, BATCH).tolist() == [7 / 2, 4]


def test_last_token_scores_are_those_of_each_position() -> None:
    scores = head_that_reads_the_first_feature("last_token")(HIDDEN, BATCH)
    assert scores.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    assert at_last_token(scores, BATCH).tolist() == [4, 5]


def test_standardized_scores_have_mean_0_and_deviation_1() -> None:
    head = head_that_reads_the_first_feature("last_token")
    head.standardize(tensor([2.0, 4.0, 6.0]))
    # mean 4, sd(ddof=1) 2
    assert head(HIDDEN, BATCH)[0].tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5]


def gated(kind: str) -> ScoreHead:
    """Weights of a token's log-probability terms: the first feature, 1, and 0.5 times the first feature."""
    head = ScoreHead(2, kind, reads_logprobs=True)
    assert head.gate is not None
    with torch.no_grad():
        head.linear.weight.zero_()
        head.gate.weight.copy_(tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]]))
        head.gate.bias.copy_(tensor([0.0, 1.0, 0.0]))
    return head


LOGPROBS = tensor([[-1.0, -4.0, 0.0], [-7.0, -0.5, -2.0]])


def test_a_head_reads_how_far_log_probabilities_lie_below_its_hinges() -> None:
    # first features 3, 4, 5 at the response's columns; terms (log p, min(log p + 3, 0), min(log p + 6, 0))
    # row 0: 3 x -1 = -3; then 4 x -4 + 1 x -1 = -17; row 1: 3 x -7 - 4 + 1.5 x -1 = -26.5; 4 x -0.5 = -2; 5 x -2 = -10
    assert gated("additive")(HIDDEN, BATCH, LOGPROBS)[:, 2:].tolist() == [
        [-3 / 4, -20 / 4, -20 / 4],
        [-26.5 / 4, -28.5 / 4, -38.5 / 4],
    ]
    for kind in ("last_token", "mean"):
        means = gated(kind)(HIDDEN, BATCH, LOGPROBS)
        assert torch.allclose(means[:, 2:], tensor([[-3.0, -10.0, -10.0], [-26.5, -14.25, -38.5 / 3]]))
        assert means[:, :2].tolist() == [[0, 0], [0, 0]]


def test_log_probabilities_below_the_floor_are_read_as_it() -> None:
    for kind in ("additive", "last_token"):
        low, lowest = (gated(kind)(HIDDEN, BATCH, torch.full((2, 3), value)) for value in (-8.0, -30.0))
        assert torch.equal(low, lowest)
        assert not torch.equal(low, gated(kind)(HIDDEN, BATCH, torch.full((2, 3), -7.9)))


def test_a_fresh_head_reads_nothing_of_log_probabilities() -> None:
    torch.manual_seed(0)
    head = ScoreHead(2, "additive", reads_logprobs=True)
    assert torch.equal(head(HIDDEN, BATCH, LOGPROBS), head(HIDDEN, BATCH, torch.zeros(2, 3)))


@pytest.mark.parametrize("backbone", ["adapter", "full"])
def test_the_references_log_probabilities_are_known_or_computed_alike(backbone: str) -> None:
    model, base = moved(backbone, "reference")
    states = BATCH.before_responses(base.reference().hidden(BATCH))
    known = token_logprobs(base.reference(), states, BATCH, 0.7)
    assert torch.allclose(model.scores(BATCH), model.scores(BATCH, known), atol=1e-6)
    assert not torch.allclose(model.scores(BATCH), model.scores(BATCH, known - 1.0), atol=1e-3)


def test_log_probabilities_of_the_reference_carry_no_gradient_and_its_own_do() -> None:
    for logprobs, expected in (("reference", False), ("own", True)):
        model, _ = moved("adapter", logprobs)
        with torch.no_grad():
            model.head.linear.weight.zero_()
            assert model.head.gate is not None
            model.head.gate.weight.zero_()  # what the gate weighs with is its bias alone, so that states count nothing
            model.head.gate.bias.fill_(1.0)
        model.scores(BATCH).sum().backward()
        moved_trunk = any(weight.grad is not None and weight.grad.any() for weight in model.trunk.parameters())
        assert moved_trunk == expected, logprobs


def moved(backbone: str, logprobs: str, head: str = "additive") -> tuple[RewardModel, SharedBase]:
    """A reward model away from its start, on its base."""
    torch.manual_seed(0)
    base = SharedBase(tiny_lm())
    model = RewardModel.create(base, reward_config(backbone, head, logprobs), "reward", temperature=0.7)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model, base


@pytest.mark.parametrize("backbone", ["adapter", "full"])
@pytest.mark.parametrize("head", ["additive", "last_token"])
@pytest.mark.parametrize("logprobs", ["none", "reference", "own"])
def test_a_score_does_not_depend_on_what_the_response_is_batched_with(backbone: str, head: str, logprobs: str) -> None:
    model, _ = moved(backbone, logprobs, head)
    alone = [model.scores(collate([[1, 4]], [[7, 2]], 0, CPU)), model.scores(collate([[5]], [[9, 8, 2]], 0, CPU))]
    assert torch.allclose(model.scores(BATCH), torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("backbone", ["adapter", "full"])
@pytest.mark.parametrize("logprobs", ["none", "reference", "own"])
def test_a_saved_reward_model_gives_the_same_scores_and_is_frozen(tmp_path: Path, backbone: str, logprobs: str) -> None:
    model, _ = moved(backbone, logprobs)
    model.head.standardize(tensor([1.0, 2.0, 4.0]))
    model.save(tmp_path)
    base = SharedBase(tiny_lm())
    loaded = RewardModel.create(base, model.config, "reward", temperature=0.7).load(tmp_path)
    assert torch.equal(loaded.scores(BATCH), model.scores(BATCH))
    base.add("policy", model.config.lora, trainable=True)  # adding an adapter must not thaw another
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_full_reward_model_leaves_the_base_alone() -> None:
    base = SharedBase(tiny_lm())
    model = RewardModel.create(base, reward_config("full", "additive"), "reward")
    shared = {weight.data_ptr() for weight in base.lm.parameters()}
    assert not shared & {weight.data_ptr() for weight in model.parameters()}
