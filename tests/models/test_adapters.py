from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import RobertaConfig, RobertaForCausalLM

from rlhf.config.models import LoraConfig
from rlhf.errors import ConfigError
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch, collate
from tests.tiny import tiny_lm

BATCH = collate([[1, 4, 5], [1, 6]], [[7, 8, 2], [9, 2]], pad_id=0, device=torch.device("cpu"))
LORA = LoraConfig(r=2, alpha=4.0, dropout=0.0, target_modules=["all-linear"], rslora=False, dora=False, dtype="float32")

REAL = BATCH.attention_mask.bool()


def logits(role: Role, batch: Batch = BATCH) -> Tensor:
    with torch.no_grad():
        return role.logits(role.hidden(batch))


def disturb(role: Role) -> None:
    """Move a role's weights as training would; LoRA's second factor starts at zero, so this makes it count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in role.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


def snapshot(role: Role) -> list[Tensor]:
    return [weight.detach().clone() for weight in role.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_states_through_the_head_are_the_models_own_logits() -> None:
    lm = tiny_lm()
    expected = lm(
        input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask, position_ids=BATCH.position_ids
    ).logits
    assert torch.allclose(logits(SharedBase(lm).reference())[REAL], expected[REAL], atol=1e-6)


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does() -> None:
    base = SharedBase(tiny_lm())
    before = logits(base.reference())
    policy = base.add("policy", LORA, trainable=True)
    assert torch.equal(logits(policy), before)
    disturb(policy)
    assert not torch.allclose(logits(policy), before, atol=1e-2)


def test_with_adapters_off_the_logits_are_the_bases_to_the_bit() -> None:
    base = SharedBase(tiny_lm())
    before = logits(base.reference())
    for name in ("policy", "value", "reward"):
        disturb(base.add(name, LORA, trainable=True))
    assert torch.equal(logits(base.reference()), before)


def test_training_one_adapter_leaves_base_and_other_adapters_alone() -> None:
    base = SharedBase(tiny_lm())
    policy, value = base.add("policy", LORA, trainable=True), base.add("value", LORA, trainable=True)
    reward = base.add("reward", LORA, trainable=False)
    for role in (policy, value, reward):
        disturb(role)
    others = snapshot(value) + snapshot(reward)
    before, own = logits(base.reference()), snapshot(policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    policy.logits(policy.hidden(BATCH)).square().mean().backward()
    optimizer.step()
    assert same(snapshot(value) + snapshot(reward), others)
    assert torch.equal(logits(base.reference()), before)
    assert not same(snapshot(policy), own)
    assert all(weight.grad is None for role in (value, reward) for weight in role.parameters())


def test_gradients_reach_an_adapter_that_is_off_by_the_time_of_the_backward_pass() -> None:
    base = SharedBase(tiny_lm())
    policy, value = base.add("policy", LORA, trainable=True), base.add("value", LORA, trainable=True)
    loss = policy.hidden(BATCH).square().mean() + value.hidden(BATCH).square().mean()
    with base.reference().on():
        loss.backward()
    for role in (policy, value):
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in role.parameters())


def test_a_role_is_on_inside_its_block_only() -> None:
    base = SharedBase(tiny_lm())
    policy, value = base.add("policy", LORA, trainable=True), base.add("value", LORA, trainable=True)
    with policy.on():
        with value.on():
            assert base.active == "value"
        assert base.active == "policy"
    assert base.active is None


def test_all_roles_together_hold_one_copy_of_the_base() -> None:
    lm = tiny_lm()
    alone = sum(weight.untyped_storage().nbytes() for weight in lm.parameters())
    base = SharedBase(lm)
    roles = [base.add(name, LORA, trainable=True) for name in ("policy", "value", "reward")]
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in lm.parameters()}
    adapters = sum(weight.untyped_storage().nbytes() for role in roles for weight in role.parameters())
    assert sum(storages.values()) == alone + adapters
    # 7 linear layers in each of 2 blocks, rank 2: (16 -> 16) x 4, (16 -> 32) x 2 and (32 -> 16) hold 2 x (in + out)
    assert sum(weight.numel() for weight in roles[0].parameters()) == 2 * 2 * (4 * 32 + 3 * 48)


def test_a_full_copy_is_the_base_without_its_adapters_and_trains_apart() -> None:
    base = SharedBase(tiny_lm())
    disturb(base.add("reward", LORA, trainable=True))
    before = logits(base.reference())
    copied = base.full_copy()
    assert torch.equal(logits(copied), before)
    assert not any("lora" in name for name, _ in copied.lm.named_parameters())
    assert all(weight.requires_grad for weight in copied.parameters())
    disturb(copied)
    assert torch.equal(logits(base.reference()), before)
    assert not torch.allclose(logits(copied), before, atol=1e-2)


@pytest.mark.parametrize(("rslora", "dora"), [(False, False), (True, False), (False, True)])
def test_a_saved_policy_loads_with_plain_peft(tmp_path: Path, rslora: bool, dora: bool) -> None:
    lm = tiny_lm()
    lm.save_pretrained(tmp_path / "base")
    base = SharedBase(lm, path=str(tmp_path / "base"))
    lora = LoraConfig(**{**vars(LORA), "rslora": rslora, "dora": dora})
    policy = base.add("policy", lora, trainable=True)
    disturb(policy)
    (tmp_path / ".policy.unfinished").mkdir()
    (tmp_path / ".policy.unfinished" / "half").touch()  # a killed process has left it
    policy.save(tmp_path / "policy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "policy"]
    loaded = PeftModel.from_pretrained(type(lm).from_pretrained(tmp_path / "base"), str(tmp_path / "policy"))
    given = {"input_ids": BATCH.input_ids, "attention_mask": BATCH.attention_mask, "position_ids": BATCH.position_ids}
    with torch.no_grad():
        assert torch.allclose(loaded(**given).logits[REAL], logits(policy)[REAL], atol=1e-6)


def test_rank_stabilised_scaling_divides_alpha_by_the_root_of_r() -> None:
    plain, stable = SharedBase(tiny_lm()), SharedBase(tiny_lm())
    first = plain.add("policy", LoraConfig(**{**vars(LORA), "r": 4}), trainable=True)
    second = stable.add("policy", LoraConfig(**{**vars(LORA), "r": 4, "rslora": True}), trainable=True)
    # alpha / r = 4 / 4 against alpha / sqrt(r) = 4 / 2: the same factors weigh twice as much
    layers = [next(module for module in role.lm.modules() if isinstance(module, LoraLayer)) for role in (first, second)]
    assert [layer.scaling["policy"] for layer in layers] == [1.0, 2.0]


def test_adapters_are_float32_on_a_bfloat16_base() -> None:
    base = SharedBase(tiny_lm().to(torch.bfloat16))
    policy = base.add("policy", LORA, trainable=True)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    assert torch.equal(logits(policy), logits(base.reference()))


def test_an_adapter_in_bfloat16_leaves_the_others_and_the_base_in_float32() -> None:
    base = SharedBase(tiny_lm())
    before = logits(base.reference())
    reward = base.add("reward", LORA, trainable=True)
    policy = base.add("policy", LoraConfig(**{**vars(LORA), "dtype": "bfloat16"}), trainable=True)
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in reward.parameters()} == {torch.float32}
    assert torch.equal(logits(policy), before)
    disturb(policy)
    changed = logits(policy)
    assert changed.dtype == torch.float32
    assert not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(logits(base.reference()), before)


def test_target_modules_that_the_base_lacks_are_refused() -> None:
    lora = LoraConfig(**{**vars(LORA), "target_modules": ["query_key_value"]})
    with pytest.raises(ConfigError, match=r"lora\.target_modules=\['query_key_value'\]"):
        SharedBase(tiny_lm()).add("policy", lora, trainable=True)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_adapters_on_the_embeddings_are_refused(module: str) -> None:
    lora = LoraConfig(**{**vars(LORA), "target_modules": [module]})
    with pytest.raises(ConfigError, match=rf"lora\.target_modules=\['{module}'\]"):
        SharedBase(tiny_lm()).add("policy", lora, trainable=True)


# ---- Names. --------------------------------------------------------------------------------------------------------


def roberta() -> RobertaForCausalLM:
    """A decoder whose attention has modules called `self`, `query` and `value`."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=16, max_position_embeddings=66, is_decoder=True, **shape)
    return RobertaForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["value", "query", "self", "policy"])
