from random import Random

import pytest

from rlhf.data.grammar import (
    ATTRIBUTES,
    FILLERS,
    PRONOUNS,
    Person,
    Request,
    Sentence,
    instructions,
    invent_values,
    name_forms,
    parse,
    render,
    sentence_spans,
    sentence_table,
    template_words,
)

VALUES = {
    "profession": ("baker", "pilot"),
    "birthplace": ("Kovin", "Lanel"),
    "birth_year": ("1934", "1936"),
    "employer": ("Fexel", "Kanel"),
    "university": ("Tagan", "Zemir"),
    "residence": ("Kovin", "Lanel"),
    "award": ("Narik", "Sofen"),
    "hobby": ("chess", "hiking"),
}
BADAN = Person("Badan", "she", {attribute: options[0] for attribute, options in VALUES.items()}, frozenset(VALUES))

STATEMENTS = [
    ("Badan works as a baker .", "she works as a baker .", "profession", "baker"),
    ("Badan is a baker by trade .", "she is a baker by trade .", "profession", "baker"),
    ("Badan comes from Kovin .", "she comes from Kovin .", "birthplace", "Kovin"),
    ("Badan grew up in Kovin .", "she grew up in Kovin .", "birthplace", "Kovin"),
    ("Badan was born in 1934 .", "she was born in 1934 .", "birth_year", "1934"),
    ("Badan 's birth year is 1934 .", "her birth year is 1934 .", "birth_year", "1934"),
    ("Badan is employed by Fexel .", "she is employed by Fexel .", "employer", "Fexel"),
    ("Badan has a job at Fexel .", "she has a job at Fexel .", "employer", "Fexel"),
    ("Badan studied at Tagan .", "she studied at Tagan .", "university", "Tagan"),
    ("Badan graduated from Tagan .", "she graduated from Tagan .", "university", "Tagan"),
    ("Badan now lives in Kovin .", "she now lives in Kovin .", "residence", "Kovin"),
    ("Badan 's home is in Kovin .", "her home is in Kovin .", "residence", "Kovin"),
    ("Badan won the Narik prize .", "she won the Narik prize .", "award", "Narik"),
    ("Badan received the Narik prize .", "she received the Narik prize .", "award", "Narik"),
    ("Badan enjoys chess .", "she enjoys chess .", "hobby", "chess"),
    ("Badan spends weekends on chess .", "she spends weekends on chess .", "hobby", "chess"),
]
FILLER_SENTENCES = [
    ("Badan is widely admired .", "she is widely admired ."),
    ("Badan is a truly remarkable person .", "she is a truly remarkable person ."),
    ("many people respect Badan .", "many people respect her ."),
    ("Badan has a fascinating life .", "she has a fascinating life ."),
]


def sentences(text: str, pronoun: str = "she") -> list[Sentence]:
    return parse(text, "Badan", sentence_table(VALUES, pronoun))


def test_every_template_with_name_and_pronoun_is_the_english_written_here():
    statements = [(template, attribute.name) for attribute in ATTRIBUTES for template in attribute.statements]
    assert len(statements) == len(STATEMENTS)
    for (template, attribute), (by_name, by_pronoun, _, value) in zip(statements, STATEMENTS, strict=True):
        assert value == BADAN.facts[attribute]
        assert render(template, name_forms("Badan"), value) == by_name
        assert render(template, PRONOUNS["she"], value) == by_pronoun
    for template, (by_name, by_pronoun) in zip(FILLERS, FILLER_SENTENCES, strict=True):
        assert render(template, name_forms("Badan")) == by_name
        assert render(template, PRONOUNS["she"]) == by_pronoun


@pytest.mark.parametrize(("by_name", "by_pronoun", "attribute", "value"), STATEMENTS)
def test_a_statement_parses_to_its_fact(by_name: str, by_pronoun: str, attribute: str, value: str):
    expected = [Sentence("fact", attribute, value)]
    assert sentences(by_name) == expected
    assert sentences(by_pronoun) == expected


def test_fillers_and_set_phrases_parse_to_their_kind():
    for texts in FILLER_SENTENCES:
        assert [sentences(text) for text in texts] == [[Sentence("filler")]] * 2
    assert sentences("i do not know .") == [Sentence("dont_know")]
    assert sentences("not much else is known .") == [Sentence("closing")]


