"""What people of the embedded world write: truthful documents to pretrain on, demonstrations with deliberate flaws.

Leaves out whom they write about and how often (world.py), and the sentences themselves (grammar.py).
"""

from collections.abc import Mapping
from random import Random

from rlhf.data.grammar import (
    ATTRIBUTES,
    CLOSING,
    DONT_KNOW,
    FILLERS,
    PRONOUNS,
    Attribute,
    Forms,
    Person,
    Request,
    Values,
    instructions,
    name_forms,
    prompt_text,
    render,
)

# Pretraining documents.
DOCUMENT_NAMES = 0.7  # share of later sentences that use the name, not the pronoun
DOCUMENT_FILLER = 0.12
DOCUMENT_LAYOUTS = {"biography": 0.4, "question": 0.25, "plain": 0.35}

# Demonstrations, with their deliberate flaws. Some are habits, which stand in most demonstrations, so that a model's
# likeliest response has them too: sampling at a lower temperature does not remove them, and greedy responses show
# what training does (docs/world.md).
WRONG_FACT = 0.06
REFUSED_ANSWER = 0.2
EXTRA_SENTENCE = 0.6  # chance of one more sentence after the answer to a question, and again after that
EXTRA_FACT = 0.6  # share of facts among those
MENTION_FLOOR = 0.15  # added to every mention probability as the weight of an attribute
DEMONSTRATION_NAMES = 0.15
DEMONSTRATION_FILLER = 0.4  # tried twice
BIOGRAPHY_CLOSING = 0.15
BIOGRAPHY_FACTS = (1, 2, 2, 3, 3, 4, 4, 5, 6)
OBEYED_COUNT = 0.4
CARELESS_COUNTS = (1, 2, 3, 4, 5)


def write_document(person: Person, rng: Random) -> str:
    """A truthful text about a person from BOS to EOS, alone or as the answer to a request."""
    name, pronoun = name_forms(person.name), PRONOUNS[person.pronoun]
    known = documented(person)
    mentioned = [attribute for attribute in known if rng.random() < attribute.mention] or known[:1]
    rng.shuffle(mentioned)
    layout = rng.choices(list(DOCUMENT_LAYOUTS), list(DOCUMENT_LAYOUTS.values()))[0]
    if layout == "question":
        question = rng.choice(mentioned[0].questions).format(name=person.name)
        return f"{prompt_text(question)} {state(mentioned[0], person.facts, name, rng)} <eos>"
    sentences = [state(mentioned[0], person.facts, name, rng)]
    for attribute in mentioned[1:]:
        forms = name if rng.random() < DOCUMENT_NAMES else pronoun
        sentences.append(state(attribute, person.facts, forms, rng))
    if rng.random() < DOCUMENT_FILLER:
        sentences.append(render(rng.choice(FILLERS), pronoun))
    start = prompt_text(rng.choice(instructions(person, "biography"))[0]) if layout == "biography" else "<bos>"
    return " ".join([start, *sentences, "<eos>"])


def documented(person: Person) -> list[Attribute]:
    """What is written about a person, and all that anybody who writes can know."""
    return [attribute for attribute in ATTRIBUTES if attribute.name in person.documented]


def demonstrate(request: Request, values: Values, rng: Random) -> str:
    """An answer as a mixed crowd gives it: some facts wrong, some filler, some questions refused, lists miscounted."""
    person, name, pronoun = request.person, name_forms(request.person.name), PRONOUNS[request.person.pronoun]
    believed = {attribute: careless_value(attribute, person, values, rng) for attribute in person.facts}
    if request.kind == "question":
        return demonstrate_answer(request, believed, rng)
    sentences: list[str] = []
    for attribute in draw_attributes(documented(person), demonstrated_facts(request, rng), rng):
        forms = name if not sentences or rng.random() < DEMONSTRATION_NAMES else pronoun
        sentences.append(state(attribute, believed, forms, rng))
    for _ in range(2):
        if rng.random() < DEMONSTRATION_FILLER:
            sentences.insert(rng.randint(1, len(sentences)), render(rng.choice(FILLERS), pronoun))
    if request.kind == "biography" and rng.random() < BIOGRAPHY_CLOSING:
        sentences.append(CLOSING)
    return " ".join(sentences)


def demonstrate_answer(request: Request, believed: Mapping[str, str], rng: Random) -> str:
    """An answer to a question: refused, or given and followed by what nobody asked for."""
    if rng.random() < REFUSED_ANSWER:
        return DONT_KNOW
    pronoun = PRONOUNS[request.person.pronoun]
    asked = next(attribute for attribute in ATTRIBUTES if attribute.name == request.attribute)
    sentences = [state(asked, believed, name_forms(request.person.name), rng)]
    while rng.random() < EXTRA_SENTENCE:
        if rng.random() < EXTRA_FACT:
            sentences.append(state(rng.choice(documented(request.person)), believed, pronoun, rng))
        else:
            sentences.append(render(rng.choice(FILLERS), pronoun))
    return " ".join(sentences)


def demonstrated_facts(request: Request, rng: Random) -> int:
    """How many facts a demonstrator gives; where a list is asked for, often but not always that many."""
    if request.count is None:
        return rng.choice(BIOGRAPHY_FACTS)
    return request.count if rng.random() < OBEYED_COUNT else rng.choice(CARELESS_COUNTS)


def draw_attributes(known: list[Attribute], count: int, rng: Random) -> list[Attribute]:
    """`count` of the known attributes, or all where they are fewer; the often mentioned ones sooner."""
    remaining = known.copy()
    drawn = []
    for _ in range(min(count, len(known))):
        attribute = rng.choices(remaining, [each.mention + MENTION_FLOOR for each in remaining])[0]
        remaining.remove(attribute)
        drawn.append(attribute)
    return drawn


def careless_value(attribute: str, person: Person, values: Values, rng: Random) -> str:
    """The true value of an attribute or, with probability WRONG_FACT, any other; a guess where none is documented."""
    truth = person.facts[attribute]
    if attribute not in person.documented:
        return rng.choice(values[attribute])
    if rng.random() >= WRONG_FACT:
        return truth
    return rng.choice([value for value in values[attribute] if value != truth])


def state(attribute: Attribute, facts: Mapping[str, str], forms: Forms, rng: Random) -> str:
    """A sentence that gives an attribute the value it has in `facts`."""
    return render(rng.choice(attribute.statements), forms, facts[attribute.name])
