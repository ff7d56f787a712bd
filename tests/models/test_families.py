"""What a run does with a model, for each family of causal LMs: adapters, roles, decoding, saving."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.config.models import LoraConfig
from rlhf.config.rl import RolloutConfig
from rlhf.data.encoding import encode_prompt
from rlhf.data.source import Prompt
from rlhf.errors import ConfigError
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.backbone import load_backbone
from rlhf.models.batch import Batch, collate
from rlhf.models.layers import attention_layers
from rlhf.models.sampler import Sampler
from tests.checkpoints import FAMILIES, family_lm, save_family
from tests.models.test_adapters import disturb

CPU = torch.device("cpu")
PROMPTS = [Prompt(text, text, "test") for text in ("Name it.", "Below is an instruction that", "A")]
ROLLOUT = RolloutConfig(batch_size=3, max_response_tokens=12, decode_batch_size=3)


def lora(*modules: str) -> LoraConfig:
    return LoraConfig(r=2, alpha=4.0, target_modules=list(modules))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {family: save_family(folder / family, family) for family in FAMILIES}


def text_batch(tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Prompts of several lengths, so that some are padded on the left."""
    encoded = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    return collate(encoded, [[40, 41, 42], [50, 0], [60]], 1, CPU)


@torch.no_grad()
def logits(role: Role, batch: Batch) -> Tensor:
    return role.logits(role.hidden(batch))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("modules", ["all-linear", "attention"])
def test_policy_and_reference_are_one_at_first_and_the_logits_are_the_models_own(
    checkpoints: dict[str, str], family: str, modules: str
) -> None:
    lm, tokenizer = load_backbone(checkpoints[family], "float32")
    batch = text_batch(tokenizer)
    with torch.no_grad():
        own = lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids).logits
    base = SharedBase(lm)
    policy = base.add("policy", lora(modules), trainable=True)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(logits(policy, batch)[real], own[real], rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(base.reference(), batch), logits(policy, batch))
    disturb(policy)
    assert not torch.allclose(logits(policy, batch)[real], own[real], atol=1e-3)
    torch.testing.assert_close(logits(base.reference(), batch)[real], own[real], rtol=1e-4, atol=1e-5)


# of two layers; the names of the linear layers of attention, whose outputs and inputs nothing else in the model shares
ATTENTION = {
    "gpt2": {"c_attn", "c_proj"},
    "gpt_neox": {"query_key_value", "dense"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_names_the_linear_layers_of_attention_and_no_other(checkpoints: dict[str, str], family: str) -> None:
    base = SharedBase(load_backbone(checkpoints[family], "float32")[0])
    base.add("policy", lora("attention"), trainable=True)
    adapted = [path for path, module in base.lm.named_modules() if isinstance(module, LoraLayer)]
    wanted = ATTENTION.get(family, {"q_proj", "k_proj", "v_proj", "o_proj"})
    assert {path.rsplit(".", 1)[-1] for path in adapted} == wanted
    assert len(adapted) == 2 * len(wanted)
    assert not any("mlp" in path for path in adapted)


def test_attention_and_other_layers_can_be_named_together_where_there_is_attention() -> None:
    base = SharedBase(family_lm("llama", 64))
    base.add("wide", lora("attention", "down_proj"), trainable=True)
    adapted = [path for path, module in base.lm.named_modules() if isinstance(module, LoraLayer)]
    assert len(adapted) == 2 * 5
    base.attention = []
    with pytest.raises(ConfigError, match=r"lora\.target_modules=\['attention'\] is not allowed"):
        base.add("policy", lora("attention"), trainable=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_is_the_argmax_over_the_whole_context(checkpoints: dict[str, str], family: str) -> None:
    lm, tokenizer = load_backbone(checkpoints[family], "float32")
    base, sampler = SharedBase(lm), Sampler(tokenizer, ROLLOUT, CPU)
    policy = base.add("policy", lora("all-linear"), trainable=True)
    disturb(policy)
    responses = sampler.sample(policy, PROMPTS, 0.0, torch.Generator())
    for prompt, response in zip(PROMPTS, responses, strict=True):
        batch = collate([encode_prompt(tokenizer, prompt)], [response.token_ids], 1, CPU)
        predicted = batch.before_responses(logits(policy, batch)).argmax(-1)[0]
        assert predicted.tolist() == response.token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_policy_loads_with_plain_peft(checkpoints: dict[str, str], family: str, tmp_path: Path) -> None:
    lm, tokenizer = load_backbone(checkpoints[family], "float32")
    base, batch = SharedBase(lm, checkpoints[family]), text_batch(tokenizer)
    policy = base.add("policy", lora("attention"), trainable=True)
    disturb(policy)
    policy.save(tmp_path / "policy")
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "policy")).eval()
    with torch.no_grad():
        found = loaded(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
    real = batch.attention_mask.bool()
    assert torch.allclose(found[real], logits(policy, batch)[real], atol=1e-5)


def test_attention_begins_each_name_because_the_feed_forward_may_use_the_same_ones() -> None:
    assert attention_layers(family_lm("gpt2", 64)) == ["attn.c_attn", "attn.c_proj"]


# ---- Vocabularies. ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_rows_of_the_embedding_that_no_token_stands_for_are_never_drawn(family: str, tmp_path: Path) -> None:
    path = save_family(tmp_path / family, family, spare_rows=40)
    lm, tokenizer = load_backbone(path, "float32")
    base, sampler, batch = SharedBase(lm, path), Sampler(tokenizer, ROLLOUT, CPU), text_batch(tokenizer)
    assert lm.get_input_embeddings().weight.shape[0] == len(tokenizer) + 40
    policy = base.add("policy", lora("all-linear"), trainable=True)
    for role in (policy, base.reference(), base.full_copy()):
        assert logits(role, batch).shape[-1] == len(tokenizer)
    responses = sampler.sample(policy, PROMPTS, 5.0, torch.Generator().manual_seed(0))
    assert max(token for response in responses for token in response.token_ids) < len(tokenizer)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    path = save_family(tmp_path / "llama", "llama", spare_rows=-3)
    with pytest.raises(ConfigError, match=r"its tokenizer has ids up to \d+ and its embedding \d+ rows"):
        load_backbone(path, "float32")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_stay_as_they_were(tied: bool, tmp_path: Path) -> None:
    lm, _ = load_backbone(save_family(tmp_path / "qwen2", "qwen2", tie_word_embeddings=tied), "float32")
    base = SharedBase(lm)
    base.add("policy", lora("all-linear"), trainable=True)
    for model in (base.lm, base.full_copy().lm):
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert (embedding.data_ptr() == head.data_ptr()) == tied


def test_a_response_goes_on_to_its_end_where_eos_is_the_pad_token_too(tmp_path: Path) -> None:
    lm, tokenizer = load_backbone(save_family(tmp_path / "gpt2", "gpt2", pad=None), "float32")
    sampler = Sampler(tokenizer, ROLLOUT, CPU)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    batch = collate(prompts, [[40, 0], [0], [41, 42, 43]], 0, CPU)
    assert batch.lengths.tolist() == [2, 1, 3]
    alone = collate(prompts[:1], [[40, 0]], 0, CPU)
    base = SharedBase(lm)
    row = logits(base.reference(), batch)[0][batch.attention_mask[0].bool()]
    assert torch.allclose(row, logits(base.reference(), alone)[0], atol=1e-4)
    responses = sampler.sample(base.reference(), PROMPTS, 1.0, torch.Generator().manual_seed(3))
    assert all((response.token_ids[-1] == 0) == response.finished for response in responses)
