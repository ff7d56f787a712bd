"""Packing: rows by hand, and states and gradients that are those of each sequence alone."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from rlhf.config.models import LoraConfig
from rlhf.models import adapters, packing
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch, collate
from rlhf.models.packing import Packing, first_fit, keeps_apart, narrowest, tightest
from tests.tiny import VOCABULARY, tiny_lm

LORA = LoraConfig(r=2, alpha=4.0)


def batch() -> Batch:
    """Sequences of 6, 2, 4 and 3 tokens."""
    prompts, responses = [[1, 4, 5, 6], [7], [8, 9], [10]], [[11, 2], [12], [13, 2], [14, 15]]
    return collate(prompts, responses, 0, torch.device("cpu"))


def test_the_longest_come_first_and_others_where_there_is_room() -> None:
    # 6 fills a row; 4 begins the next, which 2 fills; 3 begins a third
    assert first_fit([6, 2, 4, 3], 6) == ([0, 1, 1, 2], [0, 4, 0, 0])
    assert first_fit([3, 3], 3) == ([0, 1], [0, 0])
    assert narrowest([6, 2, 4, 3]) == (6, *first_fit([6, 2, 4, 3], 6))


def test_tight_rows_are_as_wide_as_leaves_least_empty() -> None:
    # 6 + 2 and 4 + 3 in two rows of 8 are 16 slots; three rows of 6 are 18, two of 10 are 20
    assert tightest([6, 2, 4, 3]) == (8, [0, 0, 1, 1], [0, 6, 0, 4])
    assert tightest([4, 4, 4, 4])[0] == 4  # where wider rows leave no less empty, the narrowest


def test_rows_hold_the_sequences_and_count_each_from_0() -> None:
    rows = batch().packing
    assert rows.input_ids.tolist() == [[1, 4, 5, 6, 11, 2], [8, 9, 13, 2, 7, 12], [10, 14, 15, 0, 0, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    rows = batch().tight_packing
    assert rows.input_ids.tolist() == [[1, 4, 5, 6, 11, 2, 7, 12], [8, 9, 13, 2, 10, 14, 15, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 0, 1, 2, 0]]


def test_unpacked_states_stand_where_their_tokens_do_with_0_at_padding() -> None:
    whole = batch()
    ids = whole.packing.input_ids
    assert torch.equal(
        whole.packing.unpack(ids[..., None].float(), whole.input_ids.shape)[..., 0],
        (whole.input_ids * whole.attention_mask).float(),
    )


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_states_and_gradients_are_those_of_the_padded_batch(adapter: bool, quick: bool) -> None:
    base = SharedBase(tiny_lm(), quick=quick)
    role = base.add("policy", LORA, trainable=True) if adapter else Role(tiny_lm().requires_grad_(True), quick=quick)
    with torch.no_grad():
        for weight in role.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    real = batch().attention_mask.bool()
    found: list[list[torch.Tensor]] = []
    for packs in (True, False):
        base.packs = role.packs = packs
        states = role.hidden(batch())[real]
        weights = [weight for weight in role.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(states.square().sum(), weights, allow_unused=True)
        found.append([states, *(gradient for gradient in gradients if gradient is not None)])
    assert len(found[0]) > 10
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


def test_models_keep_sequences_apart_or_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    sliding = MistralForCausalLM(MistralConfig(**small, **heads, sliding_window=3)).eval()
    absolute = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2)).eval()
    assert keeps_apart(tiny_lm())
    assert keeps_apart(sliding)
    assert keeps_apart(absolute)

    original = packing._states
    monkeypatch.setattr(packing, "_states", lambda lm, ids, positions: original(lm, ids, torch.arange(ids.shape[1])))
    assert not keeps_apart(tiny_lm())
    monkeypatch.setattr(adapters, "keeps_apart", lambda lm: False)
    assert not Role(tiny_lm()).packs


@pytest.mark.parametrize("packs", [True, False])
def test_states_are_0_at_padding_and_nowhere_else(packs: bool) -> None:
    role, real = Role(tiny_lm()), batch().attention_mask.bool()
    role.packs = packs
    states = role.hidden(batch())
    assert states[~real].abs().max() == 0
    assert states[real].abs().amax(-1).min() > 0


def test_a_chosen_part_is_packed_by_itself() -> None:
    part = batch().select(torch.tensor([3, 1]))
    assert isinstance(part.packing, Packing)
    assert part.packing.input_ids.tolist() == [[10, 14, 15], [7, 12, 0]]
