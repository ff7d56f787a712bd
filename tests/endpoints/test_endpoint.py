"""The client against servers on loopback that answer, fail, lie and are slow."""

import base64
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug import Response

from rlhf.config.endpoint import EndpointConfig
from rlhf.console import console
from rlhf.endpoints.answers import Answer, cleaned, read_completion
from rlhf.endpoints.endpoint import Endpoint, Messages, enclosed
from rlhf.errors import ConfigError, EndpointError, Preempted
from rlhf.evaluation.llm import weighted_preference
from rlhf.process.signals import StopSignals
from tests.fake_endpoint import Body, FakeModel, completion, endpoint_settings, failure

KEY = "sk-very-secret"
NOWHERE = "http://127.0.0.1:9/v1"

Make = Callable[..., Endpoint]


@pytest.fixture
def make(model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """An endpoint for the server, with changed settings."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    own = {"api_key_env": "JUDGE_KEY", "max_tokens": 5, "concurrency": 4}
    chosen = endpoint_settings(model.url, tmp_path, **own)
    return lambda **changed: Endpoint(EndpointConfig(**chosen | changed), "judge")


def questions(*texts: object) -> list[Messages]:
    return [[{"role": "user", "content": str(text)}] for text in texts]


def ask(endpoint: Endpoint, *texts: object) -> list[str]:
    return [answer.text for answer in endpoint.ask(questions(*texts), "test")]


def question(body: Body) -> str:
    return body["messages"][-1]["content"]


def echo(body: Body) -> str:
    return f"to {question(body)}"


def counts(endpoint: Endpoint) -> tuple[int, int, int]:
    return endpoint.usage.asked, endpoint.usage.kept, endpoint.usage.failed


# ---- The protocol. ------------------------------------------------------------------------------------------------


def test_each_question_gets_its_own_answer_in_order_and_progress_is_shown(make: Make, model: FakeModel) -> None:
    model.reply = echo
    endpoint = make()
    with console.capture() as shown:
        assert ask(endpoint, *range(20)) == [f"to {n}" for n in range(20)]
    assert "test 20/20" in shown.get()
    assert counts(endpoint) == (20, 0, 0)
    assert (endpoint.usage.input_tokens, endpoint.usage.output_tokens, endpoint.usage.cost) == (200, 40, None)


def test_a_request_holds_what_was_set_and_what_the_caller_adds(make: Make, model: FakeModel) -> None:
    make(parameters={"seed": 7, "max_tokens": 9}).ask(questions("a"), "test", logprobs=True, top_logprobs=5)
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


def test_settings_of_null_are_left_out(make: Make, model: FakeModel) -> None:
    ask(make(temperature=None, max_tokens=None), "a")
    assert set(model.bodies[0]) == {"model", "messages"}


def test_logprobs_are_those_of_the_first_token(make: Make, model: FakeModel) -> None:
    model.reply = lambda body: completion("m", {"m": -0.5, "M": -1.5})
    assert make().ask(questions("a"), "test") == [Answer("m", {"m": -0.5, "M": -1.5}, 10, 2)]


def test_no_more_questions_are_under_way_than_allowed(make: Make, model: FakeModel) -> None:
    three = threading.Barrier(3)

    def reply(body: Body) -> str:
        three.wait(timeout=30)  # each waits for two others
        return "fine"

    model.reply = reply
    ask(make(concurrency=3), *range(12))
    assert model.most_at_once == 3


# ---- Failures. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [429, 500, 503])
def test_a_failure_that_passes_is_tried_again(make: Make, model: FakeModel, state: int) -> None:
    """Each request fails once, and is made once more."""
    model.reply = lambda body: failure(state) if model.asked().count(question(body)) == 1 else "fine"
    endpoint = make(concurrency=2, retries=1)
    assert ask(endpoint, "a", "b") == ["fine", "fine"]
    assert (len(model.bodies), *counts(endpoint)) == (4, 2, 0, 0)


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
    make: Make, model: FakeModel, state: int, code: str | None, named: str
) -> None:
    model.reply = lambda body: failure(state, f"bad key {KEY}", code)
    with pytest.raises(EndpointError) as caught:
        ask(make(concurrency=1), *range(20))
    assert all(part in str(caught.value) for part in (named, f"HTTP {state}", model.url))
    assert KEY not in str(caught.value)
    assert len(model.bodies) == 1


def test_a_server_that_is_down_is_named(make: Make) -> None:
    with pytest.raises(EndpointError, match=rf"{NOWHERE}, model fake: it can't be reached"):
        ask(make(base_url=NOWHERE), "a")


def test_a_server_that_was_there_before_may_come_back(
    make: Make, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that meets it down fails alone; only many in a row end it."""
    endpoint = make(concurrency=1)
    ask(endpoint, "a")
    there, gone, keep = endpoint.client, endpoint.client.with_options(base_url=NOWHERE), endpoint.answers.keep

    def leave(key: str, request: str, answer: Answer) -> None:
        keep(key, request, answer)
        endpoint.client = gone

    monkeypatch.setattr(endpoint.answers, "keep", leave)
    first, second = endpoint.ask(questions("b", "c"), "test")
    assert (first.text, second.text) == ("yes", "")
    assert str(second.problem).startswith("it can't be reached")
    with pytest.raises(EndpointError, match=r"the last 8 questions failed: it can't be reached.*2 answers of this"):
        ask(endpoint, *range(20))
    endpoint.client = there
    assert ask(endpoint, "c") == ["yes"]


STUMBLES = {
    "the client can't decode": (Response(b"not gzip", headers={"Content-Encoding": "gzip"}), ""),
    "an error with HTTP 200": ({"error": {"message": "overloaded"}}, "error: {'message': 'overloaded'}"),
    "refused, as too long": (failure(400, "too long"), "HTTP 400: too long"),
}


@pytest.mark.parametrize(("reply", "problem"), STUMBLES.values(), ids=STUMBLES)
def test_what_goes_wrong_with_one_question_costs_only_that(
    make: Make, model: FakeModel, reply: Any, problem: str
) -> None:
    """It is asked again the next time."""
    model.reply = lambda body: reply if question(body) == "b" else "fine"
    endpoint = make(concurrency=1)
    answers = endpoint.ask(questions("a", "b", "c"), "test")
    assert [answer.text for answer in answers] == ["fine", "", "fine"]
    assert answers[1].problem
    assert answers[1].problem.startswith(problem)
    assert counts(endpoint) == (2, 0, 1)
    model.reply = echo
    assert ask(make(), "a", "b", "c") == ["fine", "to b", "fine"]


def test_questions_that_are_refused_again_do_not_end_it(make: Make, model: FakeModel) -> None:
    """The second time, all that is left to ask is what the server does not take."""
    model.reply = lambda body: failure(400, "too long") if int(question(body)) % 2 else "fine"
    for _ in range(2):
        assert ask(make(concurrency=1), *range(40)) == ["fine", ""] * 20
    assert len(model.bodies) == 40 + 20


def test_a_slow_server_is_given_up(make: Make, model: FakeModel) -> None:
    def reply(body: Body) -> str:
        model.seconds = 0.5
        return "fine"

    model.reply = reply
    _, second = make(timeout=0.1, concurrency=1).ask(questions("a", "b"), "test")
    assert second.problem == "no answer within judge.timeout=0.1 s"


def test_each_try_of_a_question_without_an_answer_may_be_on_the_bill(make: Make, model: FakeModel) -> None:
    """A try costs 1 byte + 16 tokens read and 5 written at most, 27; two tries of one question exceed 53."""

    def reply(body: Body) -> str:
        model.seconds = 0.5
        return "fine"

    model.reply = reply
    settings = {**PRICES, "retries": 1, "concurrency": 1}
    with pytest.raises(EndpointError, match=r"judge\.max_cost=53"):
        ask(make(**settings, max_cost=53.0), "a")
    assert model.bodies == []
    endpoint = make(**settings, timeout=0.1, max_cost=200.0)
    endpoint.ask(questions("a", "b"), "test")  # the first one's first try is answered at once
    assert endpoint.usage.cost == 14 + 2 * 27


def test_failures_in_a_row_end_it_and_keep_what_came_before(make: Make, model: FakeModel) -> None:
    model.reply = lambda body: "fine" if len(model.bodies) <= 5 else failure(500, "burnt down")
    with pytest.raises(EndpointError, match=r"the last 8 questions failed: HTTP 500.*burnt down.*5 answers of this"):
        ask(make(concurrency=1), *range(100))
    assert len(model.bodies) == 13
    model.reply = echo
    assert ask(make(concurrency=1), *range(7)) == ["fine"] * 5 + ["to 5", "to 6"]
    assert len(model.bodies) == 15


def test_all_of_few_questions_failing_is_an_error_too(make: Make, model: FakeModel) -> None:
    model.reply = lambda body: failure(400, "unknown field top_logprobs")
    with pytest.raises(EndpointError, match=r"the last 2 questions failed.*unknown field"):
        ask(make(), "a", "b")


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


def test_malformed_completions_do_not_stop_the_others(make: Make, model: FakeModel) -> None:
    bad = iter(MALFORMED)
    model.reply = lambda body: Response(next(bad)) if int(question(body)) % 2 else "fine"
    answers = make(concurrency=1).ask(questions(*range(24)), "test")
    assert [(answer.text, answer.problem is None) for answer in answers] == [("fine", True), ("", False)] * 12


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_an_empty_answer_is_a_problem_and_asked_for_again(make: Make, model: FakeModel, content: str | None) -> None:
    """As where a model spends all its tokens on thinking; it was paid for."""
    model.reply = lambda body: completion(content)
    endpoint = make(input_price=1.0, output_price=1.0)
    (answer,) = endpoint.ask(questions("a"), "test")
    assert answer.problem == "an empty answer"
    assert (*counts(endpoint), endpoint.usage.cost) == (0, 0, 1, 12e-6)
    model.reply = echo
    assert ask(make(), "a") == ["to a"]


def test_an_answer_that_can_not_be_read_is_not_kept_nor_found(make: Make, model: FakeModel) -> None:
    """Not even one that was kept before."""
    no = lambda answer: None if answer.text == "yes" else "neither yes nor no"  # noqa: E731
    model.reply = lambda body: "perhaps"
    ask(make(), "a")  # kept by one who can read it
    for _ in range(2):
        assert [answer.problem for answer in make().ask(questions(*"ab"), "test", no)] == ["neither yes nor no"] * 2
    assert len(model.bodies) == 1 + 4
    model.reply = lambda body: "yes"
    for _ in range(2):
        assert [answer.text for answer in make().ask(questions(*"ab"), "test", no)] == ["yes"] * 2
    assert len(model.bodies) == 1 + 4 + 2


def test_a_kept_answer_that_is_torn_is_asked_for_again(make: Make, model: FakeModel, tmp_path: Path) -> None:
    ask(make(), *range(4))
    bad = ("[]", '{"text": 5}', '{"text": "x", "logprobs": {"m": 1e999}}', '{"text": "x", "input_tokens": -1}')
    with sqlite3.connect(tmp_path / "answers.sqlite") as file:
        for number, (key,) in enumerate(file.execute("SELECT key FROM answers").fetchall()):
            file.execute("UPDATE answers SET answer = ? WHERE key = ?", (bad[number], key))
    assert ask(make(), *range(4)) == ["yes"] * 4
    assert len(model.bodies) == 8


# ---- Hostile servers. ---------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [None, True, "", "m", "\ud800", "\x1b[2J", KEY, -1, 0, 1e308, 1e999, float("nan"), 10**30, -5e300, [], {}, [[]]]
)


