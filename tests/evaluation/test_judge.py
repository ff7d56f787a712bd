"""The judge by scores, with a table of scores in place of an oracle or a reward model."""

from collections.abc import Sequence

import pytest

from rlhf.data.source import Prompt, Response
from rlhf.evaluation.judge import ScoreJudge, prefer

TABLE = {("easy", "good"): 2.0, ("easy", "bad"): -1.0, ("hard", "good"): -3.0, ("hard", "bad"): -2.0}


def ask(*instructions: str) -> list[Prompt]:
    return [Prompt(instruction, f"<bos> {instruction}", "table") for instruction in instructions]


def answer(*texts: str) -> list[Response]:
    return [Response([5, 2], text, True) for text in texts]


def score(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
    pairs = zip(prompts, responses, strict=True)
    return [TABLE[prompt.instruction, response.text] for prompt, response in pairs]


@pytest.mark.parametrize(
    ("output", "reference", "preference"),
    [
        (1.0, 0.0, 2.0),
        (0.0, 1.0, 1.0),
        (-2.0, -3.0, 2.0),
        (0.5, 0.5, 1.5),
        (0.5, 0.5 + 9e-7, 1.5),  # within a millionth: a tie either way
        (0.5 + 9e-7, 0.5, 1.5),
        (0.5 + 2e-6, 0.5, 2.0),
        (0.5, 0.5 + 2e-6, 1.0),
    ],
)
def test_preference_by_hand(output: float, reference: float, preference: float) -> None:
    assert prefer(output, reference) == preference


def test_tolerance_can_be_chosen() -> None:
    assert prefer(1.0, 0.8, tolerance=0.3) == 1.5
    assert prefer(1.0, 0.8, tolerance=0.1) == 2.0


def test_outputs_are_compared_with_the_reference_to_the_same_prompt() -> None:
    prompts = ask("easy", "hard", "hard", "easy")
    outputs, references = answer("good", "good", "bad", "bad"), answer("bad", "bad", "bad", "good")
    # 2 over -1; -3 under -2; -2 twice; -1 under 2.
    assert ScoreJudge(score)(prompts, outputs, references) == [2.0, 1.0, 1.5, 1.0]


def test_swapping_outputs_and_references_mirrors_the_preferences() -> None:
    prompts, first, second = ask("easy", "hard", "easy"), answer("good", "good", "bad"), answer("bad", "bad", "bad")
    judge = ScoreJudge(score)
    pairs = zip(judge(prompts, first, second), judge(prompts, second, first), strict=True)
    assert [one + other for one, other in pairs] == [3, 3, 3]


def test_a_score_that_lost_a_response_is_refused() -> None:
    def forgetful(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
        return score(prompts, responses)[: 1 if responses[0].text == "bad" else None]

    with pytest.raises(ValueError, match="shorter"):
        ScoreJudge(forgetful)(ask("easy", "hard"), answer("good", "good"), answer("bad", "bad"))
