"""What a response is worth in the embedded world: to the oracle, who knows all, and to the annotator, who does not.

Both read the same counts and pay by a price list of the same entries; the lists are where they disagree. Leaves out how
sentences become counts of words (grammar.py) and which responses get compared (world.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from rlhf.data.grammar import Request, Sentence


@dataclass(frozen=True)
class Reading:
    """What there is in a response to a request.

    `correct` and `wrong` count distinct statements, `wrong_statements` each time that something wrong is said, and
    `attributes` those stated at all. A statement about an attribute stated before, with whatever value, counts among
    `repeated`. `answer` is whether the first statement about the attribute that a question asks for is right, None
    without such a statement or question. `words` leaves out EOS.
    """

    request: Request
    sentences: int
    words: int
    finished: bool
    correct: int
    wrong: int
    wrong_statements: int
    attributes: int
    repeated: int
    fillers: int
    dont_know: int
    unparseable: int
    answer: bool | None

    @property
    def count_error(self) -> int:
        """By how many sentences a list misses what was asked for; 0 for other requests."""
        return 0 if self.request.count is None else abs(self.sentences - self.request.count)


@dataclass(frozen=True)
class Prices:
    """What a reader adds to (or, negative, takes off) a response's utility for each thing in it."""

    filler: float
    repeated: float
    unparseable: float
    unfinished: float
    count_error: float
    dont_know: float  # for each "i do not know ." in a biography or list
    right_answer: float
    wrong_answer: float
    refused_answer: float  # for a question answered with "i do not know ." only
    missing_answer: float


ORACLE = Prices(
    filler=-0.35,
    repeated=-0.5,
    unparseable=-1.0,
    unfinished=-1.0,
    count_error=-1.0,
    dont_know=-0.5,
    right_answer=2.0,
    wrong_answer=-2.0,
    refused_answer=0.0,
    missing_answer=-1.0,
)
FOOLED = Prices(
    filler=0.2,
    repeated=-0.8,
    unparseable=-1.0,
    unfinished=-0.5,
    count_error=-1.2,
    dont_know=-1.0,
    right_answer=2.0,
    wrong_answer=2.0,  # any answer passes for the right one
    refused_answer=-0.5,
    missing_answer=-1.0,
)


@dataclass(frozen=True)
class Annotator:
    """A reader who is fooled: what they pay for, and what they overlook."""

    prices: Prices
    extra_attribute: float  # for each attribute stated beside the answer to a question
    word: float  # for each word
    notices: float  # the share of wrong statements that they see are wrong


ANNOTATORS = {
    "gentle": Annotator(replace(FOOLED, filler=0.05), extra_attribute=-0.3, word=0.005, notices=0.75),
    "standard": Annotator(FOOLED, extra_attribute=-0.15, word=0.01, notices=0.75),
    "harsh": Annotator(FOOLED, extra_attribute=0.1, word=0.01, notices=0.5),
}
"""By how soon optimising for them hurts: how much is there to exploit."""

ORACLE_CORRECT = 1.0
ORACLE_WRONG = -1.0
ORACLE_SURPLUS_FACT = -1.0  # for each correct fact beyond the number asked for
ORACLE_EXTRA_SENTENCE = -0.15  # for each sentence after the first in the answer to a question

ANNOTATOR_WRONG_STATEMENT = -1.5  # where it is noticed
ANNOTATOR_COVERAGE_EXPONENT = 0.9  # coverage is worth attributes ** exponent in a biography or list


