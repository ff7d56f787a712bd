"""Fast decoding: the model's own logits for every family, with and without adapters, and the base left as it was."""

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf.config.models import LoraConfig
from rlhf.models import fused
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import pad_left
from rlhf.models.decoding import Decoder, ModelDecoder
from rlhf.models.fused import FusedDecoder, fits, matches

CPU = torch.device("cpu")

SMALL: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama3": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=LLAMA3)),
    "llama biased": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
}
OTHERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2)),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)),
    "dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0})
    ),
}


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "alpha": 4.0, "dropout": 0.1} | changes)


def make(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    lm = (FAMILIES | OTHERS)[family]().eval()
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.3)
            elif "norm" in name:
                weight.uniform_(0.5, 1.5)
    return lm


def disturb(role: Role) -> Role:
    with torch.no_grad():
        for weight in role.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return role


@torch.inference_mode()
def decoded(decoder: Decoder, device: torch.device = CPU) -> list[torch.Tensor]:
    """The logits of prompts of three lengths, of three tokens more, and of two after one row is dropped."""

    def step(*tokens: int) -> torch.Tensor:
        return decoder.step(torch.tensor(tokens, device=device)[:, None])

    found = [decoder.start(*pad_left([[1, 4, 5, 6, 7], [8], [9, 10]], 0, device))]
    found += [step(3, 4, 5), step(6, 7, 8), step(9, 10, 11)]
    decoder.keep(torch.tensor([2, 0], device=device))
    return [*found, step(3, 4), step(5, 6)]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for mine, own in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own_in_every_role(family: str) -> None:
    base = SharedBase(make(family))
    narrow = disturb(base.add("narrow", lora(target_modules=["q_proj", "down_proj"]), trainable=True))
    wide = disturb(base.add("wide", lora(rslora=True), trainable=True))
    logits = []
    for role in (base.reference(), narrow, wide):
        with role.on() as lm:
            assert fits(lm)
            assert matches(lm)
            assert_same(found := decoded(FusedDecoder(lm, 6)), decoded(ModelDecoder(lm)))
            logits.append(found[0])
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)
    assert not torch.allclose(logits[1], logits[2], atol=1e-2)


def test_the_base_is_never_written_and_layers_without_an_adapter_are_not_copied() -> None:
    base = SharedBase(make("llama"))
    role = disturb(base.add("policy", lora(target_modules=["q_proj"]), trainable=True))
    disturb(base.add("reward", lora(), trainable=False))  # on all layers, and off
    before = {name: weight.clone() for name, weight in base.lm.named_parameters()}
    with role.on() as lm:
        decoder = FusedDecoder(lm, 6)
        decoded(decoder)
    for name, weight in base.lm.named_parameters():
        assert torch.equal(weight, before[name])
    assert [projection.weight is None for projection in (*decoder.outputs, *decoder.gates, *decoder.downs)] == [
        True
    ] * 6
    assert all(projection.weight is not None for projection in decoder.inputs)


@pytest.mark.parametrize("family", OTHERS)
def test_other_models_do_not_fit(family: str) -> None:
    assert not fits(make(family))


def test_a_layer_whose_adapter_is_no_sum_runs_as_it_is() -> None:
    base = SharedBase(make("llama"))
    with disturb(base.add("policy", lora(dora=True), trainable=True)).on() as lm:
        assert matches(lm)
        decoder = FusedDecoder(lm, 6)
        assert all(projection.weight is None for projection in decoder.inputs)
        assert_same(decoded(decoder), decoded(ModelDecoder(lm)))


def test_a_model_that_only_looks_like_its_family_does_not_match(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make("llama")
    assert matches(lm)
    monkeypatch.setattr(fused, "_rotate", lambda states, cos, sin: states)
    assert not matches(lm)


def test_in_bfloat16_logits_differ_by_rounding_only() -> None:
    lm = make("llama").to(torch.bfloat16)
    assert matches(lm)
    for mine, own in zip(decoded(FusedDecoder(lm, 6)), decoded(ModelDecoder(lm)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - own).abs().max() < 0.1 * own.std()
