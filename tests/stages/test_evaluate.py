import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.data.source import Response
from rlhf.errors import EndpointError
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judge import ScoreJudge
from rlhf.evaluation.judgements import RATES, Judgement, win_rates
from rlhf.stages.baseline import draw_baseline, evaluation_prompts, load_baseline
from rlhf.stages.evaluate import Evaluator, best_of_n_kl_bound, favourites
from rlhf.stages.reward import score
from tests.stages.conftest import MakeSetting, Setting

DESIGN_FIGURES = {
    "win_rate",
    "win_rate_se",
    "win_rate_ties_as_losses",
    "win_rate_length_controlled",
    "win_rate_length_controlled_se",
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
        load_factuality(setting.config.factuality, setting.source),
    )


def test_a_policy_equal_to_its_reference_has_no_divergence(make_setting: MakeSetting) -> None:
    setting = make_setting()
    figures, responses, judgements, _ = evaluator(setting)(setting.base.reference(), seed=0)
    assert win_rates(judgements).items() <= figures.items()
    assert figures["true_kl_per_token"] == 0.0
    assert set(figures) >= DESIGN_FIGURES
    assert "kl_bound_per_response" not in figures
    assert len(responses) == figures["n_eval"] == setting.config.evaluation.prompts


def test_responses_equal_to_the_references_tie(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    alone = replace(measure, references=measure.references[:1])
    figures = alone.measure(setting.base.reference(), measure.references[0]).figures
    assert figures["win_rate"] == 50.0
    assert figures["win_rate_se"] == 0.0
    assert figures["win_rate_ties_as_losses"] == 0.0


def test_prompts_that_the_reward_model_saw_are_left_out_of_the_win_rate(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    seen = {prompt.text for prompt in measure.prompts[:5]}
    setting.source.seen_by_reward = lambda prompt: prompt.text in seen  # pyright: ignore[reportAttributeAccessIssue]
    left = sum(prompt.text not in seen for prompt in measure.prompts)
    assert measure.measure(setting.base.reference(), measure.references[0]).figures["n_eval"] == left


def test_length_reward_and_repeats_by_hand(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    two = replace(measure, prompts=measure.prompts[:2], references=[draw[:2] for draw in measure.references])
    # 9 tokens that make six 4-grams, of which the last two stood before; and 3 tokens that make none
    responses = [
        Response([7, 8, 9, 10, 7, 8, 9, 10, 7], "", finished=False),
        Response([7, 8, 2], "", finished=True),
    ]
    figures = two.measure(setting.base.reference(), responses).figures
    assert figures["response_length"] == 6.0
    assert figures["response_length_se"] == pytest.approx(3.0)
    assert figures["repeats"] == pytest.approx((2 / 6) / 2)
    assert figures["finished"] == 0.5


def test_judgements_hold_a_preference_per_reference_and_lengths_in_tokens(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)  # whose judge likes the longer response
    lengths = ([3, 3], [2, 4], [3, 9])  # of two responses, and of each draw of the references
    own, *references = [[Response([7] * length, "", False) for length in row] for row in lengths]
    two = replace(measure, prompts=measure.prompts[:2], references=references)
    assert two.judge_responses(own) == ([Judgement([2.0, 1.5], 3, [2, 3]), Judgement([1.0, 1.0], 3, [4, 9])], None)
    setting.source.seen_by_reward = lambda prompt: prompt is two.prompts[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert two.judge_responses(own) == ([Judgement(None, 3, [2, 3]), Judgement([1.0, 1.0], 3, [4, 9])], None)


def test_a_judge_that_can_not_be_asked_costs_the_win_rate_alone(make_setting: MakeSetting) -> None:
    def down(prompts, outputs, references):
        raise EndpointError("the server is down")

    setting = make_setting()
    measure = replace(evaluator(setting), judge=down)
    figures, responses, judgements, _ = measure(setting.base.reference(), seed=0)
    assert {name: figures[name] for name in RATES} == dict.fromkeys(RATES)
    assert (figures["judge_problem"], figures["n_eval"], figures["n_null"]) == ("the server is down", 0, 32)
    assert {tuple(judgement.preferences or ()) for judgement in judgements} == {(None, None)}
    assert figures["reward"] is not None
    assert len(responses) == 16


def test_win_rates_leave_out_what_was_not_judged() -> None:
    judged = [Judgement([2.0, 1.5], 3, [3, 3]), Judgement(None, 50, [1, 1]), Judgement([1.0, 2.0], 4, [4, 4])]
    figures = win_rates(judged)
    # 75 and 50 per cent; half of the draws won outright; all of equal length
    assert (figures["win_rate"], figures["win_rate_se"], figures["n_eval"]) == (62.5, pytest.approx(12.5), 2)
    assert figures["win_rate_ties_as_losses"] == 50.0
    assert (figures["win_rate_length_controlled"], figures["win_rate_length_controlled_se"]) == (62.5, 12.5)


def test_a_win_rate_that_has_no_value_at_equal_length_is_null() -> None:
    """The longer response wins always."""
    judged = [Judgement([2.0], 9, [3]), Judgement([1.0], 3, [9]), Judgement([2.0], 8, [3])]
    figures = win_rates(judged)
    assert figures["win_rate_length_controlled"] is figures["win_rate_length_controlled_se"] is None
    assert figures["win_rate"] == pytest.approx(200 / 3)


# ---- Best of n. ---------------------------------------------------------------------------------------------------


def test_favourites_have_the_highest_score_and_come_first_among_equals() -> None:
    first, second, third = ([Response([number, prompt], "", True) for prompt in range(3)] for number in range(3))
    scores = [[0.0, 5.0, -1.0], [2.0, 5.0, -3.0], [1.0, 4.0, -1.0]]
    assert favourites([first, second, third], scores) == [second[0], first[1], first[2]]


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (2, 0.6931472 - 0.5), (16, 2.7725887 - 0.9375)])
def test_the_bound_on_the_divergence_of_the_best_of_n(n: int, nats: float) -> None:
    assert best_of_n_kl_bound(n) == pytest.approx(nats, abs=1e-6)


def test_the_bound_is_what_many_responses_of_different_scores_come_to() -> None:
    """By enumeration: of k equally likely responses, that of rank i is the best of n with (i^n - (i - 1)^n) / k^n."""
    n, divergences = 4, []
    for k in (10, 2000):
        chances = [(i / k) ** n - ((i - 1) / k) ** n for i in range(1, k + 1)]
        divergences.append(sum(chance * math.log(chance * k) for chance in chances))
    assert divergences[0] < divergences[1] < best_of_n_kl_bound(n)
    assert divergences[1] == pytest.approx(best_of_n_kl_bound(n), abs=0.01)


@pytest.mark.parametrize("algorithm", ["best_of_n", "ppo"])
def test_of_several_responses_the_reward_models_favourite_is_evaluated(
    make_setting: MakeSetting, algorithm: str
) -> None:
    setting = make_setting(f"algorithm={algorithm}", "evaluation.best_of=3")
    measure, reference = evaluator(setting), setting.base.reference()
    figures, responses, _, _ = measure(reference, seed=4)
    generator = torch.Generator().manual_seed(4)
    draws = [setting.sampler.sample(reference, measure.prompts, 1.0, generator) for _ in range(3)]
    scores = [score(setting.reward, setting.sampler, measure.prompts, draw) for draw in draws]
    best = [max(range(3), key=lambda draw: scores[draw][row]) for row in range(16)]
    assert set(best) == {0, 1, 2}
    assert responses == [draws[draw][row] for row, draw in enumerate(best)]
    assert figures["reward"] == pytest.approx(sum(max(column) for column in zip(*scores, strict=True)) / 16, abs=1e-5)
    assert figures["true_kl_per_token"] is None
    assert figures["kl_bound_per_response"] == pytest.approx(math.log(3) - 2 / 3)


# ---- How it is decoded. -------------------------------------------------------------------------------------------


@torch.no_grad()
def likeliest(setting: Setting, prompt: list[int], limit: int) -> list[int]:
    """The most probable continuation, every token by the whole text anew."""
    response: list[int] = []
    with setting.base.reference().on() as lm:
        while len(response) < limit and 2 not in response:
            response.append(int(lm(torch.tensor([prompt + response]), use_cache=False).logits[0, -1].argmax()))
    return response


def test_at_temperature_0_evaluation_is_greedy_whatever_the_seed(make_setting: MakeSetting) -> None:
    setting = make_setting("evaluation.temperature=0")
    measure, reference = evaluator(setting), setting.base.reference()
    figures, responses, _, _ = measure(reference, seed=0)
    again, same, _, _ = measure(reference, seed=1)
    assert same == responses
    assert again == figures
    wanted = [likeliest(setting, ids, 16) for ids in setting.sampler.encode(measure.prompts)]
    assert [response.token_ids for response in responses] == wanted


def test_greedy_factuality_stands_beside_that_of_the_samples(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure, reference = evaluator(setting), setting.base.reference()
    biographies = [prompt for prompt in measure.prompts if prompt.dataset == "biography"]
    assert len(biographies) > 2
    person = biographies[0].detail.person
    told = setting.sampler.tokenizer(f"{person.name} works as a {person.facts['profession']} .")["input_ids"]
    asked = []

    def sample(role, prompts, temperature, generator, limit):
        asked.append((temperature, limit))
        return [setting.sampler._response([*told, 2] if prompt is biographies[0] else [2]) for prompt in prompts]

    setting.sampler.sample = sample  # pyright: ignore[reportAttributeAccessIssue]
    assert measure.greedy(reference) == {"factuality_greedy": 100.0, "factuality_greedy_se": 0.0}
    assert asked == [(0.0, None)]


@pytest.mark.parametrize("limit", [5, 20])
def test_evaluation_may_have_a_limit_of_its_own(make_setting: MakeSetting, tmp_path: Path, limit: int) -> None:
    """Of tokens per response, for the policy and for what it is compared with; training has 16."""
    setting = make_setting(f"evaluation.max_response_tokens={limit}")
    measure, reference = evaluator(setting), setting.base.reference()
    longest = [max(len(response.token_ids) for response in measure(reference, seed=0).responses)]
    draw_baseline(setting.config, measure.prompts, setting.base, setting.sampler, tmp_path)
    own, references = load_baseline(tmp_path)
    longest += [max(len(response.token_ids) for response in draw) for draw in (own, *references)]
    assert longest == [limit] * 4


def test_a_baseline_at_temperature_0_is_the_same_in_each_draw(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("evaluation.temperature=0")
    prompts = evaluation_prompts(setting.config, setting.source)
    draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path)
    own, references = load_baseline(tmp_path)
    assert references == [own, own]
    assert own[0].token_ids == likeliest(setting, setting.sampler.encode(prompts)[0], 16)


def test_a_baseline_tells_how_many_prompts_were_cut(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("rollout.max_prompt_tokens=8")
    prompts = evaluation_prompts(setting.config, setting.source)
    longer = sum(len(prompt.text.split()) > 8 for prompt in prompts)  # the world's tokens are words
    assert 0 < longer < len(prompts)
    figures = draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path)
    assert figures == {"draws": 3, "cut_prompts": longer}


def test_a_baseline_is_read_back_as_it_was_drawn(make_setting: MakeSetting, tmp_path: Path) -> None:
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
