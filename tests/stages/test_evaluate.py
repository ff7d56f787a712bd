from dataclasses import replace

import pytest
import torch

from rlhf.data.source import Response
from rlhf.evaluation.judge import ScoreJudge
from rlhf.stages.baseline import draw_baseline, evaluation_prompts, load_baseline
from rlhf.stages.evaluate import Evaluator
from tests.stages.conftest import MakeSetting, Setting

DESIGN_FIGURES = {
    "win_rate",
    "win_rate_se",
    "win_rate_ties_as_losses",
    "n_eval",
    "factuality",
    "factuality_se",
    "true_kl_per_token",
    "response_length",
    "reward",
    "repeats",
}


def evaluator(setting: Setting) -> Evaluator:
    prompts = evaluation_prompts(setting.config, setting.source)
    generator = torch.Generator().manual_seed(5)
    references = [setting.sampler.sample(setting.base.reference(), prompts, 1.0, generator) for _ in range(2)]
    judge = ScoreJudge(lambda prompts, responses: [float(len(response.token_ids)) for response in responses])
    return Evaluator(
        setting.config,
        setting.source,
        setting.sampler,
        setting.base.reference(),
        setting.reward,
        judge,
        prompts,
        references,
    )


def test_a_policy_equal_to_its_reference_has_no_divergence(make_setting: MakeSetting) -> None:
    setting = make_setting()
    figures, responses = evaluator(setting)(setting.base.reference(), seed=0)
    assert figures["true_kl_per_token"] == 0.0
    assert set(figures) >= DESIGN_FIGURES
    assert len(responses) == figures["n_eval"] == setting.config.evaluation.prompts


def test_responses_equal_to_the_references_tie(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    alone = replace(measure, references=measure.references[:1])
    figures = alone.measure(setting.base.reference(), measure.references[0])
    assert figures["win_rate"] == 50.0
    assert figures["win_rate_se"] == 0.0
    assert figures["win_rate_ties_as_losses"] == 0.0


def test_prompts_that_the_reward_model_saw_are_left_out_of_the_win_rate(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    seen = {prompt.text for prompt in measure.prompts[:5]}
    setting.source.seen_by_reward = lambda prompt: prompt.text in seen  # pyright: ignore[reportAttributeAccessIssue]
    left = sum(prompt.text not in seen for prompt in measure.prompts)
    assert measure.measure(setting.base.reference(), measure.references[0])["n_eval"] == left


def test_length_reward_and_repeats_by_hand(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    two = replace(measure, prompts=measure.prompts[:2], references=[draw[:2] for draw in measure.references])
    # 9 tokens that make six 4-grams, of which the last two stood before; and 3 tokens that make none
    responses = [
        Response([7, 8, 9, 10, 7, 8, 9, 10, 7], "", finished=False),
        Response([7, 8, 2], "", finished=True),
    ]
    figures = two.measure(setting.base.reference(), responses)
    assert figures["response_length"] == 6.0
    assert figures["response_length_se"] == pytest.approx(3.0)
    assert figures["repeats"] == pytest.approx((2 / 6) / 2)
    assert figures["finished"] == 0.5


def test_a_baseline_is_read_back_as_it_was_drawn(make_setting: MakeSetting, tmp_path) -> None:
    setting = make_setting()
    prompts = evaluation_prompts(setting.config, setting.source)
    assert draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path) == {"draws": 3}
    own, references = load_baseline(tmp_path)
    assert len(references) == setting.config.evaluation.references == 2
    assert {len(draw) for draw in [own, *references]} == {16}
    assert own != references[0] != references[1]
    generator = torch.Generator().manual_seed(setting.config.data.seed)
    assert own == setting.sampler.sample(setting.base.reference(), prompts, 1.0, generator)


def test_evaluation_people_are_none_that_training_saw(make_setting: MakeSetting) -> None:
    setting = make_setting()
    people = {prompt.detail.person.name for prompt in evaluation_prompts(setting.config, setting.source)}
    assert people <= {person.name for person in setting.source.splits["eval"]}
    assert not people & {person.name for split in ("train", "tune") for person in setting.source.splits[split]}
