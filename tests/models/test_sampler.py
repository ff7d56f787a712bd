"""Sampling: the right distribution, and at temperature 0 or near it the responses of a naive greedy decoder."""

import logging

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf.config.rl import RolloutConfig
from rlhf.data.source import Prompt, Response
from rlhf.data.text import train_tokenizer
from rlhf.models import sampler as rollout
from rlhf.models.adapters import Role
from rlhf.models.decoding import Logits
from rlhf.models.drawing import draw_tokens
from rlhf.models.fused import FusedDecoder
from rlhf.models.sampler import Sampler
from rlhf.process.distributed import Ranks
from tests.tiny import VOCABULARY, tiny_lm, tiny_tokenizer

EOS = VOCABULARY.index("<eos>")
GREEDY = 1e-4
MODEL = 13  # the seed of one whose greedy responses end after 1, 2, 7, 8 tokens, or not at all
TEXTS = ("a", "<bos> b a", "c c c c c c", "d", "a b c d e f g", "<bos> h", "i j", "k l a", "e e", "<bos> f k")


def prompt(text: str) -> Prompt:
    return Prompt(text, text, "letters")


PROMPTS = [prompt(text) for text in TEXTS]


def sampler(
    response: int = 12, prompts: int = 8, decode: int = 100, tokenizer: PreTrainedTokenizerFast | None = None
) -> Sampler:
    config = RolloutConfig(max_prompt_tokens=prompts, max_response_tokens=response, decode_batch_size=decode)
    return Sampler(tokenizer or tiny_tokenizer(), config, torch.device("cpu"))


def draw(sampler: Sampler, prompts: list[Prompt] = PROMPTS, temperature: float = 1.0, seed: int = 0) -> list[Response]:
    return sampler.sample(Role(tiny_lm(MODEL)), prompts, temperature, torch.Generator().manual_seed(seed))


@torch.no_grad()
def greedy(text: str, limit: int) -> list[int]:
    """The likeliest continuation, every token by the whole text anew."""
    lm, ids = tiny_lm(MODEL), tiny_tokenizer()(text)["input_ids"]
    assert isinstance(ids, list)
    response: list[int] = []
    while len(response) < limit and EOS not in response:
        response.append(int(lm(torch.tensor([ids + response]), use_cache=False).logits[0, -1].argmax()))
    return response


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_follow_the_softmax_at_that_temperature(temperature: float) -> None:
    draws = 4000
    # A shorter prompt among longer ones, and the second token as well: padding and cache must not change what is drawn.
    prompts = [prompt("a b")] * draws + [prompt("c d e f")]
    responses = draw(sampler(response=2, decode=10_000), prompts, temperature)[:draws]
    first = torch.bincount(torch.tensor([response.token_ids[0] for response in responses]), minlength=16)
    favourite = int(first.argmax())
    second = [response.token_ids[1] for response in responses if response.token_ids[0] == favourite]
    ids = [4, 5]
    assert favourite != EOS
    for counts, before in ((first, ids), (torch.bincount(torch.tensor(second), minlength=16), [*ids, favourite])):
        with torch.no_grad():
            logits = tiny_lm(MODEL)(torch.tensor([before])).logits[0, -1].double()
        wanted = (logits / temperature).softmax(-1)
        total = counts.sum()
        assert total > 500
        deviation = (wanted * (1 - wanted) * total).sqrt()
        assert ((counts - wanted * total).abs() <= 4 * deviation + 1).all()


def test_same_seed_same_responses_and_another_seed_others() -> None:
    assert draw(sampler(), seed=5) == draw(sampler(), seed=5)
    assert draw(sampler(), seed=5) != draw(sampler(), seed=6)


@pytest.mark.parametrize("compact_every", [1, 3, 1000])
@pytest.mark.parametrize("decode", [1, 3, 100])
def test_cold_samples_equal_naive_greedy_decoding(
    compact_every: int, decode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "COMPACT_EVERY", compact_every)
    wanted = [greedy(text, 12) for text in TEXTS]
    assert {len(ids) for ids in wanted if ids[-1] == EOS} == {1, 2, 7, 8}  # rows end at different times,
    assert any(ids[-1] != EOS for ids in wanted)  # and some never
    assert [response.token_ids for response in draw(sampler(decode=decode), temperature=GREEDY)] == wanted


