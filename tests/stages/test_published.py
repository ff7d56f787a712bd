"""What the published code of arXiv 2309.09055 does, each switch by itself against a few lines of its own, and together.

Beside each stands what is done by default.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rlhf.errors import ConfigError
from rlhf.models.batch import Batch, collate
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.reward import RewardModel
from rlhf.models.value import BackboneValue
from rlhf.process.distributed import Ranks
from rlhf.rl.trajectory import Targets, Trajectory
from rlhf.stages.learner import Learner
from rlhf.stages.published import PublishedLearner, build_learner, cleaned, in_one_go, published_whiten
from rlhf.stages.published import gradients as gradients_of
from tests.configure import configure
from tests.rl.rollouts import goal_of, two_responses
from tests.stages.by_hand import FREE, LENGTHS, TOKENS, disturb, gradients, losses, roll_out, same
from tests.stages.conftest import MakeSetting

WIDTH = 16  # experiment=smoke: rollout.max_response_tokens
SWITCHES = (
    *("average=positions", "whiten_padding=true", "bootstrap_padding=true", "repeat_micro_batch=true"),
    *("retokenize=true", "clip_jointly=true", "whole_epochs=true"),
)


@pytest.mark.parametrize("switch", [*SWITCHES, "average=responses", "dropout=true"])
def test_the_published_learner_is_made_where_a_switch_is_on(make_setting: MakeSetting, switch: str) -> None:
    published = switch in SWITCHES
    assert type(make_setting(f"ppo.{switch}").learner()) is (PublishedLearner if published else Learner)


# ---- 1: the same micro-batch again and again. ---------------------------------------------------------------------


def masked_mean_gradient(learner: Learner, part: Trajectory, goal: Targets) -> tuple[Tensor, ...]:
    mask, by_token = part.batch.mask, losses(learner, part, goal)[0]
    return torch.autograd.grad((by_token * mask).sum() / mask.sum(), learner.policy_weights)


def test_a_micro_batch_repeated_adds_its_own_gradient_as_often_as_a_step_has_micro_batches(
    make_setting: MakeSetting,
) -> None:
    learner = make_setting("ppo.repeat_micro_batch=true", "ppo.max_grad_norm=1e9", "ppo.step_batch_size=8").learner()
    trajectory, goal = roll_out(learner)
    rows = torch.tensor([5, 2])  # a micro-batch; steps of 8 have four of them
    once = masked_mean_gradient(learner, trajectory.select(rows), goal.select(rows))
    policy, _, _ = gradients(learner, trajectory, goal, rows.tolist())
    assert same(policy, [4 * gradient for gradient in once])


def test_distinct_micro_batches_make_one_step_whose_tokens_all_count_alike(make_setting: MakeSetting) -> None:
    learner = make_setting(*FREE).learner()
    trajectory, goal = roll_out(learner)
    policy, _, _ = gradients(learner, trajectory, goal)
    assert same(policy, masked_mean_gradient(learner, trajectory, goal))


@pytest.mark.parametrize(("repeat", "sizes"), [(True, [2] * 8), (False, [4] * 4)])
def test_an_update_goes_through_the_rollout_in_steps_or_in_micro_batches(
    make_setting: MakeSetting, repeat: bool, sizes: list[int]
) -> None:
    learner = make_setting(f"ppo.repeat_micro_batch={repeat}").learner()
    trajectory, goal = roll_out(learner)
    optimize, chosen = learner._optimize, []
    learner._optimize = lambda *given: chosen.append(given[2].tolist()) or optimize(*given)
    row = learner._update(trajectory, goal)
    assert [len(rows) for rows in chosen] == sizes
    assert row["ppo/optimizer_steps"] == len(sizes)
    epochs = chosen[: len(sizes) // 2], chosen[len(sizes) // 2 :]
    for epoch in epochs:
        assert sorted(row for rows in epoch for row in rows) == list(range(8))
    assert epochs[0] != epochs[1]


def test_a_repeated_micro_batch_is_clipped_each_time(make_setting: MakeSetting) -> None:
    settings = ("ppo.repeat_micro_batch=true", "ppo.step_batch_size=4")
    free = make_setting(*settings, "ppo.max_grad_norm=1e9").learner()
    once = masked_mean_gradient(free, *(part.select(torch.tensor([2, 4])) for part in roll_out(free)))
    norm = torch.cat([gradient.flatten() for gradient in once]).norm().item()
    limit = norm / 4
    learner = make_setting(*settings, f"ppo.max_grad_norm={limit}").learner()
    policy, _, row = gradients(learner, *roll_out(learner), [2, 4])
    # clipped to the limit, then the same gradient on top, and clipped again
    assert row["ppo/grad_norm"] == pytest.approx(limit + norm, rel=1e-4)
    assert torch.cat([gradient.flatten() for gradient in policy]).norm().item() == pytest.approx(limit, rel=1e-4)


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads of this process; `slots` has a place for what each gives."""

    slots: tuple[list[Tensor], threading.Barrier] = ([], threading.Barrier(1))

    def exchange(self, values: Tensor) -> list[Tensor]:
        given, barrier = self.slots
        given[self.rank] = values
        barrier.wait()
        found = list(given)
        barrier.wait()
        return found

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self.exchange(rows))

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.exchange(values)).sum(0)


