"""LoRA in few operations: in float64 it is peft's LoRA, states and gradients, or peft's own forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf.config.models import LoraConfig
from rlhf.models import lora
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.lora import merges, quicken
from rlhf.models.precision import MixedLinear
from tests.checkpoints import FAMILIES, family_lm

RANK, INPUTS, OUTPUTS = 2, 6, 10


def adapted(base: nn.Module, **settings: object) -> LoraLinear:
    """A layer with an adapter of noise on it."""
    layer = LoraLinear(base, "policy", PeftConfig(r=RANK, lora_alpha=3.0, **settings), r=RANK, lora_alpha=3.0)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(0)
    for factor in (layer.lora_A["policy"], layer.lora_B["policy"]):
        nn.init.normal_(factor.weight, generator=generator)
    return layer


def states_and_gradients(layer: Callable[[Tensor], Tensor], weights: list[nn.Parameter], rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, rows, INPUTS, dtype=weights[0].dtype, generator=generator, requires_grad=True)
    found = layer(given)
    cotangent = torch.randn(found.shape, dtype=found.dtype, generator=generator)
    return [found.detach(), *torch.autograd.grad(found, [given, *weights], cotangent)]


@pytest.mark.parametrize("rows", [3, 30])
@pytest.mark.parametrize("bias", [True, False])
def test_states_and_gradients_are_pefts_merged_or_beside(rows: int, bias: bool) -> None:
    layer = adapted(nn.Linear(INPUTS, OUTPUTS, bias=bias)).double()
    layer.base_layer.requires_grad_(False)
    weights = [layer.lora_A["policy"].weight, layer.lora_B["policy"].weight]
    # 2 x 60 weights against 16 numbers a token: from 8 tokens on
    assert merges(torch.zeros(2 * rows, INPUTS).double(), layer.base_layer.weight) == (rows == 30)
    wanted = states_and_gradients(layer, weights, rows)
    quicken(layer)
    for own, theirs in zip(states_and_gradients(layer, weights, rows), wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-10)


def test_beside_a_base_in_bfloat16_the_adapter_stays_in_float32() -> None:
    base = MixedLinear(INPUTS, OUTPUTS, bias=False)
    layer = adapted(base)
    base.weight = nn.Parameter(base.weight.bfloat16(), requires_grad=False)
    weights = [layer.lora_A["policy"].weight, layer.lora_B["policy"].weight]
    wanted = states_and_gradients(layer, weights, 30)
    quicken(layer)
    for own, theirs in zip(states_and_gradients(layer, weights, 30), wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["dropout", "dora", "transposed", "bfloat16", "several"])
def test_of_others_pefts_own_forward_pass_goes_on(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, object] = {"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}}.get(case, {})
    transposed = case == "transposed"
    base = Conv1D(OUTPUTS, INPUTS) if transposed else nn.Linear(INPUTS, OUTPUTS)
    layer = adapted(base, fan_in_fan_out=transposed, **settings).to(torch.bfloat16 if case == "bfloat16" else None)
    if case == "several":
        layer.update_layer("value", RANK, 3.0, config=PeftConfig(r=RANK))
        layer._active_adapter = ["policy", "value"]
    called: list[str] = []
    original = LoraLinear.forward
    monkeypatch.setattr(LoraLinear, "forward", lambda *given: called.append(case) or original(*given))
    quicken(layer)
    layer(torch.zeros(2, INPUTS, dtype=base.weight.dtype))
    assert called == [case]
    if case == "dropout":
        layer.eval()
        layer(torch.zeros(2, INPUTS))
        assert called == [case]


def test_with_adapters_off_the_layer_is_the_base_to_the_bit() -> None:
    layer = adapted(nn.Linear(INPUTS, OUTPUTS))
    quicken(layer)
    given = torch.randn(4, INPUTS)
    layer._disable_adapters = True
    assert torch.equal(layer(given), layer.base_layer(given))
    layer._disable_adapters, layer._active_adapter = False, ["another"]
    assert torch.equal(layer(given), layer.base_layer(given))


@contextmanager
def pefts_own() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "adapters_on", lambda layer: ["policy", ""])  # several: peft's own
        yield


def trunk_gradients(role: Role, ids: Tensor) -> list[Tensor]:
    with role.on() as lm:
        states = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    cotangent = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    return [states.detach(), *torch.autograd.grad(states, role.parameters(), cotangent)]


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_states_and_gradients_are_pefts(family: str) -> None:
    base = SharedBase(family_lm(family, 80).double(), quick=True)
    role = base.add("policy", LoraConfig(r=2, alpha=4.0), trainable=True)
    generator = torch.Generator().manual_seed(0)
    for weight in role.parameters():
        weight.data = torch.randn(weight.shape, dtype=torch.float64, generator=generator) / 10
    ids = torch.arange(4, 68).view(2, 32)
    with pefts_own():
        wanted = trunk_gradients(role, ids)
    for own, theirs in zip(trunk_gradients(role, ids), wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-8, atol=1e-8)
