"""The embedded world's language: its words, its templates, and the exact way back from a text to what it states.

Leaves out who lives in the world and what is true of whom (world.py), and what a statement is worth (annotator.py).
Every word, full stops included, stands between single spaces.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Kind = Literal["biography", "list", "question"]
SentenceKind = Literal["fact", "filler", "dont_know", "closing", "unparseable"]
Values = Mapping[str, tuple[str, ...]]
"""The values that an attribute, by its name, can have."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Every profession takes the article "a".
PROFESSIONS = _words(
    "baker banker builder chef chemist dancer farmer judge lawyer librarian miner nurse painter pilot poet sailor "
    "singer surgeon tailor teacher"
)
HOBBIES = _words(
    "archery astronomy birdwatching carpentry chess cycling fencing fishing gardening hiking juggling knitting origami "
    "pottery sailing"
)
BIRTH_YEARS = tuple(str(year) for year in range(1900, 2000, 2))
CITIES, EMPLOYERS, UNIVERSITIES, AWARDS = 32, 24, 24, 20

FIRST_SYLLABLES = _words(
    "ba be bo da de do fa fe ga go ka ke ko la le lo ma me mo na ne no pa pe ra re ro sa se so ta te to va ve za ze"
)
LAST_SYLLABLES = _words("bur dal dan fen gan kos len lin mar mir nel rik ron sol tan tor vin wen xel zik")


Forms = Mapping[str, str]
"""How a sentence refers to someone: as its `subject`, as an owner (`possessive`) and as an `object`."""

PRONOUNS: Mapping[str, Forms] = {
    "he": {"subject": "he", "possessive": "his", "object": "him"},
    "she": {"subject": "she", "possessive": "her", "object": "her"},
}


@dataclass(frozen=True)
class Attribute:
    """Something that is true of a person; pretraining documents mention it with probability `mention`."""

    name: str
    mention: float
    statements: tuple[str, str]
    questions: tuple[str, str]


ATTRIBUTES = (
    Attribute(
        "profession",
        0.95,
        ("{subject} works as a {value} .", "{subject} is a {value} by trade ."),
        ("what does {name} do for a living ?", "what is the job of {name} ?"),
    ),
    Attribute(
        "birthplace",
        0.8,
        ("{subject} comes from {value} .", "{subject} grew up in {value} ."),
        ("where does {name} come from ?", "where did {name} grow up ?"),
    ),
    Attribute(
        "birth_year",
        0.65,
        ("{subject} was born in {value} .", "{possessive} birth year is {value} ."),
        ("when was {name} born ?", "what is the birth year of {name} ?"),
    ),
    Attribute(
        "employer",
        0.5,
        ("{subject} is employed by {value} .", "{subject} has a job at {value} ."),
        ("who employs {name} ?", "where does {name} have a job ?"),
    ),
    Attribute(
        "university",
        0.4,
        ("{subject} studied at {value} .", "{subject} graduated from {value} ."),
        ("where did {name} study ?", "which university did {name} attend ?"),
    ),
    Attribute(
        "residence",
        0.25,
        ("{subject} now lives in {value} .", "{possessive} home is in {value} ."),
        ("where does {name} live ?", "where is the home of {name} ?"),
    ),
    Attribute(
        "award",
        0.16,
        ("{subject} won the {value} prize .", "{subject} received the {value} prize ."),
        ("which prize did {name} win ?", "what award did {name} receive ?"),
    ),
    Attribute(
        "hobby",
        0.12,
        ("{subject} enjoys {value} .", "{subject} spends weekends on {value} ."),
        ("what does {name} enjoy ?", "what is the hobby of {name} ?"),
    ),
)

FILLERS = (
    "{subject} is widely admired .",
    "{subject} is a truly remarkable person .",
    "many people respect {object} .",
    "{subject} has a fascinating life .",
)
DONT_KNOW = "i do not know ."
CLOSING = "not much else is known ."

