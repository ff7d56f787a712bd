import math
from random import Random

import pytest

from rlhf.data.annotator import Reading, annotator_utility, oracle_utility, preference, prefers_first, read
from rlhf.data.grammar import Request, parse, sentence_table
from tests.data.test_grammar import BADAN, VALUES

BIOGRAPHY = Request(BADAN, "biography")
TWO_FACTS = Request(BADAN, "list", count=2)
WHICH_PRIZE = Request(BADAN, "question", attribute="award")


def reading(request: Request, text: str, finished: bool = True) -> Reading:
    sentences = parse(text, "Badan", sentence_table(VALUES, "she"))
    return read(request, sentences, len(text.split()), finished)


def annotator_utilities(request: Request, text: str, finished: bool = True) -> set[float]:
    """All that the annotator makes of a response in many readings."""
    rng = Random(0)
    counted = reading(request, text, finished)
    return {round(annotator_utility(counted, rng), 9) for _ in range(200)}


def test_counts_of_a_response():
    text = (
        "Badan works as a baker . she comes from Lanel . she is widely admired . she is a baker by trade . "
        "she is a pilot by trade . i do not know . not much else is known . Tetan enjoys chess . zork"
    )
    assert reading(BIOGRAPHY, text, finished=False) == Reading(
        request=BIOGRAPHY,
        sentences=9,
        words=6 + 5 + 5 + 7 + 7 + 5 + 6 + 4 + 1,
        finished=False,
        correct=1,  # baker
        wrong=2,  # from Lanel; pilot
        wrong_statements=2,
        attributes=2,  # profession, birthplace
        repeated=2,  # the second and third statements about the profession
        fillers=1,
        dont_know=1,
        unparseable=2,  # another person; zork
        answer=None,
    )


def test_saying_the_same_error_twice_is_one_wrong_fact_and_two_chances_to_notice():
    counted = reading(BIOGRAPHY, "Badan is a pilot by trade . she works as a pilot .")
    assert (counted.correct, counted.wrong, counted.wrong_statements, counted.repeated) == (0, 1, 2, 1)


def test_the_first_statement_about_the_asked_attribute_is_the_answer():
    assert reading(WHICH_PRIZE, "Badan won the Sofen prize . she won the Narik prize .").answer is False
    assert reading(WHICH_PRIZE, "Badan enjoys hiking . she won the Narik prize .").answer is True
    assert reading(WHICH_PRIZE, "Badan enjoys hiking .").answer is None
    assert reading(BIOGRAPHY, "Badan won the Narik prize .").answer is None


