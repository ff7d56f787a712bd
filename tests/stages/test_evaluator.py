import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.data.source import Response
from rlhf.errors import EndpointError
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Resources, ScoreJudge
from rlhf.evaluation.winrate import RATES, Judgement, win_rates
from rlhf.models.adapters import Role
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.baseline import (
    Baseline,
    draw_baseline,
    evaluation_at_start,
    evaluation_prompts,
    load_baseline,
    measure_baseline,
)
from rlhf.stages.evaluator import Evaluator, best_of_n_kl_bound, favourites, greedy_name
from rlhf.stages.reward import score
from tests.stages.by_hand import disturb
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
    "true_kl_per_response",
    "true_kl_per_response_se",
    "response_length",
    "reward",
    "objective",
    "objective_se",
    "repeats",
}
GREEDY_FIGURES = {
    *("win_rate_greedy", "win_rate_greedy_se", "win_rate_greedy_ties_as_losses"),
    *("win_rate_greedy_length_controlled", "win_rate_greedy_length_controlled_se"),
    *("factuality_greedy", "factuality_greedy_se", "response_length_greedy", "response_length_greedy_se"),
}
"""What is measured of greedy responses too."""


def evaluator(setting: Setting) -> Evaluator:
    prompts = evaluation_prompts(setting.config, setting.source)
    generator = torch.Generator().manual_seed(5)
    references = [setting.sampler.sample(setting.base.reference(), prompts, 1.0, generator) for _ in range(2)]
    greedy = setting.sampler.sample(setting.base.reference(), prompts, 0.0, generator)
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
        greedy,
        load_factuality(setting.config.factuality, Resources(setting.source)),
        Regularizer.create(setting.config.regularizer),
    )


