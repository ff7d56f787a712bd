"""What is written about one person of whom little is documented, and how a demonstrator errs."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from rlhf.data.author import careless_value, demonstrate, documented, draw_attributes, write_document
from rlhf.data.grammar import ATTRIBUTES, Request, parse, sentence_table
from tests.data.test_grammar import BADAN, VALUES
from tests.data.test_world import within

MANY = {name: tuple(f"{name}{number}" for number in range(10)) for name in VALUES}
KNOWN = replace(BADAN, facts={name: options[0] for name, options in MANY.items()})
HOBBY_ONLY = replace(KNOWN, documented=frozenset({"hobby"}))
TABLE = sentence_table(MANY, "she")


def stated(text: str) -> list[str | None]:
    return [sentence.attribute for sentence in parse(text, "Badan", TABLE) if sentence.kind == "fact"]


def test_documented_attributes_come_in_the_worlds_order() -> None:
    person = replace(KNOWN, documented=frozenset({"hobby", "birthplace", "award"}))
    assert [attribute.name for attribute in documented(person)] == ["birthplace", "award", "hobby"]


def test_a_document_that_would_state_nothing_states_the_most_usual_of_what_is_documented() -> None:
    rng, person = Random(0), replace(KNOWN, documented=frozenset({"award", "hobby"}))
    texts = [write_document(person, rng).removesuffix(" <eos>").rpartition("> ")[2] for _ in range(4000)]
    counts = Counter(tuple(sorted(map(str, stated(text)))) for text in texts)
    assert set(counts) == {("award",), ("hobby",), ("award", "hobby")}
    # The award is mentioned with 0.16, the hobby with 0.12, and neither with 0.84 x 0.88: then the award is. Of both,
    # a question (0.25) asks for one.
    both = 0.16 * 0.12
    assert within(counts["award", "hobby"], 4000, 0.75 * both)
    assert within(counts["hobby",], 4000, 0.84 * 0.12 + 0.125 * both)


@pytest.mark.parametrize("request_", [Request(HOBBY_ONLY, "list", count=4), Request(HOBBY_ONLY, "biography")])
def test_a_demonstration_of_more_facts_than_are_documented_gives_those(request_: Request) -> None:
    rng = Random(0)
    assert {tuple(stated(demonstrate(request_, MANY, rng))) for _ in range(200)} == {("hobby",)}


def test_attributes_are_drawn_once_each_and_no_more_than_are_known() -> None:
    rng, known = Random(0), list(ATTRIBUTES[5:])
    for count in (0, 1, 3, 8):
        drawn = draw_attributes(known, count, rng)
        assert len(drawn) == len(set(drawn)) == min(count, 3)
        assert set(drawn) <= set(known)
    assert known == list(ATTRIBUTES[5:])


def test_often_mentioned_attributes_are_drawn_sooner() -> None:
    rng, known = Random(0), [ATTRIBUTES[0], ATTRIBUTES[-1]]
    profession = sum(draw_attributes(known, 1, rng) == [ATTRIBUTES[0]] for _ in range(2000))
    # weights 0.95 + 0.15 and 0.12 + 0.15
    assert within(profession, 2000, 1.10 / 1.37)


def test_a_demonstrator_errs_on_what_is_documented_and_guesses_the_rest() -> None:
    rng = Random(0)
    known = Counter(careless_value("award", KNOWN, MANY, rng) for _ in range(4000))
    assert within(4000 - known["award0"], 4000, 0.06)
    assert len(known) == 10
    guessed = Counter(careless_value("award", HOBBY_ONLY, MANY, rng) for _ in range(4000))
    assert all(within(guessed[value], 4000, 0.1) for value in MANY["award"])