@st.composite
def completions(draw: st.DrawFn) -> str:
    """A completion's JSON with some of its fields replaced."""
    body: Any = completion(draw(st.text(max_size=5)), {"m": -0.5, "M": -1.5})
    for _ in range(draw(st.integers(0, 3))):
        place = body
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not (isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5))):
                break
            place = place[key]
        place[key] = draw(ODD)
        if not body:
            break
    return json.dumps(body)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(completions())
def test_whatever_a_server_answers_is_safe_or_a_problem(text: str) -> None:
    answer = cleaned(read_completion(text), KEY)
    said = [answer.text, answer.problem or "", *(answer.logprobs or {})]
    assert not any(KEY in each or "\x1b" in each for each in said)
    "".join(said).encode("utf-8")
    assert all(each is None or 0 <= each <= 10_000_000 for each in (answer.input_tokens, answer.output_tokens))
    found = weighted_preference(answer.logprobs or {}, ("m", "M"))
    assert found is None or 1 <= found <= 2


@pytest.mark.parametrize("said", [KEY, KEY.upper(), f"Bearer {KEY}", base64.b64encode(KEY.encode()).decode()])
def test_a_key_in_an_answer_is_hidden_wherever_it_goes(
    make: Make, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """That of this endpoint, and any other that the environment holds."""
    monkeypatch.setenv("HF_TOKEN", "hf_another_secret")
    model.reply = lambda body: completion(f"see {said} and hf_another_secret", {f"{said}": -0.1, "m": -1.0})
    (answer,) = make().ask(questions("a"), "test")
    assert said not in repr(answer)
    assert "hf_another_secret" not in repr(answer)
    assert "(not shown)" in answer.text
    assert said.encode() not in (tmp_path / "answers.sqlite").read_bytes()
    model.reply = lambda body: {"error": f"your key is {said}"}
    with pytest.raises(EndpointError) as failed:
        ask(make(), "b")
    assert said not in str(failed.value)


@pytest.mark.parametrize("tokens", [(-5, 2), (10**30, 2), (10, -1), (10, 10**9)])
def test_a_count_that_can_not_be_is_unreadable_and_costs_the_most_it_can(
    make: Make, model: FakeModel, tokens: tuple[int, int]
) -> None:
    model.reply = lambda body: completion("yes", tokens=tokens)
    endpoint = make(input_price=1e6, output_price=1e6, max_cost=25.0, concurrency=1)
    with pytest.raises(EndpointError, match=r"judge\.max_cost=25\.0 would be exceeded"):
        ask(endpoint, "a", "b", "c")
    assert (endpoint.usage.cost, len(model.bodies)) == (22.0, 1)  # a byte, 16 tokens around it, and 5 of an answer


def test_a_bill_of_nothing_is_not_believed(make: Make, model: FakeModel) -> None:
    model.reply = lambda body: completion("yes", tokens=(0, 0))
    endpoint = make(input_price=1e6, output_price=1e6)
    ask(endpoint, "a")
    assert endpoint.usage.cost == 22.0


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that speaks to each who connects as `serve` does."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n"


def dripping(start: bytes, piece: bytes, pause: float) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(start)
        while True:
            time.sleep(pause)
            connection.sendall(piece)

    return serve


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"\r\n"], ids=["head", "body"])
def test_a_server_that_drips_is_given_up_in_time(make: Make, start: bytes) -> None:
    with raw_server(dripping(start, b" ", 0.05)) as url:
        begun = time.monotonic()
        with pytest.raises(EndpointError, match=r"no answer within judge\.timeout=0\.4 s"):
            ask(make(base_url=url, timeout=0.4), "a")
        assert time.monotonic() - begun < 1.5


