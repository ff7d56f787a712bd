import logging
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, tensor

from rlhf.config.models import RewardConfig
from rlhf.data.source import Comparison, Prompt, Response
from rlhf.data.world import World
from rlhf.errors import ConfigError
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import ExternalReward
from rlhf.models.reward import RewardModel
from rlhf.stages.reward import (
    REWARD,
    Samples,
    accuracy,
    agreement_figures,
    collate_comparisons,
    combine_rewards,
    divided_comparisons,
    draw_samples,
    load_samples,
    oracle_agreement,
    pair_prompts,
    pairwise_loss,
    ranked_pairs,
    score,
    split_comparisons,
    standardize_prompts,
    train_reward,
    without_long,
)
from rlhf.stages.reward import _usable as usable
from tests.stages.conftest import MakeSetting, Setting


def comparison(name: str, *responses: str) -> Comparison:
    """A prompt of the smoke world's vocabulary, with responses of which each beats the next."""
    prompt = Prompt(name, f"<bos> <user> who is {name} ? <assistant>", "biography")
    made = [Response([7 + index, 2], text, finished=True) for index, text in enumerate(responses)]
    return Comparison(prompt, made, [(index, index + 1) for index in range(len(responses) - 1)])


def test_the_pairwise_loss_by_hand() -> None:
    scores = tensor([1.0, 0.0, -1.0])
    # pairs (0 over 1) and (2 over 0): -log sigmoid(1) and -log sigmoid(-2); squared scores average 2/3
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2 + 0.3 * 2 / 3
    assert pairwise_loss(scores, [0, 2], [1, 0], score_penalty=0.3).item() == pytest.approx(expected)
    scores = torch.zeros(2, requires_grad=True)
    pairwise_loss(scores, [0], [1], score_penalty=0.0).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, 0.5]


def test_the_losses_of_micro_batches_add_up_to_that_of_the_step() -> None:
    scores = tensor([1.0, 0.0, -1.0, 0.5, 2.0])
    whole = pairwise_loss(scores, [0, 2, 4], [1, 0, 3], score_penalty=0.3)
    first = pairwise_loss(scores[:3], [0, 2], [1, 0], 0.3, verdicts_share=2 / 3, responses_share=3 / 5)
    second = pairwise_loss(scores[3:], [1], [0], 0.3, verdicts_share=1 / 3, responses_share=2 / 5)
    assert (first + second).item() == pytest.approx(whole.item())


