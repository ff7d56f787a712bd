import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.config.data import WorldConfig
from rlhf.data.grammar import (
    ATTRIBUTES,
    FILLERS,
    Person,
    Request,
    Sentence,
    invent_values,
    name_forms,
    parse,
    render,
    sentence_table,
)
from rlhf.data.source import Comparison, Demonstration, Prompt, Response
from rlhf.data.world import World, invent_people, known_people, possible_prompts
from rlhf.errors import ConfigError

PARTLY = WorldConfig(seed=0)
FULL = replace(PARTLY, undocumented=0.0)
SMALL = replace(PARTLY, people=60, tune_people=8, eval_people=12, demonstrations=40, comparison_prompts=50)


@pytest.fixture(scope="module")
def world() -> World:
    """All that is true of its people is documented."""
    return World(FULL)


@pytest.fixture(scope="module")
def partly() -> World:
    """As by default, half of what is never mentioned is not."""
    return World(PARTLY)


@pytest.fixture(scope="module")
def demonstrations(world: World) -> list[Demonstration]:
    return world.demonstrations()


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerBase:
    return world.build_tokenizer(512)


def respond(text: str, finished: bool = True) -> Response:
    """A response whose token ids differ wherever its words do."""
    token_ids = list(text.encode("utf-8", "surrogatepass"))
    return Response(token_ids + [2] * finished, text, finished)


def ask(world: World, kind: str, **asked: object) -> Prompt:
    """A prompt of this kind about the first person, with that `count` or `attribute`."""
    prompts = possible_prompts(world.people[0], kind)
    return next(p for p in prompts if all(getattr(p.detail, name) == value for name, value in asked.items()))


def compared(
    world: World, answer: Callable[[Prompt, float], str], calls: list[tuple[float, Sequence[Prompt]]] | None = None
) -> list[Comparison]:
    """Comparisons of what `answer` says to each prompt at each temperature; `calls` of the sampler are noted."""

    def sample(prompts: Sequence[Prompt], temperature: float) -> list[Response]:
        if calls is not None:
            calls.append((temperature, prompts))
        return [respond(answer(prompt, temperature)) for prompt in prompts]

    return world.comparisons(world.build_tokenizer(2000), sample, judge=False)


def within(successes: int, trials: int, share: float) -> bool:
    """Whether a count lies within four standard errors of a binomial's mean."""
    return abs(successes - trials * share) < 4 * math.sqrt(trials * share * (1 - share))


def asked_texts(world: World) -> list[list[str]]:
    """The prompts that each call of the sampler gets."""
    calls: list[tuple[float, Sequence[Prompt]]] = []
    compared(world, lambda prompt, temperature: "i do not know .", calls)
    return [[prompt.text for prompt in prompts] for _, prompts in calls]


