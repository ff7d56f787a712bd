"""A language model behind an OpenAI-compatible endpoint: many questions at a time, each paid for once.

Retries with growing pauses, as after HTTP 429, are the client's own. All bookkeeping is done by the thread that asks;
the others only wait for the network, and are left to themselves once a question's time is up or the run is to stop.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from rlhf.config.endpoint import EndpointConfig
from rlhf.console import Track
from rlhf.endpoints.answers import LONGEST_PROBLEM, Answer, Answers, cleaned, read_completion
from rlhf.endpoints.said import bounded_client, clean
from rlhf.errors import ConfigError, EndpointError, Preempted
from rlhf.process.signals import stop_requested
from rlhf.storage.places import check_file

Messages = list[dict[str, str]]
Body = dict[str, Any]
Running = dict[Future[Answer], tuple[str, Body, float]]
"""Questions under way: their keys, their bodies, and when their time is up."""

Unreadable = Callable[[Answer], str | None]
"""Why an answer is of no use to who asked, or None: such a one is counted, and asked for again the next time."""

POLL_SECONDS = 0.2
"""Between two looks at the clock and at whether the run is to stop."""

GRACE = 0.5
"""Seconds that a run which is to stop waits for answers that are under way."""

LONGEST_PAUSE = 8.0
"""Seconds between two tries, at most, that a question's time has room for."""

KEY_ADVICE = "check the key in {config.api_key_env}, which {section}.api_key_env names"
REFUSED_FOR_ALL = {401: KEY_ADVICE, 403: KEY_ADVICE, 404: "check {section}.model and {section}.base_url"}
"""HTTP states that no other question would change, and what to do about them."""

REFUSED_ALONE = (400, 413, 422)
"""HTTP states of a question that the server does not take, as one that is too long."""

MOST_FAILURES = 8
"""Questions in a row that fail after all retries before the endpoint is given up."""

TOKENS_PER_MESSAGE = 16
"""At most so many are added to a message by the model's chat template."""


@dataclass
class Usage:
    """All questions so far: asked now, answered from disk, failed; tokens and cost of those asked and of the kept.

    Costs are None without prices.
    """

    asked: int = 0
    kept: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    kept_cost: float | None = None