def test_two_ranks_make_the_optimizer_steps_of_one(make_setting: MakeSetting) -> None:
    switches = ("ppo.repeat_micro_batch=true", "ppo.clip_jointly=true", "ppo.max_grad_norm=0.05", "ppo.warmup_steps=0")

    def built(ranks: Ranks) -> Learner:
        made = make_setting(*switches, "value=adapter")
        return build_learner(made.config, made.source, made.base, made.reward, made.sampler, ranks)

    def updated(learner: Learner) -> tuple[float, list[Tensor]]:
        row = learner._update(*roll_out(learner))
        return row["ppo/optimizer_steps"], [*learner.policy_weights, *learner.value_weights]

    slots = ([torch.zeros(0)] * 2, threading.Barrier(2, timeout=60))
    steps, alone = updated(built(Ranks()))
    learners = [built(ThreadRanks(rank, 2, slots)) for rank in range(2)]  # one after another: they seed torch
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(updated, learners))
    assert [count for count, _ in together] == [steps, steps] == [8, 8]
    assert same(together[0][1], alone, 1e-4)
    assert all(torch.equal(*pair) for pair in zip(together[0][1], together[1][1], strict=True))
    with pytest.raises(ConfigError, match=r"^ppo\.micro_batch_size=2 is not allowed: with ppo\.repeat_micro_batch 4 "):
        make_setting(*switches).config.micro_batch_size(4)


# ---- Clipping. ----------------------------------------------------------------------------------------------------


def test_policy_and_value_are_clipped_by_the_norm_of_both() -> None:
    class Clipping(PublishedLearner):
        def __init__(self, jointly: bool) -> None:
            self.config = configure("experiment=smoke", f"ppo.clip_jointly={jointly}", "ppo.max_grad_norm=1.0")
            self.policy_weights, self.value_weights = ([nn.Parameter(torch.zeros(2))] for _ in range(2))
            self.policy_weights[0].grad = torch.tensor([3.0, 0.0])
            self.value_weights[0].grad = torch.tensor([0.0, 4.0])

        def clipped(self) -> list[Tensor]:
            assert self._clip() == {"ppo/grad_norm": 3.0, "ppo/value_grad_norm": 4.0}
            return gradients_of([*self.policy_weights, *self.value_weights])

    # the norm of (3, 0, 0, 4) is 5
    torch.testing.assert_close(Clipping(True).clipped(), [torch.tensor([0.6, 0.0]), torch.tensor([0.0, 0.8])])
    torch.testing.assert_close(Clipping(False).clipped(), [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])


# ---- Whole epochs. ------------------------------------------------------------------------------------------------


