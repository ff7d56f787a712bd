"""Responses beside the SFT model's, greedy and sampled, cut at their facts."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.report.load import Run
from rlhf.report.page import answers_of
from rlhf.report.responses import Answered, Pair, answered, outcome, pieces, tally


def run(folder: Path, outputs: Any, judgements: list[dict[str, Any]] | None) -> Run:
    (folder / "outputs.json").write_text(json.dumps(outputs))
    return Run(str(folder), {}, {}, [], judgements)


def test_sampled_and_greedy_outputs_are_joined_with_their_judgements(tmp_path: Path) -> None:
    outputs = [{"instruction": "who ?", "output": "she sings . she lies .", "dataset": "biography"}]
    judged = {
        **{"instruction": "who ?", "preferences": [2.0, 1.0, 1.5, 2.0], "correct": 1, "wrong": 1},
        **{"facts": [[0, 11, True], [12, 22, False]], "reference": "she sings .", "reference_facts": [[0, 11, True]]},
        **{"greedy_preferences": [1.0]},
    }
    for name, text in (("outputs-greedy", "she is ."), ("references-greedy", "she was .")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"instruction": "who ?", "output": text}]))
    greedy = Pair("greedy", [("she is .", None)], [("she was .", None)], outcome="lost", outcomes="")
    sampled = Pair(
        "sampled",
        policy=[("she sings .", True), (" ", None), ("she lies .", False)],
        reference=[("she sings .", True)],
        outcome="won",
        outcomes="won 2 of 4, tied 1",
    )
    expected = Answered("who ?", "biography", [greedy, sampled], correct=1, wrong=1)
    assert answered(run(tmp_path, outputs, [judged]), 5) == [expected]


def test_a_run_without_references_and_spans(tmp_path: Path) -> None:
    outputs = [{"instruction": "who ?", "output": "she sings ."}]
    [found] = answered(run(tmp_path, outputs, [{"instruction": "who ?", "preferences": None}]), 5)
    [pair] = found.pairs
    assert (pair.policy, pair.reference, pair.outcome, pair.outcomes) == (
        [("she sings .", None)],
        None,
        "not judged",
        "",
    )
    assert answered(run(tmp_path, outputs, None), 5) == [found]


def test_the_same_instruction_twice_is_joined_in_order_and_cut(tmp_path: Path) -> None:
    outputs = [{"instruction": name, "output": text} for name, text in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"))]
    judged = [{"instruction": "a", "correct": 1, "wrong": 0}, {"instruction": "a", "correct": 3, "wrong": 0}]
    found = answered(run(tmp_path, outputs, judged), 3)
    assert [(each.pairs[0].policy[0][0], each.correct) for each in found] == [("1", 1), ("2", None), ("3", 3)]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"instruction": "a", "output": 7}]', None])
def test_outputs_that_are_missing_or_malformed(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "outputs.json").write_text(content)
    found, problem = answers_of(Run(str(tmp_path), {}, {}, [], None), 5)
    assert (found, problem is None) == ([], content is None)
    assert problem is None or problem.startswith("outputs.json")


@pytest.mark.parametrize(
    "spans",
    [None, [[3, 1, True]], [[-1, 2, True]], [[0, 99, True]], [["0", 2, True]], [[0, 2]], "xy", [[0, 0, True]]],
)
def test_spans_that_can_not_be_are_left_out(spans: Any) -> None:
    assert pieces("abcdef", spans) == [("abcdef", None)]


def test_overlapping_spans_keep_the_first_and_all_text_stays() -> None:
    found = pieces("abcdef", [[3, 5, False], [1, 4, True], [5, 6, True]])
    assert found == [("a", None), ("bcd", True), ("e", None), ("f", True)]
    assert pieces("", []) == []


@pytest.mark.parametrize(
    ("preference", "word"),
    [(2.0, "won"), (1.0, "lost"), (1.5, "tied"), (0.0, "tied"), (1.7, "won"), (1.2, "lost"), (None, "not judged")],
)
def test_outcomes(preference: float | None, word: str) -> None:
    assert outcome(preference) == word


def test_tally() -> None:
    assert tally([2.0, 1.0]) == "won 1 of 2"
    assert tally([]) == ""
