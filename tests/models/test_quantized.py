"""A base in 8 or 4 bits: roles on it, decoding, saving; skipped where bitsandbytes is not installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import load_backbone
from rlhf.models.precision import quantized
from rlhf.models.sampler import Sampler
from tests.checkpoints import save_family
from tests.models.test_adapters import disturb
from tests.models.test_families import CPU, PROMPTS, ROLLOUT, logits, lora, text_batch

needs_library = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is missing")


@needs_library
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_base_of_few_bits_carries_roles_like_any_other(tmp_path: Path, quantization: str) -> None:
    path = save_family(tmp_path / "llama", "llama", hidden_size=64, intermediate_size=128)
    whole, _ = load_backbone(path, "float32")
    lm, tokenizer = load_backbone(path, "float32", CPU, None, quantization)
    weight = lm.base_model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == (torch.int8 if quantization == "8bit" else torch.uint8)
    base, batch = SharedBase(lm, path, recompute=True), text_batch(tokenizer)
    real = batch.attention_mask.bool()
    before = logits(base.reference(), batch)[real]
    exact = logits(SharedBase(whole).reference(), batch)[real]
    # rounding moves the logits, by less than half their spread: random weights take it worse than trained ones
    assert 0 < (before - exact).std() < 0.5 * exact.std()
    policy, value = base.add("policy", lora("all-linear"), trainable=True), base.add("value", lora("attention"), True)
    assert torch.equal(logits(policy, batch)[real], before)
    (policy.hidden(batch).std() + value.hidden(batch).std()).backward()
    for role in (policy, value):
        assert all(weight.grad is not None and weight.dtype == torch.float32 for weight in role.parameters())
    disturb(policy)
    assert not torch.allclose(logits(policy, batch)[real], before, atol=1e-2)
    assert torch.equal(logits(base.reference(), batch)[real], before)
    responses = Sampler(tokenizer, ROLLOUT, CPU).sample(policy, PROMPTS, 0.0, torch.Generator())
    assert len(responses) == len(PROMPTS)
    policy.save(tmp_path / "policy")
    assert (tmp_path / "policy" / "adapter_model.safetensors").exists()


def test_without_the_library_it_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model\.quantization=4bit .*pip install bitsandbytes"):
        quantized("4bit", "bfloat16")
    assert quantized(None, "float32") is None