def test_prompts_come_in_shuffled_epochs_which_a_checkpoint_goes_on_with(make_setting: MakeSetting) -> None:
    def made() -> PublishedLearner:
        learner = make_setting("ppo.whole_epochs=true").learner()
        assert isinstance(learner, PublishedLearner)
        learner.fitting = learner.fitting[:20]
        return learner

    learner = made()
    texts = [prompt.text for _ in range(5) for prompt in learner._draw_prompts()[0]]
    every = sorted(prompt.text for prompt in learner.fitting)
    first, second = texts[:20], texts[20:]
    assert sorted(first) == sorted(second) == every
    assert len(set(every)) == 20
    assert first != second
    stopped, going = made(), made()
    drawn = [prompt.text for prompt in stopped._draw_prompts()[0]]
    going.load_state(stopped.state())
    drawn += [prompt.text for _ in range(4) for prompt in going._draw_prompts()[0]]
    assert drawn == texts
    state = stopped.state()
    del state["epoch"]  # a branch of a run without whole epochs
    going = made()
    going.load_state(state)
    assert going.epoch == []


# ---- 2: means over all positions. ---------------------------------------------------------------------------------


Mean = Callable[[Tensor, Tensor], Tensor]


def over_positions(values: Tensor, mask: Tensor) -> Tensor:
    return values.sum() / (8 * WIDTH)


def over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / TOKENS


def over_responses(values: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[:length].mean() for row, length in zip(values, LENGTHS, strict=True)]).mean()


@pytest.mark.parametrize(
    ("average", "mean"), [("positions", over_positions), ("tokens", over_tokens), ("responses", over_responses)]
)
def test_losses_are_averaged_as_asked(make_setting: MakeSetting, average: str, mean: Mean) -> None:
    learner = make_setting(*FREE, f"ppo.average={average}").learner()
    trajectory, goal = roll_out(learner)
    disturb(learner.policy_weights, 0.01, seed=1)  # the ratio is not 1
    policy, value, row = gradients(learner, trajectory, goal)
    policy_loss, value_loss = (mean(each, trajectory.batch.mask) for each in losses(learner, trajectory, goal))
    assert row["ppo/policy_loss"] == pytest.approx(policy_loss.item(), abs=1e-6)
    assert row["ppo/value_loss"] == pytest.approx(value_loss.item(), abs=1e-6)
    assert same(policy, torch.autograd.grad(policy_loss, learner.policy_weights))
    assert same(value, torch.autograd.grad(0.1 * value_loss, learner.value_weights))


def test_over_all_positions_weights_are_alike_and_sum_to_1(make_setting: MakeSetting) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    assert torch.equal(make_setting("ppo.average=positions").learner()._weights(mask), torch.full((3, 4), 1 / 12))


# ---- 3 and 4: pads in whitening and in the values' bootstrap. -----------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "width"),
    [
        ((), max(LENGTHS)),
        (("ppo.average=responses",), max(LENGTHS)),
        (("ppo.average=positions",), WIDTH),
        (("ppo.whiten_padding=true",), WIDTH),
        (("ppo.bootstrap_padding=true",), WIDTH),
    ],
)
def test_a_rollout_is_as_wide_as_its_limit_where_padding_counts(
    make_setting: MakeSetting, overrides: tuple[str, ...], width: int
) -> None:
    trajectory, goal = roll_out(make_setting(*overrides).learner())
    assert trajectory.batch.responses.shape == trajectory.values.shape == goal.advantages.shape == (8, width)
    assert trajectory.batch.lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize("value", ["head", "paper"])
def test_values_behind_eos_are_the_heads_bias_and_are_bootstrapped_from(make_setting: MakeSetting, value: str) -> None:
    learner = make_setting(f"value={value}", "ppo.bootstrap_padding=true").learner()
    trajectory, goal = roll_out(learner)
    [bias] = [weight for weight in learner.value_weights if weight.shape == (1,)]
    mask = trajectory.batch.mask
    behind = ~mask & torch.cat([~mask[:, :1], ~mask[:, :-1]], 1)  # the token before is a pad, not EOS
    assert bias.item() != 0
    assert behind.sum() == sum(WIDTH - length - 1 for length in LENGTHS)
    assert torch.equal(trajectory.values[behind], bias.expand(int(behind.sum())))
    after_eos = ~mask & ~behind  # the state of EOS itself
    assert (trajectory.values[after_eos] - bias).abs().min() > 0
    # rewards of 0 there, and a value of 0 behind the last position: the return is 0 there
    assert torch.allclose(goal.returns[:, -1], torch.zeros(8), atol=1e-6)
    trajectory, goal = roll_out(make_setting(f"value={value}").learner())
    assert not trajectory.values[~trajectory.batch.mask].any()
    assert not goal.returns[~trajectory.batch.mask].any()