def digest(config: WorldConfig) -> str:
    """A hash of everything that a world gives out."""
    world = World(config)
    verdicts = [item.verdicts for item in compared(world, lambda prompt, t: f"{t} {len(prompt.text) % 3} .")]
    parts = [
        world.fingerprint(True),
        world.build_tokenizer(2000).get_vocab(),
        [(person.name, person.pronoun, dict(person.facts), sorted(person.documented)) for person in world.people],
        [(demonstration.prompt.text, demonstration.text) for demonstration in world.demonstrations()],
        verdicts,
        asked_texts(world),
        [[prompt.text for prompt in world.prompts(split, 20, Random(1))] for split in ("train", "tune", "eval")],
        [world.document(Random(2), progress) for progress in (0.0, 0.5, 1.0)],
    ]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def test_the_same_seed_gives_the_same_world_in_another_process():
    command = "from tests.data.test_world import SMALL, digest; print(digest(SMALL))"
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", command]
    other = subprocess.run(arguments, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(SMALL)
    assert digest(replace(SMALL, seed=1)) != digest(SMALL)


def test_changing_one_count_leaves_the_rest_alone():
    base = World(SMALL)
    assert World(replace(SMALL, people=70)).people[:60] == base.people
    assert World(replace(SMALL, tune_people=10)).splits["eval"] == base.splits["eval"]
    known = World(replace(SMALL, undocumented=0.0))
    assert known.people != base.people
    assert [replace(person, documented=frozenset()) for person in known.people] == [
        replace(person, documented=frozenset()) for person in base.people
    ]
    more = World(replace(SMALL, demonstrations=60, comparison_prompts=80))
    assert more.demonstrations()[:40] == base.demonstrations() == base.demonstrations()
    assert [texts[:50] for texts in asked_texts(more)] == asked_texts(base)


@pytest.mark.parametrize(
    ("change", "without_comparisons"),
    [
        ({"seed": 1}, True),
        ({"people": 61}, True),
        ({"tune_people": 9}, True),
        ({"eval_people": 13}, True),
        ({"demonstrations": 41}, True),
        ({"undocumented": 0.4}, True),
        ({"comparison_prompts": 51}, False),
        ({"annotator": "gentle"}, False),
        ({"annotator_temperature": 0.5}, False),
        ({"annotator_flips": 0.2}, False),
    ],
)
def test_fingerprint_depends_on_every_field(change: dict, without_comparisons: bool):
    """What learns from no comparison reads all but the annotator."""
    one, other = World(SMALL), World(replace(SMALL, **change))
    assert one.fingerprint(True) == World(replace(SMALL)).fingerprint(True) != other.fingerprint(True)
    assert (one.fingerprint(False) != other.fingerprint(False)) == without_comparisons


def test_people_have_distinct_names_that_mean_nothing_else(world: World):
    names = {person.name for person in world.people}
    assert len(names) == 200
    assert not names & {value for options in world.values.values() for value in options}
    assert within(sum(person.pronoun == "she" for person in world.people), 200, 0.5)
    assert all(person.facts[name] in world.values[name] for person in world.people for name in world.values)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"people": 10_001}, r"data\.people=10001"),
        # 40 train people x 10 = 400 biographies, enough for about 800 prompts
        ({"comparison_prompts": 1000}, r"data\.comparison_prompts=1000 .* biography prompts; \d{3} would do"),
    ],
)
def test_more_than_there_can_be_is_refused_before_any_work(change: dict, refusal: str):
    with pytest.raises(ConfigError, match=refusal):
        World(replace(SMALL, **change))


def test_splits_share_nobody_and_are_no_matter_of_popularity(world: World):
    members = {split: {person.name for person in people} for split, people in world.splits.items()}
    assert {split: len(names) for split, names in members.items()} == {"eval": 50, "tune": 25, "train": 125}
    assert len(members["eval"] | members["tune"] | members["train"]) == 200
    more_popular = {person.name for person in world.people[:100]}
    # 50 of 200 people drawn without replacement: 25 of the first 100 expected, standard deviation 3.07.
    assert abs(len(members["eval"] & more_popular) - 25) < 4 * 3.07


def test_prompts_stay_in_their_split_and_keep_their_shares(world: World):
    for split, people in world.splits.items():
        prompts = world.prompts(split, 1000, Random(3))
        assert {prompt.detail.person.name for prompt in prompts} == {person.name for person in people}
        kinds = Counter(prompt.dataset for prompt in prompts)
        assert within(kinds["biography"], 1000, 0.5)
        assert within(kinds["list"], 1000, 0.25)
        assert within(kinds["question"], 1000, 0.25)
        assert all(prompt.detail.kind == prompt.dataset for prompt in prompts)


def test_a_prompt_says_what_its_detail_holds(world: World):
    person = world.people[0]
    prompt = ask(world, "list", count=3)
    assert prompt.instruction == f"give me three facts about {person.name} ."
    assert prompt.text == f"<bos> <user> give me three facts about {person.name} . <assistant>"
    assert ask(world, "question", attribute="hobby").instruction == f"what does {person.name} enjoy ?"


# ---- The tokenizer. -------------------------------------------------------------------------------------------------


def test_tokenizer_numbers_specials_first_then_words_in_order(tokenizer: PreTrainedTokenizerBase):
    entries = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert entries[:6] == ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>"]
    assert entries[6:] == sorted(entries[6:])
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert ids == [0, 1, 2, 5]