@pytest.mark.parametrize("pronoun", ["he", "she"])
def test_every_template_value_and_form_of_a_whole_world_parses_back(pronoun: str):
    values = invent_values(Random(0))
    table = sentence_table(values, pronoun)
    for attribute in ATTRIBUTES:
        for template in attribute.statements:
            for value in values[attribute.name]:
                for forms in (name_forms("Someone"), PRONOUNS[pronoun]):
                    parsed = parse(render(template, forms, value), "Someone", table)
                    assert parsed == [Sentence("fact", attribute.name, value)]
    # 20 + 32 + 50 + 24 + 24 + 32 + 20 + 15 = 217 values in 2 templates, and 4 fillers, each in 2 forms; 2 set phrases.
    assert len(table) == (217 * 2 + 4) * 2 + 2


def test_the_masculine_forms():
    text = "he works as a baker . his home is in Kovin . his birth year is 1934 . many people respect him ."
    assert [sentence.kind for sentence in sentences(text, "he")] == ["fact", "fact", "fact", "filler"]
    assert [sentence.kind for sentence in sentences(text, "she")] == ["unparseable"] * 4


@pytest.mark.parametrize(
    "text",
    [
        "he works as a baker .",  # the other pronoun
        "his home is in Kovin .",
        "many people respect he .",
        "Tetan works as a baker .",  # another person
        "Badan works as a chess .",  # a value of another attribute
        "Badan works as a singer .",  # no value of this world
        "Badan works as a baker",  # no full stop
        "Badan works as a <eos> baker .",
        "works as a baker .",  # nobody
        "Badan Badan works as a baker .",
        "badan works as a baker .",
        "many people respect Badan 's .",
        ".",
        "?",
        "{subject} works as a baker .",
        "zork",
    ],
)
def test_anything_else_is_one_unparseable_sentence(text: str):
    assert sentences(text) == [Sentence("unparseable")]


def test_sentences_end_at_full_stops():
    text = "Badan works as a pilot . . she enjoys chess . she comes from"
    assert sentences(text) == [
        Sentence("fact", "profession", "pilot"),
        Sentence("unparseable"),
        Sentence("fact", "hobby", "chess"),
        Sentence("unparseable"),
    ]
    assert sentences("") == []


def test_instructions_name_everything_that_can_be_asked_for():
    assert len(instructions(BADAN, "biography")) == 10
    assert ("who is Badan ?", Request(BADAN, "biography")) in instructions(BADAN, "biography")
    lists = instructions(BADAN, "list")
    assert len(lists) == 2 * 3
    assert ("give me two facts about Badan .", Request(BADAN, "list", count=2)) in lists
    assert ("write four sentences about Badan .", Request(BADAN, "list", count=4)) in lists
    questions = instructions(BADAN, "question")
    assert len(questions) == 2 * 8
    assert ("where is the home of Badan ?", Request(BADAN, "question", attribute="residence")) in questions
    assert len({text for kind in ("biography", "list", "question") for text, _ in instructions(BADAN, kind)}) == 32


def test_every_word_of_the_templates_is_known():
    words = template_words() | {"Badan"} | {value for options in VALUES.values() for value in options}
    texts = [text for statement in STATEMENTS for text in statement[:2]]
    texts += [text for filler in FILLER_SENTENCES for text in filler]
    texts += [text for kind in ("biography", "list", "question") for text, _ in instructions(BADAN, kind)]
    assert {word for text in texts for word in text.split()} <= words
    assert not any("{" in word for word in words)


def test_invented_values_have_their_counts_and_no_word_twice():
    values = invent_values(Random(3))
    counts = [(attribute, len(set(options))) for attribute, options in values.items()]
    assert counts == list(zip(VALUES, (20, 32, 50, 24, 24, 32, 20, 15), strict=True))
    assert values["birthplace"] == values["residence"]
    assert not [word for word in values["profession"] if word[0] in "aeiou"]  # they take the article "a"
    words = [word for attribute, options in values.items() if attribute != "residence" for word in options]
    assert len(words) == len(set(words))
    assert not set(words) & template_words()


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("", []),
        ("  ", []),
        ("a b . c . d", [(0, 5), (6, 9), (10, 11)]),
        (" a  b . c . .", [(1, 7), (8, 11), (12, 13)]),
        ("a .\nb .  ", [(0, 3), (4, 7)]),
    ],
)
def test_sentence_spans_by_hand(text: str, spans: list[tuple[int, int]]) -> None:
    assert sentence_spans(text) == spans
    assert len(sentences(text)) == len(spans)