def test_a_role_named_like_a_module_has_its_adapters_weights_alone(name: str, tmp_path: Path) -> None:
    base = SharedBase(roberta())
    other = base.add("other", replace(LORA, target_modules=["query", "value"]), trainable=True)
    role = base.add(name, replace(LORA, target_modules=["query", "value"]), trainable=True)
    shapes = [tuple(weight.shape) for weight in role.parameters()]
    assert shapes == [(2, 16), (16, 2)] * 4  # both factors of two modules in two layers
    assert not {id(weight) for weight in role.parameters()} & {id(weight) for weight in other.parameters()}
    frozen = [weight for weight in base.lm.parameters() if not weight.requires_grad]
    assert len(frozen) == len(list(roberta().parameters()))
    disturb(role)
    role.save(tmp_path / "saved")
    found = PeftModel.from_pretrained(roberta(), tmp_path / "saved")
    with role.on() as lm:
        expected = lm(input_ids=BATCH.input_ids).logits
    assert torch.equal(found(input_ids=BATCH.input_ids).logits, expected)
    state = {path: torch.zeros_like(weight) for path, weight in role.state().items()}
    role.load_state(state)
    assert all(weight.abs().max() == 0 for weight in role.parameters())
    assert any(weight.abs().max() > 0 for weight in other.parameters())


def test_adapters_are_named_uniquely_and_removed_without_a_trace() -> None:
    base = SharedBase(tiny_lm())
    before = logits(base.reference())
    reward, policy, second = (base.add(name, LORA, name != "reward") for name in ("reward", "policy", "policy"))
    for role in (reward, policy, second):
        disturb(role)
    assert (policy.adapter, second.adapter) == ("policy", "policy_2")
    expected, weights = logits(second), snapshot(second)
    policy.remove()
    assert torch.equal(logits(second), expected)
    assert same(snapshot(second), weights)
    assert all(weight.requires_grad for weight in second.parameters())
    assert not any(weight.requires_grad for weight in reward.parameters())
    assert base.add("policy", LORA, trainable=True).adapter == "policy"
    for name in ("policy", "policy_2", "reward"):
        base.remove(name)
    assert torch.equal(logits(base.reference()), before)
    assert sum(weight.numel() for weight in base.lm.parameters()) == sum(map(torch.numel, tiny_lm().parameters()))


@pytest.mark.parametrize("dora", [False, True])
def test_weights_come_in_the_order_of_the_models_parameters(dora: bool) -> None:
    base = SharedBase(tiny_lm())
    role = base.add("policy", replace(LORA, dora=dora), trainable=True)
    named = [weight for path, weight in base.lm.named_parameters() if ".policy" in path]
    assert [id(weight) for weight in role.parameters()] == [id(weight) for weight in named]