class Endpoint:
    """The model that `config` names; `section` is the group whose keys error messages name.

    Raises ConfigError where the client is not installed or the key is not in the environment.
    """

    def __init__(self, config: EndpointConfig, section: str) -> None:
        self.config, self.section = config, section
        self.key = api_key(config, section)
        self.openai = import_openai(section)
        self.client = self.openai.OpenAI(
            api_key=self.key,
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=config.retries,
            http_client=bounded_client(config.timeout),
        )
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log a line for each request
        assert config.cache is not None  # the whole configuration has filled it in
        check_file(f"{section}.cache", config.cache)
        self.answers = Answers(Path(config.cache).expanduser())
        priced = config.input_price is not None and config.output_price is not None
        self.usage = Usage(cost=0.0, kept_cost=0.0) if priced else Usage()
        self.failures = 0

    def ask(
        self, questions: Sequence[Messages], title: str, unreadable: Unreadable | None = None, **parameters: Any
    ) -> list[Answer]:
        """The answer to each, in order; `parameters` are further fields of the request.

        Raises EndpointError where the endpoint gives no answers, or the next could exceed the spending limit, and
        Preempted where the run is to stop. Answers that came before that are kept, those alone that can be read.
        """
        self.unreadable = unreadable or (lambda answer: None)
        bodies = [self._body(messages, parameters) for messages in questions]
        keys = [hashlib.sha256(serialize(body).encode()).hexdigest() for body in bodies]
        answers = self.answers.find(dict.fromkeys(keys))
        self.answers.forget(bad := [key for key, answer in answers.items() if self._useless(answer)])
        answers = {key: answer for key, answer in answers.items() if key not in bad}
        self.usage.kept += len(answers)
        if self.usage.kept_cost is not None:
            self.usage.kept_cost += sum(self._price(answer) for answer in answers.values())
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in answers}
        if missing:
            answers |= Track(self._ask(missing), len(missing), title)
        return [answers[key] for key in keys]

    def _body(self, messages: Messages, parameters: Mapping[str, Any]) -> Body:
        limits = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"model": self.config.model, "messages": messages, **given, **parameters, **self.config.parameters}

    def _ask(self, bodies: Mapping[str, Body]) -> Iterator[tuple[str, Answer]]:
        """Each question's key and answer as they come; what is under way when one fails is waited for and kept."""
        waiting = list(bodies.items())[::-1]
        running: Running = {}
        self.failures = 0
        try:
            while waiting or running:
                free = len(running) < self.config.concurrency
                if waiting and free and not self._could_exceed(running, waiting[-1][1]):
                    key, body = waiting.pop()
                    running[self._start(body)] = key, body, time.monotonic() + self._patience
                elif running:
                    yield from self._collect(running, len(bodies))
                else:
                    raise self._limit_reached()
        except EndpointError:
            self._keep_late(running, max((end for *_, end in running.values()), default=0.0))
            raise
        except BaseException:
            self._keep_late(running, time.monotonic() + GRACE)
            raise

    @property
    def _patience(self) -> float:
        """Seconds that a question may take with all its tries, whatever its server does meanwhile."""
        return self.config.timeout * (self.config.retries + 1) + LONGEST_PAUSE * self.config.retries + POLL_SECONDS

    def _start(self, body: Body) -> Future[Answer]:
        """Ask in a thread that nobody needs to wait for."""
        future: Future[Answer] = Future()

        def work() -> None:
            try:
                future.set_result(self._complete(body))
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)

        Thread(target=work, name=f"{self.section} asks", daemon=True).start()
        return future

    def _keep_late(self, running: Running, end: float) -> None:
        """Keep what comes of the questions under way until `end`; each of the others is one that may be billed."""
        wait(running, timeout=max(0.0, end - time.monotonic()))
        for future, (key, body, _) in running.items():
            if not future.done():
                self._keep(key, body, self._too_late())
            elif future.exception() is None:
                self._keep(key, body, future.result())

    def _too_late(self) -> Answer:
        problem = f"no answer within {self.section}.timeout={self.config.timeout:g} s"
        return Answer(problem=problem, billed=self._tries)

    @property
    def _tries(self) -> int:
        """How often a question may be asked: each may be on the bill, though no answer has come."""
        return self.config.retries + 1

    def _collect(self, running: Running, questions: int) -> Iterator[tuple[str, Answer]]:
        """Wait for one answer at least, keep all that have come, and take them from `running`."""
        ended: set[Future[Answer]] = set()
        while not ended:
            done, pending = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            if reason := stop_requested():
                raise Preempted(reason)
            ended = done | {future for future in pending if time.monotonic() > running[future][2]}
        for future in ended:
            # a fatal one stays in `running`, beside those that are still to be kept
            answer = future.result() if future.done() else self._too_late()
            key, body, _ = running.pop(future)
            answer = self._keep(key, body, answer)
            nothing_else = self.usage.asked + self.usage.kept == 0 and self.failures == questions
            if self.failures >= MOST_FAILURES or nothing_else:
                raise self._error(f"the last {self.failures} questions failed: {answer.problem}")
            yield key, answer

    def _useless(self, answer: Answer) -> str | None:
        """Why an answer is not to be kept."""
        empty = "an empty answer" if not answer.text.strip() and not answer.logprobs else None
        return answer.problem or empty or self.unreadable(answer)

    def _keep(self, key: str, body: Body, answer: Answer) -> Answer:
        """Count an answer, and keep it if it is of use; returns it with what is wrong with it."""
        came = answer.problem is None
        self._charge(body, answer)
        if problem := self._useless(answer):
            self.usage.failed += 1
            if came:
                self.failures = 0
            elif not answer.refused or self.usage.asked + self.usage.kept == 0:
                self.failures += 1
            return replace(answer, problem=problem)
        self.failures = 0
        self.answers.keep(key, clean(serialize(body)), answer)
        self.usage.asked += 1
        return answer

    def _charge(self, body: Body, answer: Answer) -> None:
        """Add what a question has cost: by the server's count, and where there is none to believe the most it can."""
        self.usage.input_tokens += answer.input_tokens or 0
        self.usage.output_tokens += answer.output_tokens or 0
        if self.usage.cost is not None and (answer.problem is None or answer.billed):
            reported = bool(answer.input_tokens) and answer.output_tokens is not None
            self.usage.cost += self._price(answer) if reported else self._bound(body) * max(1, answer.billed)

    def _price(self, answer: Answer) -> float:
        read, written = answer.input_tokens or 0, answer.output_tokens or 0
        return (read * (self.config.input_price or 0) + written * (self.config.output_price or 0)) / 1e6

    def _bound(self, body: Body) -> float:
        """What the answer costs at most: no tokenizer makes more tokens of a text than it has bytes."""
        read = sum(len(message["content"].encode()) + TOKENS_PER_MESSAGE for message in body["messages"])
        return self._price(Answer(input_tokens=read, output_tokens=self.config.longest_answer))

    def _could_exceed(self, running: Running, body: Body) -> bool:
        if self.config.max_cost is None or self.usage.cost is None:
            return False
        bounds = [self._bound(each) for each in (body, *(other for _, other, _ in running.values()))]
        return self.usage.cost + self._tries * sum(bounds) > self.config.max_cost

    def _limit_reached(self) -> EndpointError:
        return EndpointError(
            f"{self.section}.max_cost={self.config.max_cost} would be exceeded by the next question: "
            f"{self.usage.cost:.4g} are spent, for {self.usage.asked} answers; they are kept, and the same command "
            "with a higher limit goes on from there"
        )

    def _complete(self, body: Body) -> Answer:
        """One request's answer, cleaned; raises EndpointError where no other would succeed either."""
        return cleaned(self._request(body), self._secret)

    @property
    def _secret(self) -> str:
        return self.key if self.config.api_key_env is not None else ""

    def _request(self, body: Body) -> Answer:
        """What the client makes of a request, with its retries."""
        openai = self.openai
        more = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=more
            )
            return read_completion(raw.text)
        except openai.APITimeoutError:
            return self._too_late()
        except openai.APIConnectionError as error:
            problem = f"it can't be reached ({error.__cause__ or error})"
            if self.usage.asked > 0:  # it was there before, and may come back
                return Answer(problem=problem)
            raise self._error(f"{problem}; is the server up?") from None
        except openai.APIStatusError as error:
            return self._refused(error)
        except Exception as error:  # whatever else the client meets in an answer costs this question alone
            return Answer(problem=f"{type(error).__name__}: {error}", billed=1)

    def _refused(self, error: Any) -> Answer:
        """The answer to a question that the server refuses; raises EndpointError where it would refuse all."""
        state = error.status_code
        message = str(error.body.get("message") if isinstance(error.body, dict) else error.message)
        problem = f"HTTP {state}: {clean(message, self._secret)[:LONGEST_PROBLEM]}"
        if state in REFUSED_FOR_ALL or "insufficient_quota" in (error.code, error.type):
            advice = REFUSED_FOR_ALL.get(state, "the account has no money or quota left")
            raise self._error(f"{problem}; {advice.format(config=self.config, section=self.section)}") from None
        return Answer(problem=problem, refused=state in REFUSED_ALONE)

    def _error(self, reason: str) -> EndpointError:
        kept = f"{self.usage.asked} answers of this command are kept, and the same command goes on from there"
        where = f"{self.config.base_url}, model {self.config.model}"
        return EndpointError(f"{where}: {clean(reason, self._secret)} ({kept})")


def api_key(config: EndpointConfig, section: str) -> str:
    """The key from the environment; raises ConfigError where it is missing, naming the variable."""
    if config.api_key_env is None:
        return "none"  # the client wants one even where the server does not
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{section}.api_key_env={config.api_key_env} is not allowed: there is no such variable in the environment, "
            f"or it is empty; set it to your key, or {section}.api_key_env=null for a server that needs none"
        )
    return key


def import_openai(section: str) -> Any:
    """The client's package, which only users of endpoints need."""
    try:
        import openai
    except ImportError as error:
        raise ConfigError(f"{section}=... needs the package openai: pip install openai") from error
    return openai


def enclosed(text: str, tags: Sequence[str] = ()) -> str:
    """A text to be judged that can neither open nor close one of `tags`, nor end its message by a model's own mark."""
    named = "|".join(map(re.escape, tags)) or "(?!)"
    return re.sub(rf"<(?=\s*/?\s*(?:{named})\b|\|)", "&lt;", text, flags=re.IGNORECASE)


def serialize(body: Body) -> str:
    return json.dumps(body, sort_keys=True)