@pytest.mark.parametrize(
    ("request_", "text", "finished", "expected"),
    [
        # two right
        (BIOGRAPHY, "Badan works as a baker . she enjoys chess .", True, 2.0),
        (BIOGRAPHY, "", True, 0.0),
        # 1 right - 1 wrong - .35 filler - .5 repeated - 1 unparseable - 1 without EOS
        (
            BIOGRAPHY,
            "Badan works as a baker . she comes from Lanel . she is widely admired . she is a baker by trade . zork",
            False,
            -2.85,
        ),
        # 1 right - 1 wrong - .5 repeated: a contradiction is no way to be right
        (BIOGRAPHY, "Badan works as a baker . she works as a pilot .", True, -0.5),
        (BIOGRAPHY, "i do not know .", True, -0.5),
        (TWO_FACTS, "Badan works as a baker . she enjoys chess .", True, 2.0),
        # 3 right - 1 off the count - 1 surplus
        (TWO_FACTS, "Badan works as a baker . she enjoys chess . she comes from Kovin .", True, 1.0),
        # 1 right - 1 wrong - .35 filler - 1 off the count
        (TWO_FACTS, "Badan works as a baker . she is widely admired . she enjoys hiking .", True, -1.35),
        (TWO_FACTS, "", True, -2.0),
        (WHICH_PRIZE, "Badan won the Narik prize .", True, 2.0),
        (WHICH_PRIZE, "Badan won the Sofen prize .", True, -2.0),
        (WHICH_PRIZE, "i do not know .", True, 0.0),
        (WHICH_PRIZE, "", True, -1.0),
        # 2 - .15 for another sentence - 1 wrong
        (WHICH_PRIZE, "Badan won the Narik prize . she enjoys hiking .", True, 0.85),
        # -2 - 2 x .15 - 1 wrong beside the answer
        (WHICH_PRIZE, "Badan won the Sofen prize . she enjoys hiking . she comes from Kovin .", True, -3.3),
        # -1 no answer; right facts beside the point earn nothing
        (WHICH_PRIZE, "Badan enjoys chess .", True, -1.0),
    ],
)
def test_oracle_utility_by_hand(request_: Request, text: str, finished: bool, expected: float):
    assert oracle_utility(reading(request_, text, finished)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("request_", "text", "finished", "expected"),
    [
        # 2 attributes: 2 ** .9 = 1.866065983; 11 words
        (BIOGRAPHY, "Badan works as a baker . she enjoys chess .", True, {1.866065983 + 0.10}),
        # as above with .2 for the filler (15 words)
        (BIOGRAPHY, "Badan works as a baker . she enjoys chess . she is widely admired .", True, {2.216065983}),
        # 1.866065983 + .2 filler - .8 repeated - 1 unparseable - .5 without EOS + .24 for 24 words; 1.5 less if noticed
        (
            BIOGRAPHY,
            "Badan works as a baker . she comes from Lanel . she is widely admired . she is a baker by trade . zork",
            False,
            {0.006065983, -1.493934017},
        ),
        # 1 attribute + .13 - .8 repeated, and up to two errors noticed
        (BIOGRAPHY, "Badan is a pilot by trade . she is a pilot by trade .", True, {0.34, -1.16, -2.66}),
        (BIOGRAPHY, "i do not know .", True, {-0.95}),
        # 1 attribute + .06 - 1.2 off the count
        (TWO_FACTS, "Badan works as a baker .", True, {-0.14}),
        (WHICH_PRIZE, "Badan won the Narik prize .", True, {2.06}),
        # as good as the right answer, unless noticed
        (WHICH_PRIZE, "Badan won the Sofen prize .", True, {2.06, 0.56}),
        (WHICH_PRIZE, "i do not know .", True, {-0.45}),
        (WHICH_PRIZE, "", True, {-1.0}),
        # 2 + .1 for another attribute + .10 for 10 words
        (WHICH_PRIZE, "Badan won the Narik prize . she enjoys chess .", True, {2.20}),
    ],
)
def test_annotator_utility_by_hand(request_: Request, text: str, finished: bool, expected: set[float]):
    assert sorted(annotator_utilities(request_, text, finished)) == pytest.approx(sorted(expected), abs=1e-8)


def test_preference_by_hand():
    assert preference(0.3, 0.3, 0.4, 0.1) == pytest.approx(0.5)
    # 1 / (1 + exp(-.4 / .4)) = .7310585786; of these 90 % stay, of the others 10 % change sides
    assert preference(1.0, 0.6, 0.4, 0.0) == pytest.approx(0.7310585786)
    assert preference(1.0, 0.6, 0.4, 0.1) == pytest.approx(0.6848468629)
    assert preference(1e6, -1e6, 1e-3, 0.1) == pytest.approx(0.9)
    assert preference(-1e6, 1e6, 1e-3, 0.1) == pytest.approx(0.1)


def test_verdicts_follow_the_enumerated_probability():
    # The first response: 2 attributes, both wrong, 10 words, so 1.966 less 1.5 for each error noticed: none 1/4, one
    # 1/2, both 1/4 of the time. The second: 1 attribute, right, 6 words, so 1.06.
    first = reading(BIOGRAPHY, "Badan works as a pilot . she enjoys hiking .")
    second = reading(BIOGRAPHY, "Badan works as a baker .")
    utilities = {1.966065983: 0.25, 0.466065983: 0.5, -1.033934017: 0.25}
    chosen = sum(share / (1 + math.exp((1.06 - utility) / 0.4)) for utility, share in utilities.items())
    expected = 0.1 + 0.8 * chosen
    rng = Random(5)
    draws = 10_000
    rate = sum(prefers_first(first, second, 0.4, 0.1, rng) for _ in range(draws)) / draws
    assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
