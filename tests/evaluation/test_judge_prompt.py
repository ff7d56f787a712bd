"""Templates, the coin that orders two outputs, and what is read out of answers."""

import json
import math
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.judge_prompt import (
    TEMPLATES,
    fill,
    is_switched,
    load_template,
    named_preference,
    ranked_preference,
    weighted_preference,
)

ALPACA_EVAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"
LABELS = ("m", "M")
MODELS = ("model_1", "model_2")
VALUES = {"instruction": "Q?", "output_1": "one", "output_2": "two", "label_1": "m", "label_2": "M"}


@pytest.mark.parametrize("style", TEMPLATES)
def test_the_built_in_templates_show_all_they_are_given(style: str) -> None:
    system, user = fill(load_template(style, None), VALUES)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "{" not in system["content"]
    content = user["content"]
    assert content.index("Q?") < content.index("one") < content.index("two")
    assert '"m"' in content
    assert '"M"' in content


def test_braces_in_a_response_stay_text() -> None:
    tricky = {**VALUES, "output_1": "{output_2} and {instruction} {0}", "output_2": r"\1 {x}"}
    (message,) = fill([{"role": "user", "content": '{"a": """{output_1}"""} {output_2} {other}'}], tricky)
    assert message["content"] == '{"a": """{output_2} and {instruction} {0}"""} \\1 {x} {other}'


def test_a_template_of_ones_own_may_be_plain_or_in_messages(tmp_path: Path) -> None:
    plain, chat = tmp_path / "plain.txt", tmp_path / "chat.txt"
    plain.write_text("{instruction}: {output_1} or {output_2}?")
    assert load_template("preference", str(plain)) == [
        {"role": "user", "content": "{instruction}: {output_1} or {output_2}?"}
    ]
    chat.write_text(
        "<|im_start|>system\nS {instruction}\n<|im_end|>\n<|im_start|>user\n{output_1}\n{output_2}<|im_end|>"
    )
    assert load_template("ranking", str(chat)) == [
        {"role": "system", "content": "S {instruction}"},
        {"role": "user", "content": "{output_1}\n{output_2}"},
    ]


def test_a_template_that_lacks_a_placeholder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("{instruction} {output1} {output_2}")
    with pytest.raises(DataError, match=r"judge\.prompt_file: .*bad\.txt lacks \{output_1\}$"):
        load_template("preference", str(path))
    with pytest.raises(DataError, match=r"judge\.prompt_file: there is no file"):
        load_template("preference", str(tmp_path / "none.txt"))


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
@pytest.mark.parametrize("name", ["annotator_prompt_v1_alpaca_eval.txt", "annotator_prompt_v2_clf.txt"])
def test_alpaca_evals_own_templates_can_be_used(name: str) -> None:
    system, user = fill(load_template("preference", str(ALPACA_EVAL / name)), VALUES)
    assert system["content"].startswith("You are")
    assert [text in user["content"] for text in ('"""Q?"""', '"""one"""', '"""two"""')] == [True] * 3


def test_the_weighted_preference_by_hand() -> None:
    assert weighted_preference({"m": math.log(0.6), "M": math.log(0.2), "x": math.log(0.2)}, LABELS) == pytest.approx(
        2 - 0.6 / 0.8
    )
    assert weighted_preference({"M": -0.1, "x": -3.0}, LABELS) == 2.0
    assert weighted_preference({"m": -0.1, "x": -3.0}, LABELS) == 1.0
    spaced = {" m": math.log(0.2), "m\n": math.log(0.1), " M": math.log(0.3)}
    assert weighted_preference(spaced, LABELS) == pytest.approx(1.5)
    assert weighted_preference({"m": math.log(0.3), **spaced}, LABELS) == 1.0
    assert weighted_preference({"x": -0.1}, LABELS) is None
    assert weighted_preference({"m": -9999.0, "M": -9999.0}, LABELS) is None  # too unlikely to be told, by OpenAI


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("m", 1.0),
        ("M", 2.0),
        (" M.\n", 2.0),
        ('"m"', 1.0),
        ("**M**", 2.0),
        ("model", None),
        ("m or M", None),
        ("", None),
    ],
)
def test_a_named_preference(text: str, preference: float | None) -> None:
    assert named_preference(text, LABELS) == preference


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0),
        ('[{"model": "model_2", "rank": 1}, {"model": "model_1", "rank": 2}]', 2.0),
        ('Here: ```[{"model": "model_1", "rank": 2},\n {"model": "model_2", "rank": 1}]```', 2.0),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]", 1.5),
        ("[{'model': 'model_1', 'rank': 1}]", None),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", None),
        ("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 3}]", None),
        ("[{'model': 'a', 'rank': 1}, {'model': 'b', 'rank': 2}]", None),
        ("model_1", None),
    ],
)
def test_a_ranked_preference(text: str, preference: float | None) -> None:
    assert ranked_preference(text, MODELS) == preference


def test_the_coin_falls_both_ways_and_always_the_same() -> None:
    thrown = [is_switched(f"question {n}") for n in range(1000)]
    assert 450 < sum(thrown) < 550
    assert thrown == [is_switched(f"question {n}") for n in range(1000)]


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
def test_every_recorded_judgement_of_alpaca_eval_2_is_reproduced() -> None:
    """From its log-probabilities and the coin; the six without are pairs of identical outputs, which tie."""
    instructions = [row["instruction"] for row in json.loads((ALPACA_EVAL / "instructions.json").read_text())]
    lines = (ALPACA_EVAL / "annotations_v2_weighted_gpt4_turbo.jsonl").read_text().splitlines()
    asked = tied = 0
    for row in map(json.loads, lines):
        if row["top_logprobs"] is None:
            assert row["preference"] == 1.5
            tied += 1
            continue
        preference = weighted_preference(row["top_logprobs"], LABELS)
        assert preference is not None
        if is_switched(instructions[row["index"]]):
            preference = 3 - preference
        assert preference == pytest.approx(row["preference"], abs=1e-9)
        asked += 1
    assert (asked, tied) == (1604, 6)
