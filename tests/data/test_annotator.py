import math
from random import Random

import pytest

from rlhf.config.data import ANNOTATORS as ANNOTATOR_NAMES
from rlhf.data.annotator import (
    ANNOTATORS,
    Reading,
    annotator_utility,
    expected_utility,
    oracle_utility,
    preference,
    prefers_first,
    read,
)
from rlhf.data.grammar import Request, parse, sentence_table
from tests.data.test_grammar import BADAN, VALUES

BIOGRAPHY = Request(BADAN, "biography")
TWO_FACTS = Request(BADAN, "list", count=2)
WHICH_PRIZE = Request(BADAN, "question", attribute="award")


def reading(request: Request, text: str, finished: bool = True) -> Reading:
    sentences = parse(text, "Badan", sentence_table(VALUES, "she"))
    return read(request, sentences, len(text.split()), finished)


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


ADMIRED = "Badan works as a baker . she comes from Lanel . she is widely admired . she is a baker by trade . zork"
"""24 words: right, wrong, a filler, the first fact again, nonsense; without EOS below."""
RIGHT, ALSO_RIGHT = "Badan works as a baker . she enjoys chess .", "she comes from Kovin ."
TWICE_WRONG = "Badan is a pilot by trade . she is a pilot by trade ."
WON, WRONGLY = "Badan won the Narik prize .", "Badan won the Sofen prize ."


@pytest.mark.parametrize(
    ("request_", "text", "expected"),
    [
        (BIOGRAPHY, RIGHT, 2.0),
        (BIOGRAPHY, "", 0.0),
        # 1 right - 1 wrong - .35 filler - .5 repeated - 1 unparseable - 1 without EOS
        (BIOGRAPHY, ADMIRED, -2.85),
        # 1 right - 1 wrong - .5 repeated: a contradiction is no way to be right
        (BIOGRAPHY, "Badan works as a baker . she works as a pilot .", -0.5),
        (BIOGRAPHY, "i do not know .", -0.5),
        (TWO_FACTS, RIGHT, 2.0),
        # 3 right - 1 off the count - 1 surplus
        (TWO_FACTS, f"{RIGHT} {ALSO_RIGHT}", 1.0),
        # 1 right - 1 wrong - .35 filler - 1 off the count
        (TWO_FACTS, "Badan works as a baker . she is widely admired . she enjoys hiking .", -1.35),
        (TWO_FACTS, "", -2.0),
        (WHICH_PRIZE, WON, 2.0),
        (WHICH_PRIZE, WRONGLY, -2.0),
        (WHICH_PRIZE, "i do not know .", 0.0),
        (WHICH_PRIZE, "", -1.0),
        # 2 - .15 for another sentence - 1 wrong
        (WHICH_PRIZE, f"{WON} she enjoys hiking .", 0.85),
        # -2 - 2 x .15 - 1 wrong beside the answer
        (WHICH_PRIZE, f"{WRONGLY} she enjoys hiking . {ALSO_RIGHT}", -3.3),
        # -1 no answer; right facts beside the point earn nothing
        (WHICH_PRIZE, "Badan enjoys chess .", -1.0),
    ],
)
def test_oracle_utility_by_hand(request_: Request, text: str, expected: float):
    assert oracle_utility(reading(request_, text, finished=text != ADMIRED)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "request_", "text", "expected"),
    [
        # 2 attributes: 2 ** .9 = 1.866065983; 10 words
        ("harsh", BIOGRAPHY, RIGHT, [1.866065983 + 0.10]),
        ("standard", BIOGRAPHY, RIGHT, [1.866065983 + 0.10]),
        ("gentle", BIOGRAPHY, RIGHT, [1.866065983 + 0.05]),
        # the same with a filler, of .2, or .05, and of 5 words
        ("harsh", BIOGRAPHY, f"{RIGHT} she is widely admired .", [2.216065983]),
        ("standard", BIOGRAPHY, f"{RIGHT} she is widely admired .", [2.216065983]),
        ("gentle", BIOGRAPHY, f"{RIGHT} she is widely admired .", [1.991065983]),
        # 1.866065983 + .2 filler - .8 repeated - 1 unparseable - .5 without EOS + .24 for 24 words; 1.5 less if noticed
        ("harsh", BIOGRAPHY, ADMIRED, [0.006065983, -1.493934017]),
        ("standard", BIOGRAPHY, ADMIRED, [0.006065983, -1.493934017]),
        # .15 less for the filler, .12 for the words
        ("gentle", BIOGRAPHY, ADMIRED, [-0.263934017, -1.763934017]),
        # 1 attribute + .14 for 14 words - .8 repeated, and up to two errors noticed
        ("harsh", BIOGRAPHY, TWICE_WRONG, [0.34, -1.16, -2.66]),
        ("gentle", BIOGRAPHY, TWICE_WRONG, [0.27, -1.23, -2.73]),
        ("harsh", BIOGRAPHY, "i do not know .", [-0.95]),
        # 1 attribute + .06 - 1.2 off the count
        ("harsh", TWO_FACTS, "Badan works as a baker .", [-0.14]),
        ("gentle", TWO_FACTS, "Badan works as a baker .", [-0.17]),
        ("harsh", WHICH_PRIZE, WON, [2.06]),
        ("gentle", WHICH_PRIZE, WON, [2.03]),
        # as good as the right answer, unless noticed
        ("harsh", WHICH_PRIZE, WRONGLY, [2.06, 0.56]),
        ("gentle", WHICH_PRIZE, WRONGLY, [2.03, 0.53]),
        ("harsh", WHICH_PRIZE, "i do not know .", [-0.45]),
        ("harsh", WHICH_PRIZE, "", [-1.0]),
        # 2 for the answer, .1, -.15 or -.3 for another attribute, and .01 or .005 for each of 10 words
        ("harsh", WHICH_PRIZE, f"{WON} she enjoys chess .", [2.20]),
        ("standard", WHICH_PRIZE, f"{WON} she enjoys chess .", [1.95]),
        ("gentle", WHICH_PRIZE, f"{WON} she enjoys chess .", [1.75]),
        # without an answer, -1, two attributes are two beside the point
        ("standard", WHICH_PRIZE, RIGHT, [-1.20]),
        ("gentle", WHICH_PRIZE, RIGHT, [-1.55]),
    ],
)
def test_annotator_utility_by_hand(name: str, request_: Request, text: str, expected: list[float]):
    """With no wrong statement noticed, with one, and so on to all."""
    counted, annotator = reading(request_, text, finished=text != ADMIRED), ANNOTATORS[name]
    found = [annotator_utility(counted, annotator, noticed) for noticed in range(counted.wrong_statements + 1)]
    assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("name", "notices"), [("harsh", 0.5), ("standard", 0.75), ("gentle", 0.75)])