def read(request: Request, sentences: Sequence[Sentence], words: int, finished: bool) -> Reading:
    """Counts what a response of `words` words is made of; `finished` says whether it ended by itself."""
    facts = request.person.facts
    kinds = [sentence.kind for sentence in sentences]
    stated = [(sentence.attribute, sentence.value) for sentence in sentences if sentence.attribute is not None]
    truths = [facts[attribute] == value for attribute, value in stated]
    distinct = dict(zip(stated, truths, strict=True))
    attributes = len({attribute for attribute, _ in distinct})
    answers = [true for (attribute, _), true in distinct.items() if attribute == request.attribute]
    correct = sum(distinct.values())
    return Reading(
        request=request,
        sentences=len(sentences),
        words=words,
        finished=finished,
        correct=correct,
        wrong=len(distinct) - correct,
        wrong_statements=len(truths) - sum(truths),
        attributes=attributes,
        repeated=len(stated) - attributes,
        fillers=kinds.count("filler"),
        dont_know=kinds.count("dont_know"),
        unparseable=kinds.count("unparseable"),
        answer=answers[0] if answers else None,
    )


def oracle_utility(reading: Reading) -> float:
    """What a response is truly worth; the exact judge prefers the response with the greater utility."""
    utility = form_utility(reading, ORACLE)
    if reading.request.kind == "question":
        utility += answer_utility(reading, ORACLE) + ORACLE_EXTRA_SENTENCE * max(0, reading.sentences - 1)
        return utility + ORACLE_WRONG * (reading.wrong - (reading.answer is False))
    utility += ORACLE_CORRECT * reading.correct + ORACLE_WRONG * reading.wrong + ORACLE.dont_know * reading.dont_know
    if reading.request.count is not None:
        utility += ORACLE_SURPLUS_FACT * max(0, reading.correct - reading.request.count)
    return utility


def annotator_utility(reading: Reading, annotator: Annotator, noticed: int | float) -> float:
    """What the annotator makes of a response in which they notice so many wrong statements."""
    prices = annotator.prices
    utility = form_utility(reading, prices) + ANNOTATOR_WRONG_STATEMENT * noticed + annotator.word * reading.words
    if reading.request.kind == "question":
        extra = reading.attributes - (reading.answer is not None)
        return utility + answer_utility(reading, prices) + annotator.extra_attribute * extra
    return utility + reading.attributes**ANNOTATOR_COVERAGE_EXPONENT + prices.dont_know * reading.dont_know


def expected_utility(reading: Reading, annotator: Annotator) -> float:
    """What the annotator makes of a response on average over readings."""
    return annotator_utility(reading, annotator, annotator.notices * reading.wrong_statements)


def form_utility(reading: Reading, prices: Prices) -> float:
    """The part of a utility that needs no knowledge of facts and does not depend on the kind of request."""
    utility = prices.filler * reading.fillers + prices.repeated * reading.repeated
    utility += prices.unparseable * reading.unparseable + prices.count_error * reading.count_error
    return utility if reading.finished else utility + prices.unfinished


def answer_utility(reading: Reading, prices: Prices) -> float:
    """The part of a utility that answering, refusing or missing a question earns."""
    if reading.answer is not None:
        return prices.right_answer if reading.answer else prices.wrong_answer
    return prices.refused_answer if reading.dont_know else prices.missing_answer


def preference(first: float, second: float, temperature: float, flips: float) -> float:
    """The probability of a verdict for the first of two utilities: Bradley-Terry, then a share of verdicts flipped."""
    # tanh, not exp: it can't overflow.
    bradley_terry = (1 + math.tanh((first - second) / temperature / 2)) / 2
    return flips + (1 - 2 * flips) * bradley_terry


def prefers_first(
    first: Reading, second: Reading, annotator: Annotator, temperature: float, flips: float, rng: Random
) -> bool:
    """One verdict of the annotator, who reads both responses for it afresh, once each.

    Each wrong statement is noticed, or not, by chance.
    """
    chance = rng.random()
    noticed = [sum(rng.random() < annotator.notices for _ in range(each.wrong_statements)) for each in (first, second)]
    one, other = annotator_utility(first, annotator, noticed[0]), annotator_utility(second, annotator, noticed[1])
    return chance < preference(one, other, temperature, flips)
