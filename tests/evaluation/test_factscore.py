"""FActScore's figures from labelled facts, and the whole way from responses to figures with a model on loopback."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import FactScoreConfig
from rlhf.data.files import read_rows
from rlhf.data.source import Prompt, Response
from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.factscore import Checked, FactScorer, aggregate, describe_facts, read_facts, read_support
from rlhf.evaluation.judges import Resources
from rlhf.factscore import main, measure
from tests.fake_endpoint import Body, FakeModel, endpoint_settings, failure

CHATGPT = Path(__file__).parents[3] / "shared" / "data" / "factscore" / "ChatGPT.jsonl"

KNOWLEDGE = [
    {"title": "Ada Lovelace", "text": "Ada Lovelace was a mathematician. She was born in London in 1815."},
    {"title": "Ada Lovelace", "text": "She worked with Charles Babbage on the Analytical Engine."},
    {"title": "Ada", "text": "Ada is a programming language."},
    {"title": "Marie Curie", "text": "Marie Curie was born in Warsaw. She won two Nobel prizes."},
]


Make = Callable[..., FactScorer]


@pytest.fixture
def make(model: FakeModel, tmp_path: Path) -> Make:
    path = tmp_path / "knowledge.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in KNOWLEDGE))

    settings = endpoint_settings(model.url, tmp_path, knowledge=str(path), prompts=None, passages=1)
    return lambda **changed: FactScorer(FactScoreConfig(**settings | changed), Resources())


def reads_closely(body: Body) -> str:
    """Splits at full stops; takes a fact for true that stands in a passage word by word."""
    text = body["messages"][-1]["content"]
    if "Statement: " in text:
        passages, fact = text.split("Statement: ")
        return "True" if fact.strip() in passages else "False."
    response = text.split("Text:\n")[1]
    if response.startswith("Sorry"):
        return "NONE"
    return "\n".join(f"- {sentence.strip()}." for sentence in response.split(".") if sentence.strip())


def test_aggregation_by_hand() -> None:
    """1 of 2, 12 of 12 and none: 75; penalties exp(1 - 5) and 1."""
    found = aggregate([(1, 2), (12, 12), None, (0, 0)], 10)
    assert found == pytest.approx(
        {
            "factuality": 75,
            "factuality_se": 25,
            "factuality_penalized": (50 * math.exp(-4) + 100) / 2,
            "factuality_respond_ratio": 50,
            "factuality_facts": 7,
        }
    )


@pytest.mark.parametrize(("facts", "factor"), [(1, math.exp(-9)), (9, math.exp(-1 / 9)), (10, 1.0), (11, 1.0)])
def test_the_penalty_ends_at_ten_facts(facts: int, factor: float) -> None:
    assert aggregate([(facts, facts)] * 2, 10)["factuality_penalized"] == pytest.approx(100 * factor)
    assert aggregate([(facts, facts)] * 2, 0)["factuality_penalized"] == 100


@pytest.mark.parametrize("counts", [[], [None], [(1, 1)], [(0, 0), (1, 1)]])
def test_no_figure_of_fewer_than_two_responses(counts: list[tuple[int, int] | None]) -> None:
    found = aggregate(counts, 10)
    names = ("factuality", "factuality_se", "factuality_penalized", "factuality_facts")
    assert {name: found[name] for name in names} == dict.fromkeys(names)


@pytest.mark.skipif(not CHATGPT.is_file(), reason="FActScore's data is not here")
def test_the_published_figures_of_labelled_responses() -> None:
    found = measure(read_rows(CHATGPT, "FILE"), 10)
    assert found["factuality"] == pytest.approx(58.30, abs=0.005)
    assert found["factuality_respond_ratio"] == pytest.approx(85.8, abs=0.05)
    assert found["factuality_penalized"] == found["factuality"]  # no response has fewer than ten facts


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("- One.\n- Two.", ["One.", "Two."]),
        ("Facts:\n  * One.\n2. Two.\n3) Three.", ["One.", "Two.", "Three."]),
        ("NONE", []),
        (" none.\n", []),
        ("", None),
        ("I can not.", None),
    ],
)
def test_facts_are_read_from_a_list(text: str, facts: list[str] | None) -> None:
    assert read_facts(text) == facts


SUPPORT = {"True": True, "false.": False, "**True**": True, "Untrue": None, "": None, "It is False, not True": False}


@pytest.mark.parametrize(("text", "supported"), SUPPORT.items())
def test_support_is_read_from_the_first_word_that_tells(text: str, supported: bool | None) -> None:
    assert read_support(text) == supported


def test_the_whole_way_by_hand(make: Make, model: FakeModel) -> None:
    model.reply = reads_closely
    instructions = ["Tell me about Ada Lovelace.", "Who was marie curie?", "Who was Marie Curie?"]
    responses = [
        "Ada Lovelace was a mathematician. She was born in Paris.",
        "Sorry, I can't say.",
        "She won two Nobel prizes. Marie Curie was born in Warsaw.",
    ]
    checked = make().check(instructions, responses)
    assert [each.supported for each in checked] == [[True, False], [], [True, True]]
    figures = describe_facts(checked, 10)
    assert figures["factuality"] == pytest.approx(75.0)
    assert figures["factuality_respond_ratio"] == pytest.approx(200 / 3)
    assert (figures["factuality_facts"], figures["factuality_null"]) == (2.0, 0)
    assert figures["factuality_penalized"] == pytest.approx(75 * math.exp(-4))
    assert len(model.bodies) == 3 + 4


def test_passages_are_those_of_the_topic_nearest_to_the_fact(make: Make, model: FakeModel) -> None:
    model.reply = reads_closely
    make().check(["Tell me about ada lovelace!"], ["She worked on the Engine. She was born in London."])
    shown = {text.split("Statement: ")[1]: text for text in model.asked() if "Statement: " in text}
    assert "Analytical Engine" in shown["She worked on the Engine."]
    assert "mathematician" not in shown["She worked on the Engine."]
    assert "mathematician" in shown["She was born in London."]
    assert "about Ada Lovelace, is the" in shown["She was born in London."]
    assert not any("programming" in text for text in shown.values())  # the longest title is the topic


def test_without_a_topic_all_passages_are_searched(make: Make) -> None:
    knowledge = make().knowledge
    assert knowledge.topic("Tell me of adamant things") is None  # words, not letters
    assert knowledge.find("a prize of Nobel", None, 1)[0].title == "Marie Curie"
    assert [passage.title for passage in knowledge.find("Nobel", "Ada", 5)] == ["Ada"]


def test_long_texts_are_cut_into_passages(make: Make) -> None:
    passages = make(passage_words=4).knowledge.passages["Marie Curie"]
    assert [passage.text for passage in passages] == ["Marie Curie was born", "in Warsaw. She won", "two Nobel prizes."]


def test_what_can_not_be_read_is_counted_and_left_out(make: Make, model: FakeModel) -> None:
    def reply(body: Body) -> Any:
        text = body["messages"][-1]["content"]
        if "Statement: " in text:
            return "perhaps" if "Two" in text.split("Statement: ")[1] else "True"
        return failure(400) if "refused" in text else "gibberish" if "odd" in text else "- One.\n- Two."

    model.reply = reply
    checked = make().check(["a", "b", "c", "d"], ["refused", "odd", "fine", "fine too"])
    assert [each.facts for each in checked] == [None, None, ["One.", "Two."], ["One.", "Two."]]
    assert [each.counts for each in checked] == [None, None, (1, 1), (1, 1)]
    figures = describe_facts(checked, 10)
    assert (figures["factuality"], figures["factuality_respond_ratio"], figures["factuality_null"]) == (100.0, 100.0, 4)


def test_counts_of_a_response() -> None:
    assert Checked(["a", "b", "c"], [True, None, False]).counts == (1, 2)
    assert Checked([], []).counts is None


def test_responses_are_chosen_by_dataset_and_number(make: Make) -> None:
    assert make().choose(["a", "b", "a"]) == [0, 1, 2]
    assert make(prompts=2).choose(["a", "b", "a"]) == [0, 1]
    assert make(dataset="a", prompts=2).choose(["b", "a", "a", "a"]) == [1, 2]
    with pytest.raises(DataError, match=r"factuality\.dataset=x"):
        make(dataset="x").choose(["a"])
    prompt = Prompt("Tell me a bio of Ba.", "", "a")
    assert make(dataset="x")([prompt], [Response([7], "Ba is tall.", True)])["factuality"] is None  # an interim one's


def test_a_missing_package_names_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(ConfigError, match=r"rank-bm25: pip install rank-bm25"):
        make()


def test_a_bad_collection_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"title": "x", "text": "y"}\n{"title": "x"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2, field 'text' is missing"):
        make(knowledge=str(tmp_path / "bad.jsonl"))
    with pytest.raises(DataError, match=r"factuality\.knowledge: there is no file"):
        make(knowledge=str(tmp_path / "none.jsonl"))


# ---- Real questions, with the passages of Wikipedia that answer them. ---------------------------------------------

QUESTIONS = CHATGPT.with_name("qa_feedback_100.jsonl")
INVENTED = "The moon over it is made of green cheese"


@pytest.mark.skipif(not QUESTIONS.exists(), reason="the shared data is not here")
def test_the_passage_that_a_sentence_was_taken_from_is_found_among_those_of_all_questions(
    make: Make, model: FakeModel, tmp_path: Path
) -> None:
    """Each response is a sentence of its question's first passage and an invented one: half of it is supported."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    passages = [(title, " ".join(sentences)) for row in rows for title, *sentences in row["passages"] if sentences]
    knowledge = [{"title": title, "text": " ".join(text.split())} for title, text in dict.fromkeys(passages)]
    (tmp_path / "wikipedia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in knowledge))
    taken = [max(" ".join(row["passages"][0][1:]).split(". "), key=len) for row in rows]
    sentences = [" ".join(text.split()).rstrip(".") for text in taken]

    def reads(body: Body) -> str:
        text = body["messages"][-1]["content"]
        if "Statement: " in text:
            shown, fact = text.split("Statement: ")
            return str(fact.strip() in shown)
        return "\n".join(f"- {sentence}" for sentence in text.split("Text:\n")[1].split("\n"))

    model.reply = reads
    scorer = make(knowledge=str(tmp_path / "wikipedia.jsonl"), passages=5, concurrency=8)
    assert len(scorer.knowledge.passages) == 203  # titles
    checked = scorer.check([row["question"] for row in rows], [f"{sentence}\n{INVENTED}" for sentence in sentences])
    found = [each.supported for each in checked]
    assert all(second is False for _, second in found)
    figures = describe_facts(checked, 10)
    assert (figures["factuality_respond_ratio"], figures["factuality_facts"], figures["factuality_null"]) == (100, 2, 0)
    assert figures["factuality"] == pytest.approx(sum(first is True for first, _ in found) / 2)
    assert 47 <= figures["factuality"] <= 50  # of the 100 sentences 97 were found


def labelled(path: Path, *responses: list[str] | None) -> Path:
    """A file of FActScore's: the first sentence of each response has all its facts, the second none."""
    rows = [
        {
            "topic": "Ada",
            "output": "text",
            "annotations": None
            if given is None
            else [
                {"text": "a", "human-atomic-facts": [{"text": "f", "label": label} for label in given]},
                {"text": "b", "human-atomic-facts": None},
            ],
        }
        for given in responses
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_peoples_labels_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labelled(tmp_path / "model.jsonl", ["S", "NS", "IR", "S", "S"], None, ["S"] * 11 + ["NS"] * 9, ["IR"])
    rows = read_rows(path, "FILE")
    # 3 of 4 and 11 of 20; 4 facts, being 10 or fewer, weigh e^(1 - 10 / 4); two of four responses state a fact
    found = measure(rows, penalty_facts=10, relevant_alone=True)
    assert found["factuality"] == pytest.approx((75 + 55) / 2)
    assert found["factuality_penalized"] == pytest.approx((75 * math.exp(-1.5) + 55) / 2)
    assert (found["factuality_respond_ratio"], found["factuality_facts"]) == (50, 12)
    # with irrelevant ones 3 of 5, 11 of 20 and 0 of 1
    assert measure(rows, 10)["factuality"] == pytest.approx((60 + 55 + 0) / 3)
    main([str(path), "--relevant"])
    assert "65 ± 10" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"annotations.*one of S, NS, IR"):
        measure(read_rows(labelled(path, ["X"]), "FILE"), 10)