def close(actual: Tensor, wanted: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(wanted, dtype=actual.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "shift_mean", "wanted", "deviation"),
    [
        # Over all positions: mean 1.5, squared deviations 6.25, 0.25, 2.25, 2.25, 0.25 and 2.25, together 13.5; the
        # root of 13.5 / 6 is 1.5. Without `shift_mean` the mean is added back, also where the value was 0.
        ([[-1.0, 2.0, 0.0], [3.0, 2.0, 3.0]], True, [[-5 / 3, 1 / 3, -1], [1, 1 / 3, 1]], 1.5),
        ([[-1.0, 2.0, 0.0], [3.0, 2.0, 3.0]], False, [[-1 / 6, 11 / 6, 0.5], [2.5, 11 / 6, 2.5]], 1.5),
        # Mean 2e-8, deviation 1e-8, to which 1e-8 is added, and not to the variance, as in the divisor of penalties.
        ([[1e-8, 3e-8]], True, [[-0.5, 0.5]], 1e-4),
    ],
)
def test_published_whitening_by_hand(
    values: list[list[float]], shift_mean: bool, wanted: list[list[float]], deviation: float
) -> None:
    given = torch.tensor(values, dtype=torch.float64)
    found, divisor = published_whiten(given, torch.zeros_like(given).bool(), shift_mean)
    close(found, wanted)
    assert divisor == pytest.approx(deviation, rel=1e-6)


def test_published_reward_whitening_counts_the_pad_and_adds_the_mean_back() -> None:
    # Of rewards -0.5, 5.5, 0 and 0, -1, -2.5, as tests/rl/test_trajectory.py has them. Over all six: mean 1.5 / 6 =
    # 0.25; squares of the deviations 0.5625, 27.5625, 0.0625, 0.0625, 1.5625, 7.5625, together 37.375; the root of
    # 37.375 / 6 is 2.4958298. Each is (reward - 0.25) / 2.4958298 + 0.25, the pad's too.
    goal = goal_of(two_responses(), whiten=published_whiten, whiten_rewards=True)
    close(goal.rewards, [[-0.0505013, 2.3535089, 0.1498329], [0.1498329, -0.2508354, -0.8518379]])
    # the pad's reward is in no advantage: 2.3535089 - 2, and before it -0.0505013 + 2 - 1 + 0.3535089 / 2
    close(goal.advantages[:1], [[1.1262532, 0.3535089, 0]])
    close(goal.scale, [[1 / 2.4958298]] * 2)
    close(goal.objectives[None], [[5, -3.5]])


def test_published_advantage_whitening_counts_the_pad_too() -> None:
    # Of advantages 2.25, 3.5, 0 and -0.875, -3.75, -1.5. Over all six: mean -0.375 / 6 = -0.0625; squares of the
    # deviations 5.34765625, 12.69140625, 0.00390625, 0.66015625, 13.59765625, 2.06640625, together 34.3671875; the root
    # of a sixth is 2.3932958.
    goal = goal_of(two_responses(), whiten=published_whiten, whiten_advantages=True)
    close(goal.advantages, [[0.9662408, 1.4885331, 0.0261146], [-0.3394900, -1.5407623, -0.6006361]])
    close(goal.returns, [[3.25, 5.5, 0], [-0.875, -2.75, -2.5]])
    close(goal.scale, [[1 / 2.3932958]] * 2)
    close(goal_of(two_responses(), whiten=published_whiten).scale, [[1], [1]])