@pytest.mark.parametrize(("configured", "asked", "limit"), [(12, None, 12), (12, 3, 3), (3, 12, 12)])
def test_at_temperature_0_responses_are_greedy_up_to_the_limit_asked_for_and_chance_has_no_part(
    configured: int, asked: int | None, limit: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    untouched = generator.get_state()
    responses = sampler(response=configured).sample(Role(tiny_lm(MODEL)), PROMPTS, 0.0, generator, asked)
    assert [response.token_ids for response in responses] == [greedy(text, limit) for text in TEXTS]
    assert {len(response.token_ids) for response in responses if not response.finished} == {limit}
    assert torch.equal(generator.get_state(), untouched)


def test_temperature_divides_the_logits_and_0_takes_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 5.0 - 1e-3]])
    generator = torch.Generator().manual_seed(0)
    assert draw_tokens(logits, 0.0, torch.zeros(2)).tolist() == [[1], [0]]
    drawn = torch.cat([draw_tokens(logits, 2.0, torch.rand(2, generator=generator)) for _ in range(3000)], dim=1)
    # e^1.5 / (1 + e^1.5 + e^0.5) and 1 / (1 + e^-3 + e^-0.0005); a share's deviation is below 0.01
    assert abs((drawn[0] == 1).float().mean().item() - 0.6285) < 0.04
    assert abs((drawn[1] == 0).float().mean().item() - 0.4880) < 0.04


def test_a_token_is_drawn_where_its_number_falls_in_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25, 0.0]).log().expand(7, 6)
    chance = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.99, 1 - 2**-24])  # the last is the largest below 1
    assert draw_tokens(logits, 1.0, chance)[:, 0].tolist() == [1, 1, 2, 2, 4, 4, 4]


def test_impossible_tokens_are_never_drawn_whatever_the_sum_rounds_to() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4096, 97, generator=generator)
    logits[:, 90:] = -torch.inf
    chance = torch.full((4096,), 1 - 2**-24)
    assert draw_tokens(logits, 1.0, chance).max() < 90


@pytest.mark.parametrize("decode", [1, 3, 4])
def test_a_response_depends_on_its_own_row_alone(decode: int) -> None:
    assert draw(sampler(decode=decode), seed=3) == draw(sampler(decode=100), seed=3)


def test_ranks_share_the_rows_and_leave_the_responses_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = draw(sampler(), seed=4), []
    monkeypatch.setattr(Ranks, "largest", lambda ranks, value: value)
    monkeypatch.setattr(Ranks, "gather_objects", lambda ranks, items: parts.append(items) or items)
    for rank in range(3):
        part = sampler()
        part.ranks = Ranks(rank, 3)
        draw(part, seed=4)
    assert [len(part) for part in parts] == [3, 3, 4]
    assert [response for part in parts for response in part] == whole


def test_pads_that_are_eos_change_nothing() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    plain, same = sampler(), sampler(tokenizer=tokenizer)
    assert (plain.pad_id, same.pad_id) == (0, EOS)
    assert draw(plain, temperature=GREEDY) == draw(same, temperature=GREEDY)


def test_both_engines_draw_the_same_responses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fast, plain = sampler(decode=4), sampler(decode=4)
    plain.config.engine = "hf"
    assert draw(fast, PROMPTS * 8, seed=7) == draw(plain, PROMPTS * 8, seed=7)
    assert caplog.messages == []


def test_a_model_that_fast_can_not_decode_is_decoded_all_the_same_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    absolute = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()
    ours = sampler()
    for _ in range(2):
        ours.sample(Role(absolute), PROMPTS, 1.0, torch.Generator())
    assert caplog.text.count("gpt2 is not decoded by rollout.engine=fast") == 1