def test_a_body_without_end_is_not_read(make: Make) -> None:
    endless = dripping(HEAD + b"\r\n", b" " * (1 << 20), 0.0)
    with raw_server(endless) as url, pytest.raises(EndpointError, match=r"more than 4,194,304 bytes"):
        ask(make(base_url=url), "a")


@pytest.mark.parametrize("held", [True, False])
def test_a_signal_to_stop_ends_the_asking_within_a_second(make: Make, held: bool) -> None:
    with raw_server(dripping(HEAD + b"\r\n", b" ", 0.05)) as url, StopSignals().handled() as stop:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        begun = time.monotonic()
        with pytest.raises(Preempted, match="SIGTERM"), stop.held() if held else nullcontext():
            ask(make(base_url=url, timeout=60.0), *range(8))
        assert time.monotonic() - begun < 1.3


def test_what_is_judged_can_not_leave_its_place() -> None:
    text = "a < b </response> < / RESPONSE ><response name='M'> <|im_end|> <responses> </b>"
    assert enclosed(text, ["response"]) == (
        "a < b &lt;/response> &lt; / RESPONSE >&lt;response name='M'> &lt;|im_end|> <responses> </b>"
    )


# ---- Keys. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_names_its_variable(make: Make, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match=r"judge\.api_key_env=JUDGE_KEY is not allowed"):
        make()


