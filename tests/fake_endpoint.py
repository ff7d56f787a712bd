"""An OpenAI-compatible server on loopback whose model is a function of the request."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Body = dict[str, Any]
Reply = Callable[[Body], str | Body | Response]
"""A text, a chat completion's JSON, or a whole HTTP response."""


class FakeModel:
    """What it was asked, by whom, and how many questions were under way at once."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/v1")
        self.reply: Reply = lambda body: "yes"
        self.seconds = 0.0
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self.under_way, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self.handle)

    def handle(self, request: Request) -> Response:
        body = json.loads(request.data)
        with self.lock:
            self.bodies.append(body)
            self.keys.append(request.headers.get("Authorization"))
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
        time.sleep(self.seconds)
        found = self.reply(body)
        with self.lock:
            self.under_way -= 1
        if isinstance(found, Response):
            return found
        return Response(json.dumps(completion(found) if isinstance(found, str) else found), mimetype="application/json")

    def asked(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


def completion(text: str | None, logprobs: dict[str, float] | None = None, tokens: tuple[int, int] = (10, 2)) -> Body:
    """A chat completion's JSON, with the alternatives to its first token."""
    top = [{"token": token, "logprob": logprob} for token, logprob in (logprobs or {}).items()]
    content = None if logprobs is None else {"content": [{"token": text, "logprob": 0.0, "top_logprobs": top}]}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{**choice, "logprobs": content}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def failure(state: int, message: str = "no", code: str | None = None) -> Response:
    """An error as OpenAI writes it; the client tries again at once where it does."""
    error = json.dumps({"error": {"message": message, "code": code, "type": code}})
    return Response(error, state, {"retry-after-ms": "1"}, mimetype="application/json")


@pytest.fixture(scope="session")
def loopback() -> Iterator[HTTPServer]:
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def model(loopback: HTTPServer) -> FakeModel:
    loopback.clear()
    return FakeModel(loopback)


def endpoint_settings(url: str, folder: Path, **own: Any) -> dict[str, Any]:
    """Settings of a model behind `url`, asked at most once per question, with the section's `own` ones."""
    kept = str(folder / "answers.sqlite")
    return {"model": "fake", "base_url": url, "api_key_env": None, "timeout": 5.0, "retries": 0, "cache": kept} | own
