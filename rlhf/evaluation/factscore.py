"""factuality=factscore: FActScore (arXiv 2305.14251), the share of stated facts that a collection of texts supports.

A language model splits each response into facts and is shown each fact with the passages nearest to it. Unlike the
published code, one question splits a whole response, not each of its sentences, and prompts are our own: figures are
comparable among runs judged alike, and with published ones only roughly.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.config.evaluation import FactScoreConfig
from rlhf.data.source import Prompt, Response
from rlhf.endpoints.answers import Answer
from rlhf.endpoints.endpoint import Endpoint, Messages, enclosed
from rlhf.errors import DataError, EndpointError
from rlhf.evaluation.factuality import FACTUALITY, NOTHING, Figures
from rlhf.evaluation.judges import Resources
from rlhf.evaluation.knowledge import Knowledge
from rlhf.evaluation.winrate import mean_and_error

log = logging.getLogger(__name__)

SPLIT = """\
Break the text below into the separate facts that it states. Write each as a short sentence of its own that can be \
understood alone: put names where the text has pronouns. Keep to what the text says, true or not, and leave out \
opinions and pleasantries. One fact per line, each line beginning with "- ". Where the text states no facts, as where \
it declines to answer, write NONE.

Asked: {instruction}

Text:
{response}"""

SUPPORT = """\
{passages}

By the passages above{about}, is the following statement true? A statement that they do not support is False. \
Reply with True or False alone.

