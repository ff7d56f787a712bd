"""judge=llm: templates, what is read out of answers, and a judge behind a server on loopback.

That judge prefers the response that holds more a's, or whatever is shown first.
"""

import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import LlmJudgeConfig
from rlhf.errors import DataError, EndpointError
from rlhf.evaluation.judges import Pair, Resources, Verdict, describe_verdicts
from rlhf.evaluation.llm import (
    TEMPLATES,
    LlmJudge,
    fill,
    is_switched,
    load_template,
    named_preference,
    ranked_preference,
    weighted_preference,
)
from tests.fake_endpoint import Body, FakeModel, completion, endpoint_settings, failure

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
    with pytest.raises(DataError, match=r"judge\.prompt_file: .*bad\.txt lacks \{output_1\}"):
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


NAMED = {"m": 1.0, "M": 2.0, " M.\n": 2.0, '"m"': 1.0, "**M**": 2.0, "model": None, "m or M": None, "": None}


@pytest.mark.parametrize(("text", "preference"), NAMED.items())
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


# ---- A judge on loopback. --------------------------------------------------------------------------------------------

MakeJudge = Callable[..., LlmJudge]


@pytest.fixture
def make(model: FakeModel, tmp_path: Path) -> MakeJudge:
    return lambda **changed: LlmJudge(LlmJudgeConfig(**endpoint_settings(model.url, tmp_path) | changed), Resources())


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rlhf")


def shown(body: Body) -> tuple[str, str]:
    """The two responses as the prompt shows them."""
    first, second = re.findall(r"<response name=.*?>\n(.*?)\n</response>", body["messages"][-1]["content"], re.DOTALL)
    return first, second


def likes_a(body: Body) -> Body:
    """Three quarters for the response with more a's."""
    first, second = (text.count("a") for text in shown(body))
    chance = 0.75 if first > second else 0.25
    return completion("m" if first > second else "M", {"m": math.log(chance), "M": math.log(1 - chance)})


def pairs(*outputs: tuple[str, str]) -> list[Pair]:
    return [Pair(f"question {place}", *each) for place, each in enumerate(outputs)]


def preferences(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.preference for verdict in verdicts]


def test_the_order_is_the_coins_and_the_preference_is_of_the_output(make: MakeJudge, model: FakeModel) -> None:
    model.reply = likes_a
    asked = pairs(*[("aa", "b")] * 6, *[("b", "aa")] * 6)
    verdicts = make().compare(asked)
    assert preferences(verdicts) == pytest.approx([1.75] * 6 + [1.25] * 6)
    switched = [verdict.readings[0].switched for verdict in verdicts]
    assert switched == [is_switched(pair.instruction) for pair in asked]
    assert len(set(switched)) == 2
    first = {body["messages"][-1]["content"].split("\n")[1]: shown(body)[0] for body in model.bodies}
    assert first == {
        pair.instruction: pair.output if switch else pair.reference
        for pair, switch in zip(asked, switched, strict=True)
    }
    assert {(body["max_tokens"], body["logprobs"], body["top_logprobs"]) for body in model.bodies} == {(1, True, 5)}


def test_identical_outputs_tie_without_a_question(make: MakeJudge, model: FakeModel) -> None:
    verdicts = make().compare(pairs(("same", "same"), ("", "")))
    assert preferences(verdicts) == [1.5, 1.5]
    assert model.bodies == []
    assert describe_verdicts(verdicts)["n_identical"] == 2


def test_both_orders_are_averaged(make: MakeJudge, model: FakeModel) -> None:
    """A judge that gives what is shown first 0.9, and otherwise likes a's: it changes its mind on every pair."""
    model.reply = lambda body: completion("m", {"m": math.log(0.9), "M": math.log(0.1)})
    verdicts = make(order="both").compare(pairs(("aa", "b"), ("b", "c")))
    assert preferences(verdicts) == pytest.approx([1.5, 1.5])
    # 2 - 0.9 = 1.1 with the reference first, 3 - 1.1 = 1.9 with the output first
    assert [reading.preference for reading in verdicts[0].readings] == pytest.approx([1.1, 1.9])
    described = describe_verdicts(verdicts)
    assert (described["inconsistent"], described["first_preferred"]) == (1.0, 1.0)
    assert len(model.bodies) == 4


