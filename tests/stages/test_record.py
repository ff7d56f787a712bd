"""What a finished run writes of each prompt and of itself, from responses whose facts are known."""

import json
from pathlib import Path

import pytest
import torch

from rlhf.data.source import Response
from rlhf.evaluation.judgements import Judgement
from rlhf.evaluation.outputs import load_joined
from rlhf.infra.cache import Finished
from rlhf.infra.files import read_json
from rlhf.infra.rundir import RunDirectory
from rlhf.models.memory import Estimate
from rlhf.stages.baseline import draw_baseline
from rlhf.stages.evaluate import Evaluation, Evaluator
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.record import judgement_rows, record
from rlhf.stages.reward import score
from rlhf.stages.train import Result
from tests.stages.conftest import MakeSetting, Setting
from tests.stages.test_evaluate import evaluator


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


def test_the_policys_figures_stand_beside_the_references(
    make_setting: MakeSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = make_setting("regularizer=full_kl", "regularizer.coef=0.1", "ppo.steps=4", "seed=3", "data.seed=0")
    measure, learner = evaluator(setting), setting.learner()
    draw_baseline(setting.config, measure.prompts, setting.base, setting.sampler, tmp_path)
    stage = Finished(tmp_path, "key", {"loss": 1.0}, 2.5, built_now=True)
    pipeline = Pipeline.__new__(Pipeline)  # without the stages that it would build
    pipeline.config, pipeline.finished = setting.config, {"sft": stage}
    pipeline.device, pipeline.memory = torch.device("cpu"), Estimate({"ppo": {"weights": 2.0**22}})
    pipeline.llm_judge, pipeline.factuality = None, measure.factuality
    monkeypatch.setattr(Pipeline, "baseline", lambda self: stage)
    monkeypatch.setattr(Evaluator, "greedy", lambda self, role: {"factuality_greedy": role.adapter})
    responses = [Response([7] * 20, "x", False)] * 16
    evaluation = Evaluation({"win_rate": 12.5}, responses, [Judgement([2.0, None], 20, [3, 4])] * 16, [0.5] * 16)
    result = Result(evaluation, {"ppo": 1.5, "evaluation": 0.5})
    directory = RunDirectory(tmp_path)
    record(directory, pipeline, measure, learner, result)
    metrics = read_json(tmp_path / "metrics.json")
    assert (metrics["win_rate"], metrics["factuality_greedy"]) == (12.5, "policy")
    assert metrics["baseline"]["factuality_greedy"] is None
    assert metrics["baseline"]["true_kl_per_token"] == 0.0
    told_of_itself = ("algorithm", "regularizer", "placement", "coef", "seed", "data_seed", "steps")
    assert [metrics[name] for name in told_of_itself] == ["ppo", "full_kl", "both", 0.1, 3, 0, 4]
    assert metrics["seconds"] == {"sft": 2.5, "ppo": 1.5, "evaluation": 0.5}
    assert metrics["stages"] == {"sft": {"loss": 1.0}}
    lines = (tmp_path / "judgements.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(judgement_rows(measure, evaluation)))
    assert {tuple(json.loads(line)["preferences"]) for line in lines} == {(2.0, None)}  # as they were given
    assert len(read_json(tmp_path / "outputs.json")) == 16
    references = load_joined(tmp_path, None).references
    assert references == [[draw[row].text for draw in measure.references] for row in range(16)]
    assert metrics["asked"] == {}
    assert read_json(tmp_path / "status.json")["state"] == "done"
