"""Linear layers in bfloat16 between float32 states: the product by hand, what is held how, roles, refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.config.models import LoraConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import load_backbone
from rlhf.models.decoding import ModelDecoder
from rlhf.models.fused import FusedDecoder, fits, matches
from rlhf.models.precision import MixedLinear, mix, mixed_linear
from tests.checkpoints import family_lm, save_family

LINEAR = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox")
LORA = LoraConfig(r=2, alpha=4.0)
IDS = torch.tensor([[1, 4, 5, 6], [7, 8, 9, 10]])


def test_the_product_is_rounded_and_the_bias_is_not() -> None:
    """A bfloat16 has 8 bits: 1 + 1/256 reads as 1, and 3 + 1/64 is kept; a bias of 1 + 1/1024 is added as it is."""
    states = torch.tensor([[1 + 1 / 256, 2.0]])
    weight = torch.tensor([[1.0, 1.0], [3 + 1 / 64, 0.0]], dtype=torch.bfloat16)
    found = mixed_linear(states, weight, torch.tensor([0.0, 1 + 1 / 1024]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[3.0, 3 + 1 / 64 + 1 + 1 / 1024]]
    assert mixed_linear(states, weight.float(), None).tolist() == [[3 + 1 / 256, (1 + 1 / 256) * (3 + 1 / 64)]]


@pytest.mark.parametrize("family", LINEAR)
def test_the_trunks_layers_alone_are_held_in_bfloat16(family: str, tmp_path: Path) -> None:
    path = save_family(tmp_path / family, family)
    exact, mixed = (load_backbone(path, dtype)[0] for dtype in ("float32", "mixed"))
    layers = {name for name, layer in mixed.named_modules() if isinstance(layer, MixedLinear)}
    held = {name for name, weight in mixed.named_parameters() if weight.dtype == torch.bfloat16}
    assert held == {f"{name}.weight" for name in layers}
    assert len(layers) == sum(type(layer) is torch.nn.Linear for layer in exact.base_model.modules())
    assert type(mixed.get_output_embeddings()) is torch.nn.Linear
    tied = [lm.get_output_embeddings().weight is lm.get_input_embeddings().weight for lm in (exact, mixed)]  # type: ignore[union-attr]
    assert tied[0] == tied[1]
    with torch.no_grad():
        wanted, found = (lm(input_ids=IDS, use_cache=False).logits for lm in (exact, mixed))
    assert found.dtype == torch.float32
    known = torch.isfinite(wanted) & (wanted > -1e4)
    error = (found - wanted)[known].abs().max()
    assert 0 < error < 0.05 * wanted[known].std()


def gradients(lm_dtype: str, path: str) -> list[Tensor]:
    """Of an adapter whose second factors are not zero."""
    base = SharedBase(load_backbone(path, lm_dtype)[0])
    role = base.add("policy", LORA, trainable=True)
    generator = torch.Generator().manual_seed(0)
    for weight in role.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    with role.on() as lm:
        lm(input_ids=IDS, use_cache=False).logits.float().log_softmax(-1)[..., 3].sum().backward()
    assert all(weight.grad is None for weight in base.lm.parameters() if not weight.requires_grad)
    return [weight.grad for weight in role.parameters() if weight.grad is not None]


def test_adapters_get_float32_gradients_near_those_of_an_exact_base(tmp_path: Path) -> None:
    path = save_family(tmp_path / "qwen2", "qwen2")
    wanted, found = gradients("float32", path), gradients("mixed", path)
    assert len(found) == len(wanted) > 0
    for mine, exact in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def decoding_error(lm: PreTrainedModel) -> float:
    """How far the logits of fast decoding lie from the model's own at most, in the logits' deviations."""
    token, errors = torch.tensor([[4], [8]]), []
    fast, own = FusedDecoder(lm, 1), ModelDecoder(lm)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    for mine, wanted in ((fast.start(IDS, mask), own.start(IDS, mask)), (fast.step(token), own.step(token))):
        known = torch.isfinite(wanted) & (wanted > -1e4)
        errors.append(float((mine - wanted)[known].abs().max() / wanted[known].std()))
    return max(errors)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_it_packs_and_is_decoded_fast_with_adapters_and_without(family: str, tmp_path: Path) -> None:
    base = SharedBase(load_backbone(save_family(tmp_path / family, family), "mixed")[0])
    assert base.packs
    role = base.add("policy", LORA, trainable=True)
    for weight in role.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for each in (base.reference(), role):
        with each.on() as lm:
            assert fits(lm)
            assert matches(lm)
            assert decoding_error(lm) < 1e-3  # adapters merged into bfloat16 would be rounded, and miss by 2e-2


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype=mixed is not allowed: GPT2LMHeadModel has no plain linear"):
        mix(family_lm("gpt2", 16))
