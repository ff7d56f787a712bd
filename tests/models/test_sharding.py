"""A base in parts: half of its layers' weights on each of two ranks, the same states and gradients."""

from pathlib import Path

import pytest

from tests.on_ranks import run_on_ranks

COMPARE = """
import torch
from rlhf.config.run import DistributedConfig
from rlhf.process.distributed import join
from rlhf.models.adapters import SharedBase
from rlhf.models.layers import shard
from tests.configure import configure
from tests.tiny import tiny_lm

ranks, config = join(DistributedConfig("fsdp", 2), "cpu"), configure("experiment=smoke")
ids = torch.tensor([[3, 4, 5, 6, 7]])

def states_and_gradients(lm):
    torch.manual_seed(0)
    base = SharedBase(lm)
    policy, value = base.add("policy", config.lora, True), base.add("value", config.reward.lora, True)
    with torch.no_grad():
        for weight in policy.parameters() + value.parameters():
            weight += 0.01 * torch.arange(weight.numel()).view_as(weight).float().sin()
    found = []
    for role in (policy, value, base.reference()):
        with role.on() as lm:
            found.append(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    sum(states.square().sum() for states in found[:2]).backward()
    return [states.detach() for states in found] + [weight.grad for weight in policy.parameters() + value.parameters()]

def held(lm):
    return sum((weight.to_local() if hasattr(weight, "to_local") else weight).numel() for weight in lm.parameters())

whole = tiny_lm(13)
layers = sum(weight.numel() for weight in whole.model.layers.parameters())
parts = shard(tiny_lm(13), torch.device("cpu"), ranks)
assert held(whole) - held(parts) == layers // 2, (held(whole), held(parts), layers)
for one, other in zip(states_and_gradients(whole), states_and_gradients(parts), strict=True):
    torch.testing.assert_close(one, other)
adapters = sum(weight.numel() for name, weight in parts.named_parameters() if "lora_" in name)
assert held(parts) == held(tiny_lm(13)) - layers // 2 + adapters  # nothing stays put together
"""


@pytest.mark.slow
def test_a_base_in_parts_is_the_base(tmp_path: Path) -> None:
    run_on_ranks(2, COMPARE, tmp_path)