def test_a_judge_that_looks_at_the_texts_is_consistent_in_both_orders(make: MakeJudge, model: FakeModel) -> None:
    model.reply = likes_a
    verdicts = make(order="both").compare(pairs(("aa", "b"), ("b", "aa"), ("x", "x")))
    assert preferences(verdicts) == pytest.approx([1.75, 1.25, 1.5])
    described = describe_verdicts(verdicts)
    assert (described["inconsistent"], described["first_preferred"], described["n_identical"]) == (0.0, 0.5, 1)


@pytest.mark.usefixtures("logged")
def test_without_logprobs_the_words_decide_and_that_is_said(
    make: MakeJudge, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.reply = lambda body: "m" if shown(body)[0].count("a") else "M"
    verdicts = make().compare(pairs(("a", "b"), ("b", "a")))
    assert preferences(verdicts) == [2.0, 1.0]
    assert describe_verdicts(verdicts)["n_from_text"] == 2
    assert "gave no log-probabilities" in caplog.text


@pytest.mark.usefixtures("logged")
def test_ranking(make: MakeJudge, model: FakeModel, caplog: pytest.LogCaptureFixture) -> None:
    def rank(body: Body) -> str:
        first, second = (text.count("a") for text in shown(body))
        ranks = (1, 2) if first > second else (2, 1) if first < second else (1, 1)
        return f'[{{"model": "model_1", "rank": {ranks[0]}}}, {{"model": "model_2", "rank": {ranks[1]}}}]'

    model.reply = rank
    judge = make(style="ranking", labels=["model_1", "model_2"], max_tokens=100)
    verdicts = judge.compare(pairs(("aa", "b"), ("b", "aa"), ("b", "c")))
    assert preferences(verdicts) == [2.0, 1.0, 1.5]
    assert "log-probabilities" not in caplog.text
    assert "logprobs" not in model.bodies[0]


def test_what_can_not_be_read_is_null_with_its_reason(make: MakeJudge, model: FakeModel) -> None:
    def reply(body: Body) -> Any:
        number = body["messages"][-1]["content"].split("question ")[1][0]
        replies = {"0": "I like both.", "1": failure(400, "too long"), "2": completion("x", {"x": -0.1}), "3": "m"}
        return replies[number]

    model.reply = reply
    verdicts = make().compare(pairs(*[("a", "b")] * 4))
    assert preferences(verdicts)[:3] == [None] * 3
    assert preferences(verdicts)[3] in (1.0, 2.0)
    described = describe_verdicts(verdicts)
    assert (described["n_null"], described["n_from_text"]) == (3, 1)
    assert described["problems"] == ["HTTP 400: too long", "the answer names no preference"]


def test_a_template_of_ones_own_and_other_labels(make: MakeJudge, model: FakeModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("{instruction}|{output_1}|{output_2}|{label_1} or {label_2}?")
    model.reply = lambda body: "B"
    (verdict,) = make(prompt_file=str(path), labels=["A", "B"]).compare([Pair("q", "out", "ref")])
    switched = is_switched("q")
    assert model.asked() == ["q|out|ref|A or B?" if switched else "q|ref|out|A or B?"]
    assert verdict.preference == (1.0 if switched else 2.0)


def test_an_endpoint_that_fails_is_an_error(make: MakeJudge, model: FakeModel) -> None:
    model.reply = lambda body: failure(401)
    with pytest.raises(EndpointError, match="HTTP 401"):
        make().compare(pairs(("a", "b")))