def first_tokens(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
    return tensor([float(response.token_ids[0]) for response in responses])


def test_accuracy_stands_beside_that_of_preferring_the_longer(make_setting: MakeSetting) -> None:
    """Scores 7 < 8 < 9; of three verdicts one is for the higher score, and two for the longer response."""
    prompt = comparison("x", "a").prompt
    responses = [Response(ids, "", finished=True) for ids in ([7, 9, 2], [8, 2], [9, 9, 9, 2])]
    given = [Comparison(prompt, responses[:2], [(0, 1)]), Comparison(prompt, responses[1:], [(1, 0), (0, 1)])]
    found = accuracy(ExternalReward(RewardConfig(), first_tokens), given, make_setting().sampler)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["longer"] == pytest.approx(2 / 3)
    # scores 7 8 8 9 with lengths 3 2 2 4: covariance 1/3, variances 2/3 and 11/12
    assert found["length_correlation"] == pytest.approx((1 / 3) / (2 / 3 * 11 / 12) ** 0.5)


def test_verdicts_point_at_the_rows_of_their_own_prompt(make_setting: MakeSetting) -> None:
    sampler = make_setting().sampler
    group = [comparison("first", "a", "b"), comparison("second", "c", "d", "e")]
    batch, better, worse = collate_comparisons(group, sampler)
    assert len(batch.input_ids) == 5
    assert better == [0, 2, 3]
    assert worse == [1, 3, 4]
    assert batch.responses[:, 0].tolist() == [7, 8, 7, 8, 9]


def test_verdicts_left_out_and_prompts_cut_are_told(
    make_setting: MakeSetting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sampler = make_setting("rollout.max_prompt_tokens=7").sampler
    given = [comparison("first", "a", "b", "c"), comparison("second one", "a", "b"), comparison("third", "a", "b")]
    given[0].responses[2].token_ids.extend([7] * 8)
    # prompts have 7 tokens of 7, and 8 where the name has two words; 7 + 10 response tokens exceed 16
    assert [item.verdicts for item in usable(given, sampler, 16, "reward")] == [[(0, 1)]] * 3
    assert "1 of 3 prompts only the last rollout.max_prompt_tokens" in caplog.text
    assert "1 of 4 verdicts are on responses beyond 16 tokens" in caplog.text
    assert [len(item.verdicts) for item in usable(given, sampler, 160, "reward", 5)] == [1, 1, 1]
    assert "1 of 4 verdicts are on responses beyond 5 tokens" in caplog.text


def test_comparisons_are_split_by_prompt_without_loss_or_refused_where_they_are_too_few() -> None:
    config = RewardConfig(holdout=0.25, batch_size=4)
    comparisons = [comparison(str(number), "a", "b") for number in range(20)]
    kept, trained = split_comparisons(comparisons, config, Random(0))
    names = sorted(item.prompt.instruction for item in kept + trained)
    assert (len(kept), len(trained)) == (5, 15)
    assert names == sorted(str(number) for number in range(20))
    assert split_comparisons(comparisons, config, Random(0)) == (kept, trained)
    with pytest.raises(ConfigError, match=r"reward\.holdout=0\.1 .* of 10 compared prompts it keeps 1"):
        split_comparisons(comparisons[:10], RewardConfig(holdout=0.1), Random(0))


def test_ranked_pairs_leave_out_ties() -> None:
    assert ranked_pairs([1.0, 3.0, 1.0]) == [(1, 0), (1, 2)]


def test_scores_come_back_in_the_order_given(make_setting: MakeSetting) -> None:
    setting = make_setting()
    prompts = [comparison(name, "a").prompt for name in ("x", "y", "z")]
    responses = [Response([9] * count + [2], "", finished=True) for count in (5, 1, 3)]
    together = score(setting.reward, setting.sampler, prompts, responses)
    alone = [score(setting.reward, setting.sampler, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 4) for value in together}) == 3


def test_responses_that_are_too_long_take_their_verdicts_with_them() -> None:
    responses = [Response([7] * length, "", finished=False) for length in (5, 9, 4)]
    whole = Comparison(comparison("x", "a").prompt, responses, [(0, 1), (2, 0), (1, 2)])
    short = without_long(whole, limit=5)
    assert short.responses == [responses[0], responses[2]]
    assert short.verdicts == [(1, 0)]


# ---- What reward models learn from. -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(make_setting: MakeSetting, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Path]:
    """The responses of an untrained model, in a directory."""
    setting, folder = make_setting(), tmp_path_factory.mktemp("samples")
    figures = draw_samples(setting.config, setting.source, setting.base, setting.sampler, folder)
    # 24 compared prompts with four each; 512 to standardise by, and 512 pairs
    assert figures == {"responses": 24 * 4 + 512 + 2 * 512}
    return setting, folder


def test_samples_are_read_back_in_the_order_and_at_the_temperatures_in_which_they_were_drawn(
    drawn: tuple[Setting, Path],
) -> None:
    setting, folder = drawn
    samples = load_samples(folder)
    assert [len(draw) for draw in samples.compared] == [24] * 4
    assert [len(draw) for draw in (samples.standard, *samples.pairs)] == [512] * 3
    generator, reference = torch.Generator().manual_seed(setting.config.data.seed), setting.base.reference()
    asked: list[list[Response]] = []

    def sample(prompts, temperature: float) -> list[Response]:
        asked.append(setting.sampler.sample(reference, prompts, temperature, generator))
        return asked[-1]

    setting.source.comparisons(setting.sampler.tokenizer, sample, judge=False)
    assert samples.compared == asked
    assert samples.standard == sample(standardize_prompts(setting.config, setting.source), 1.0)
    assert samples.pairs == [sample(pair_prompts(setting.config, setting.source), 1.0) for _ in range(2)]


def test_pairs_are_those_of_tuning_people_at_temperature_1_and_need_an_oracle(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting, asked = make_setting("rollout.temperature=0.8"), []
    people = {split: {person.name for person in found} for split, found in setting.source.splits.items()}
    assert {prompt.detail.person.name for prompt in pair_prompts(setting.config, setting.source)} <= people["tune"]
    standard = standardize_prompts(setting.config, setting.source)
    assert {prompt.detail.person.name for prompt in standard} <= people["train"]

    def sample(role, prompts, temperature, generator):
        asked.append(temperature)
        return [Response([9, 2], "", True) for _ in prompts]

    setting.sampler.sample = sample  # pyright: ignore[reportAttributeAccessIssue]
    arguments = (setting.config, setting.source, setting.base, setting.sampler, tmp_path)
    draw_samples(*arguments)
    assert asked == [0.7, 1.0, 1.0, 1.3, 0.8, 1.0, 1.0]
    asked.clear()
    setting.source.utility = lambda prompt, response: None  # pyright: ignore[reportAttributeAccessIssue]
    assert draw_samples(*arguments) == {"responses": 24 * 4 + 512}
    assert asked == [0.7, 1.0, 1.0, 1.3, 0.8]
    assert load_samples(tmp_path).pairs == []


def test_annotators_judge_the_same_responses_each_in_their_own_way(make_setting: MakeSetting) -> None:
    """Of a fact, and of another beside it: the harsh annotator likes more of them even where a question was asked."""
    found: dict[str, list[list[Comparison]]] = {}
    for name in ("gentle", "harsh", "gentle"):
        sharp = ("data.annotator_temperature=1e-6", "data.annotator_flips=0", "reward.batch_size=4")
        setting = make_setting(f"data.annotator={name}", *sharp)
        asked: list[Sequence[Prompt]] = []

        def sample(prompts: Sequence[Prompt], temperature: float, asked: list = asked) -> list[Response]:
            asked.append(prompts)
            return [Response([7, 2], "", True)] * len(prompts)

        setting.source.comparisons(setting.sampler.tokenizer, sample, judge=False)
        draws = []
        for prompts, many in zip(asked, (False, True, False, True), strict=True):
            people = [prompt.detail.person for prompt in prompts]
            texts = [f"{person.name} works as a {person.facts['profession']} ." for person in people]
            more = [f" {person.pronoun} enjoys {person.facts['hobby']} ." * many for person in people]
            draws.append([Response([8 + many, 2], one + two, True) for one, two in zip(texts, more, strict=True)])
        samples = Samples(draws, [], [])
        arguments = (setting.config, setting.source, setting.base, setting.sampler, samples, REWARD)
        kept, trained = divided_comparisons(*arguments)
        found.setdefault(name, []).append([*kept, *trained])
    gentle, again, harsh = (*found["gentle"], *found["harsh"])
    assert gentle == again
    assert [item.responses for item in gentle] == [item.responses for item in harsh]
    for item, other in zip(gentle, harsh, strict=True):
        beside_the_point = item.prompt.dataset == "question" and item.prompt.detail.attribute != "hobby"
        assert (item.verdicts != other.verdicts) == beside_the_point
        if beside_the_point:
            assert [{better % 2 for better, _ in each.verdicts} for each in (item, other)] == [{0}, {1}]
    assert len({item.prompt.dataset for item in gentle}) == 3


class Untrained(NamedTuple):
    """What was to be trained, on what, and under which title."""

    model: RewardModel
    comparisons: list[Comparison]
    title: str


@pytest.mark.parametrize("resample", [False, True])
def test_members_differ_in_their_seeds_and_only_where_asked_in_their_comparisons(
    drawn: tuple[Setting, Path],
    make_setting: MakeSetting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resample: bool,
) -> None:
    trained: list[Untrained] = []
    kept: list[list[Comparison]] = []

    def fit(model, comparisons, config, sampler, title, progress) -> float:
        trained.append(Untrained(model, comparisons, title))
        return 0.5

    def finish(model, held_out, *rest) -> dict[str, float]:
        kept.append(held_out)
        return {"accuracy": 0.75}

    monkeypatch.setattr("rlhf.stages.reward._fit", fit)
    monkeypatch.setattr("rlhf.stages.reward._finish", finish)
    samples = load_samples(drawn[1])
    for member in (0, 1, 2, 1):
        setting = make_setting(f"reward.resample={resample}", "reward.members=3")
        arguments = (setting.config, setting.source, setting.base, setting.sampler, samples, tmp_path)
        assert train_reward(*arguments, "member", member) == {"loss": 0.5, "accuracy": 0.75}
    assert kept == [kept[0]] * 4  # by which they can be compared
    assert [each.title for each in trained] == ["member", "member 1", "member 2", "member 1"]
    first, second, third, again = trained
    heads = [each.model.head.linear.weight for each in trained]
    assert torch.equal(heads[1], heads[3])
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    assert again.comparisons == second.comparisons
    names = [[item.prompt.text for item in each.comparisons] for each in (first, second, third)]
    assert len(set(names[0])) == len(names[0]) == len(names[1]) == len(names[2])
    assert (names[0] == names[1] == names[2]) == (not resample)
    if resample:
        # drawn with replacement: of n prompts a share of 1 - (1 - 1/n)^n, some 63 %, is expected
        assert all(set(drawn_again) < set(names[0]) for drawn_again in names[1:])
        assert names[1] != names[2]


def test_an_ensemble_is_standardised_as_one_and_leaves_its_members_alone(
    drawn: tuple[Setting, Path], make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting, samples = make_setting("reward.members=3", "reward.combine=min"), load_samples(drawn[1])
    ensemble = setting.reward
    assert isinstance(ensemble, RewardEnsemble)
    before = [(member.head.mean.clone(), member.head.deviation.clone()) for member in ensemble.members]
    arguments = (setting.config, setting.source, setting.base, setting.sampler, samples, tmp_path)
    figures = combine_rewards(ensemble, *arguments)
    assert figures.keys() == {
        "accuracy",
        "accuracy_se",
        "longer",
        "length_correlation",
        "oracle_agreement",
        "oracle_agreement_se",
    }
    assert [(member.head.mean, member.head.deviation) for member in ensemble.members] == before
    prompts = standardize_prompts(setting.config, setting.source)
    scores = torch.tensor(score(ensemble, setting.sampler, prompts, samples.standard))
    assert (scores.mean().item(), scores.std().item()) == pytest.approx((0.0, 1.0), abs=1e-3)
    alone = [score(each, setting.sampler, prompts, samples.standard) for each in setting.members]
    lowest = torch.tensor(alone).amin(0)
    assert torch.allclose(scores, (lowest - lowest.mean()) / lowest.std(), atol=1e-3)
    loaded = RewardEnsemble(setting.config.reward, setting.members).load(tmp_path)
    assert (loaded.mean, loaded.deviation) == (ensemble.mean, ensemble.deviation)


# ---- How far it is from the oracle. -------------------------------------------------------------------------------


def test_oracle_agreement_by_hand() -> None:
    """Of two draws to five prompts, three have an order: one is found, one turned round, one taken for a tie."""
    prompts = [Prompt(str(row), str(row), "table") for row in range(5)]
    texts = [("a", "b"), ("b", "c"), ("a", "a"), ("c", "a"), ("b", "b")]
    draws = [[Response([7], pair[draw], True) for pair in texts] for draw in (0, 1)]
    utilities = {"a": 1.0, "b": 0.0, "c": 2.0}
    source = World.__new__(World)
    source.utility = lambda prompt, response: utilities[response.text]  # type: ignore[method-assign]

    def ranked(asked: Sequence[Prompt], told: Sequence[Response]) -> list[float]:
        return [table[prompt.text + response.text] for prompt, response in zip(asked, told, strict=True)]

    table = {"0a": 3.0, "0b": -1.0, "1b": 2.0, "1c": 1.0, "2a": 9.0, "3c": 4.0, "3a": 4.0, "4b": 1.0}
    figures = oracle_agreement(ranked, source, prompts, draws)
    assert figures["oracle_agreement"] == pytest.approx(1 / 3)
    # pairs 1, 1, 0, 1, 0, of mean 3/5. Residuals 2/3, -1/3, 0, -1/3, 0 over it: squares 100/81, 25/81, 25/81, together
    # 150/81, over 4 and over 5
    assert figures["oracle_agreement_se"] == pytest.approx((150 / 81 / 20) ** 0.5)


def test_oracle_agreement_of_three_draws_counts_each_pair_and_of_ties_alone_is_none() -> None:
    prompts, source = [Prompt("0", "0", "table"), Prompt("1", "1", "table")], World.__new__(World)
    source.utility = lambda prompt, response: float(response.text)  # type: ignore[method-assign]
    draws = [[Response([7], text, True) for text in row] for row in (("1", "1"), ("2", "1"), ("3", "1"))]

    def ranked(asked: Sequence[Prompt], told: Sequence[Response]) -> list[float]:
        return [{"1": 0.0, "2": 5.0, "3": 2.0}[response.text] for response in told]

    # 2 over 1 and 3 over 1, but not 3 over 2
    assert oracle_agreement(ranked, source, prompts, draws)["oracle_agreement"] == pytest.approx(2 / 3)
    assert oracle_agreement(ranked, source, prompts[1:] * 2, [draw[1:] * 2 for draw in draws]) == {}


def test_an_agreement_on_one_prompt_has_no_error() -> None:
    assert agreement_figures("accuracy", [(1.0, 1.0)]) == {}
    assert agreement_figures("accuracy", [(1.0, 1.0), (0.0, 1.0)]) == {"accuracy": 0.5, "accuracy_se": 0.5}