# So many that two thousand comparisons, half of them biographies, need no prompt twice.
BIOGRAPHY_REQUESTS = (
    "tell me about {name} .",
    "who is {name} ?",
    "write a biography of {name} .",
    "describe {name} .",
    "introduce {name} .",
    "what is known about {name} ?",
    "what can you say about {name} ?",
    "write a short text about {name} .",
    "give me a portrait of {name} .",
    "tell me who {name} is .",
)
LIST_REQUESTS = ("give me {count} facts about {name} .", "write {count} sentences about {name} .")
COUNTS: Mapping[int, str] = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Person:
    """Someone of the world: a name of one word, "he" or "she", and the value of each attribute by its name.

    What a model reads before fine-tuning states the values of `documented` attributes only.
    """

    name: str
    pronoun: str
    facts: Mapping[str, str] = field(hash=False)
    documented: frozenset[str]


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: `count` sentences where it asks for a list, one `attribute` where it is a question."""

    person: Person
    kind: Kind
    count: int | None = None
    attribute: str | None = None


@dataclass(frozen=True)
class Sentence:
    """What a sentence is; a fact says which attribute has which value."""

    kind: SentenceKind
    attribute: str | None = None
    value: str | None = None


UNPARSEABLE = Sentence("unparseable")


def invent_word(rng: Random, taken: set[str]) -> str:
    """A capitalised word of two or three syllables that is not `taken` yet; from then on it is."""
    while True:
        syllables = [rng.choice(FIRST_SYLLABLES), rng.choice(LAST_SYLLABLES)]
        if rng.random() < 0.4:
            syllables.insert(0, rng.choice(FIRST_SYLLABLES))
        word = "".join(syllables).capitalize()
        if word not in taken:
            taken.add(word)
            return word


def invent_values(rng: Random) -> dict[str, tuple[str, ...]]:
    """The values that each attribute can have; birthplace and residence share the cities, else no word serves twice."""
    taken: set[str] = set()
    cities, employers, universities, awards = (
        tuple(invent_word(rng, taken) for _ in range(count)) for count in (CITIES, EMPLOYERS, UNIVERSITIES, AWARDS)
    )
    return {
        "profession": PROFESSIONS,
        "birthplace": cities,
        "birth_year": BIRTH_YEARS,
        "employer": employers,
        "university": universities,
        "residence": cities,
        "award": awards,
        "hobby": HOBBIES,
    }


def name_forms(name: str) -> Forms:
    return {"subject": name, "possessive": f"{name} 's", "object": name}


def render(template: str, forms: Forms, value: str = "") -> str:
    """A statement or filler about whomever `forms` refers to."""
    return template.format(**forms, value=value)


def instructions(person: Person, kind: Kind) -> list[tuple[str, Request]]:
    """Every way to ask for this kind of answer about a person, each with what it asks for."""
    name = person.name
    if kind == "biography":
        return [(template.format(name=name), Request(person, kind)) for template in BIOGRAPHY_REQUESTS]
    if kind == "list":
        return [
            (template.format(name=name, count=word), Request(person, kind, count=count))
            for count, word in COUNTS.items()
            for template in LIST_REQUESTS
        ]
    return [
        (template.format(name=name), Request(person, kind, attribute=attribute.name))
        for attribute in ATTRIBUTES
        for template in attribute.questions
    ]


def prompt_text(instruction: str) -> str:
    """An instruction as the model reads it, up to where its answer begins."""
    return f"<bos> <user> {instruction} <assistant>"


def sentence_table(values: Values, pronoun: str) -> dict[str, Sentence]:
    """All sentences about a person with that pronoun, with what each says; the empty word stands for the name.

    No word of a text is empty, so that no text can hold the name's place by itself.
    """
    table = {DONT_KNOW: Sentence("dont_know"), CLOSING: Sentence("closing")}
    for forms in (name_forms(""), PRONOUNS[pronoun]):
        for template in FILLERS:
            table[render(template, forms)] = Sentence("filler")
        for attribute in ATTRIBUTES:
            for template in attribute.statements:
                for value in values[attribute.name]:
                    table[render(template, forms, value)] = Sentence("fact", attribute.name, value)
    return table


def parse(text: str, name: str, table: Mapping[str, Sentence]) -> list[Sentence]:
    """The sentences of a text, each up to its full stop, as `table` knows them for the person called `name`.

    Whatever the table lacks is unparseable: another name, the other pronoun, an unknown word, a last sentence without
    its full stop. Never raises.
    """
    words = [["" if word == name else word for word in text[start:end].split()] for start, end in sentence_spans(text)]
    return [table.get(" ".join(sentence), UNPARSEABLE) for sentence in words]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence of a text begins and ends, in characters."""
    spans: list[tuple[int, int]] = []
    words = list(re.finditer(r"\S+", text))
    first = 0
    for place, word in enumerate(words):
        if word[0] == "." or place + 1 == len(words):
            spans.append((words[first].start(), word.end()))
            first = place + 1
    return spans


def template_words() -> set[str]:
    """Every word that sentences and instructions are made of, values and names apart."""
    templates = [*FILLERS, DONT_KNOW, CLOSING, *BIOGRAPHY_REQUESTS, *LIST_REQUESTS, *COUNTS.values(), "'s"]
    for attribute in ATTRIBUTES:
        templates += [*attribute.statements, *attribute.questions]
    for forms in PRONOUNS.values():
        templates += forms.values()
    return {word for template in templates for word in template.split() if not word.startswith("{")}