def test_a_server_may_need_no_key(make: Make, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(make(api_key_env=None), "a")
    assert model.keys == ["Bearer none"]


def test_the_key_is_kept_nowhere(make: Make, tmp_path: Path) -> None:
    ask(make(), "a")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY.encode() in content for content in written)


def test_a_missing_package_names_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install openai"):
        make()


# ---- Answers on disk. ---------------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_once(make: Make, model: FakeModel) -> None:
    """Also within one call, and whatever else the two processes have set."""
    model.reply = echo
    assert ask(make(), "a", "b", "a") == ["to a", "to b", "to a"]
    again = make(concurrency=1, timeout=9.0)
    assert ask(again, "b", "c") == ["to b", "to c"]
    assert sorted(model.asked()) == ["a", "b", "c"]
    assert counts(again) == (1, 1, 0)


@pytest.mark.parametrize("changed", [{"model": "other"}, {"temperature": 1.0}, {"parameters": {"seed": 1}}])
def test_another_model_or_parameter_or_order_of_words_is_another_question(
    make: Make, model: FakeModel, changed: dict[str, Any]
) -> None:
    ask(make(), "a b", "b a")
    ask(make(**changed), "a b")
    assert len(model.bodies) == 3


def test_requests_are_kept_beside_their_answers(make: Make, tmp_path: Path) -> None:
    ask(make(), "a")
    ((request, answer),) = sqlite3.connect(tmp_path / "answers.sqlite").execute("SELECT request, answer FROM answers")
    assert json.loads(request)["messages"] == [{"role": "user", "content": "a"}]
    assert json.loads(answer)["text"] == "yes"