def test_a_policy_equal_to_its_reference_has_no_divergence(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    evaluation = measure(setting.base.reference(), seed=0, coef=3.0)
    figures = evaluation.figures
    assert win_rates(evaluation.judgements).items() <= figures.items()
    assert figures["true_kl_per_token"] == figures["true_kl_per_response"] == figures["true_kl_per_response_se"] == 0.0
    assert set(figures) >= DESIGN_FIGURES | GREEDY_FIGURES
    assert {name for name in figures if "greedy" in name} == GREEDY_FIGURES
    assert "kl_bound_per_response" not in figures
    assert len(evaluation.responses) == figures["n_eval"] == setting.config.evaluation.prompts
    # decoded alike it says what the reference does
    assert evaluation.greedy == measure.greedy_reference
    assert figures["win_rate_greedy"] == 50.0
    assert figures["win_rate_greedy_se"] == figures["win_rate_greedy_ties_as_losses"] == 0.0


@pytest.mark.parametrize(
    ("name", "greedy"),
    [
        ("win_rate", "win_rate_greedy"),
        ("win_rate_se", "win_rate_greedy_se"),
        ("win_rate_ties_as_losses", "win_rate_greedy_ties_as_losses"),
        ("win_rate_length_controlled_se", "win_rate_greedy_length_controlled_se"),
        ("factuality", "factuality_greedy"),
        ("factuality_se", "factuality_greedy_se"),
        ("factuality_respond_ratio", "factuality_greedy_respond_ratio"),
        ("response_length_se", "response_length_greedy_se"),
        ("reward", None),
        ("n_eval", None),
        ("judge_problem", None),
        ("true_kl_per_token", None),
        ("finished", None),
    ],
)
def test_what_a_figure_of_greedy_responses_is_called(name: str, greedy: str | None) -> None:
    assert greedy_name(name) == greedy


def test_greedy_responses_are_measured_against_the_greedy_reference_and_sampled_ones_against_samples(
    make_setting: MakeSetting,
) -> None:
    """By the judge that likes the longer response; greedily the policy has 6 tokens, sampled it has 4."""
    setting = make_setting()
    measure = evaluator(setting)
    own, greedy, low, high = ([Response([7] * length, "", False)] * 16 for length in (4, 6, 3, 5))
    asked: list[list[int]] = []

    def judge(prompts, outputs, references):
        asked.append([len(outputs[0].token_ids), len(references[0].token_ids)])
        return measure.judge(prompts, outputs, references)

    chosen = replace(measure, judge=judge, references=[low, high], greedy_reference=high)
    sampled = chosen.measure(setting.base.reference(), own)
    both = chosen.add_greedy(sampled, greedy)
    assert asked == [[4, 3], [4, 5], [6, 5]]
    assert sampled.greedy is sampled.greedy_judgements is None
    assert (both.responses, both.judgements, both.scores) == (sampled.responses, sampled.judgements, sampled.scores)
    assert both.greedy == greedy
    assert both.greedy_judgements == [Judgement([2.0], 6, [5])] * 16
    assert sampled.figures.items() <= both.figures.items()
    assert both.figures.keys() - sampled.figures.keys() == GREEDY_FIGURES
    assert (both.figures["win_rate"], both.figures["win_rate_greedy"]) == (50.0, 100.0)
    assert (both.figures["response_length"], both.figures["response_length_greedy"]) == (4.0, 6.0)


# ---- The objective and the divergences, by hand. ------------------------------------------------------------------


@torch.no_grad()
def distributions(setting: Setting, role: Role, prompt: list[int], response: list[int]) -> Tensor:
    """Logits before each response token, of the whole text by itself."""
    with role.on() as lm:
        logits = lm(torch.tensor([prompt + response]), use_cache=False).logits[0].float()
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize(("trained", "temperature"), [(1.0, None), (0.8, None), (1.0, 0.5), (0.8, 0.5)])
@pytest.mark.parametrize("name", ["kl", "squared_error", "full_forward_kl"])
@pytest.mark.parametrize("missing", [-3.0, None])
def test_objective_and_divergence_of_each_response_by_hand(
    make_setting: MakeSetting, name: str, trained: float, temperature: float | None, missing: float | None
) -> None:
    """The score, or that of a missing EOS, less coefficient x penalties, summed over the response; and the exact KL."""
    settings = (f"rollout.temperature={trained}", f"ppo.missing_eos_score={'null' if missing is None else missing}")
    setting = make_setting(f"regularizer={name}", "evaluation.prompts=5", *settings)
    measure, learner = evaluator(setting), setting.learner()
    disturb(learner.policy_weights)
    responses = [Response([9 + row, 12, *[8] * row, 2][: 4 - (row == 3)], "", row != 3) for row in range(5)]
    assert [response.token_ids[-1] == 2 for response in responses].count(False) > 0
    evaluation = measure.measure(learner.policy, responses, coef=0.7, temperature=temperature)
    divergences, objectives = [], []
    for prompt, response, score_ in zip(
        setting.sampler.encode(measure.prompts), responses, evaluation.scores, strict=True
    ):
        p = (distributions(setting, learner.policy, prompt, response.token_ids) / (temperature or trained)).log_softmax(
            -1
        )
        q = (distributions(setting, learner.reference, prompt, response.token_ids) / trained).log_softmax(-1)
        taken = torch.tensor(response.token_ids)[:, None]
        log_ratio = (p - q).gather(1, taken).squeeze(1)
        penalty = (
            {
                "kl": log_ratio,
                "squared_error": log_ratio**2 / 2,
                "full_forward_kl": (q.exp() * (q - p)).sum(-1),
            }[name]
            .sum()
            .item()
        )
        divergences.append((p.exp() * (p - q)).sum().item())
        objectives.append((score_ if response.finished or missing is None else missing) - 0.7 * penalty)
    figures, tokens = evaluation.figures, sum(len(response.token_ids) for response in responses)
    assert min(divergences) > 1e-4
    assert figures["true_kl_per_token"] == pytest.approx(sum(divergences) / tokens, rel=1e-3)
    assert figures["true_kl_per_response"] == pytest.approx(statistics.fmean(divergences), rel=1e-3)
    assert figures["true_kl_per_response_se"] == pytest.approx(statistics.stdev(divergences) / 5**0.5, rel=1e-3)
    assert figures["objective"] == pytest.approx(statistics.fmean(objectives), abs=1e-4)
    assert figures["objective_se"] == pytest.approx(statistics.stdev(objectives) / 5**0.5, abs=1e-4)
    without = measure.measure(learner.policy, responses, temperature=temperature).figures
    assert abs(without["objective"] - figures["objective"]) > 1e-3  # the penalty has a weight
    assert without["reward"] == figures["reward"] == pytest.approx(statistics.fmean(evaluation.scores))


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
    judged = [Judgement([2.0, 1.5], 3, [2, 3]), Judgement([1.0, 1.0], 3, [4, 9])]
    assert two.judge_responses(own, references) == (judged, None)
    assert two.judge_responses(own, references[:1]) == ([Judgement([2.0], 3, [2]), Judgement([1.0], 3, [4])], None)
    setting.source.seen_by_reward = lambda prompt: prompt is two.prompts[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(two).judge_responses(own, references) == ([Judgement(None, 3, [2, 3]), judged[1]], None)


def test_a_judge_that_can_not_be_asked_costs_the_win_rate_alone(make_setting: MakeSetting) -> None:
    def down(prompts, outputs, references):
        raise EndpointError("the server is down")

    setting = make_setting()
    measure = replace(evaluator(setting), judge=down)
    evaluation = measure(setting.base.reference(), seed=0)
    figures = evaluation.figures
    for rates in (RATES, [name.replace("win_rate", "win_rate_greedy") for name in RATES]):
        assert {name: figures[name] for name in rates} == dict.fromkeys(rates)
    assert (figures["judge_problem"], figures["n_eval"], figures["n_null"]) == ("the server is down", 0, 32)
    assert {tuple(judgement.preferences or ()) for judgement in evaluation.judgements} == {(None, None)}
    assert {tuple(judgement.preferences or ()) for judgement in evaluation.greedy_judgements or []} == {(None,)}
    assert figures["reward"] is not None
    assert len(evaluation.responses) == len(evaluation.greedy or []) == 16


@pytest.mark.parametrize("fails", [0, 2])
def test_a_judge_that_fails_once_is_named_whichever_responses_it_failed_on(
    make_setting: MakeSetting, fails: int
) -> None:
    setting, calls = make_setting(), []
    measure = evaluator(setting)

    def down_once(prompts, outputs, references):
        calls.append(len(calls))
        if calls[-1] == fails:
            raise EndpointError("the server is down")
        return measure.judge(prompts, outputs, references)

    figures = replace(measure, judge=down_once)(setting.base.reference(), seed=0).figures
    assert figures["judge_problem"] == "the server is down"
    # the first failure, on one of two draws, is of the samples; the third question is that about greedy responses
    assert [figures[name] is None for name in ("win_rate", "win_rate_greedy")] == [fails == 0, fails == 2]


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
    figures, responses, _, _, *greedy = measure(reference, seed=4, coef=0.5)
    generator = torch.Generator().manual_seed(4)
    draws = [setting.sampler.sample(reference, measure.prompts, 1.0, generator) for _ in range(3)]
    scores = [score(setting.reward, setting.sampler, measure.prompts, draw) for draw in draws]
    best = [max(range(3), key=lambda draw: scores[draw][row]) for row in range(16)]
    assert set(best) == {0, 1, 2}
    assert responses == [draws[draw][row] for row, draw in enumerate(best)]
    assert figures["reward"] == pytest.approx(sum(max(column) for column in zip(*scores, strict=True)) / 16, abs=1e-5)
    unknown = {f"{name}{error}" for name in ("true_kl_per_response", "objective") for error in ("", "_se")}
    assert {name for name in figures if figures[name] is None} >= unknown | {"true_kl_per_token"}
    assert greedy == [None, None]
    assert not [name for name in figures if "greedy" in name]
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
    evaluation, again = measure(reference, seed=0), measure(reference, seed=1)
    assert again == evaluation
    figures, responses, judgements, _, greedy, greedy_judgements = evaluation
    assert (greedy, greedy_judgements) == (responses, judgements)
    assert {name for name in figures if "greedy" in name} == GREEDY_FIGURES
    assert all(figures[name] == figures[name.replace("_greedy", "")] for name in GREEDY_FIGURES)
    wanted = [likeliest(setting, ids, 16) for ids in setting.sampler.encode(measure.prompts)]
    assert [response.token_ids for response in responses] == wanted


def test_greedy_factuality_stands_beside_that_of_the_samples(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure, reference = evaluator(setting), setting.base.reference()
    biographies = [prompt for prompt in measure.prompts if prompt.dataset == "biography"]
    assert len(biographies) > 2
    person = biographies[0].detail.person
    tell = f"{person.name} works as a {person.facts['profession']} ."
    lie = next(word for word in setting.source.values["profession"] if word != person.facts["profession"])
    texts = {0.0: tell, 1.0: f"{person.name} works as a {lie} ."}
    told = {heat: setting.sampler.tokenizer(text)["input_ids"] for heat, text in texts.items()}
    asked = []

    def sample(role, prompts, temperature, generator, limit, *_):
        asked.append((temperature, limit))
        rows = [[*told[temperature], 2] if prompt is biographies[0] else [2] for prompt in prompts]
        return [setting.sampler._response(row) for row in rows]

    setting.sampler.sample = sample  # pyright: ignore[reportAttributeAccessIssue]
    figures = measure(reference, seed=0).figures
    assert (figures["factuality"], figures["factuality_greedy"], figures["factuality_greedy_se"]) == (0.0, 100.0, 0.0)
    assert asked == [(1.0, None), (0.0, None)]


@pytest.mark.parametrize("limit", [5, 20])
def test_evaluation_may_have_a_limit_of_its_own(make_setting: MakeSetting, tmp_path: Path, limit: int) -> None:
    """Of tokens per response, for the policy and for what it is compared with; training has 16."""
    setting = make_setting(f"evaluation.max_response_tokens={limit}")
    measure, reference = evaluator(setting), setting.base.reference()
    evaluation = measure(reference, seed=0)
    draw_baseline(setting.config, measure.prompts, setting.base, setting.sampler, tmp_path)
    drawn = load_baseline(tmp_path)
    draws = [evaluation.responses, evaluation.greedy or [], drawn.own, *drawn.references, drawn.greedy]
    draws += drawn.controls.values()
    assert [max(len(response.token_ids) for response in draw) for draw in draws] == [limit] * 8


def test_a_baseline_at_temperature_0_is_the_same_in_each_draw(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("evaluation.temperature=0")
    prompts = evaluation_prompts(setting.config, setting.source)
    draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path)
    drawn = load_baseline(tmp_path)
    own = drawn.own
    assert drawn.references == [own, own]
    assert drawn.greedy == own
    assert drawn.controls == {}  # which would be sampled, and compared with what is not
    assert own[0].token_ids == likeliest(setting, setting.sampler.encode(prompts)[0], 16)


@pytest.mark.parametrize("limits", [(8, None), (24, 8), (8, 24)], ids=["training's", "shorter", "longer"])
def test_a_baseline_tells_how_many_prompts_were_cut(
    make_setting: MakeSetting, tmp_path: Path, limits: tuple[int, int | None]
) -> None:
    own = "null" if limits[1] is None else limits[1]
    setting = make_setting(f"rollout.max_prompt_tokens={limits[0]}", f"evaluation.max_prompt_tokens={own}")
    prompts = evaluation_prompts(setting.config, setting.source)
    longer = sum(len(prompt.text.split()) > 8 for prompt in prompts)  # the world's tokens are words
    assert 0 < longer < len(prompts)
    figures = draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path)
    assert figures == {"draws": 6} | ({"cut_prompts": longer} if (limits[1] or limits[0]) == 8 else {})


@pytest.mark.parametrize("temperatures", [[0.7, 0.5], [0.9], []])
def test_a_baseline_is_read_back_as_it_was_drawn(
    make_setting: MakeSetting, tmp_path: Path, temperatures: list[float]
) -> None:
    setting = make_setting(f"evaluation.control_temperatures={temperatures}")
    prompts = evaluation_prompts(setting.config, setting.source)
    figures = draw_baseline(setting.config, prompts, setting.base, setting.sampler, tmp_path)
    assert figures == {"draws": 4 + len(temperatures)}
    drawn = load_baseline(tmp_path)
    own, references = drawn.own, drawn.references
    assert len(references) == setting.config.evaluation.references == 2
    assert list(drawn.controls) == [str(temperature) for temperature in temperatures]
    assert {len(draw) for draw in [own, *references, drawn.greedy, *drawn.controls.values()]} == {16}
    assert own != references[0] != references[1]
    generator, reference = torch.Generator().manual_seed(setting.config.data.seed), setting.base.reference()
    again = [
        setting.sampler.sample(reference, prompts, heat, generator) for heat in (1.0, 1.0, 1.0, 0.0, *temperatures)
    ]
    assert again == [own, *references, drawn.greedy, *drawn.controls.values()]
    assert drawn.greedy[0].token_ids == likeliest(setting, setting.sampler.encode(prompts)[0], 16)


# ---- The SFT model's own figures. ---------------------------------------------------------------------------------


def drawn_baseline(setting: Setting, measure: Evaluator, folder: Path) -> tuple[Evaluator, Baseline]:
    """A baseline, and an evaluator that compares with it."""
    draw_baseline(setting.config, measure.prompts, setting.base, setting.sampler, folder)
    drawn = load_baseline(folder)
    return replace(measure, references=drawn.references, greedy_reference=drawn.greedy), drawn


def test_the_sft_model_against_itself_has_50_by_definition_and_is_measured_otherwise(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting = make_setting()
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    measured = measure_baseline(measure, drawn)
    own = measured["own"]
    assert (own["win_rate"], own["win_rate_greedy"]) == (50.0, 50.0)
    # no error, no rate at equal length, no count of what was judged: nothing was
    assert {name for name in own if name.startswith("win_rate")} == {"win_rate", "win_rate_greedy"}
    assert not {"n_eval", "n_null", "judge_problem"} & own.keys()
    full = measure.add_greedy(measure.measure(setting.base.reference(), drawn.own), drawn.greedy)
    assert full.figures["win_rate"] != 50.0
    same = {name for name in full.figures if not name.startswith(("win_rate", "n_", "judge_problem"))}
    assert {name: own[name] for name in same} == {name: full.figures[name] for name in same}
    assert own.keys() == same | {"win_rate", "win_rate_greedy"}
    assert own["true_kl_per_token"] == own["true_kl_per_response"] == 0.0
    assert measured["scores"] == full.scores


def test_controls_are_measured_like_a_policy_and_their_divergence_is_that_of_their_temperature(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting = make_setting("evaluation.control_temperatures=[0.5]", "evaluation.prompts=6")
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    measured = measure_baseline(measure, drawn)
    [control] = measured["controls"].values()
    draw = drawn.controls["0.5"]
    # the longer response wins, against each of two draws, and half of a tie
    lengths = torch.tensor([[len(response.token_ids) for response in each] for each in (draw, *drawn.references)])
    own, others = lengths[:1], lengths[1:]
    shares = ((own > others).double() + (own == others) / 2).mean(0).tolist()
    assert control["win_rate"] == pytest.approx(100 * statistics.fmean(shares))
    assert control["win_rate_se"] == pytest.approx(100 * statistics.stdev(shares) / 6**0.5)
    divergences = []
    for prompt, response in zip(setting.sampler.encode(measure.prompts), draw, strict=True):
        logits = distributions(setting, measure.reference, prompt, response.token_ids)
        p, q = (logits / 0.5).log_softmax(-1), logits.log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum().item())
    assert control["true_kl_per_response"] == pytest.approx(statistics.fmean(divergences), rel=1e-3)
    assert control["true_kl_per_response"] > 0.01
    assert not [name for name in control if "greedy" in name]


def test_the_judge_is_asked_about_controls_alone(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting, asked = make_setting(), []
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)

    def judge(prompts, outputs, references):
        asked.append((outputs, references))
        return measure.judge(prompts, outputs, references)

    measure_baseline(replace(measure, judge=judge), drawn)
    assert asked == [(draw, reference) for draw in drawn.controls.values() for reference in drawn.references]


def test_the_evaluation_at_the_start_is_the_baselines(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting()
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    measured = measure_baseline(measure, drawn)
    evaluation = evaluation_at_start(drawn, measured)
    assert evaluation.figures == measured["own"]
    assert (evaluation.responses, evaluation.greedy, evaluation.scores) == (drawn.own, drawn.greedy, measured["scores"])
    rows = zip(drawn.own, zip(*drawn.references, strict=True), strict=True)
    sampled = [Judgement(None, len(own.token_ids), [len(each.token_ids) for each in others]) for own, others in rows]
    assert evaluation.judgements == sampled
    greedy = [Judgement(None, len(own.token_ids), [len(own.token_ids)]) for own in drawn.greedy]
    assert evaluation.greedy_judgements == greedy


# ---- On fewer prompts. --------------------------------------------------------------------------------------------


def test_an_evaluator_of_the_first_prompts_is_that_of_a_configuration_with_fewer(make_setting: MakeSetting) -> None:
    setting = make_setting()
    measure = evaluator(setting)
    few = measure.first(5)
    assert few.prompts == measure.prompts[:5]
    assert few.references == [draw[:5] for draw in measure.references]
    assert few.greedy_reference == measure.greedy_reference[:5]
    evaluation = few(setting.base.reference(), seed=0)
    assert len(evaluation.responses) == len(evaluation.greedy or []) == evaluation.figures["n_eval"] == 5
    assert measure.first(None).prompts == measure.prompts


def test_evaluation_people_are_none_that_training_saw(make_setting: MakeSetting) -> None:
    setting = make_setting()
    people = {prompt.detail.person.name for prompt in evaluation_prompts(setting.config, setting.source)}
    assert people <= {person.name for person in setting.source.splits["eval"]}
    assert not people & {person.name for split in ("train", "tune") for person in setting.source.splits[split]}