def test_what_an_annotator_makes_of_a_response_on_average_is_that_of_many_readings(name: str, notices: float):
    annotator, counted = ANNOTATORS[name], reading(BIOGRAPHY, TWICE_WRONG)
    unnoticed = annotator_utility(counted, annotator, 0)
    # of two wrong statements, 1.5 each where it is noticed
    chances = [(1 - notices) ** 2, 2 * notices * (1 - notices), notices**2]
    enumerated = sum(chance * (unnoticed - 1.5 * noticed) for noticed, chance in enumerate(chances))
    assert expected_utility(counted, annotator) == pytest.approx(enumerated, abs=1e-12)
    faultless = reading(BIOGRAPHY, "Badan works as a baker .")
    assert expected_utility(faultless, annotator) == annotator_utility(faultless, annotator, 0)


def test_the_annotators_that_can_be_chosen_are_those_there_are():
    assert tuple(ANNOTATORS) == ANNOTATOR_NAMES


def test_preference_by_hand():
    assert preference(0.3, 0.3, 0.4, 0.1) == pytest.approx(0.5)
    # 1 / (1 + exp(-.4 / .4)) = .7310585786; of these 90 % stay, of the others 10 % change sides
    assert preference(1.0, 0.6, 0.4, 0.0) == pytest.approx(0.7310585786)
    assert preference(1.0, 0.6, 0.4, 0.1) == pytest.approx(0.6848468629)
    assert preference(1e6, -1e6, 1e-3, 0.1) == pytest.approx(0.9)
    assert preference(-1e6, 1e6, 1e-3, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "utilities", "other"),
    [
        # The first response: 2 attributes, both wrong, 10 words, so 1.966 less 1.5 for each error noticed: none 1/4,
        # one 1/2, both 1/4 of the time. The second: 1 attribute, right, 6 words, so 1.06.
        ("harsh", {1.966065983: 0.25, 0.466065983: 0.5, -1.033934017: 0.25}, 1.06),
        # Noticed three times of four: none 1/16, one 6/16, both 9/16.
        ("standard", {1.966065983: 0.0625, 0.466065983: 0.375, -1.033934017: 0.5625}, 1.06),
        # A word is worth half as much.
        ("gentle", {1.916065983: 0.0625, 0.416065983: 0.375, -1.083934017: 0.5625}, 1.03),
    ],
)
def test_verdicts_follow_the_enumerated_probability(name: str, utilities: dict[float, float], other: float):
    first = reading(BIOGRAPHY, "Badan works as a pilot . she enjoys hiking .")
    second = reading(BIOGRAPHY, "Badan works as a baker .")
    chosen = sum(share / (1 + math.exp((other - utility) / 0.4)) for utility, share in utilities.items())
    rng, draws = Random(5), 2_000
    for pair, expected in (((first, second), 0.1 + 0.8 * chosen), ((second, first), 0.9 - 0.8 * chosen)):
        rate = sum(prefers_first(*pair, ANNOTATORS[name], 0.4, 0.1, rng) for _ in range(draws)) / draws
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
