"""Gradient checkpointing changes what is kept, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rlhf.config.models import LoraConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import collate
from rlhf.models.layers import checkpointed_layers
from tests.checkpoints import FAMILIES, family_lm
from tests.models.test_adapters import disturb

BATCH = collate([[1, 4, 5], [6]], [[7, 8, 2], [9, 2]], pad_id=0, device=torch.device("cpu"))


def roles(family: str, recompute: bool, dropout: float = 0.0) -> tuple[Role, Role]:
    base = SharedBase(family_lm(family, 64), recompute=recompute)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, alpha=4.0, dropout=dropout)
    policy, value = (base.add(name, lora, trainable=True) for name in ("policy", "value"))
    disturb(policy)
    disturb(value)
    with torch.no_grad():
        for weight in value.parameters():
            weight *= 1.5  # no two adapters alike
    return policy, value


def direction(hidden: Tensor) -> Tensor:
    """A loss that moves all states; their norm would say nothing, as the last layer normalises."""
    noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    return (hidden * noise * BATCH.attention_mask[..., None]).sum()


def gradients(policy: Role, value: Role) -> list[Tensor]:
    """Of a loss that reads both adapters, by a backward pass under which neither is on."""
    loss = direction(policy.hidden(BATCH)) + direction(value.hidden(BATCH)).square()
    assert policy.shared is not None
    assert policy.shared.active is None
    loss.backward()
    assert policy.shared.active is None
    found = [weight.grad for weight in policy.parameters() + value.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_two_adapters_on_one_base_are_the_same_to_the_bit(family: str) -> None:
    kept, again = gradients(*roles(family, recompute=False)), gradients(*roles(family, recompute=True))
    assert same(kept, again)
    half = len(kept) // 2
    assert not same(kept[:half], kept[half:])


def test_the_same_dropout_is_drawn_again() -> None:
    found = []
    for recompute in (False, True):
        policy, value = roles("gpt2", recompute, dropout=0.3)
        policy.lm.train()
        torch.manual_seed(1)
        found.append(gradients(policy, value))
    assert same(*found)


def test_all_weights_of_a_copy_get_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        copied = SharedBase(family_lm("llama", 64), recompute=recompute).full_copy()
        direction(copied.hidden(BATCH)).backward()
        found.append([weight.grad for weight in copied.lm.base_model.parameters()])
    assert same(*found)


def layer_calls(role: Role, run: Callable[[], object]) -> int:
    """How often the first layer's feed-forward is computed."""
    calls: list[int] = []
    layer = checkpointed_layers(role.lm)[0]
    assert isinstance(layer.mlp, nn.Module)
    handle = layer.mlp.register_forward_pre_hook(lambda *given: calls.append(1))
    run()
    handle.remove()
    return len(calls)


@pytest.mark.parametrize(("recompute", "calls"), [(False, 1), (True, 2)])
def test_layers_are_computed_again_in_the_backward_pass_alone(recompute: bool, calls: int) -> None:
    policy, _ = roles("llama", recompute)
    assert layer_calls(policy, lambda: direction(policy.hidden(BATCH)).backward()) == calls
    assert not any("forward" in vars(layer) for layer in checkpointed_layers(policy.lm))
    with torch.no_grad():
        assert layer_calls(policy, lambda: policy.hidden(BATCH)) == 1


def test_a_layer_keeps_its_input_only() -> None:
    """What autograd saves on the way, counted in numbers: at least the feed-forward's inner states are gone."""

    def kept(recompute: bool) -> int:
        policy, _ = roles("llama", recompute)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.numel()) or kept, lambda it: it):
            policy.hidden(BATCH)
        return sum(sizes)

    assert kept(recompute=True) < kept(recompute=False) / 4


def test_a_model_that_marks_no_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.models.adapters.checkpointed_layers", lambda lm: [])
    with pytest.raises(ConfigError, match=r"model\.gradient_checkpointing=true is not allowed: LlamaForCausalLM"):
        SharedBase(family_lm("llama", 64), recompute=True)
