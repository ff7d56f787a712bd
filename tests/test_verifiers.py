"""The ready-made verifiers, by hand."""

import json
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.verifiers import exact_answer, keyword, length, plain_words, regex


@pytest.mark.parametrize(("words", "score"), [(0, 0.0), (2, 0.5), (4, 1.0), (6, 1.0), (9, 0.5), (12, 0.0), (40, 0.0)])
def test_length_falls_off_on_both_sides_of_its_band(words: int, score: float) -> None:
    assert length("", "word " * words, low=4, high=6) == score


def test_length_counts_sentences_and_characters() -> None:
    assert length("", "One. Two! It is 3.5 long?", low=3, high=3, unit="sentences") == 1.0
    assert length("", "abcd", low=8, high=9, unit="characters") == 0.5


def test_keywords_are_whole_words_in_either_case() -> None:
    words = ["because", "for example"]
    assert keyword("", "Because it is, for example, so.", words, most=4) == 0.5
    assert keyword("", "BECAUSE because because", words) == 1.0
    assert keyword("", "becauses", words) == 0.0
    assert keyword("", "I agree because", "because") == 1.0  # a single word is not its letters
    assert keyword("", "a b", "because") == 0.0


def test_plain_words_are_a_share_of_all_or_of_as_many_as_there_should_be() -> None:
    assert plain_words("", "It isn't 12 hippopotamuses.", longest=4, least=1) == 3 / 4  # it, isn, t
    assert plain_words("", "So it is", longest=4, least=6) == 0.5
    assert plain_words("", "", longest=4) == 0.0


def test_the_format_is_that_of_the_whole_response() -> None:
    assert regex("", " Yes. \n", r"(Yes|No)\.")
    assert not regex("", "Yes. But", r"(Yes|No)\.")


def test_the_last_number_is_the_answer(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"instruction": "Add  1 and\n1,233.", "answer": "1234"}))
    asked = "Add 1 and 1,233."
    for right in ("1 + 1233 = 1,234.", "1234, I think", "it is 1,234, or so", "of 1,2,3 and 1234"):
        assert exact_answer(asked, right, str(answers))
    assert not exact_answer(asked, "1234 is 1 more than 1233", str(answers))
    assert not exact_answer(asked, "none", str(answers))
    assert not exact_answer("Another?", "1234", str(answers))
    answers = tmp_path / "bad.jsonl"
    answers.write_text(json.dumps({"instruction": "Add.", "answer": 2}))
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1, field 'answer' is 2"):
        exact_answer(asked, "2", str(answers))
