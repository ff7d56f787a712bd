"""Judges by scores, from a table; judges of texts; and a judge that is added by a file of its own."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from rlhf.compose import from_saved
from rlhf.config.evaluation import AnnotationsJudgeConfig, JudgeConfig, OracleJudgeConfig, RewardModelJudgeConfig
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import ConfigError
from rlhf.evaluation import judges
from rlhf.evaluation.judges import (
    JUDGES,
    Pair,
    Reading,
    Resources,
    ScoreJudge,
    TextJudge,
    Verdict,
    asked,
    describe_verdicts,
    load_judge,
    prefer,
)
from rlhf.storage.reader import read_settings
from tests.configure import configure

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


# ---- Judges by name. ----------------------------------------------------------------------------------------------


def test_a_second_reward_models_scores_are_compared() -> None:
    judge = load_judge(RewardModelJudgeConfig(), Resources(score=score))
    assert judge(ask("easy", "hard"), answer("good", "good"), answer("bad", "bad")) == [2.0, 1.0]


def test_an_oracles_utilities_are_compared() -> None:
    source = Mock(Source)
    source.utility = lambda prompt, response: TABLE[prompt.instruction, response.text]
    judge = load_judge(OracleJudgeConfig(), Resources(source))
    assert judge(ask("easy", "hard"), answer("good", "good"), answer("bad", "bad")) == [2.0, 1.0]
    assert asked(judge=judge) == {}


class Longest(TextJudge):
    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return [Verdict([Reading(1.0 + (len(pair.output) > len(pair.reference)))]) for pair in pairs]


def test_a_judge_is_added_by_a_file_that_enters_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a dataclass of its own: it reads texts, and whatever process is the main one asks it."""
    monkeypatch.setattr(judges, "find_spec", lambda name: name == "rlhf.evaluation.longest")
    monkeypatch.setattr(judges, "import_module", lambda name: monkeypatch.setitem(JUDGES, "longest", Longest))
    calls = []
    judge = load_judge(JudgeConfig("longest"), Resources(run_on_main=lambda decide: calls.append(1) or decide()))
    assert judge(ask("easy", "hard"), answer("good", "no"), answer("bad", "bad")) == [2.0, 1.0]
    assert len(calls) == 1
    assert asked(judge=judge, factuality=None)["judge"]["n_from_text"] == 2


def test_a_saved_run_of_such_a_judge_is_read_again(tmp_path: Path) -> None:
    config = configure("data=alpaca_farm", "data.root=/data")
    config.judge = JudgeConfig("longest")
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    assert from_saved(read_settings(tmp_path)) == config


def test_names_without_a_judge_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"judge\.name=nobody"):
        load_judge(JudgeConfig("nobody"), Resources())
    with pytest.raises(ConfigError, match=r"judge\.name=llm"):
        AnnotationsJudgeConfig("llm", "file")
    with pytest.raises(ConfigError, match=r"judge\.name=oracle"):
        JudgeConfig("oracle")


# ---- Verdicts. ----------------------------------------------------------------------------------------------------


def test_one_order_that_can_not_be_read_leaves_no_preference() -> None:
    verdict = Verdict([Reading(1.2), Reading(None, None, switched=True, problem="no")])
    assert verdict.preference is None
    assert describe_verdicts([verdict])["inconsistent"] is None


def test_ties_are_not_inconsistent() -> None:
    described = describe_verdicts([Verdict([Reading(1.5), Reading(2.0, switched=True)])])
    assert (described["inconsistent"], described["first_preferred"]) == (0.0, 1.0)
