import math
from random import Random

import pytest
import torch
from torch import tensor

from rlhf.data.source import Comparison, Prompt, Response
from rlhf.errors import ConfigError
from rlhf.stages.reward import _usable as usable
from rlhf.stages.reward import collate_comparisons, pairwise_loss, ranked_pairs, score, split_comparisons, without_long
from tests.stages.conftest import MakeSetting


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


def test_the_pairwise_loss_raises_the_better_and_lowers_the_worse() -> None:
    scores = torch.zeros(2, requires_grad=True)
    pairwise_loss(scores, [0], [1], score_penalty=0.0).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, 0.5]


def test_verdicts_point_at_the_rows_of_their_own_prompt(make_setting: MakeSetting) -> None:
    sampler = make_setting().sampler
    group = [comparison("first", "a", "b"), comparison("second", "c", "d", "e")]
    batch, better, worse = collate_comparisons(group, sampler)
    assert len(batch.input_ids) == 5
    assert better == [0, 2, 3]
    assert worse == [1, 3, 4]
    assert batch.responses[:, 0].tolist() == [7, 8, 7, 8, 9]


def test_verdicts_left_out_and_prompts_cut_are_told(
    make_setting: MakeSetting, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = make_setting("rollout.max_prompt_tokens=7").sampler
    given = [comparison("first", "a", "b", "c"), comparison("second one", "a", "b"), comparison("third", "a", "b")]
    given[0].responses[2].token_ids.extend([7] * 8)
    # prompts have 7 tokens of 7, and 8 where the name has two words; 7 + 10 response tokens exceed 16
    assert [item.verdicts for item in usable(given, sampler, 16, "reward")] == [[(0, 1)]] * 3
    told = " ".join(capsys.readouterr().out.split())
    assert "reward: of 1 of 3 prompts only the last rollout.max_prompt_tokens are read" in told
    assert "reward: 1 of 4 verdicts are on responses beyond 16 tokens, left out" in told


def test_comparisons_are_split_by_prompt_without_loss(make_setting: MakeSetting) -> None:
    config = make_setting("reward.holdout=0.25", "reward.batch_size=4").config.reward
    comparisons = [comparison(str(number), "a", "b") for number in range(20)]
    kept, trained = split_comparisons(comparisons, config, Random(0))
    names = sorted(item.prompt.instruction for item in kept + trained)
    assert (len(kept), len(trained)) == (5, 15)
    assert names == sorted(str(number) for number in range(20))
    assert split_comparisons(comparisons, config, Random(0)) == (kept, trained)


def test_too_few_comparisons_are_refused(make_setting: MakeSetting) -> None:
    config = make_setting("reward.holdout=0.1").config.reward
    with pytest.raises(ConfigError, match=r"reward\.holdout=0\.1 is not allowed: of 10 compared prompts it keeps 1"):
        split_comparisons([comparison(str(number), "a", "b") for number in range(10)], config, Random(0))


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
