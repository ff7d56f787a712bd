"""The client against servers on loopback that answer, fail, lie and are slow."""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug import Response

from rlhf.config.endpoint import EndpointConfig
from rlhf.console import console
from rlhf.endpoints.answers import Answer, read_completion
from rlhf.endpoints.endpoint import Endpoint, Messages
from rlhf.errors import ConfigError, EndpointError
from tests.fake_endpoint import FakeModel, completion, failure

KEY = "sk-very-secret"


@pytest.fixture
def make(model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Endpoint]:
    """An endpoint for the server, with changed settings."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def build(**changed: Any) -> Endpoint:
        settings = {
            "model": "fake",
            "base_url": model.url,
            "api_key_env": "JUDGE_KEY",
            "temperature": 0.0,
            "max_tokens": 5,
            "parameters": {},
            "concurrency": 4,
            "timeout": 5.0,
            "retries": 1,
            "cache": str(tmp_path / "answers.sqlite"),
            "input_price": None,
            "output_price": None,
            "max_cost": None,
        }
        return Endpoint(EndpointConfig(**settings | changed), "judge")

    return build


def questions(*texts: object) -> list[Messages]:
    return [[{"role": "user", "content": str(text)}] for text in texts]


def echo(body: dict[str, Any]) -> str:
    return f"to {body['messages'][-1]['content']}"


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


# ---- The protocol. ------------------------------------------------------------------------------------------------


def test_each_question_gets_its_own_answer_in_order(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = echo
    endpoint = make()
    assert texts(endpoint.ask(questions(*range(20)), "test")) == [f"to {n}" for n in range(20)]
    usage = endpoint.usage
    assert (usage.asked, usage.kept, usage.failed, usage.input_tokens, usage.output_tokens) == (20, 0, 0, 200, 40)
    assert usage.cost is None


def test_a_request_holds_what_was_set_and_what_the_caller_adds(make: Callable[..., Endpoint], model: FakeModel) -> None:
    endpoint = make(parameters={"seed": 7, "max_tokens": 9})
    endpoint.ask(questions("a"), "test", logprobs=True, top_logprobs=5)
    (body,) = model.bodies
    assert body == {
        "model": "fake",
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.0,
        "max_tokens": 9,  # the user's parameters win
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 7,
    }
    assert model.keys == [f"Bearer {KEY}"]


def test_settings_of_null_are_left_out(make: Callable[..., Endpoint], model: FakeModel) -> None:
    make(temperature=None, max_tokens=None).ask(questions("a"), "test")
    assert set(model.bodies[0]) == {"model", "messages"}


def test_logprobs_are_those_of_the_first_token(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: completion("m", {"m": -0.5, "M": -1.5})
    assert make().ask(questions("a"), "test") == [Answer("m", {"m": -0.5, "M": -1.5}, 10, 2)]


def test_no_more_questions_are_under_way_than_allowed(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.seconds = 0.03
    make(concurrency=3).ask(questions(*range(12)), "test")
    assert model.most_at_once == 3


def test_progress_is_shown(make: Callable[..., Endpoint]) -> None:
    with console.capture() as shown:
        make().ask(questions(*range(10)), "judge")
    assert "judge 10/10" in shown.get()


# ---- Failures. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [429, 500, 503])
def test_a_failure_that_passes_is_tried_again(make: Callable[..., Endpoint], model: FakeModel, state: int) -> None:
    """Each request fails once, and is made once more."""
    model.reply = lambda body: failure(state) if model.asked().count(body["messages"][-1]["content"]) == 1 else "fine"
    endpoint = make(concurrency=2)
    assert texts(endpoint.ask(questions("a", "b"), "test")) == ["fine", "fine"]
    assert (len(model.bodies), endpoint.usage.asked, endpoint.usage.failed) == (4, 2, 0)


@pytest.mark.parametrize(
    ("state", "code", "named"),
    [
        (401, "invalid_api_key", "check the key in JUDGE_KEY, which judge.api_key_env names"),
        (403, None, "judge.api_key_env"),
        (404, "model_not_found", "check judge.model and judge.base_url"),
        (429, "insufficient_quota", "no money or quota left"),
    ],
)
def test_what_no_question_would_change_ends_it_at_once(
    make: Callable[..., Endpoint], model: FakeModel, state: int, code: str | None, named: str
) -> None:
    model.reply = lambda body: failure(state, f"bad key {KEY}", code)
    with pytest.raises(EndpointError) as told:
        make(retries=0, concurrency=1).ask(questions(*range(20)), "test")
    assert named in str(told.value)
    assert f"HTTP {state}" in str(told.value)
    assert model.url in str(told.value)
    assert KEY not in str(told.value)
    assert len(model.bodies) == 1


def test_a_server_that_is_down_is_named(make: Callable[..., Endpoint]) -> None:
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1, model fake: it can't be reached"):
        make(base_url="http://127.0.0.1:9/v1", retries=0).ask(questions("a"), "test")


def test_a_server_that_was_there_before_may_come_back(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """A question that meets it down fails alone; only many in a row end it."""
    endpoint = make(retries=0, concurrency=1)
    endpoint.ask(questions("a"), "test")
    there, gone = endpoint.client, endpoint.client.with_options(base_url="http://127.0.0.1:9/v1")
    keep = endpoint.answers.keep

    def leave(key: str, request: str, answer: Answer) -> None:
        keep(key, request, answer)
        endpoint.client = gone

    endpoint.answers.keep = leave  # pyright: ignore[reportAttributeAccessIssue]
    first, second = endpoint.ask(questions("b", "c"), "test")
    assert (first.text, second.text) == ("yes", "")
    assert str(second.problem).startswith("it can't be reached")
    with pytest.raises(EndpointError, match=r"the last 8 questions failed: it can't be reached.*2 answers of this"):
        endpoint.ask(questions(*range(20)), "test")
    endpoint.client = there
    assert texts(endpoint.ask(questions("c"), "test")) == ["yes"]


def test_whatever_the_client_stumbles_over_costs_one_question(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: (
        Response(b"not gzip", headers={"Content-Encoding": "gzip"}) if body["messages"][-1]["content"] == "b" else "yes"
    )
    answers = make(retries=0, concurrency=1).ask(questions("a", "b", "c"), "test")
    assert texts(answers) == ["yes", "", "yes"]
    assert answers[1].problem


def test_an_error_told_with_http_200_is_told(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: {"error": {"message": "overloaded"}} if len(model.bodies) == 1 else "yes"
    first, _ = make(concurrency=1).ask(questions("a", "b"), "test")
    assert str(first.problem) == "error: {'message': 'overloaded'}"


def test_a_refused_question_costs_only_itself(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """As one that is too long; it is asked again the next time."""
    model.reply = lambda body: failure(400, "too long") if body["messages"][-1]["content"] == "1" else "fine"
    endpoint = make()
    first, second, third = endpoint.ask(questions(0, 1, 2), "test")
    assert (first.text, second.text, third.text) == ("fine", "", "fine")
    assert second.problem is not None
    assert "HTTP 400" in second.problem
    assert "too long" in second.problem
    assert (endpoint.usage.asked, endpoint.usage.failed) == (2, 1)
    model.reply = echo
    assert texts(make().ask(questions(0, 1, 2), "test")) == ["fine", "to 1", "fine"]


def test_questions_that_are_refused_again_do_not_end_it(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """The second time, all that is left to ask is what the server does not take."""
    model.reply = lambda body: failure(400, "too long") if int(body["messages"][-1]["content"]) % 2 else "fine"
    for _ in range(2):
        assert texts(make(concurrency=1).ask(questions(*range(40)), "test")) == ["fine", ""] * 20
    assert len(model.bodies) == 40 + 20


def test_a_slow_server_is_given_up(make: Callable[..., Endpoint], model: FakeModel) -> None:
    def reply(body: dict[str, Any]) -> str:
        model.seconds = 0.5
        return "fine"

    model.reply = reply
    _, second = make(timeout=0.1, retries=0, concurrency=1).ask(questions("a", "b"), "test")
    assert second.problem == "no answer within judge.timeout=0.1 s"


def test_failures_in_a_row_end_it_and_keep_what_came_before(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: "fine" if len(model.bodies) <= 5 else failure(500, "burnt down")
    with pytest.raises(EndpointError, match=r"the last 8 questions failed: HTTP 500.*burnt down.*5 answers of this"):
        make(retries=0, concurrency=1).ask(questions(*range(100)), "test")
    assert len(model.bodies) == 13
    model.reply = echo
    assert texts(make(concurrency=1).ask(questions(*range(7)), "test")) == ["fine"] * 5 + ["to 5", "to 6"]
    assert len(model.bodies) == 15


def test_all_of_few_questions_failing_is_an_error_too(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: failure(400, "unknown field top_logprobs")
    with pytest.raises(EndpointError, match=r"the last 2 questions failed.*unknown field"):
        make().ask(questions("a", "b"), "test")


MALFORMED = [
    "",
    "<html>busy</html>",
    "null",
    "[]",
    "{}",
    '{"choices": []}',
    '{"choices": [{}]}',
    '{"choices": [{"message": null}]}',
    '{"choices": [{"message": {"content": 5}}]}',
    '{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": [{"token": "m"}]}]}}]}',
    '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
    '{"choices": [{"message"',
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_completion_is_an_answer_with_a_problem(text: str) -> None:
    assert str(read_completion(text).problem).startswith("not a chat completion: ")


def test_malformed_completions_do_not_stop_the_others(make: Callable[..., Endpoint], model: FakeModel) -> None:
    bad = iter(MALFORMED)
    model.reply = lambda body: (
        Response(next(bad), mimetype="application/json") if int(body["messages"][-1]["content"]) % 2 else "fine"
    )
    answers = make(concurrency=1).ask(questions(*range(24)), "test")
    assert texts(answers) == ["fine", ""] * 12
    assert [answer.problem is not None for answer in answers] == [False, True] * 12


@pytest.mark.parametrize("content", [None, ""])
def test_a_completion_without_text_is_an_answer(make: Callable[..., Endpoint], model: FakeModel, content: None) -> None:
    """As where a model spends all its tokens on thinking: it was paid for, and would come again."""
    model.reply = lambda body: completion(content)
    assert make().ask(questions("a"), "test") == [Answer("", None, 10, 2)]
    make().ask(questions("a"), "test")
    assert len(model.bodies) == 1


# ---- Keys. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_names_its_variable(
    make: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match=r"judge\.api_key_env=JUDGE_KEY is not allowed.*judge\.api_key_env=null"):
        make()


def test_a_server_may_need_no_key(
    make: Callable[..., Endpoint], model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    make(api_key_env=None).ask(questions("a"), "test")
    assert model.keys == ["Bearer none"]


def test_the_key_is_kept_nowhere(make: Callable[..., Endpoint], tmp_path: Path) -> None:
    make().ask(questions("a"), "test")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY.encode() in content for content in written)


def test_a_missing_package_names_what_to_install(
    make: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlhf\[judge\]'"):
        make()


# ---- Answers on disk. ---------------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_once(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """Also within one call, and whatever else the two processes have set."""
    model.reply = echo
    assert texts(make().ask(questions("a", "b", "a"), "test")) == ["to a", "to b", "to a"]
    again = make(concurrency=1, timeout=9.0)
    assert texts(again.ask(questions("b", "c"), "test")) == ["to b", "to c"]
    assert sorted(model.asked()) == ["a", "b", "c"]
    assert (again.usage.asked, again.usage.kept) == (1, 1)


@pytest.mark.parametrize("changed", [{"model": "other"}, {"temperature": 1.0}, {"parameters": {"seed": 1}}])
def test_another_model_or_parameter_is_another_question(
    make: Callable[..., Endpoint], model: FakeModel, changed: dict[str, Any]
) -> None:
    make().ask(questions("a"), "test")
    make(**changed).ask(questions("a"), "test")
    assert len(model.bodies) == 2


def test_another_order_of_words_is_another_question(make: Callable[..., Endpoint], model: FakeModel) -> None:
    make().ask(questions("a b", "b a"), "test")
    assert len(model.bodies) == 2


def test_what_is_under_way_when_another_question_is_fatal_is_kept(
    make: Callable[..., Endpoint], model: FakeModel
) -> None:
    def reply(body: dict[str, Any]) -> Any:
        if body["messages"][-1]["content"] == "0":
            return failure(401)
        time.sleep(0.3)
        return "late"

    model.reply = reply
    with pytest.raises(EndpointError):
        make(concurrency=4).ask(questions(*range(4)), "test")
    endpoint = make()
    assert texts(endpoint.ask(questions(1, 2, 3), "test")) == ["late"] * 3
    assert endpoint.usage.kept == 3


def test_an_interrupt_loses_no_answer(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = echo
    endpoint = make(concurrency=1)
    keep = endpoint.answers.keep

    def interrupted(key: str, request: str, answer: Answer) -> None:
        keep(key, request, answer)
        if len(model.bodies) == 3:
            raise KeyboardInterrupt

    endpoint.answers.keep = interrupted  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        endpoint.ask(questions(*range(9)), "test")
    again = make()
    again.ask(questions(*range(9)), "test")
    assert (again.usage.kept, again.usage.asked, len(model.bodies)) == (3, 6, 9)


def test_processes_share_the_file(make: Callable[..., Endpoint], model: FakeModel, tmp_path: Path) -> None:
    """One that writes makes the other wait, not fail."""
    first, second = make(), make()
    other = sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    first.ask(questions("a"), "test")
    second.ask(questions("a", "b"), "test")
    assert second.usage.kept == 1
    assert first.answers.find([]) == {}


def test_a_file_that_is_no_cache_is_refused(make: Callable[..., Endpoint], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but some text that is long enough to look at" * 20)
    with pytest.raises(EndpointError, match=r"notes\.txt can't be used to keep answers"):
        make(cache=str(tmp_path / "notes.txt"))


# ---- Money. -------------------------------------------------------------------------------------------------------

PRICES = {"input_price": 1e6, "output_price": 2e6}
"""So that a token read costs 1, and one written 2."""


def test_tokens_and_costs_are_totalled(make: Callable[..., Endpoint]) -> None:
    endpoint = make(**PRICES)
    endpoint.ask(questions("a", "b", "c"), "test")
    assert (endpoint.usage.cost, endpoint.usage.kept_cost) == (3 * (10 + 2 * 2), 0)
    again = make(**PRICES)
    again.ask(questions("a", "b", "d"), "test")
    assert (again.usage.cost, again.usage.kept_cost) == (14, 28)


def test_the_limit_is_never_exceeded_and_nothing_is_lost(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """A question may cost 1 byte + 16 tokens read, and 5 written: 27; it costs 14. 6 x 14 + 27 > 100 > 5 x 14 + 27."""
    model.reply = echo
    endpoint = make(**PRICES, max_cost=100.0)
    with pytest.raises(EndpointError, match=r"judge\.max_cost=100\.0 would be exceeded.*84 are spent, for 6 answers"):
        endpoint.ask(questions(*"abcdefghij"), "test")
    assert endpoint.usage.cost == 84
    assert len(model.bodies) == 6
    again = make(**PRICES, max_cost=100.0)
    assert texts(again.ask(questions(*"abcdefghij"), "test")) == [f"to {letter}" for letter in "abcdefghij"]
    assert (again.usage.kept, again.usage.asked, len(model.bodies)) == (6, 4, 10)


def test_the_limit_counts_all_that_one_endpoint_asks(make: Callable[..., Endpoint], model: FakeModel) -> None:
    endpoint = make(**PRICES, max_cost=30.0)
    endpoint.ask(questions("a"), "test")
    with pytest.raises(EndpointError, match="max_cost"):
        endpoint.ask(questions("b"), "test")
    assert len(model.bodies) == 1


def test_an_answer_without_usage_counts_at_its_most(make: Callable[..., Endpoint], model: FakeModel) -> None:
    model.reply = lambda body: {**completion("x"), "usage": None}
    endpoint = make(**PRICES, max_cost=1000.0)
    endpoint.ask(questions("a"), "test")
    assert endpoint.usage.cost == 17 + 2 * 5


def test_letters_of_several_bytes_count_by_bytes(make: Callable[..., Endpoint], model: FakeModel) -> None:
    """As a tokenizer of bytes would: 4 + 16 + 2 x 5 is more than 29."""
    with pytest.raises(EndpointError, match="max_cost=29"):
        make(**PRICES, max_cost=29.0).ask(questions("\N{GRINNING FACE}"), "test")
    assert model.bodies == []
    make(**PRICES, max_cost=30.0).ask(questions("\N{GRINNING FACE}"), "test")


def test_requests_are_kept_beside_their_answers(make: Callable[..., Endpoint], tmp_path: Path) -> None:
    make().ask(questions("a"), "test")
    ((request, answer),) = sqlite3.connect(tmp_path / "answers.sqlite").execute("SELECT request, answer FROM answers")
    assert json.loads(request)["messages"] == [{"role": "user", "content": "a"}]
    assert json.loads(answer)["text"] == "yes"