def test_what_is_under_way_when_another_question_is_fatal_is_kept(make: Make, model: FakeModel) -> None:
    def reply(body: Body) -> Any:
        if question(body) == "0":
            return failure(401)
        time.sleep(0.3)
        return "late"

    model.reply = reply
    with pytest.raises(EndpointError):
        ask(make(), *range(4))
    endpoint = make()
    assert ask(endpoint, 1, 2, 3) == ["late"] * 3
    assert endpoint.usage.kept == 3


def test_an_interrupt_loses_no_answer(make: Make, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = make(concurrency=1)
    keep = endpoint.answers.keep

    def interrupted(key: str, request: str, answer: Answer) -> None:
        keep(key, request, answer)
        if len(model.bodies) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(endpoint.answers, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(endpoint, *range(9))
    again = make()
    ask(again, *range(9))
    assert (*counts(again), len(model.bodies)) == (6, 3, 0, 9)


def test_processes_share_the_file(make: Make, tmp_path: Path) -> None:
    """One that writes makes the other wait, not fail."""
    first, second = make(), make()
    other = sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    ask(first, "a")
    ask(second, "a", "b")
    assert second.usage.kept == 1


def test_a_file_that_is_no_cache_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but some text that is long enough to look at" * 20)
    with pytest.raises(EndpointError, match=r"notes\.txt can't be used to keep answers"):
        make(cache=str(tmp_path / "notes.txt"))


# ---- Money. -------------------------------------------------------------------------------------------------------

PRICES = {"input_price": 1e6, "output_price": 2e6}
"""So that a token read costs 1, and one written 2."""


def test_tokens_and_costs_are_totalled(make: Make) -> None:
    endpoint = make(**PRICES)
    ask(endpoint, "a", "b", "c")
    assert (endpoint.usage.cost, endpoint.usage.kept_cost) == (3 * (10 + 2 * 2), 0)
    again = make(**PRICES)
    ask(again, "a", "b", "d")
    assert (again.usage.cost, again.usage.kept_cost) == (14, 28)


def test_the_limit_is_never_exceeded_and_nothing_is_lost(make: Make, model: FakeModel) -> None:
    """A question may cost 1 byte + 16 tokens read, and 5 written: 27; it costs 14. 6 x 14 + 27 > 100 > 5 x 14 + 27."""
    endpoint = make(**PRICES, max_cost=100.0)
    with pytest.raises(EndpointError, match=r"judge\.max_cost=100\.0 would be exceeded.*84 are spent, for 6 answers"):
        ask(endpoint, *"abcdefghij")
    assert (endpoint.usage.cost, len(model.bodies)) == (84, 6)
    model.reply = echo
    again = make(**PRICES, max_cost=100.0)
    assert ask(again, *"abcdefghij") == ["yes"] * 6 + [f"to {letter}" for letter in "ghij"]
    assert (*counts(again), len(model.bodies)) == (4, 6, 0, 10)


def test_the_limit_counts_all_that_one_endpoint_asks(make: Make, model: FakeModel) -> None:
    endpoint = make(**PRICES, max_cost=30.0)
    ask(endpoint, "a")
    with pytest.raises(EndpointError, match=r"judge\.max_cost"):
        ask(endpoint, "b")
    assert len(model.bodies) == 1


def test_an_answer_without_usage_counts_at_its_most(make: Make, model: FakeModel) -> None:
    model.reply = lambda body: {**completion("x"), "usage": None}
    endpoint = make(**PRICES, max_cost=1000.0)
    ask(endpoint, "a")
    assert endpoint.usage.cost == 17 + 2 * 5


def test_letters_of_several_bytes_count_by_bytes(make: Make, model: FakeModel) -> None:
    """As a tokenizer of bytes would: 4 + 16 + 2 x 5 is more than 29."""
    with pytest.raises(EndpointError, match=r"judge\.max_cost=29"):
        ask(make(**PRICES, max_cost=29.0), "\N{GRINNING FACE}")
    assert model.bodies == []
    ask(make(**PRICES, max_cost=30.0), "\N{GRINNING FACE}")