Statement: {fact}"""

MOST_FACTS = 256
"""That are looked up of one response: each costs a question."""

LEAST = 2
"""Responses with facts that a standard error takes."""


@dataclass(frozen=True)
class Checked:
    """A response's facts and whether each is supported (None where the answer could not be read).

    `facts` is None where the split itself failed, and empty where the response states none.
    """

    facts: list[str] | None
    supported: list[bool | None]

    @property
    def counts(self) -> tuple[int, int] | None:
        """Facts supported and facts judged; None where the response states none."""
        judged = [each for each in self.supported if each is not None]
        return (sum(judged), len(judged)) if self.facts else None


def aggregate(counts: Sequence[tuple[int, int] | None], penalty_facts: int) -> Figures:
    """Figures from each response's (supported, stated) facts, None for a response without facts.

    Means are over the responses that state facts, in per cent; None where fewer than two do. `factuality` is the share
    of facts supported (init_score in the published code), `factuality_penalized` that times
    exp(1 - penalty_facts / facts) for a response of at most so many facts. `factuality_respond_ratio` is over all
    responses; `factuality_facts` is the mean number in a response that states any.
    """
    responded = [count for count in counts if count is not None and count[1] > 0]
    figures = dict.fromkeys(("factuality", "factuality_se", "factuality_penalized", "factuality_facts"))
    ratio = {"factuality_respond_ratio": 100 * len(responded) / len(counts) if counts else None}
    if len(responded) < LEAST:
        return figures | ratio
    shares = [100 * supported / stated for supported, stated in responded]
    weights = [penalty(stated, penalty_facts) for _, stated in responded]
    penalized = sum(share * weight for share, weight in zip(shares, weights, strict=True)) / len(shares)
    facts = sum(stated for _, stated in responded) / len(responded)
    return dict(zip(figures, (*mean_and_error(shares), penalized, facts), strict=True)) | ratio


def penalty(facts: int, penalty_facts: int) -> float:
    return math.exp(1 - penalty_facts / facts) if facts <= penalty_facts else 1.0


def describe_facts(checked: Sequence[Checked], penalty_facts: int) -> Figures:
    """The figures of metrics.json; a response whose split failed is left out, and counted in `factuality_null`."""
    failed = sum(each.facts is None for each in checked)
    unread = sum(fact is None for each in checked for fact in each.supported)
    figures = aggregate([each.counts for each in checked if each.facts is not None], penalty_facts)
    return figures | {"factuality_null": failed + unread}


class FactScorer:
    """The measure of `factuality=factscore`.

    Raises UserError where a file, the key or a package is missing, or none of the prompts to be evaluated counts.
    """

    def __init__(self, config: FactScoreConfig, resources: Resources) -> None:
        self.config, self.run_on_main = config, resources.run_on_main
        self.knowledge = Knowledge(Path(config.knowledge).expanduser(), config.passage_words)
        self.endpoint = Endpoint(config, "factuality")
        if resources.prompts:
            self.choose([prompt.dataset for prompt in resources.prompts])

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
        """The figures of a run's responses, asked for by one process.

        Null where the endpoint gives no answers, and where none of these prompts counts, as of an interim evaluation's.
        """
        chosen = self.chosen([prompt.dataset for prompt in prompts])
        if not chosen:
            return NOTHING
        instructions, texts = [prompts[row].instruction for row in chosen], [responses[row].text for row in chosen]
        try:
            checked = self.run_on_main(lambda: self.check(instructions, texts))
        except EndpointError as error:
            log.info(f"no factuality: {error}")
            return NOTHING
        return describe_facts(checked, self.config.penalty_facts)

    def asked(self) -> dict[str, Any]:
        """Questions, tokens and costs so far."""
        return asdict(self.endpoint.usage)

    def chosen(self, datasets: Sequence[str]) -> list[int]:
        """The places of the responses that count: of `dataset`, and not more than `prompts`."""
        wanted = [place for place, name in enumerate(datasets) if self.config.dataset in (None, name)]
        return wanted[: self.config.prompts]

    def choose(self, datasets: Sequence[str]) -> list[int]:
        """The same; raises DataError where there are none."""
        chosen = self.chosen(datasets)
        if not chosen:
            raise DataError(f"factuality.dataset={self.config.dataset}: no output is of that dataset")
        return chosen

    def check(self, instructions: Sequence[str], responses: Sequence[str]) -> list[Checked]:
        """Split responses into facts and look each up; raises EndpointError where the endpoint gives no answers."""
        pairs = zip(instructions, responses, strict=True)
        shown = [(enclosed(asked), enclosed(text)) for asked, text in pairs]
        questions = [ask_user(SPLIT.format(instruction=asked, response=text)) for asked, text in shown]
        answers = self.endpoint.ask(questions, "facts", no_facts)
        split = [read_facts(answer.text) if answer.problem is None else None for answer in answers]
        topics = [self.knowledge.topic(asked) for asked in instructions]
        facts = [(topic, fact) for topic, found in zip(topics, split, strict=True) for fact in found or []]
        support = self.endpoint.ask([self._support(*each) for each in facts], "support", no_support)
        supported = iter([read_support(answer.text) for answer in support])
        return [Checked(found, [next(supported) for _ in found or []]) for found in split]

    def _support(self, topic: str | None, fact: str) -> Messages:
        found = self.knowledge.find(f"{topic or ''} {fact}", topic, self.config.passages)
        passages = "\n\n".join(f"Title: {passage.title}\nText: {passage.text}" for passage in found)
        about = f" about {topic}" if topic is not None else ""
        return ask_user(SUPPORT.format(passages=passages, about=about, fact=enclosed(fact)))


FACTUALITY["factscore"] = FactScorer


def ask_user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def read_facts(text: str) -> list[str] | None:
    """The lines of a list, none where the answer is NONE; None where it is neither."""
    facts = [
        found[1].strip() for line in text.splitlines() if (found := re.match(r"\s*(?:[-*•]|\d+[.)])\s+(.+)", line))
    ]
    if facts:
        return facts
    return [] if text.strip().strip(".").upper() == "NONE" else None


def no_facts(answer: Answer) -> str | None:
    """Why an answer is no list of all facts."""
    facts = read_facts(answer.text)
    if answer.cut:
        return "the list of facts is cut off: raise factuality.max_tokens"
    if facts is None:
        return "neither a list of facts nor NONE"
    return f"more than {MOST_FACTS} facts" if len(facts) > MOST_FACTS else None


def no_support(answer: Answer) -> str | None:
    """Why an answer says neither."""
    return "neither True nor False" if read_support(answer.text) is None else None


def read_support(text: str) -> bool | None:
    """By the first of the words true and false; None where the answer holds neither."""
    found = re.search(r"\b(true|false)\b", text, re.IGNORECASE)
    return None if found is None else found[1].lower() == "true"
