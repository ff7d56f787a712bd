"""Factual precision in the embedded world, on biographies written sentence by sentence."""

import math

import pytest

from rlhf.config.data import WorldConfig
from rlhf.config.evaluation import FactScoreConfig, FactualityConfig, NoFactualityConfig, WorldFactualityConfig
from rlhf.data.grammar import ATTRIBUTES, FILLERS, name_forms, render
from rlhf.data.source import Prompt, Response
from rlhf.data.world import World, possible_prompts
from rlhf.evaluation.factuality import measure_factuality, repeated_share

CONFIG = WorldFactualityConfig()
NOTHING = {"factuality": None, "factuality_se": None}


@pytest.fixture(scope="module")
def world() -> World:
    return World(
        WorldConfig(
            seed=0, people=30, tune_people=4, eval_people=6, demonstrations=1, comparison_prompts=1, undocumented=0.0
        )
    )


def ask(world: World, kind: str, person: int = 0) -> Prompt:
    return possible_prompts(world.people[person], kind)[0]


def write(world: World, truth: str, person: int = 0) -> Response:
    """A sentence per letter: t tells a true fact, f a false one (of an attribute each), . is filler."""
    about = world.people[person]
    forms = name_forms(about.name)
    sentences = []
    for attribute, letter in zip(ATTRIBUTES, truth, strict=False):
        true = about.facts[attribute.name]
        false = next(value for value in world.values[attribute.name] if value != true)
        sentence = render(FILLERS[0], forms) if letter == "." else attribute.statements[0]
        sentences.append(render(sentence, forms, true if letter == "t" else false))
    return Response([5, 2], " ".join(sentences), True)


def measure(world: World, *biographies: str) -> dict[str, float | None]:
    prompts = [ask(world, "biography")] * len(biographies)
    return measure_factuality(CONFIG, world, prompts, [write(world, truth) for truth in biographies])


def test_precision_by_hand(world: World) -> None:
    found = measure(world, "tf", "ttft")
    # 4 of 6 facts. Residuals over the mean of 3 facts: (1 - 4/3) / 3 = -1/9 and (3 - 8/3) / 3 = 1/9; error 1/9.
    assert found["factuality"] == pytest.approx(100 * 4 / 6)
    assert found["factuality_se"] == pytest.approx(100 / 9)


def test_all_true_and_all_false(world: World) -> None:
    assert measure(world, "t", "tt") == {"factuality": 100, "factuality_se": 0}
    assert measure(world, "f", "ff") == {"factuality": 0, "factuality_se": 0}


def test_precision_is_over_facts_not_over_biographies(world: World) -> None:
    # 1 of 1 and 0 of 3: a quarter, not one half.
    assert measure(world, "t", "fff")["factuality"] == pytest.approx(25)


def test_a_silent_biography_weighs_nothing_but_counts_as_sampled(world: World) -> None:
    found = measure(world, "tf", "ttft", ".")
    # The mean is 2 facts now: residuals -1/6, 1/6, 0; variance (1/36 + 1/36) / 2 = 1/36, over 3: 1/108.
    assert found["factuality"] == pytest.approx(100 * 4 / 6)
    assert found["factuality_se"] == pytest.approx(100 * math.sqrt(1 / 108))


def test_facts_are_those_of_the_person_asked_for(world: World) -> None:
    prompts = [ask(world, "biography", person=0), ask(world, "biography", person=1)]
    found = measure_factuality(CONFIG, world, prompts, [write(world, "tt", person=0), write(world, "tf", person=1)])
    assert found["factuality"] == pytest.approx(75)


def test_only_biographies_count(world: World) -> None:
    prompts = [ask(world, "biography"), ask(world, "list"), ask(world, "question"), ask(world, "biography")]
    responses = [write(world, truth) for truth in ("t", "ffff", "ffff", "f")]
    assert measure_factuality(CONFIG, world, prompts, responses)["factuality"] == pytest.approx(50)


@pytest.mark.parametrize("biographies", [(), ("t",), (".", "."), ("", "")])
def test_no_figure_where_there_is_nothing_to_measure(world: World, biographies: tuple[str, ...]) -> None:
    assert measure(world, *biographies) == NOTHING


@pytest.mark.parametrize("config", [NoFactualityConfig(), FactScoreConfig(model="m", knowledge="/no/file")])
def test_nothing_is_measured_where_nobody_knows_or_a_model_must_be_asked(
    world: World, config: FactualityConfig
) -> None:
    assert measure_factuality(config, world, [ask(world, "biography")] * 2, [write(world, "t")] * 2) == NOTHING


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ([], 0),
        ([1, 1, 1], 0),  # no 4-gram
        ([1, 1, 1, 1], 0),  # one
        ([1, 1, 1, 1, 1], 1 / 2),  # two, the second like the first
        ([1] * 11, 7 / 8),
        ([1, 2, 3, 4, 5, 6], 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),  # 1234 2341 3412 4123 1234
        ([1, 2, 3, 9, 1, 2, 3, 8], 0),  # a trigram comes again, a 4-gram does not
        ([1, 2, 3, 4, 4, 3, 2, 1], 0),  # the order counts
        ([1, 2, 3, 4, 7, 1, 2, 3, 4, 8, 1, 2, 3, 4], 2 / 11),  # 1234 stands thrice, two of them after the first
    ],
)
def test_repeated_share_by_hand(token_ids: list[int], share: float) -> None:
    assert repeated_share(token_ids) == pytest.approx(share)
