"""What a run takes, reckoned by hand for a Llama of known shape; activations by how they grow, and roughly measured."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import collate
from rlhf.models.memory import (
    GIB,
    Estimate,
    Size,
    activations,
    adapter_weights,
    check_fits,
    empty_model,
    estimate,
    trains_feed_forward,
)
from rlhf.models.reward import RewardModel
from rlhf.stages.reward import pairwise_loss
from tests.checkpoints import family_config
from tests.configure import configure

LM = empty_model(family_config("llama", 64))
# two layers: q and o 32 x 32, k and v 32 x 16, three of 32 x 48 in the feed-forward; two norms each, and a last one
MATRICES = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
WEIGHTS = MATRICES + 2 * 64 * 32 + 5 * 32
# per rank: in + out of each of them
PER_RANK = 2 * (2 * 64 + 2 * 48 + 3 * 80)
GIVEN = ("model.path=/m", "sft.epochs=0")


def stages(*overrides: str, **more: float) -> dict[str, dict[str, float]]:
    return estimate(configure(*GIVEN, *overrides), LM, 2**24, 1, **more).stages


def test_the_size_is_counted_on_a_model_without_storage() -> None:
    size = Size(LM)
    assert all(weight.is_meta for weight in LM.parameters())
    assert (size.weights, size.matrices) == (WEIGHTS, MATRICES)
    assert size.cache == 2 * 2 * 2 * 8  # keys and values of two layers, two heads of 8


@pytest.mark.parametrize(
    ("modules", "per_rank"),
    [
        ("all-linear", PER_RANK),
        ("attention", 2 * (2 * 64 + 2 * 48)),
        ("q_proj,down_proj", 2 * (64 + 80)),
    ],
)
def test_an_adapter_has_r_times_in_and_out(modules: str, per_rank: int) -> None:
    lora = configure("lora.r=3", f"lora.target_modules=[{modules}]").lora
    assert adapter_weights(LM, lora) == 3 * per_rank


def test_weights_and_optimizer_states_are_exact() -> None:
    ppo = stages("lora.r=2", "reward.lora.r=4", "value=adapter")["ppo"]
    # base, policy's adapter; reward's and value's, both with the reward's rank; three more of each that is trained
    assert ppo["weights"] == 4 * (WEIGHTS + 2 * PER_RANK + 2 * 4 * PER_RANK)
    assert ppo["adam"] == 3 * 4 * (2 * PER_RANK + 4 * PER_RANK)


@pytest.mark.parametrize(
    ("override", "layers", "rest"),
    [
        ("model.dtype=bfloat16", 2, 2),
        ("model.dtype=mixed", 2, 4),
        ("model.quantization=8bit", 1, 4),
        ("model.quantization=4bit", 0.53, 4),
    ],
)
def test_fewer_bits_shrink_the_base(override: str, layers: float, rest: float) -> None:
    ppo = stages("lora.r=2", "reward.lora.r=4", override)["ppo"]
    adapters = 4 * (2 + 4) * PER_RANK
    assert ppo["weights"] == pytest.approx(MATRICES * layers + (WEIGHTS - MATRICES) * rest + adapters)


def test_all_weights_of_policy_and_reward_are_copies_in_float32() -> None:
    found = stages("lora=full", "reward=full")
    assert found["ppo"]["weights"] == 4 * 3 * WEIGHTS
    assert found["ppo"]["adam"] == 3 * 4 * WEIGHTS
    assert found["reward"]["weights"] == 4 * 2 * WEIGHTS  # the base is there while its copy is trained


def test_a_reward_that_was_made_elsewhere_counts_as_it_is() -> None:
    plain = stages("reward=function", "reward.function._target_=operator.eq", "value=head")["ppo"]["weights"]
    more = stages("reward=function", "reward.function._target_=operator.eq", "value=head", reward=1000.0)
    assert more["ppo"]["weights"] == plain + 1000


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    size = Size(LM)
    attention, layer = 9 * 32 + 3 * 48, 10 * 32 + 4 * 48
    assert activations(size, tokens=7, number=4.0, recompute=False, feed_forward=True) == 7 * 4 * 2 * layer
    assert activations(size, tokens=7, number=4.0, recompute=True, feed_forward=False) == 7 * 4 * (2 * 32 + attention)


def kept_bytes(base: SharedBase, forward: Callable[[], torch.Tensor]) -> int:
    """What autograd saves of a forward pass, storages counted once, the base's weights left out."""
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in base.lm.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert forward().requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_training_keeps_is_within_a_quarter_of_the_estimate(dtype: str) -> None:
    """Of a PPO update, with adapters in attention and on all layers, and of reward training: 8 prompts, 4 responses."""
    shape = LlamaConfig(
        vocab_size=16, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4
    )
    base = SharedBase(LlamaForCausalLM(shape).to(getattr(torch, dtype)))  # pyright: ignore[reportArgumentType]
    batch = collate([[1, 2, 3]] * 32, [[4] * 29] * 32, 0, torch.device("cpu"))
    config = configure("rollout.max_prompt_tokens=3", "rollout.max_response_tokens=29", f"model.dtype={dtype}")
    size, number = Size(base.lm), float(base.lm.dtype.itemsize)
    for modules in ("attention", "all"):
        lora = configure(f"lora={modules}", "lora.r=2").lora
        wide = trains_feed_forward(empty_model(shape), lora)
        assert wide == (modules == "all")
        role = base.add("policy", lora, trainable=True)
        kept = kept_bytes(base, lambda role=role: role.hidden(batch))
        assert kept == pytest.approx(activations(size, 32 * 32, number, recompute=False, feed_forward=wide), rel=0.25)
        role.remove()
    model = RewardModel.create(base, config.reward, "reward")
    kept = kept_bytes(base, lambda: pairwise_loss(model.scores(batch), [0, 2], [1, 3], 0.001))
    found = estimate(config, empty_model(shape), 2**24, 1).stages["reward"]
    assert kept == pytest.approx(found["activations"], rel=0.25)


def test_supervised_fine_tuning_holds_each_weight_four_times() -> None:
    sft = stages("sft.epochs=1")["sft"]
    assert sft["weights"] + sft["adam"] == 16 * WEIGHTS


def test_what_can_not_fit_is_refused_with_what_to_change() -> None:
    found = Estimate({"ppo": {"weights": 90.0 * GIB, "adam": 1.0 * GIB, "activations": 1.0 * GIB}})
    with pytest.raises(ConfigError, match=r"about 92 GiB, most of all in ppo: weights 90.* has 80 GiB: it can't fit\."):
        check_fits(found, 80.0 * GIB)
    check_fits(found, 91.0 * GIB)  # activations are a guess, and no reason to refuse


def test_the_stage_that_takes_most_counts() -> None:
    found = Estimate({"ppo": {"weights": 1.0}, "sft": {"weights": 1.0, "adam": 3.0}})
    assert (found.stage, found.total, found.lasting) == ("sft", 4.0, 4.0)