def check_round_trips(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = Random(4)
    entries = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(20))]
        text = tokenizer.decode(ids)
        assert text == " ".join(entries[index] for index in ids)
        assert tokenizer.encode(text, add_special_tokens=False) == tokenizer(text)["input_ids"] == ids
    every = list(range(len(tokenizer)))
    assert tokenizer.encode(tokenizer.decode(every)) == every
    assert tokenizer.encode("zork .") == [5, tokenizer.convert_tokens_to_ids(".")]


def test_tokenizer_round_trips_before_and_after_saving(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    check_round_trips(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    check_round_trips(loaded)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.decode([1, 3, 20, 2], skip_special_tokens=True) == loaded.convert_ids_to_tokens(20)


def test_every_text_of_the_world_is_made_of_known_words(
    world: World, demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase
) -> None:
    words = tokenizer.convert_tokens_to_ids(["tell", "me", "about", world.people[0].name, "."])
    prompt = tokenizer.encode(ask(world, "biography").text, add_special_tokens=False)
    assert prompt == [1, 3, *words, 4]  # BOS, user, words, assistant
    texts = [f"{demonstration.prompt.text} {demonstration.text}" for demonstration in demonstrations[:500]]
    texts += [prompt.text for person in world.people[:20] for prompt in possible_prompts(person, "question")]
    rng = Random(5)
    texts += [world.document(rng, 1.0) for _ in range(500)]
    assert not [text for text in texts if 5 in tokenizer.encode(text)]


def test_a_vocabulary_too_small_is_refused_with_what_is_needed(world: World, tokenizer: PreTrainedTokenizerBase):
    needed = len(tokenizer)
    assert len(world.build_tokenizer(needed)) == needed
    with pytest.raises(ConfigError, match=rf"model\.vocab_size={needed - 1} .* {needed}"):
        world.build_tokenizer(needed - 1)


# ---- Documents. -----------------------------------------------------------------------------------------------------


def test_the_curriculum_grows_from_sixteen_people_to_all():
    # 16 + 184 x (.325 - .1) / .45 = 108, half way
    assert [known_people(200, p) for p in (0.0, 0.1, 0.325, 0.55, 1.0)] == [16, 16, 108, 200, 200]
    assert [known_people(8, p) for p in (0.0, 0.325, 1.0)] == [8, 8, 8]


def subject_of(world: World, document: str) -> Person:
    people = {person.name: person for person in world.people}
    return next(people[word] for word in document.split() if word in people)


def test_documents_are_about_the_first_people_first_and_then_about_everyone(world: World):
    rng = Random(6)
    early = {subject_of(world, world.document(rng, 0.0)).name for _ in range(500)}
    assert early == {person.name for person in world.people[:16]}
    late = Counter(subject_of(world, world.document(rng, 0.55)).name for _ in range(4000))
    # The least popular are expected 7.6 times.
    assert len(late) > 195
    total = sum(1 / (rank + 20) for rank in range(200))
    assert within(late[world.people[0].name], 4000, 1 / 20 / total)
    assert within(late[world.people[150].name], 4000, 1 / 170 / total)


def stated(person: Person, text: str) -> list[str]:
    """The attributes that a text states of a person, in order, right or wrong."""
    sentences = parse(text, person.name, TABLES[person.pronoun])
    return [sentence.attribute for sentence in sentences if sentence.attribute is not None]


TABLES = {pronoun: sentence_table(World(SMALL).values, pronoun) for pronoun in ("he", "she")}
"""The values follow from the seed alone."""


def read_document(world: World, rng: Random) -> tuple[Person, str | None, list[str]]:
    """A document's person, the attribute that it answers a question about, if any, and the attributes that it states.

    All of it must be true: it is parsed in a world of this person's values alone.
    """
    document = world.document(rng, 1.0)
    assert document.startswith("<bos> ")
    assert document.endswith(" <eos>")
    assert document.count("<bos>") == document.count("<eos>") == 1
    person = subject_of(world, document)
    request, _, body = document.removesuffix(" <eos>").rpartition(" <assistant> ")
    questions = {prompt.text: prompt.detail.attribute for prompt in possible_prompts(person, "question")}
    truths = {attribute: (value,) for attribute, value in person.facts.items()}
    sentences = parse(body.removeprefix("<bos> "), person.name, sentence_table(truths, person.pronoun))
    assert {sentence.kind for sentence in sentences} <= {"fact", "filler"}
    mentioned = [sentence.attribute for sentence in sentences if sentence.attribute is not None]
    return person, questions.get(f"{request} <assistant>"), mentioned


@pytest.mark.parametrize(
    ("undocumented", "attributes"), [(0.0, [each.name for each in ATTRIBUTES[1:]]), (0.5, ["employer"])]
)
def test_documents_are_true_and_mention_what_is_documented_as_often_as_they_should(
    undocumented: float, attributes: list[str]
) -> None:
    world, rng, answers = World(replace(PARTLY, undocumented=undocumented)), Random(9), 0
    chances, mentions = Counter[str](), Counter[str]()
    for _ in range(2000):
        person, asked, mentioned = read_document(world, rng)
        assert len(mentioned) > 0
        assert set(mentioned) <= person.documented
        if asked is not None:
            assert mentioned == [asked]
            answers += 1
            continue
        chances.update(person.documented)
        mentions.update(mentioned)
    assert within(answers, 2000, 0.25)
    shares = {attribute.name: attribute.mention for attribute in ATTRIBUTES}
    for name in attributes:
        assert chances[name] > 500
        assert within(mentions[name], chances[name], shares[name]), name


# ---- What nobody wrote down. ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("undocumented", [0.0, 0.5, 1.0])
def test_the_less_an_attribute_is_mentioned_the_more_often_it_goes_undocumented(undocumented: float):
    people = invent_people(2000, undocumented, invent_values(Random(0)), Random(8))
    for attribute in ATTRIBUTES:
        missing, share = sum(attribute.name not in person.documented for person in people), 1 - attribute.mention
        assert within(missing, 2000, undocumented * share) if undocumented else missing == 0


def test_by_default_a_quarter_of_all_facts_goes_undocumented(partly: World):
    missing = sum(len(person.facts) - len(person.documented) for person in partly.people)
    # half of the mean of 1 - mention: (0.05 + 0.2 + 0.35 + 0.5 + 0.6 + 0.75 + 0.84 + 0.88) / 8
    assert within(missing, 200 * 8, 0.5 * 4.17 / 8)


def test_more_undocumented_takes_from_what_less_leaves():
    less, more = (World(replace(SMALL, undocumented=share)).people for share in (0.3, 0.9))
    assert all(few.documented <= many.documented for few, many in zip(more, less, strict=True))
    assert [person.documented for person in more] != [person.documented for person in less]


class Lowest(Random):
    """Chance that falls on the first of everything."""

    def random(self) -> float:
        return 0.0


def test_of_whom_nothing_would_be_documented_the_profession_is():
    [person] = invent_people(1, 0.5, invent_values(Random(0)), Lowest())
    assert person.documented == {"profession"}


def test_a_fact_that_nobody_wrote_down_is_true_all_the_same(partly: World):
    person = next(person for person in partly.people if "hobby" not in person.documented)
    prompt = possible_prompts(person, "biography")[0]
    assert partly.facts(prompt, respond(f"{person.name} enjoys {person.facts['hobby']} .")) == (1, 0)


# ---- Demonstrations. ------------------------------------------------------------------------------------------------


def test_demonstrations_have_the_flaws_they_are_meant_to_have(
    world: World, demonstrations: list[Demonstration]
) -> None:
    counts, asked, facts, shown = Counter(), Counter(), Counter(), Counter()
    extra: list[int] = []
    for demonstration in demonstrations:
        request = demonstration.prompt.detail
        kind = request.kind
        asked[kind] += 1
        reading = world.read(demonstration.prompt, respond(demonstration.text))
        assert reading.unparseable == 0
        counts["wrong"] += reading.wrong
        counts["facts"] += reading.correct + reading.wrong
        counts["refused"] += reading.dont_know
        if kind != "question":
            assert reading.repeated == 0
            facts[kind] += reading.attributes
            counts["fillers"] += reading.fillers
            counts["obeyed"] += reading.attributes == request.count
            counts["closed"] += demonstration.text.endswith("not much else is known .")
            shown[kind] += reading.fillers > 0 or reading.count_error > 0
        elif not reading.dont_know:
            extra.append(reading.sentences - 1)
            counts["extra fillers"] += reading.fillers
    assert {item.prompt.detail.person.name for item in demonstrations} == {person.name for person in world.people}
    assert sum(asked.values()) == 4000
    assert within(asked["biography"], 4000, 0.5)
    assert within(counts["wrong"], counts["facts"], 0.06)
    assert within(counts["refused"], asked["question"], 0.2)
    assert within(counts["closed"], asked["biography"], 0.15)
    assert within(counts["fillers"], 2 * (asked["biography"] + asked["list"]), 0.4)
    # .4 obeyed on purpose, and one in five of the others by chance
    assert within(counts["obeyed"], asked["list"], 0.4 + 0.6 / 5)
    # (1 + 2 + 2 + 3 + 3 + 4 + 4 + 5 + 6) / 9 = 3.333 facts in a biography, variance 120 / 9 - 3.333 ** 2 = 2.222
    assert abs(facts["biography"] / asked["biography"] - 30 / 9) < 4 * math.sqrt(20 / 9 / asked["biography"])
    # An answer is followed by one more sentence with .6, again and again: .6 / .4 of them, variance .6 / .4 ** 2
    assert within(sum(more > 0 for more in extra), len(extra), 0.6)
    assert within(sum(more > 1 for more in extra), len(extra), 0.36)
    assert abs(sum(extra) / len(extra) - 1.5) < 4 * math.sqrt(3.75 / len(extra))
    assert within(counts["extra fillers"], sum(extra), 0.4)
    # Most show a habit, so that the likeliest response does too: 1 - (1 - .4) ** 2 have a filler; of lists also those
    # that miss the count, 4/5 of .6
    assert within(shown["biography"], asked["biography"], 0.64)
    assert shown["list"] / asked["list"] > 0.75


def test_demonstrations_never_volunteer_what_is_undocumented(partly: World) -> None:
    """And a question about it is refused, or answered by a guess."""
    lengths = {"biography": Counter[int](), "list": Counter[int]()}
    refused, answered, right, expected = 0, 0, 0, 0.0
    for item in partly.demonstrations():
        request: Request = item.prompt.detail
        mentioned, known = stated(request.person, item.text), request.person.documented
        if request.attribute is None:
            assert set(mentioned) <= known
            assert len(mentioned) == len(set(mentioned))
            lengths[request.kind][len(mentioned)] += 1
            continue
        assert set(mentioned[1:]) <= known  # what is said beside the answer
        if request.attribute in known:
            continue
        if item.text == "i do not know .":
            refused += 1
            continue
        answered += 1
        assert mentioned[0] == request.attribute
        right += partly.read(item.prompt, respond(item.text)).answer is True
        expected += 1 / len(partly.values[request.attribute])
    for counted in lengths.values():
        assert {1, 2, 3, 4, 5} <= set(counted) <= {1, 2, 3, 4, 5, 6}
    assert answered > 150
    assert within(refused, refused + answered, 0.2)
    # a value drawn from all of them alike: 15 to 50, so about one guess in 25 is right
    assert within(right, answered, expected / answered)


# ---- Comparisons. ---------------------------------------------------------------------------------------------------


def test_comparisons_sample_distinct_prompts_about_train_people_at_four_temperatures(world: World):
    calls: list[tuple[float, Sequence[Prompt]]] = []
    comparisons = compared(world, lambda prompt, t: f"{prompt.detail.person.name} {len(calls)}", calls)
    assert [temperature for temperature, _ in calls] == [0.7, 1.0, 1.0, 1.3]
    prompts = [comparison.prompt for comparison in comparisons]
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 2000
    assert {prompt.detail.person.name for prompt in prompts} <= {person.name for person in world.splits["train"]}
    kinds = Counter(prompt.dataset for prompt in prompts)
    assert within(kinds["biography"], 2000, 0.5)
    assert within(kinds["question"], 2000, 0.25)
    for comparison in comparisons:
        name = comparison.prompt.detail.person.name
        assert [response.text for response in comparison.responses] == [f"{name} {call}" for call in (1, 2, 3, 4)]
        pairs = [tuple(sorted(verdict)) for verdict in comparison.verdicts]
        assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("flips", [0.0, 1.0])
def test_verdicts_leave_out_identical_responses_and_follow_the_annotator(flips: float):
    # An annotator as sharp as this never errs, and its flips turn either none or all of its verdicts.
    world = World(replace(SMALL, annotator_temperature=1e-6, annotator_flips=flips))

    def answer(prompt: Prompt, temperature: float) -> str:
        name, facts = prompt.detail.person.name, prompt.detail.person.facts
        one = f"{name} works as a {facts['profession']} ."
        two = f"{one} {name} comes from {facts['birthplace']} ."
        return {0.7: "i do not know .", 1.0: one, 1.3: two}[temperature]

    biographies = [item for item in compared(world, answer) if item.prompt.dataset == "biography"]
    assert len(biographies) > 10
    # More facts are better; the two samples at temperature 1 are the same.
    right = [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]
    expected = right if flips == 0 else [(worse, better) for better, worse in right]
    assert all(comparison.verdicts == expected for comparison in biographies)


@pytest.mark.parametrize(("annotator", "likes_more"), [("gentle", False), ("standard", False), ("harsh", True)])
def test_the_annotator_decides_what_a_fact_beside_the_answer_is_worth(annotator: str, likes_more: bool):
    """At -.3, -.15 or .1, and at most .08 for its words; all of them like a filler, at .05 or .2 and its words."""
    world = World(replace(SMALL, annotator=annotator, annotator_temperature=1e-6, annotator_flips=0.0))

    def answer(prompt: Prompt, temperature: float) -> str:
        request = prompt.detail
        if request.kind != "question":
            return ""  # without a verdict
        asked, other = sorted(ATTRIBUTES, key=lambda attribute: attribute.name != request.attribute)[:2]
        forms, facts = name_forms(request.person.name), request.person.facts
        alone, beside = (render(each.statements[0], forms, facts[each.name]) for each in (asked, other))
        return {0.7: alone, 1.0: f"{alone} {beside}", 1.3: f"{alone} {render(FILLERS[0], forms)}"}[temperature]

    comparisons = compared(world, answer)
    assert len(comparisons) > 5
    # response 0 is the answer alone, 1 and 2 have a fact beside it, 3 has a filler
    wanted = {(1, 0), (2, 0), (3, 0)} if likes_more else {(0, 1), (0, 2), (3, 0), (3, 1), (3, 2)}
    assert all(set(comparison.verdicts) >= wanted for comparison in comparisons)


def test_comparisons_without_a_verdict_are_left_out():
    world = World(SMALL)
    first = asked_texts(world)[0][0]
    comparisons = compared(world, lambda prompt, t: str(t) if prompt.text == first else "i do not know .")
    assert len(comparisons) == 1
    assert len(comparisons[0].verdicts) == 5  # the two samples at temperature 1 are the same


def test_the_world_offers_no_second_reward_model():
    world = World(SMALL)
    with pytest.raises(ConfigError, match=r"judge\.name"):
        world.comparisons(world.build_tokenizer(2000), lambda prompts, temperature: [], judge=True)


# ---- What a response is worth. --------------------------------------------------------------------------------------


def half_right(world: World) -> str:
    """The first person's profession, right, and birthplace, wrong: 6 + 5 words."""
    person = world.people[0]
    city = next(city for city in world.values["birthplace"] if city != person.facts["birthplace"])
    return f"{person.name} works as a {person.facts['profession']} . {person.pronoun} comes from {city} ."


def test_describe_utility_and_facts_by_hand(world: World):
    text = half_right(world)
    listed, response = ask(world, "list", count=3), respond(text)
    assert world.facts(listed, response) == (1, 1)
    # 1 right - 1 wrong - 1 sentence short
    assert world.utility(listed, response) == pytest.approx(-1.0)
    zeros = ("repeated_facts", "fillers", "dont_know", "unparseable", "right_answer", "wrong_answer")
    counted = {"correct_facts": 1.0, "wrong_facts": 1.0, "sentences": 2.0, "count_error": 1.0}
    assert world.describe(listed, response) == counted | dict.fromkeys(zeros, 0.0)
    question = ask(world, "question", attribute="birthplace")
    described = world.describe(question, response)
    assert (described["right_answer"], described["wrong_answer"], described["count_error"]) == (0.0, 1.0, 0.0)
    # -2 for the answer, -.15 for another sentence, which is right and earns nothing
    assert world.utility(question, response) == pytest.approx(-2.15)
    # without EOS one less
    assert world.utility(question, respond(text, finished=False)) == pytest.approx(-3.15)


@pytest.mark.parametrize(
    ("annotator", "question", "biography"),
    [
        # Of the question the answer is wrong (2) and one attribute stands beside it; on average .75 or .5 of the wrong
        # statement is noticed, 1.5 each. Of the biography 2 attributes are worth 2 ** .9 = 1.866065983.
        ("gentle", 2 + 0.055 - 0.3 - 1.125, 1.866065983 + 0.055 - 1.125),
        ("standard", 2 + 0.11 - 0.15 - 1.125, 1.866065983 + 0.11 - 1.125),
        ("harsh", 2 + 0.11 + 0.1 - 0.75, 1.866065983 + 0.11 - 0.75),
    ],
)
def test_what_the_annotator_makes_of_a_response_by_hand(annotator: str, question: float, biography: float):
    world = World(replace(SMALL, annotator=annotator))
    asked, response = ask(world, "question", attribute="birthplace"), respond(half_right(world))
    assert world.annotator_utility(asked, response) == pytest.approx(question, abs=1e-8)
    assert world.annotator_utility(ask(world, "biography"), response) == pytest.approx(biography, abs=1e-8)


def test_a_text_is_parsed_once_for_each_person_it_is_read_for(monkeypatch: pytest.MonkeyPatch):
    parsed: list[tuple[str, str]] = []

    def counted(text: str, name: str, table: Mapping[str, Sentence]) -> list[Sentence]:
        parsed.append((name, text))
        return parse(text, name, table)

    monkeypatch.setattr("rlhf.data.world.parse", counted)
    world = World(SMALL)
    first, second = world.people[:2]
    text = f"{first.name} works as a {first.facts['profession']} ."
    own, others = (possible_prompts(person, "biography")[0] for person in (first, second))
    found = [world.facts(own, respond(text)), world.facts(others, respond(text)), world.facts(own, respond(text))]
    assert found == [(1, 0), (0, 0), (1, 0)]  # what is true of another person is no fact
    assert world.utility(others, respond(text)) == pytest.approx(-1.0)
    # what else is read of a response counts each time
    assert world.utility(own, respond(text)) - world.utility(own, respond(text, finished=False)) == pytest.approx(1.0)
    assert world.annotator_utility(own, respond(text)) == pytest.approx(1.06)
    assert world.fact_spans(own, respond(text)) == [(0, len(text), True)]
    assert parsed == [(first.name, text), (second.name, text)]


@pytest.mark.parametrize(
    "text", ["", " ", ".", ". . .", "<pad> <bos>", "zork", "<eos> .", "{subject} .", "\n\t\0", "he " * 1000, "\ud83d ."]
)
def test_malformed_responses_never_raise(world: World, text: str):
    keys = list(world.describe(ask(world, "biography"), respond("", finished=False)))
    for kind in ("biography", "list", "question"):
        prompt, response = ask(world, kind), respond(text, finished=False)
        assert world.facts(prompt, response) == (0, 0)
        assert world.utility(prompt, response) <= 0
        described = world.describe(prompt, response)
        assert list(described) == keys
        assert described["unparseable"] == described["sentences"]


def test_fact_spans_show_each_statement_and_whether_it_is_right(world: World) -> None:
    prompt = world.prompts("eval", 1, Random(0))[0]
    person = prompt.detail.person
    city = next(city for city in world.values["birthplace"] if city != person.facts["birthplace"])
    right, wrong = f"{person.name} enjoys {person.facts['hobby']} .", f"{person.pronoun} grew up in {city} ."
    text = f"{right} not much else is known . {wrong} {right} nonsense ."
    spans = world.fact_spans(prompt, respond(text))
    assert [(text[start:end], true) for start, end, true in spans] == [(right, True), (wrong, False), (right, True)]
    assert world.facts(prompt, respond(text)) == (1, 1)  # the repeated fact counts once
    assert world.fact_spans(prompt, respond("nothing")) == []
