from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.models import ModelConfig
from rlhf.errors import ConfigError
from rlhf.models.backbone import (
    CPU,
    build_backbone,
    cpu_name,
    held_by_others,
    load_backbone,
    processor,
    random_backbone,
    resolve_device,
    save_backbone,
)
from rlhf.models.hub import fingerprint
from rlhf.models.precision import DTYPES
from tests.checkpoints import save_family
from tests.tiny import tiny_lm, tiny_tokenizer

SHAPE = ModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=24, vocab_size=64, context=32)


def test_a_backbone_is_as_large_as_asked_and_knows_its_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    lm = build_backbone(SHAPE, tokenizer, torch.device("cpu"))
    # embeddings 16 x 16 (tied); attention 4 x 16 x 16; feed-forward 3 x 16 x 24; two norms a layer and a last one
    assert lm.num_parameters() == 16 * 16 + 4 * 16 * 16 + 3 * 16 * 24 + 3 * 16
    assert (lm.config.pad_token_id, lm.config.eos_token_id) == (0, 2)
    assert lm.config.max_position_embeddings == 32


def test_the_same_seed_gives_the_same_weights() -> None:
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(build_backbone(SHAPE, tiny_tokenizer(), torch.device("cpu")).get_input_embeddings().weight)
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2])


def test_a_saved_backbone_loads_with_its_tokenizer(tmp_path: Path) -> None:
    lm = tiny_lm()
    save_backbone(lm, tiny_tokenizer(), tmp_path)
    loaded, tokenizer = load_backbone(tmp_path, "float32")
    probe = torch.tensor([[1, 4, 5]])
    assert torch.equal(loaded(input_ids=probe).logits, lm(input_ids=probe).logits)
    assert tokenizer("a b")["input_ids"] == [4, 5]
    assert not loaded.training


def test_a_model_that_does_more_to_its_logits_than_is_known_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_family(tmp_path / "gemma2", "gemma2")
    monkeypatch.setattr("rlhf.models.backbone.finish_logits", lambda logits, config: logits)
    with pytest.raises(ConfigError, match="its logits are not its output head applied to its last states"):
        load_backbone(path, "float32")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_is_that_of_the_weights(family: str, dtype: str, tmp_path: Path) -> None:
    lm, _ = load_backbone(save_family(tmp_path, family), dtype)
    assert {weight.dtype for weight in lm.parameters()} == {DTYPES[dtype]}


def test_the_implementation_of_attention_is_the_one_asked_for_or_refused(tmp_path: Path) -> None:
    path = save_family(tmp_path / "llama", "llama")
    for attention in ("eager", "sdpa"):
        assert load_backbone(path, "float32", attention=attention)[0].config._attn_implementation == attention
    with pytest.raises(ConfigError, match=r"model\.attention.*FlashAttention2"):  # which is not installed
        load_backbone(path, "bfloat16", attention="flash_attention_2")
    with pytest.raises(ConfigError, match=r"model\.attention.*does not support"):
        load_backbone(save_family(tmp_path / "gemma2", "gemma2"), "float32", attention="sdpa")


def test_random_weights_are_made_as_they_are_used() -> None:
    shape = replace(SHAPE, dtype="bfloat16", tied=False)
    torch.manual_seed(0)
    lm = random_backbone(shape, tiny_tokenizer(), torch.device("cpu"))
    assert {weight.dtype for weight in lm.parameters()} == {torch.bfloat16}
    # as above, with two embeddings of all 64 rows
    assert lm.num_parameters() == 2 * 64 * 16 + 4 * 16 * 16 + 3 * 16 * 24 + 3 * 16
    assert lm(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 16)  # of the ids that the tokenizer knows


def test_a_missing_pad_token_becomes_eos_and_a_missing_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    save_backbone(tiny_lm(), tokenizer, tmp_path / "no_pad")
    assert load_backbone(tmp_path / "no_pad", "float32")[1].pad_token_id == 2
    tokenizer.eos_token = None
    save_backbone(tiny_lm(), tokenizer, tmp_path / "no_eos")
    with pytest.raises(ConfigError, match="has no EOS token"):
        load_backbone(tmp_path / "no_eos", "float32")


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.path={tmp_path} is not allowed"):
        load_backbone(tmp_path, "float32")


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    first = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == first
    (tmp_path / "weights").write_text("22")
    assert fingerprint(str(tmp_path)) != first
    assert fingerprint("some/hub-id") == ["some/hub-id"]


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=cuda"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("free", "told"), [(10, ", of which other processes hold 50 GiB"), (55, ""), (60, "")])
def test_memory_that_other_processes_hold_is_told(free: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GiB this process holds 20."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20 * 2**30)
    assert held_by_others() == told


def test_a_processor_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    here = processor(CPU)
    assert torch.backends.cpu.get_cpu_capability() in here
    assert here.endswith(f", torch {torch.__version__}")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "none")
    assert processor(CPU) != here
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {device.index}")
    assert processor(torch.device("cuda", 1)) == f"card 1, torch {torch.__version__}"


@pytest.mark.parametrize(
    ("text", "expected"), [("processor: 0\nmodel name\t: A B\nmodel name\t: C\n", "A B"), ("", "arm")]
)
def test_the_name_of_a_cpu(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    monkeypatch.setattr("platform.machine", lambda: "arm")
    assert cpu_name() == expected
