"""A judge behind a server on loopback, which prefers the response that holds more a's, or whatever is shown first."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import LlmJudgeConfig
from rlhf.console import console
from rlhf.errors import EndpointError
from rlhf.evaluation.judge_prompt import is_switched
from rlhf.evaluation.llm_judge import LlmJudge
from rlhf.evaluation.verdicts import Pair, Reading, Verdict, combine, describe_verdicts
from tests.fake_endpoint import Body, FakeModel, completion, endpoint_settings, failure

MakeJudge = Callable[..., LlmJudge]


@pytest.fixture
def make(model: FakeModel, tmp_path: Path) -> MakeJudge:
    def build(**changed: Any) -> LlmJudge:
        settings = endpoint_settings(
            model.url,
            tmp_path,
            name="llm",
            max_tokens=1,
            concurrency=4,
            style="preference",
            labels=["m", "M"],
            prompt_file=None,
            order="seeded",
        )
        return LlmJudge(LlmJudgeConfig(**settings | changed))

    return build


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
    verdicts = make()(asked)
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
    verdicts = make()(pairs(("same", "same"), ("", "")))
    assert preferences(verdicts) == [1.5, 1.5]
    assert model.bodies == []
    assert describe_verdicts(verdicts)["n_identical"] == 2


def test_both_orders_are_averaged(make: MakeJudge, model: FakeModel) -> None:
    """A judge that gives what is shown first 0.9, and otherwise likes a's: it changes its mind on every pair."""
    model.reply = lambda body: completion("m", {"m": math.log(0.9), "M": math.log(0.1)})
    judge = make(order="both")
    verdicts = judge(pairs(("aa", "b"), ("b", "c")))
    assert preferences(verdicts) == pytest.approx([1.5, 1.5])
    # 2 - 0.9 = 1.1 with the reference first, 3 - 1.1 = 1.9 with the output first
    assert [reading.preference for reading in verdicts[0].readings] == pytest.approx([1.1, 1.9])
    described = describe_verdicts(verdicts)
    assert (described["inconsistent"], described["first_preferred"]) == (1.0, 1.0)
    assert len(model.bodies) == 4


def test_a_judge_that_looks_at_the_texts_is_consistent_in_both_orders(make: MakeJudge, model: FakeModel) -> None:
    model.reply = likes_a
    verdicts = make(order="both")(pairs(("aa", "b"), ("b", "aa"), ("x", "x")))
    assert preferences(verdicts) == pytest.approx([1.75, 1.25, 1.5])
    described = describe_verdicts(verdicts)
    assert (described["inconsistent"], described["first_preferred"], described["n_identical"]) == (0.0, 0.5, 1)


def test_without_logprobs_the_words_decide_and_that_is_said(make: MakeJudge, model: FakeModel) -> None:
    model.reply = lambda body: "m" if shown(body)[0].count("a") else "M"
    with console.capture() as told:
        verdicts = make()(pairs(("a", "b"), ("b", "a")))
    assert preferences(verdicts) == [2.0, 1.0]
    assert describe_verdicts(verdicts)["n_from_text"] == 2
    assert "gave no log-probabilities" in told.get()


def test_ranking(make: MakeJudge, model: FakeModel) -> None:
    def rank(body: Body) -> str:
        first, second = (text.count("a") for text in shown(body))
        ranks = (1, 2) if first > second else (2, 1) if first < second else (1, 1)
        return f'[{{"model": "model_1", "rank": {ranks[0]}}}, {{"model": "model_2", "rank": {ranks[1]}}}]'

    model.reply = rank
    with console.capture() as told:
        verdicts = make(style="ranking", labels=["model_1", "model_2"], max_tokens=100)(
            pairs(("aa", "b"), ("b", "aa"), ("b", "c"))
        )
    assert preferences(verdicts) == [2.0, 1.0, 1.5]
    assert "log-probabilities" not in told.get()
    assert "logprobs" not in model.bodies[0]


def test_what_can_not_be_read_is_null_with_its_reason(make: MakeJudge, model: FakeModel) -> None:
    def reply(body: Body) -> Any:
        number = body["messages"][-1]["content"].split("question ")[1][0]
        replies = {"0": "I like both.", "1": failure(400, "too long"), "2": completion("x", {"x": -0.1}), "3": "m"}
        return replies[number]

    model.reply = reply
    verdicts = make()(pairs(*[("a", "b")] * 4))
    assert preferences(verdicts)[:3] == [None] * 3
    assert preferences(verdicts)[3] in (1.0, 2.0)
    described = describe_verdicts(verdicts)
    assert (described["n_null"], described["n_from_text"]) == (3, 1)
    assert described["problems"] == ["HTTP 400: too long", "the answer names no preference"]


def test_one_order_that_can_not_be_read_leaves_no_preference() -> None:
    good, bad = Reading(1.2, "text", False, ""), Reading(None, None, True, "", "no")
    assert combine([good, bad]) == Verdict(None, [good, bad])
    assert describe_verdicts([combine([good, bad])])["inconsistent"] is None


def test_ties_are_not_inconsistent() -> None:
    tie, win = Reading(1.5, "text", False, ""), Reading(2.0, "text", True, "")
    described = describe_verdicts([combine([tie, win])])
    assert (described["inconsistent"], described["first_preferred"]) == (0.0, 1.0)


def test_a_template_of_ones_own_and_other_labels(make: MakeJudge, model: FakeModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("{instruction}|{output_1}|{output_2}|{label_1} or {label_2}?")
    model.reply = lambda body: "B"
    (verdict,) = make(prompt_file=str(path), labels=["A", "B"])([Pair("q", "out", "ref")])
    switched = is_switched("q")
    assert model.asked() == ["q|out|ref|A or B?" if switched else "q|ref|out|A or B?"]
    assert verdict.preference == (1.0 if switched else 2.0)


def test_an_endpoint_that_fails_is_an_error(make: MakeJudge, model: FakeModel) -> None:
    model.reply = lambda body: failure(401)
    with pytest.raises(EndpointError, match="HTTP 401"):
        make()(pairs(("a", "b")))
