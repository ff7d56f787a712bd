"""A policy that starts from an adapter that was trained before."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from rlhf.config.models import PolicyLoraConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.initial_adapter import check_start, load_start
from tests.configure import configure
from tests.models.test_adapters import BATCH, REAL, disturb, logits
from tests.tiny import tiny_lm


def lora(**changes: Any) -> PolicyLoraConfig:
    return PolicyLoraConfig(**{"r": 2, "alpha": 4.0} | changes)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    tiny_lm().save_pretrained(tmp_path / "base")
    policy = SharedBase(tiny_lm(), path=str(tmp_path / "base")).add("policy", lora(), trainable=True)
    disturb(policy)
    policy.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_policy_is_the_published_one_and_the_reference_is_not(published: Path) -> None:
    config = lora(path=str(published), dropout=0.3)  # which is no part of what an adapter is
    check_start(config)
    base = SharedBase(tiny_lm())
    before = logits(base.reference())
    reward = base.add("reward", lora(), trainable=True)
    policy = base.add("policy", config, trainable=True)
    load_start(policy, config)
    theirs = AutoPeftModelForCausalLM.from_pretrained(published)
    given = {"input_ids": BATCH.input_ids, "attention_mask": BATCH.attention_mask, "position_ids": BATCH.position_ids}
    with torch.no_grad():
        assert torch.allclose(logits(policy)[REAL], theirs(**given).logits[REAL], atol=1e-6)
    assert not torch.allclose(logits(policy), before, atol=1e-2)
    assert torch.equal(logits(base.reference()), before)
    assert torch.equal(logits(reward), before)
    assert all(weight.requires_grad for weight in policy.parameters())


def test_without_a_path_the_policy_is_fresh() -> None:
    base = SharedBase(tiny_lm())
    policy = base.add("policy", lora(), trainable=True)
    check_start(lora())
    load_start(policy, lora())
    assert torch.equal(logits(policy), logits(base.reference()))


@pytest.mark.parametrize(
    ("key", "value", "there"), [("r", 4, 2), ("alpha", 8.0, 4.0), ("rslora", True, False), ("dora", True, False)]
)
def test_settings_that_differ_are_refused_before_any_work(published: Path, key: str, value: Any, there: Any) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.{key}={value} .* lora\.path=.* has {there}$"):
        check_start(lora(path=str(published), **{key: value}))


def test_other_target_modules_are_refused_by_name(published: Path) -> None:
    config = lora(path=str(published), target_modules=["q_proj"])
    policy = SharedBase(tiny_lm()).add("policy", config, trainable=True)
    told = r"lora\.target_modules=\['q_proj'\] is not allowed: .* has down_proj, gate_proj, .*v_proj$"
    with pytest.raises(ConfigError, match=told):
        load_start(policy, config)


def test_adapters_of_other_bases_are_refused(published: Path) -> None:
    config = lora(path=str(published))
    wider = tiny_lm().config
    wider.hidden_size = 32
    deeper = tiny_lm().config
    deeper.num_hidden_layers = 3
    for shape, told in ((wider, r"it is of another base: .*lora_A.weight has the shape \(2, 16\)"), (deeper, "layers")):
        policy = SharedBase(type(tiny_lm())(shape)).add("policy", config, trainable=True)
        with pytest.raises(ConfigError, match=told):
            load_start(policy, config)


def test_what_is_no_such_adapter_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.path=.*nothing is not allowed: no adapter can be loaded from there"):
        check_start(lora(path=str(tmp_path / "nothing")))
    for content in ('{"r": 3}', '{"peft_type": "NEWER"}', "[]", "{"):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"lora\.path=.* is not allowed: no adapter can be loaded from there: "):
            check_start(lora(path=str(tmp_path)))
    settings = json.loads((published / "adapter_config.json").read_text())
    for change in ({"bias": "lora_only"}, {"alpha_pattern": {"q_proj": 3}}, {"modules_to_save": ["lm_head"]}):
        (published / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match="its layers differ in rank or scale"):
            check_start(lora(path=str(published)))
    (published / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "task_type": "CAUSAL_LM"}))
    with pytest.raises(ConfigError, match="it holds a IA3Config"):
        check_start(lora(path=str(published)))


def test_the_key_is_the_policys_alone() -> None:
    assert configure("lora.path=someone/adapter").lora.path == "someone/adapter"
    with pytest.raises(ConfigError, match=r"lora\.path=someone/adapter is not allowed: all weights are trained"):
        configure("lora=full", "lora.path=someone/adapter")
    assert not hasattr(configure().reward.lora, "path")