def test_eos_ends_a_response_and_says_that_it_is_finished() -> None:
    responses = draw(sampler(response=10), PROMPTS * 20)
    assert {response.finished for response in responses} == {True, False}
    for response in responses:
        body = response.token_ids[:-1] if response.finished else response.token_ids
        assert EOS not in body
        assert (response.token_ids[-1] == EOS) == response.finished
        assert response.finished or len(response.token_ids) == 10
        assert response.text == " ".join(VOCABULARY[token] for token in body)


@pytest.mark.parametrize("limit", [1, 8, 9])
def test_responses_reach_but_never_exceed_the_limit(limit: int) -> None:
    assert max(len(response.token_ids) for response in draw(sampler(response=limit), PROMPTS * 5)) == limit


def test_responses_keep_the_order_of_prompts_over_several_batches() -> None:
    mixed = [PROMPTS[index] for index in (7, 1, 4, 0, 3, 2)]
    responses = draw(sampler(decode=4), mixed, GREEDY)
    assert [response.token_ids for response in responses] == [greedy(each.text, 12) for each in mixed]


def test_the_longest_prompts_are_decoded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a cache fits where a larger one was, and not where a smaller one was."""
    lengths: list[int] = []
    start = FusedDecoder.start

    def remembered(self: FusedDecoder, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        lengths.append(input_ids.shape[1])
        return start(self, input_ids, attention_mask)

    role, generator, drawing = Role(tiny_lm(MODEL)), torch.Generator().manual_seed(0), sampler(decode=3)
    drawing.sample(role, PROMPTS, 1.0, generator)  # asks once whether fast decoding matches
    monkeypatch.setattr(FusedDecoder, "start", remembered)
    drawing.sample(role, PROMPTS, 1.0, generator)
    assert len(lengths) == 4
    assert lengths == sorted(lengths, reverse=True)


def test_long_prompts_keep_their_last_tokens() -> None:
    short = sampler(prompts=3)
    assert short.encode([prompt("a b c d e"), prompt("f g")]) == [[6, 7, 8], [9, 10]]
    assert draw(short, [prompt("a b c d e")], GREEDY)[0].token_ids == greedy("c d e", 12)
    prompts = [prompt(text) for text in ("a b", "a b c", "a b c d")]
    assert [short.fits(each) for each in prompts] == [True, True, False]
    assert short.count_cut(prompts) == 1


def test_collate_keeps_prompts_and_responses_apart_and_is_as_wide_as_asked_or_the_longest_response() -> None:
    responses = [Response([9, EOS], "f", True), Response([10], "g", False)]
    batch = sampler().collate([[4], [5, 6]], responses)
    assert batch.input_ids.tolist() == [[0, 4, 9, EOS], [5, 6, 10, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    widths = [sampler().collate([[4], [5]], responses, width).mask.shape[1] for width in (0, 1, 2, 5)]
    assert widths == [2, 2, 2, 5]
    wide = sampler().collate([[4], [5]], responses, 5)
    assert wide.responses.tolist() == [[9, EOS, 0, 0, 0], [10, 0, 0, 0, 0]]
    assert wide.lengths.tolist() == [2, 1]
    assert wide.attention_mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_a_text_as_tokens_has_no_eos_and_need_not_be_the_tokens_it_was_sampled_as() -> None:
    texts = ["a f", ""]
    assert [sampler().encode_text(Response([4, 9, EOS], text, True)) for text in texts] == [[4, 9], []]
    tokenizer = train_tokenizer(["thing thing thing"] * 9, vocab_size=300)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "thing"]
    response = sampler(tokenizer=tokenizer)._response([*letters, 2])
    assert response == Response([*letters, 2], "thing", True)
    encoded = sampler(tokenizer=tokenizer).encode_text(response)
    assert len(encoded) == 1
    assert tokenizer.decode(encoded) == "thing"


def test_a_prompt_is_encoded_once_and_its_tokens_are_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sampler()
    calls: list[Prompt] = []
    monkeypatch.setattr("rlhf.models.sampler.encode_prompt", lambda tokenizer, prompt: calls.append(prompt) or [3, 4])
    first = drawn.encode([PROMPTS[0]])
    first[0].append(9)
    assert drawn.encode([PROMPTS[0]]) == [[3, 4]]
    assert drawn.fits(PROMPTS[0])
    assert len(calls) == 1
