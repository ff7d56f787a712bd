from rlhf.data.encoding import encode_prompt, encode_response, special_ids
from rlhf.data.source import Prompt
from rlhf.data.text import train_tokenizer
from tests.tiny import tiny_tokenizer


def test_a_prompt_never_ends_in_eos_and_a_response_always_does() -> None:
    tokenizer = tiny_tokenizer()
    assert encode_prompt(tokenizer, Prompt("", "<bos> a b <eos>", "")) == [1, 4, 5]
    assert encode_prompt(tokenizer, Prompt("", "<bos> a b", "")) == [1, 4, 5]
    assert encode_response(tokenizer, "a b") == [4, 5, 2]
    assert encode_response(tokenizer, "") == [2]


def test_a_special_token_spelt_out_in_a_response_does_not_end_it() -> None:
    token_ids = encode_response(train_tokenizer(["a b"], vocab_size=300), "a <eos> b")
    assert token_ids[-1] == 2
    assert 2 not in token_ids[:-1]


def test_a_special_token_spelt_out_in_a_prompt_is_text_behind_one_bos() -> None:
    tokenizer = train_tokenizer(["a b"], vocab_size=300)
    token_ids = encode_prompt(tokenizer, Prompt("", "<bos>a <eos> b<eos>", ""))
    assert token_ids[0] == 1
    assert not {0, 1, 2} & set(token_ids[1:])
    assert tokenizer.decode(token_ids[1:]) == "<bos>a <eos> b<eos>"


def test_special_ids() -> None:
    assert special_ids(tiny_tokenizer()) == (0, 2)
