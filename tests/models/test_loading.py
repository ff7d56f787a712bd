"""A given model is loaded whole or refused: weights missing, foreign or torn, a family that can't be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForSequenceClassification,
)

from rlhf.config.models import LoraConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase, check_modules
from rlhf.models.backbone import known_ids, load_backbone, load_causal_lm, load_tokenizer, looks_back_only
from rlhf.models.external_reward import check_external
from rlhf.models.layers import position_limit, room, state_width
from rlhf.models.reward import RewardModel, ScoreHead, scale_of
from rlhf.models.value import HeadValue
from tests.checkpoints import byte_tokenizer, family_lm, save_family
from tests.configure import configure
from tests.tiny import tiny_lm

META = torch.device("meta")
Weights = dict[str, Tensor]
FAULTS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "no head": (lambda found: {k: v for k, v in found.items() if k != "lm_head.weight"}, r"lack lm_head\.weight$"),
    "no layer": (
        lambda found: {k: v for k, v in found.items() if "layers.1." not in k},
        r"lack model\.layers\.1\.input_layernorm\.weight, .* and \d+ more$",
    ),
    "a prefix": (
        lambda found: {f"_orig_mod.{k}": v for k, v in found.items()},
        r"lack lm_head\.weight, .* has _orig_mod\.lm_head\.weight, ",
    ),
    "a layer more": (
        lambda found: found | {k.replace("layers.1.", "layers.2."): v.clone() for k, v in found.items()},
        r"of more layers than its config\.json says: model\.layers\.2\.",
    ),
    "another shape": (
        lambda found: found | {"lm_head.weight": found["lm_head.weight"][:, :16].clone()},
        r"of another shape .*: lm_head\.weight is \(\d+, 16\) and should be \(\d+, 32\)$",
    ),
}


def change(directory: str, what: Callable[[Weights], Weights]) -> None:
    file = Path(directory) / "model.safetensors"
    save_file(what(load_file(file)), file, metadata={"format": "pt"})


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_the_models_are_named_before_any_is_read(fault: str, tmp_path: Path) -> None:
    path = save_family(tmp_path / "llama", "llama")
    load_causal_lm(path, "float32", META)
    change(path, FAULTS[fault][0])
    for device in (META, torch.device("cpu")):
        with pytest.raises(ConfigError, match=rf"^model\.path={path} is not allowed: .*{FAULTS[fault][1]}"):
            load_causal_lm(path, "float32", device)


def test_tied_heads_are_not_missing_and_torn_files_are_refused_in_a_line(tmp_path: Path) -> None:
    path = save_family(tmp_path / "qwen2", "qwen2")
    load_causal_lm(path, "float32", META)
    file = tmp_path / "qwen2" / "model.safetensors"
    for size in (file.stat().st_size // 2, 4, 0):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ConfigError, match=rf"^model\.path={path} is not allowed: no causal LM .*[^\n]*$"):
            load_causal_lm(path, "float32", META)


def test_an_adapter_in_a_models_place_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model\.path=.* that is an adapter: give it to lora\.path, or merge it"):
        load_causal_lm(str(tmp_path), "float32", META)
    with pytest.raises(ConfigError, match=r"model\.path=.* that is an adapter: give it to lora\.path, or merge it"):
        load_tokenizer(str(tmp_path))


def test_a_given_rewards_head_must_be_there_and_its_tokenizer_must_pad(tmp_path: Path) -> None:
    path = save_family(tmp_path / "rm", "gpt2", num_labels=1)  # a causal LM's weights, under a reward model's config
    config = configure("value=head", "reward=classifier", f"reward.path={path}").reward
    with pytest.raises(ConfigError, match=r"^reward\.path=.*its weights lack score\.weight"):
        check_external(config)
    tokenizer = byte_tokenizer(None)
    tokenizer.eos_token = None
    lm = AutoModelForSequenceClassification.from_config(family_lm("gpt2", len(tokenizer), num_labels=1).config)
    lm.save_pretrained(path)
    tokenizer.save_pretrained(path)
    with pytest.raises(ConfigError, match=r"^reward\.path=.*neither a pad nor an EOS token"):
        check_external(config)


def test_a_saved_reward_model_without_its_head_or_of_another_base_is_refused(tmp_path: Path) -> None:
    settings = configure().reward
    RewardModel.create(SharedBase(tiny_lm()), settings, "reward").save(tmp_path)
    RewardModel.create(SharedBase(tiny_lm()), settings, "reward").load(tmp_path)
    wider = RewardModel.create(SharedBase(family_lm("llama", 16)), settings, "reward")
    with pytest.raises(ConfigError, match=r"linear\.weight has the shape \(1, 16\), and its head \(1, 32\)"):
        wider.load(tmp_path)
    head = tmp_path / "head.safetensors"
    save_file({k: v for k, v in load_file(head).items() if k != "linear.weight"}, head)
    with pytest.raises(ConfigError, match=r"lacks linear\.weight of its head"):
        RewardModel.create(SharedBase(tiny_lm()), settings, "reward").load(tmp_path)


@pytest.mark.parametrize("section", ["lora", "reward.lora"])
@pytest.mark.parametrize(
    ("modules", "told"),
    [
        (["q_proj", "v_porj"], "the base has no linear layer v_porj; it has down_proj, .*v_proj$"),
        (["all-linear", "q_proj"], "all-linear stands for all"),
        (["q_proj", "q_proj"], "name each module once"),
        (["q_proj", "embed_tokens"], "embed_tokens: name layers between the embeddings"),
        (["proj"], "the base has no linear layer proj"),
    ],
)
def test_one_right_module_hides_no_wrong_one(section: str, modules: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{section}\.target_modules=.* is not allowed: {told}"):
        check_modules(tiny_lm(), LoraConfig(r=2, target_modules=modules), section)


def test_modules_may_be_named_by_the_end_of_their_path_also_beside_other_adapters() -> None:
    base = SharedBase(tiny_lm())
    for modules in (["self_attn.q_proj", "attention"], ["layers.0.mlp.up_proj"], ["all-linear"]):
        base.add("role", LoraConfig(r=2, target_modules=modules), trainable=False)


def test_ids_with_gaps_keep_their_logits(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    highest = len(tokenizer) + 20
    for added in core["added_tokens"]:
        added["id"] = highest if added["content"] == "<|endoftext|>" else added["id"]
    core["model"]["vocab"]["<|endoftext|>"] = highest
    (tmp_path / "core.json").write_text(json.dumps(core))
    sparse = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "core.json"), eos_token="<|endoftext|>", pad_token="<pad>"
    )
    family_lm("llama", highest + 9).save_pretrained(tmp_path / "lm")
    sparse.save_pretrained(tmp_path / "lm")
    lm, loaded = load_backbone(tmp_path / "lm", "float32")
    assert known_ids(loaded) == highest + 1
    assert lm(input_ids=torch.tensor([[0, 1]])).logits.shape[-1] == highest + 1


# ---- What families have, and have not. -----------------------------------------------------------------------------

SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT: dict[str, Any] = {**SMALL, "ffn_dim": 48, "max_position_embeddings": 96, "word_embed_proj_dim": 16}
OTHERS: dict[str, tuple[dict[str, Any], int | None, int]] = {
    "bloom": ({"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}, None, 32),
    "mpt": ({"vocab_size": 300, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96}, 96, 32),
    "opt": (OPT, 96, 16),
    "gpt2": ({"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}, 96, 32),
}
"""The shape of a family, the longest sequence, and the width of its states."""


@pytest.mark.parametrize("family", OTHERS)
def test_lengths_and_widths_are_the_familys_own(family: str, tmp_path: Path) -> None:
    shape, limit, width = OTHERS[family]
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, bos_token_id=0, eos_token_id=0))
    lm.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    lm, _ = load_backbone(tmp_path, "float32")
    states = lm.base_model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).last_hidden_state
    assert (position_limit(lm, lm.config), state_width(lm), states.shape[-1]) == (limit, width, width)
    assert room(lm) == (limit or room(lm)) > 90
    for head in (HeadValue(state_width(lm)).linear, ScoreHead(state_width(lm), "additive").linear):
        assert head(states).shape == (1, 3, 1)


def test_robertas_positions_begin_behind_the_padding() -> None:
    for pad in (1, 5):
        config = RobertaConfig(
            **SMALL, intermediate_size=32, max_position_embeddings=66, pad_token_id=pad, num_labels=1
        )
        lm = RobertaForSequenceClassification(config).eval()
        limit = position_limit(lm, config)
        assert limit == 66 - pad - 1
        assert limit is not None
        lm(input_ids=torch.full((1, limit), 7))
        with pytest.raises((IndexError, RuntimeError)):
            lm(input_ids=torch.full((1, limit + 1), 7))


@pytest.mark.parametrize(("family", "told"), [("mamba", "its family keeps no state"), ("t5", "T5Config")])
def test_a_family_that_can_not_be_used_is_refused_in_a_line(family: str, told: str, tmp_path: Path) -> None:
    shape = {**SMALL, "state_size": 4} if family == "mamba" else {"d_model": 32, "num_layers": 1}
    config = AutoConfig.for_model(family, **shape)
    config.save_pretrained(tmp_path)
    if family == "mamba":
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"^model\.path={tmp_path} is not allowed: .*{told}[^\n]*$"):
        load_causal_lm(str(tmp_path), "float32", META)


def test_an_encoder_is_no_causal_lm() -> None:
    shape = RobertaConfig(**SMALL, intermediate_size=32, max_position_embeddings=66, pad_token_id=5)
    for is_decoder in (False, True):
        shape.is_decoder = is_decoder
        assert looks_back_only(RobertaForCausalLM(shape).eval()) == is_decoder


# ---- The scale of scores. ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -7e5, 1e6])
def test_scores_that_are_all_alike_are_shifted_and_not_scaled(value: float, caplog: pytest.LogCaptureFixture) -> None:
    mean, deviation = scale_of(torch.full((512,), value))
    assert (mean, deviation) == (pytest.approx(value, rel=1e-6), 1.0)
    assert "512 responses of the SFT model score" in caplog.text
    assert scale_of(torch.tensor([2.0, 4.0, 6.0])) == (4.0, 2.0)
    for right, deviation in ((25, 1.0), (26, (26 / 512 * 486 / 511) ** 0.5)):  # a verifier's: 5 % of 512 are 25.6
        assert scale_of(torch.tensor([0.0] * (512 - right) + [1.0] * right))[1] == pytest.approx(deviation, rel=1e-4)
