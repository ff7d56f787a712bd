"""What a finished run writes of each prompt and of itself, from responses whose facts are known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.data.source import Response
from rlhf.evaluation.outputs import load_joined
from rlhf.evaluation.winrate import Judgement
from rlhf.models.memory import Estimate
from rlhf.stages.evaluator import Evaluation, judgement_rows, response_rows
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.record import objective_problem, record
from rlhf.stages.reward import score
from rlhf.stages.setting import Setting as SharedSetting
from rlhf.stages.train import Result
from rlhf.storage.cache import Finished
from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure
from tests.stages.conftest import MakeSetting, Setting
from tests.stages.test_evaluator import evaluator


def told(setting: Setting, text: str) -> Response:
    """A finished response of that text."""
    token_ids = setting.sampler.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(token_ids, list)
    return Response([*token_ids, 2], text, True)


def test_a_row_holds_preferences_lengths_facts_and_the_score_of_its_prompt(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    texts = []
    for prompt in measure.prompts:
        person = prompt.detail.person
        cities = [city for city in setting.source.values["birthplace"] if city != person.facts["birthplace"]]
        wrong = f"{person.pronoun} comes from {cities[0]} . {person.pronoun} comes from {cities[1]} ."
        texts.append(f"{person.name} works as a {person.facts['profession']} . {wrong}")
    responses = [told(setting, text) for text in texts]
    rows = judgement_rows(measure, measure.measure(setting.base.reference(), responses))
    assert [(row["instruction"], row["dataset"]) for row in rows] == [
        (p.instruction, p.dataset) for p in measure.prompts
    ]
    assert {(row["correct"], row["wrong"]) for row in rows} == {(1, 2)}
    assert {row["length"] for row in rows} == {6 + 5 + 5 + 1}  # words and EOS
    assert {preference for row in rows for preference in row["preferences"]} == {2.0}  # longer than any reference
    assert [row["reference_lengths"] for row in rows] == [
        [len(draw[place].token_ids) for draw in measure.references] for place in range(16)
    ]
    assert [[responses[place].text[start:end] for start, end, _ in row["facts"]] for place, row in enumerate(rows)] == [
        [f"{sentence} ." for sentence in text.removesuffix(" .").split(" . ")] for text in texts
    ]
    assert {tuple(right for *_, right in row["facts"]) for row in rows} == {(True, False, False)}
    assert [row["reference"] for row in rows] == [reference.text for reference in measure.references[0]]
    assert [row["reference_facts"] for row in rows] == [
        setting.source.fact_spans(*pair) for pair in zip(measure.prompts, measure.references[0], strict=True)
    ]
    scores = score(setting.reward, setting.sampler, measure.prompts, responses)
    assert [row["score"] for row in rows] == pytest.approx(scores)
    assert len(set(scores)) > 10


def test_a_source_that_knows_no_facts_leaves_them_null(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    setting.source.facts = lambda prompt, response: None  # pyright: ignore[reportAttributeAccessIssue]
    setting.source.fact_spans = lambda prompt, response: None  # pyright: ignore[reportAttributeAccessIssue]
    rows = judgement_rows(measure, measure.measure(setting.base.reference(), measure.references[0]))
    assert {(row["correct"], row["wrong"]) for row in rows} == {(None, None)}
    assert {(row["facts"], row["reference_facts"]) for row in rows} == {(None, None)}


def test_a_row_tells_of_greedy_responses_where_there_are_any(make_setting: MakeSetting) -> None:
    measure = evaluator(make_setting())
    sampled = measure.measure(measure.reference, measure.references[0])
    assert not [name for row in response_rows(measure, sampled, 4) for name in row if name.startswith("greedy")]
    longer = [replace(response, token_ids=[*response.token_ids, 7]) for response in measure.greedy_reference]
    told = [replace(response, text=f"{row} more") for row, response in enumerate(longer)]
    rows = response_rows(measure, measure.add_greedy(sampled, told), 4)
    assert {(row["step"], *row["greedy_preferences"]) for row in rows} == {(4, 2.0)}  # the judge likes the longer one
    lengths = [len(response.token_ids) for response in measure.greedy_reference]
    assert [(row["greedy_length"], row["greedy_reference_lengths"]) for row in rows] == [(n + 1, [n]) for n in lengths]
    assert [row["greedy_response"] for row in rows] == [f"{row} more" for row in range(16)]
    assert [row["greedy_reference"] for row in rows] == [response.text for response in measure.greedy_reference]
    assert [row["response"] for row in rows] == [response.text for response in measure.references[0]]


Recorded = Callable[[Evaluation], dict[str, Any]]


@pytest.fixture
def recorded(make_setting: MakeSetting, tmp_path: Path) -> Recorded:
    """What is written of a run that ended with an evaluation, by the name of its file; lines as rows."""

    def record_it(evaluation: Evaluation) -> dict[str, Any]:
        setting = make_setting("regularizer=full_kl", "regularizer.coef=0.1", "ppo.steps=4", "seed=3", "data.seed=0")
        measure, learner = evaluator(setting), setting.learner()
        stage = Finished(tmp_path, "key", {"loss": 1.0}, 2.5, built_now=True)
        shared = SharedSetting.__new__(SharedSetting)  # without the stages that it would build
        shared.pipeline = Pipeline.__new__(Pipeline)
        shared.pipeline.finished, shared.pipeline.device = {"sft": stage}, torch.device("cpu")
        shared.memory = lambda config: Estimate({"ppo": {"weights": 2.0**22}})  # type: ignore[method-assign]
        own, controls = {"win_rate": 50.0, "objective": 0.5, "objective_se": 0.1}, {"0.7": {"win_rate": 54.0}}
        shared.baseline = lambda evaluator: {"own": own, "scores": [], "controls": controls}  # type: ignore[method-assign]
        directory = RunDirectory(tmp_path)
        directory.append_history({"step": 0, "objective": 0.5, "objective_se": 0.1})
        directory.append_history({"step": 1, "ppo/clip_fraction": 0.0})
        metrics = record(directory, shared, measure, learner, Result(evaluation, {"ppo": 1.5, "evaluation": 0.5}))
        files = {path.name: read_json(path) for path in tmp_path.glob("*.json")}
        lines = (tmp_path / "responses.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == json.loads(json.dumps(response_rows(measure, evaluation, 4)))
        assert files["metrics.json"] == metrics
        return files | {"responses.jsonl": [json.loads(line) for line in lines], "measure": measure}

    return record_it


RESPONSES = [Response([7] * 20, "x", False)] * 16
JUDGEMENTS = [Judgement([2.0, None], 20, [3, 4])] * 16


def test_the_policys_figures_stand_beside_the_references(recorded: Recorded, tmp_path: Path) -> None:
    files = recorded(Evaluation({"win_rate": 12.5, "objective": 0.75}, RESPONSES, JUDGEMENTS, [0.5] * 16))
    metrics, measure = files["metrics.json"], files["measure"]
    assert metrics["win_rate"] == 12.5
    assert metrics["baseline"] == {"win_rate": 50.0, "objective": 0.5, "objective_se": 0.1}
    assert metrics["controls"] == {"0.7": {"win_rate": 54.0}}
    assert metrics["objective_problem"] is None
    told_of_itself = ("algorithm", "regularizer", "placement", "coef", "seed", "data_seed", "steps")
    assert [metrics[name] for name in told_of_itself] == ["ppo", "full_kl", "both", 0.1, 3, 0, 4]
    assert metrics["seconds"] == {"sft": 2.5, "ppo": 1.5, "evaluation": 0.5}
    assert metrics["stages"] == {"sft": {"loss": 1.0}}
    assert {tuple(row["preferences"]) for row in files["responses.jsonl"]} == {(2.0, None)}  # as they were given
    assert len(files["outputs.json"]) == 16
    references = load_joined(tmp_path, None).references
    assert references == [[draw[row].text for draw in measure.references] for row in range(16)]
    assert metrics["asked"] == {}
    assert files["status.json"]["state"] == "done"
    assert not [name for name in files if "greedy" in name]  # there are none


def test_greedy_outputs_stand_beside_what_they_were_compared_with(recorded: Recorded) -> None:
    greedy = [Response([9], f"greedy {row}", False) for row in range(16)]
    judged = [Judgement([1.25], 1, [9])] * 16
    files = recorded(
        Evaluation({"objective": 0.25, "objective_se": 0.1}, RESPONSES, JUDGEMENTS, [0.5] * 16, greedy, judged)
    )
    measure = files["measure"]
    told, compared = [f"greedy {row}" for row in range(16)], [response.text for response in measure.greedy_reference]
    written = {"outputs.json": ["x"] * 16, "outputs-greedy.json": told, "references-greedy.json": compared}
    for name, texts in written.items():
        assert [row["output"] for row in files[name]] == texts
        assert [row["instruction"] for row in files[name]] == [prompt.instruction for prompt in measure.prompts]
        assert {row["generator"] == "sft" for row in files[name]} == {name.startswith("references")}
        assert {tuple(row) for row in files[name]} == {("instruction", "output", "generator", "dataset")}
    assert {tuple(row["greedy_preferences"]) for row in files["responses.jsonl"]} == {(1.25,)}
    assert "below" in files["metrics.json"]["objective_problem"]  # 0.5 at step 0


FOLLOWED, NOT_FOLLOWED = ("regularizer=kl",), ("regularizer=js", "regularizer.placement=reward")


@pytest.mark.parametrize(
    ("overrides", "clipped", "keys"),
    [
        (NOT_FOLLOWED, [0.9], ("regularizer.placement=both", "regularizer.coef")),
        (("regularizer=kl", "regularizer.placement=loss"), [0.0], ("regularizer.placement=both", "regularizer.coef")),
        (("regularizer=js", "regularizer.placement=both"), [0.2, 0.5], ("ppo.lr",)),  # 0.35 on average
        (FOLLOWED, [0.3, 0.3], ("ppo.lr", "rollout.batch_size", "ppo.steps")),
        (FOLLOWED, [], ("ppo.lr", "rollout.batch_size", "ppo.steps")),
    ],
)
def test_an_objective_that_fell_is_told_with_its_likeliest_reason(
    overrides: tuple[str, ...], clipped: list[float], keys: tuple[str, ...]
) -> None:
    config = configure("experiment=smoke", *overrides)
    history = [measured(0.125), *({"step": 1, "ppo/clip_fraction": share} for share in clipped)]
    problem = objective_problem(config, measured(-0.25), history)
    assert problem is not None
    assert "-0.25" in problem
    assert "+0.12" in problem
    advised = [key for key in ("regularizer.placement=both", "regularizer.coef", "ppo.lr") if key in problem]
    advised += [key for key in ("rollout.batch_size", "ppo.steps") if key in problem]
    assert tuple(advised) == keys


@pytest.mark.parametrize("after", [0.125, 0.5, None])
def test_an_objective_that_did_not_fall_or_is_not_known_is_no_problem(after: float | None) -> None:
    config = configure("experiment=smoke", *NOT_FOLLOWED)
    assert objective_problem(config, measured(after), [measured(0.125)]) is None


@pytest.mark.parametrize(("error", "doubtful"), [(0.12, False), (0.14, True)])
def test_a_fall_within_its_errors_is_told_as_such(error: float, doubtful: bool) -> None:
    # 0.375 against twice the errors' root sum of squares: 0.339 and 0.396
    problem = objective_problem(configure("experiment=smoke"), measured(-0.25, error), [measured(0.125, error)])
    assert problem is not None
    assert ("within two standard errors" in problem) == doubtful


def measured(objective: float | None, error: float = 0.1) -> dict[str, Any]:
    return {"step": 0, "objective": objective, "objective_se": error}