def test_published_advantages_bootstrap_from_the_value_at_the_pad() -> None:
    trajectory = replace(two_responses(), values=torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]]))
    goal = goal_of(trajectory, bootstrap_padding=True)
    # The pad: 0 - 4. The token before it: 5.5 + 4 - 2 = 7.5, with half of -4 added 5.5. The first: 0.5 + 5.5 / 2.
    # The other response has no pad.
    close(goal.advantages, [[3.25, 5.5, -4], [-0.875, -3.75, -1.5]])
    close(goal.returns, [[4.25, 7.5, 0], [-0.875, -2.75, -2.5]])


@pytest.mark.parametrize("switches", [("ppo.whiten_padding=true", "ppo.bootstrap_padding=true"), ()])
def test_whitened_advantages_have_mean_0_and_deviation_1_over_what_counts(
    make_setting: MakeSetting, switches: tuple[str, ...]
) -> None:
    trajectory, goal = roll_out(make_setting(*switches).learner())
    counted = goal.advantages if switches else goal.advantages[trajectory.batch.mask]
    assert counted.mean().item() == pytest.approx(0, abs=1e-5)
    assert counted.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)


# ---- 6: adapters in bfloat16. -------------------------------------------------------------------------------------


def one_step(make_setting: MakeSetting, *overrides: str) -> tuple[Learner, float]:
    """A learner after a step at the paper's learning rate, and the share of its policy's weights that have moved."""
    learner = make_setting("ppo.lr=1e-5", "ppo.warmup_steps=0", "ppo.step_batch_size=8", *overrides).learner()
    trajectory, goal = roll_out(learner)
    before = [weight.detach().clone() for weight in learner.policy_weights]
    learner._optimize(trajectory, goal, torch.arange(8))
    moved = [(weight != old).flatten() for weight, old in zip(learner.policy_weights, before, strict=True)]
    return learner, torch.cat(moved).float().mean().item()


def state_dtypes(learner: Learner) -> set[torch.dtype]:
    state = learner.optimizer.state
    return {state[weight][name].dtype for weight in learner.policy_weights for name in ("exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_bfloat16_small_steps_round_away(make_setting: MakeSetting, dtype: torch.dtype) -> None:
    learner, moved = one_step(make_setting, f"lora.dtype={str(dtype).removeprefix('torch.')}")
    assert {weight.dtype for weight in learner.policy_weights} == state_dtypes(learner) == {dtype}
    assert {weight.dtype for weight in learner.value_weights} == {torch.float32}
    assert moved < 0.1 if dtype == torch.bfloat16 else moved > 0.9


# ---- 8: scores of the text, tokenized again. ----------------------------------------------------------------------


@pytest.mark.parametrize("head", ["additive", "last_token"])
def test_the_text_is_scored_without_eos(make_setting: MakeSetting, head: str) -> None:
    setting = make_setting("ppo.retokenize=true", f"reward.head={head}")
    setting.reward.head.standardize(torch.tensor([1.0, 2.0, 4.0]))
    learner = setting.learner()
    scores, seen = setting.reward.scores, []
    setting.reward.scores = lambda batch: seen.append(batch) or scores(batch)
    trajectory, _ = roll_out(learner)
    assert sum(len(batch.input_ids) for batch in seen) == 8
    eos = setting.sampler.eos_id
    assert all((batch.input_ids != eos)[batch.attention_mask.bool()].all() for batch in seen)
    for row in range(8):
        prompt, response = alone(trajectory.batch, row)
        body = [token for token in response if token != eos]
        wanted = scores(collate([prompt], [body], 0, torch.device("cpu"), width=1)).item()
        assert trajectory.scores[row].item() == pytest.approx(wanted, abs=1e-5)


def alone(batch: Batch, row: int) -> tuple[list[int], list[int]]:
    """A row's prompt and response without padding."""
    real = batch.attention_mask[row].bool()
    prompt, response = real[: batch.prompt_length], real[batch.prompt_length :]
    return batch.input_ids[row, : batch.prompt_length][prompt].tolist(), batch.responses[row][response].tolist()


def test_an_empty_text_scores_what_its_prompt_does(make_setting: MakeSetting) -> None:
    setting = make_setting("ppo.retokenize=true", "reward.head=additive")
    setting.reward.head.standardize(torch.tensor([1.0, 2.0, 4.0]))
    trajectory, _ = roll_out(setting.learner())
    # the additive score of nothing is 0: (0 - 7/3) over the deviation, the root of (16 + 1 + 25) / 9 / 2
    assert [trajectory.scores[row].item() for row in (1, 5)] == pytest.approx([-(7 / 3) / (42 / 18) ** 0.5] * 2)


def test_scores_are_otherwise_those_of_the_tokens_themselves(make_setting: MakeSetting) -> None:
    setting = make_setting()
    trajectory, _ = roll_out(setting.learner())
    wanted = []
    for row in range(8):
        prompt, response = alone(trajectory.batch, row)
        wanted.append(setting.reward.scores(collate([prompt], [response], 0, torch.device("cpu"))).item())
    assert trajectory.scores.tolist() == pytest.approx(wanted, abs=1e-5)


ENTRIES = ["[UNK]", "<s>", "</s>", "not", "n", "##ot", "Yes", "good", ".", "it", "'s", ":", "##:", "##y", "##es", "y"]


def subwords() -> PreTrainedTokenizerFast:
    """Begins each text with <s>, cuts words into pieces, and writes spaces between words."""
    core = Tokenizer(WordPiece({entry: number for number, entry in enumerate(ENTRIES)}, unk_token="[UNK]"))
    core.pre_tokenizer, core.decoder = WhitespaceSplit(), WordPieceDecoder(cleanup=False)
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="[UNK]")


def test_texts_are_cleaned_up_and_tokenized_in_one_go() -> None:
    tokenizer = subwords()
    rows = [[1, 9, 10, 11], [15, 14, 8, 2]]  # <s> it 's :  and  y ##es . </s>
    assert cleaned(tokenizer, rows) == ["it's :", "yes."]
    # "not :yes": the seam is unknown together, and each alone is not
    prompts, responses = in_one_go(tokenizer, ["not n:", "not n"], ["yes", " good"])
    assert prompts == [[1, 3, 4, 12], [1, 3, 4]]  # the prompt's own tokens are <s> not n ##: and <s> not n
    assert responses == [[13, 14], [7]]  # ##y ##es, which alone is y ##es


@pytest.mark.parametrize("more", [(), ("reward.members=2",)])
def test_raw_scores_are_the_reward_models_own(make_setting: MakeSetting, more: tuple[str, ...]) -> None:
    reward = make_setting(*more).reward
    batch = collate([[5, 6], [5]], [[7, 8, 9], [8]], 0, torch.device("cpu"))
    own = reward.scores(batch)
    for each in (reward, *(reward.members if isinstance(reward, RewardEnsemble) else ())):
        assert isinstance(each, RewardModel | RewardEnsemble)
        each.standardize(torch.tensor([1.0, 3.0, 8.0]))  # their mean is 4, their deviation the root of 13
    changed = (own - 4) / math.sqrt(13)
    if isinstance(reward, RewardEnsemble):  # of the members' mean, once more
        changed = (changed - 4) / math.sqrt(13)
    torch.testing.assert_close(reward.scores(batch), changed)
    assert isinstance(reward, RewardModel | RewardEnsemble)
    reward.use_raw()
    torch.testing.assert_close(reward.scores(batch), own)


# ---- 12: the value on the reward model's own weights, with an adapter and a head of its own. ----------------------


@pytest.mark.parametrize("backbone", ["adapter", "full"])
def test_the_papers_value_is_a_fresh_adapter_on_the_reward_model_with_one_head(
    make_setting: MakeSetting, backbone: str
) -> None:
    setting = make_setting("value=paper", f"reward={backbone}")
    assert isinstance(setting.reward, RewardModel)
    learner = setting.learner()
    value = learner.value
    assert isinstance(value, BackboneValue)
    batch = collate([[5, 6]], [[7, 8, 9]], 0, torch.device("cpu"))
    states = setting.reward.trunk.hidden(batch)
    torch.testing.assert_close(value.trunk.hidden(batch), states, rtol=1e-4, atol=1e-4)
    assert not value(batch, None, torch.zeros(1, 3, 0), torch.zeros(1, 3)).any()
    # r x (in + out) for each of q, k, v and o, in bfloat16; a weight per state and a bias, in float32
    size, of_adapter = setting.config.model.hidden_size, value.trunk.parameters()
    assert sum(weight.numel() for weight in of_adapter) == 4 * 8 * (size + size)
    assert {weight.dtype for weight in of_adapter} == {torch.bfloat16}
    assert [tuple(weight.shape) for weight in value.parameters()] == [(1, size), (1,)]
    assert {weight.dtype for weight in value.parameters()} == {torch.float32}
    assert value.trunk.shared is not None
    assert value.trunk.shared.peft is not None
    settings = value.trunk.shared.peft.peft_config[value.trunk.adapter]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (8, 64, 0.1)
    row = learner.step()
    assert row["rollout/value"] == 0
    disturb(value.weights(), 0.5)
    torch.testing.assert_close(setting.reward.trunk.hidden(batch), states, rtol=0, atol=0)  # it has a copy
    learner._set_dropout(True)
    noisy = [value.trunk.hidden(batch) for _ in range(2)]
    assert not torch.equal(*noisy)
    learner._set_dropout(False)
    torch.testing.assert_close(value.trunk.hidden(batch), value.trunk.hidden(batch), rtol=0, atol=0)


# ---- All together. ------------------------------------------------------------------------------------------------


def published_update(learner: Learner, trajectory: Trajectory, goal: Targets) -> None:
    """The published loop on micro-batches of 2, in steps of 4."""
    groups = [{"params": learner.policy_weights, "lr": 1e-2}, {"params": learner.value_weights, "lr": 5e-3}]
    optimizer, generator = torch.optim.Adam(groups, eps=1e-5), torch.Generator().manual_seed(0)
    learner.policy.lm.train()
    learner.value.train()
    for _ in range(2):
        for micro in torch.randperm(8, generator=generator).split(2):
            for _ in range(4 // 2):
                policy_loss, value_loss = losses(learner, trajectory.select(micro), goal.select(micro))
                (policy_loss + 0.1 * value_loss).mean().backward()
                nn.utils.clip_grad_norm_(learner.policy_weights + learner.value_weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
    learner.policy.lm.eval()
    learner.value.eval()


def updated(make_setting: MakeSetting, seed: int, published: bool) -> list[Tensor]:
    """The weights after an update of `ppo=paper` at a learning rate that shows; `seed` is that of the dropout."""
    fast = ("ppo.lr=1e-2", "value.lr=5e-3", "ppo.warmup_steps=0", "lora.dtype=float32", "value.lora.dtype=float32")
    learner = make_setting("ppo=paper", *fast).learner()
    trajectory, goal = roll_out(learner)
    torch.manual_seed(seed)
    if published:
        published_update(learner, trajectory, goal)
    else:
        learner._update(trajectory, goal)
    return [weight.detach().clone() for weight in [*learner.policy_weights, *learner.value_weights]]


def test_the_paper_presets_update_is_the_published_loop(make_setting: MakeSetting) -> None:
    theirs = updated(make_setting, seed=0, published=True)
    assert same(updated(make_setting, seed=0, published=False), theirs, 1e-4)
    assert not same(updated(make_setting, seed=1, published=False), theirs, 1e-4)


def test_the_paper_preset_steps(make_setting: MakeSetting) -> None:
    learner = make_setting("ppo=paper").learner()
    first, second = learner.step(), learner.step()
    third = learner.step()
    assert {weight.dtype for weight in learner.policy_weights} == {torch.bfloat16}
    assert (first["rollout/kl"], first["rollout/value"]) == (0.0, 0.0)
    assert (first["ppo/lr"], second["ppo/lr"]) == (0.0, pytest.approx(0.2e-5))
    assert first["ppo/optimizer_steps"] == second["ppo/optimizer_steps"] == 2 * 8 / 2
    assert second["rollout/kl"] == 0 < third["rollout/kl"]  # nothing is learnt in the first
    assert third["ppo/ratio_error"] > 0  # dropout
    assert all(value == value for row in (first, second) for value in row.values())
