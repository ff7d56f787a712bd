"""Policy optimization with LoRA, on one base for all roles: PPO, and the algorithms that differ in advantages or loss.

PPO is that of arXiv 1707.06347 with the details of arXiv 2403.17031. `Learner` holds all the state of one run; `step`
is the algorithm, to be read from top to bottom. rlhf/stages/published.py has what the code of arXiv 2309.09055 does
differently.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf.config.rl import PPOConfig
from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import CheckError, ConfigError
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import held_by_others
from rlhf.models.batch import Batch
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import ExternalReward
from rlhf.models.initial_adapter import load_start
from rlhf.models.randomness import generator_states, kept_random_state, set_generator_states
from rlhf.models.reward import at_last_token
from rlhf.models.sampler import Sampler
from rlhf.models.value import Features, Reward, Value, build_value, reward_features
from rlhf.process.distributed import ALONE, Ranks
from rlhf.rl import loss
from rlhf.rl.advantage import Mask, masked_whiten
from rlhf.rl.algorithm import Estimate, Settings, load_algorithm
from rlhf.rl.regularizer import Coefficient, Regularizer
from rlhf.rl.statistics import TokenTerms, token_statistics, token_terms
from rlhf.rl.trajectory import Targets, Trajectory, targets
from rlhf.stages.diagnostics import Row, rollout_row
from rlhf.stages.reward import score
from rlhf.storage.files import writing

log = logging.getLogger(__name__)

Found = TypeVar("Found")
Tokens = Float[Tensor, "batch response"]
Scores = Float[Tensor, " batch"]

POLICY = "policy"

PARTS = ("rollout", "scoring", "update")
"""The parts of a step that are timed."""

MOST_DRAWS = 50
"""How many times a rollout's prompts may be drawn in search of short enough ones."""

STEP_ZERO_TOLERANCE = 1e-5
"""Nats per token by which policy and reference may differ before the first update; they are the same weights."""


class Learner:
    """One run's policy, value, optimizer, coefficient and random generators."""

    def __init__(
        self,
        config: Config,
        source: Source,
        base: SharedBase,
        reward: Reward,
        sampler: Sampler,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.source, self.sampler, self.reward = config, source, sampler, reward
        self.ranks = ranks
        self.micro_batch_size = config.micro_batch_size(ranks.size)
        self.reference = base.reference()
        with_lora = config.lora.r is not None
        with kept_random_state():
            torch.manual_seed(config.seed)
            self.policy = base.add(POLICY, config.lora, trainable=True) if with_lora else base.full_copy()
            load_start(self.policy, config.lora)
            self.value: Value = build_value(base, reward, config.value)
            torch.manual_seed(config.seed + ranks.rank)
            self.noise = generator_states()
        self.policy_weights, self.value_weights = self.policy.parameters(), self.value.weights()
        groups = [
            {"params": self.policy_weights, "lr": config.ppo.lr if with_lora else config.ppo.lr_full},
            {"params": self.value_weights, "lr": config.value.lr},
        ]
        self.optimizer = torch.optim.Adam(groups, eps=config.ppo.adam_eps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: lr_factor(step, config.ppo))
        self.regularizer = Regularizer.create(config.regularizer)
        self.algorithm, self.steps = load_algorithm(config.algorithm.name), config.steps
        self.coefficient = Coefficient(config.regularizer, self.steps)
        self.sampling = torch.Generator(sampler.device).manual_seed(config.seed)
        self.shuffling = torch.Generator().manual_seed(config.seed)
        self.prompting = Random(f"{config.seed}/ppo prompts")
        self.step_count = 0

    def close(self) -> None:
        """Take the run's adapters off the base; the learner can't be used afterwards."""
        self.policy.remove()
        self.value.remove()

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self) -> Row:
        """Roll out, score, update; returns the row of history.jsonl."""
        with kept_random_state():
            set_generator_states(self.noise)
            row = self._step()
            self.noise = generator_states()
        return row

    def _step(self) -> Row:
        start = time.perf_counter()
        prompts, long_prompts = self._draw_prompts()
        responses = self.sampler.sample(self.policy, prompts, self.config.rollout.temperature, self.sampling)
        sampled = time.perf_counter()
        trajectory = self._in_memory(lambda: self._score(prompts, responses))
        self._check_start(trajectory)
        coef = self.coefficient.value
        goal = self._targets(trajectory, coef)
        scored = time.perf_counter()
        row = rollout_row(trajectory, goal, responses) | {
            "rollout/long_prompts": long_prompts,
            "regularizer/coef": coef,
        }
        row |= self._update(trajectory, goal)
        self.coefficient.update(row["rollout/kl"], row["rollout/penalty_per_response"], len(responses))
        self.schedule.step()
        self.step_count += 1
        end = time.perf_counter()
        seconds = (sampled - start, scored - sampled, end - scored)
        timing = {f"seconds/{name}": round(value, 4) for name, value in zip(PARTS, seconds, strict=True)}
        return row | timing | {"samples_per_second": len(responses) / (end - start)}

    def state(self) -> dict[str, Any]:
        """All that the following steps depend on, with the generators of every rank."""
        return {
            "weights": [weight.detach() for weight in self.policy_weights + self.value_weights],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "coefficient": (self.coefficient.value, self.coefficient.step_count),
            "generators": [generator.get_state() for generator in (self.sampling, self.shuffling)],
            "prompting": self.prompting.getstate(),
            "dropout": self.ranks.gather_objects([self.noise]),
            "step_count": self.step_count,
            "micro_batch_size": self.micro_batch_size,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` has returned, of a run with the same configuration."""
        with torch.no_grad():
            for weight, saved in zip(self.policy_weights + self.value_weights, state["weights"], strict=True):
                weight.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        rates = self.schedule.base_lrs  # those of the configuration, in which a branch differs from its parent
        self.schedule.load_state_dict(state["schedule"] | {"base_lrs": rates})
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * lr_factor(self.schedule.last_epoch, self.config.ppo)
        self.coefficient.value, self.coefficient.step_count = state["coefficient"]
        for generator, saved in zip((self.sampling, self.shuffling), state["generators"], strict=True):
            generator.set_state(saved)
        self.prompting.setstate(state["prompting"])
        if len(state["dropout"]) == self.ranks.size:  # else dropout goes on from other noise, as it may
            self.noise = state["dropout"][self.ranks.rank]
        self.step_count = state["step_count"]
        self.micro_batch_size = min(self.micro_batch_size, state["micro_batch_size"])

    def save(self, directory: Path) -> None:
        """The policy, with its tokenizer where it is a whole model."""
        with writing(directory / POLICY):
            self.policy.save(directory / POLICY)
            if self.policy.adapter is None:
                self.sampler.tokenizer.save_pretrained(directory / POLICY)

    def _draw_prompts(self) -> tuple[list[Prompt], int]:
        """A rollout's training prompts, one for each response, and how many longer ones were left out on the way."""
        samples = self.config.algorithm.samples_per_prompt
        wanted, drawn = self.config.rollout.batch_size // samples, 0
        prompts: list[Prompt] = []
        while len(prompts) < wanted and drawn < MOST_DRAWS * wanted:
            candidates = self.source.prompts("train", wanted, self.prompting)
            prompts += [prompt for prompt in candidates if self.sampler.fits(prompt)]
            drawn += len(candidates)
        if len(prompts) < wanted:
            limit = self.config.rollout.max_prompt_tokens
            message = f"of {drawn} training prompts drawn, {len(prompts)} are that short, and a rollout takes {wanted}"
            raise ConfigError(f"rollout.max_prompt_tokens={limit} is not allowed: {message}")
        return [prompt for prompt in prompts[:wanted] for _ in range(samples)], drawn - len(prompts)

    @torch.no_grad()
    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Trajectory:
        """What policy, reference, reward model and value say of the responses, a micro-batch at a time."""
        batch = self._collate(prompts, responses)
        finished = torch.tensor([response.finished for response in responses], device=self.sampler.device)
        parts = [self._score_part(batch.select(part), finished[part]) for part in self._micro_batches(len(responses))]
        trajectory = Trajectory.cat(batch, parts, self.ranks.gather)
        if isinstance(self.reward, ExternalReward):
            scores = score(self.reward, self.sampler, prompts, responses)
            return replace(trajectory, scores=torch.tensor(scores, device=self.sampler.device))
        return trajectory

    def _collate(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Batch:
        return self.sampler.collate(self.sampler.encode(prompts), responses)

    def _micro_batches(self, count: int) -> tuple[Int[Tensor, " rows"], ...]:
        """This rank's rows of `count`."""
        rows = torch.arange(count, device=self.sampler.device)[self.ranks.shard(count)]
        return rows.split(self.micro_batch_size)

    def _score_part(self, batch: Batch, finished: Tensor) -> Trajectory:
        statistics, states, ref_states = token_statistics(
            self.policy, self.reference, batch, self.config.rollout.temperature, self.regularizer.full
        )
        features, scores, score_spread = self._read_reward(batch, statistics.ref_logprobs)
        if not self.value.reads_features:
            features = features[..., :0]
        values = self._kept_values(self.value(batch, states, features, statistics.ref_logprobs), batch.mask)
        reads_reference = self.regularizer.full is not None and self.regularizer.in_loss
        kept_states = ref_states if reads_reference else ref_states[..., :0]
        return Trajectory(batch, *statistics, values, features, kept_states, scores, score_spread, finished)

    def _kept_values(self, values: Tokens, mask: Mask) -> Tokens:
        return values * mask

    def _read_reward(self, batch: Batch, ref_logprobs: Tokens) -> tuple[Features, Scores, Scores]:
        """The reward model's features, scores and the deviation of an ensemble's members.

        Zeros for a reward that reads text, which scores all responses at once.
        """
        nothing = torch.zeros(len(batch.mask), device=batch.mask.device)
        if isinstance(self.reward, ExternalReward):
            return torch.zeros(*batch.mask.shape, 0, device=batch.mask.device), nothing, nothing
        if isinstance(self.reward, RewardEnsemble):
            hidden, members = self.reward.members_running(batch, ref_logprobs)
            running_scores = self.reward.combine(members)
            spread = at_last_token(members.std(0, correction=0), batch)
        else:
            (hidden, running_scores), spread = self.reward.running_scores(batch, ref_logprobs), nothing
        return reward_features(hidden, running_scores, batch), at_last_token(running_scores, batch), spread

    def _targets(self, trajectory: Trajectory, coef: float) -> Targets:
        """What the update moves towards; `coef` is the penalty's."""
        ppo = self.config.ppo
        whitened = (ppo.whiten_rewards, ppo.whiten_advantages)
        functions = (self._estimate, self._whiten)
        return targets(trajectory, self.regularizer, coef, *functions, ppo.missing_eos_score, *whitened)

    def _whiten(self, values: Tokens, mask: Mask, shift_mean: bool) -> tuple[Tokens, float]:
        return masked_whiten(values, mask, shift_mean)

    def _estimate(self, rewards: Tokens, values: Tokens, mask: Mask) -> Estimate:
        """The algorithm's advantages."""
        algorithm, ppo = self.config.algorithm, self.config.ppo
        settings = Settings(algorithm.samples_per_prompt, algorithm.scale_by_deviation, ppo.gamma, ppo.lam)
        return self.algorithm.advantages(rewards, values, mask, settings)

    def _check_start(self, trajectory: Trajectory) -> None:
        is_reference = self.step_count == 0 and self.config.lora.path is None
        if is_reference and trajectory.kl.max() > STEP_ZERO_TOLERANCE:
            raise RuntimeError(f"policy and reference differ by {trajectory.kl.max():.3g} nats before the first update")

    def _update(self, trajectory: Trajectory, goal: Targets) -> Row:
        """Several passes over the rollout in random order; the figures are means over the optimizer steps."""
        rows: list[Row] = []
        ppo = self.config.ppo
        self._set_dropout(ppo.dropout)
        for _ in range(ppo.epochs):
            order = torch.randperm(len(trajectory.scores), generator=self.shuffling).to(self.sampler.device)
            for chosen in order.split(self._rows_per_step()):
                rows.append(self._optimize(trajectory, goal, chosen))
            if ppo.early_stop_kl is not None and rows[-1]["ppo/approx_kl"] > ppo.early_stop_kl:
                break
        self._set_dropout(False)
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        return means | {"ppo/ratio_error": rows[0]["ppo/ratio_error"], "ppo/optimizer_steps": len(rows)}

    def _rows_per_step(self) -> int:
        return self.config.ppo.step_batch_size

    def _set_dropout(self, on: bool) -> None:
        self.policy.lm.train(on)
        self.value.train(on)

    def _optimize(self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"]) -> Row:
        """One optimizer step on the chosen rows."""
        row = self._add_gradient(trajectory, goal, chosen)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return row | {"ppo/lr": self.optimizer.param_groups[0]["lr"]}

    def _add_gradient(self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"]) -> Row:
        """The clipped gradient: losses are averaged over all micro-batches and ranks at once."""
        mask, mine = trajectory.batch.mask[chosen], self.ranks.shard(len(chosen))
        weights = self._weights(mask)[mine]
        scale = loss.loss_scale(mask, self.config.ppo.average, self.config.rollout.max_response_tokens)
        row = self._in_memory(lambda: self._backward(trajectory, goal, chosen[mine], weights, scale))
        self.ranks.sum_gradients(self.policy_weights + self.value_weights)
        return row | self._clip()

    def _weights(self, mask: Mask) -> Tokens:
        return loss.loss_weights(mask, self.config.ppo.average)

    def _in_memory(self, work: Callable[[], Found]) -> Found:
        """What `work` returns, with `ppo.micro_batch_size=null` by smaller micro-batches where memory is too small."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                size, found = self.micro_batch_size, self.config.ppo.micro_batch_size is None
                if not found or size == 1:
                    advice = "set model.gradient_checkpointing=true" if size == 1 else "lower it, or set it to null"
                    problem = f"ppo.micro_batch_size={size} is too large for the GPU{held_by_others()}"
                    raise CheckError(f"{problem}: {advice}") from error
            self.micro_batch_size = next(part for part in range(size // 2, 0, -1) if size % part == 0)
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
            log.info(f"ppo: out of memory; from now on {self.micro_batch_size} responses at once, not {size}")

    def _backward(
        self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"], weights: Tokens, scale: float
    ) -> Row:
        """Add the gradient of `scale` x the weighted losses, by micro-batches; returns the losses of all ranks."""
        sums: dict[str, float] = {}
        ratio_error, size = 0.0, self.micro_batch_size
        for micro, share in zip(chosen.split(size), weights.split(size), strict=True):
            part = trajectory.select(micro)
            terms, values = self._evaluate(part)
            losses = self._losses(part, goal.select(micro), terms, values)
            (scale * (self._total(losses, goal.select(micro).scale) * share).sum()).backward()
            for name, loss_per_token in losses.items():
                sums[name] = sums.get(name, 0.0) + (loss_per_token.detach() * share).sum().item()
            ratio = loss.probability_ratio(terms.logprobs.detach(), part.logprobs)
            ratio_error = max(ratio_error, (ratio - 1).abs().max().item())
        found = torch.tensor([[*sums.values(), ratio_error]], dtype=torch.float64, device=self.sampler.device)
        everywhere = self.ranks.gather(found)
        totals = dict(zip(sums, everywhere[:, :-1].sum(0).tolist(), strict=True))
        return totals | {"ppo/ratio_error": everywhere[:, -1].max().item()}

    def _evaluate(self, part: Trajectory) -> tuple[TokenTerms, Tokens]:
        """What the losses need of the policy, and values, under the weights of now; differentiable."""
        states = part.batch.before_responses(self.policy.hidden(part.batch))
        full = self.regularizer.full if self.regularizer.in_loss else None
        with_entropy = self.config.ppo.entropy_coef > 0
        temperature = self.config.rollout.temperature
        terms = token_terms(
            self.policy, self.reference, states, part.ref_states, part.batch, temperature, full, with_entropy
        )
        return terms, self.value(part.batch, states, part.features, part.ref_logprobs)

    def _losses(self, part: Trajectory, goal: Targets, terms: TokenTerms, values: Tokens) -> dict[str, Tokens]:
        """Per response token: the losses, and what is logged of them."""
        mask, clip = part.batch.mask, self.config.ppo.clip
        policy = self.algorithm.policy_loss(terms.logprobs, part.logprobs, goal.advantages, mask, clip)
        value = loss.value_loss(values, part.values, goal.returns, self.config.value.clip)
        penalty = self.regularizer.loss(terms.logprobs, part.logprobs, part.ref_logprobs, terms.divergence)
        return {
            "ppo/policy_loss": policy.loss,
            "ppo/value_loss": value.loss,
            "ppo/penalty_loss": penalty,
            "ppo/entropy_bonus": terms.entropy,
            "ppo/clip_fraction": policy.clipped,
            "ppo/value_clip_fraction": value.clipped,
            "ppo/approx_kl": loss.approximate_kl(terms.logprobs, part.logprobs),
        }

    def _total(self, losses: dict[str, Tokens], scale: Float[Tensor, "batch 1"]) -> Tokens:
        """The loss per response token that is descended; `scale` is that of the advantages."""
        penalty = scale * self.coefficient.value * losses["ppo/penalty_loss"]
        bonus = self.config.ppo.entropy_coef * losses["ppo/entropy_bonus"]
        return losses["ppo/policy_loss"] + self.config.value.coef * losses["ppo/value_loss"] + penalty - bonus

    def _clip(self) -> Row:
        """Clip the gradients of policy and value, each by itself; returns their norms as they were before."""
        limit = self.config.ppo.max_grad_norm
        return {
            "ppo/grad_norm": nn.utils.clip_grad_norm_(self.policy_weights, limit).item(),
            "ppo/value_grad_norm": nn.utils.clip_grad_norm_(self.value_weights, limit).item(),
        }


def lr_factor(step: int, config: PPOConfig) -> float:
    """What the learning rate is multiplied with at a PPO step: a linear warm-up, then constant or linear to 0.

    With `warmup_from_zero`, as transformers has it.
    """
    if step < config.warmup_steps:
        return (step + (not config.warmup_from_zero)) / config.warmup_steps
    if config.lr_schedule == "constant":
        return 1.0
    steps = config.lr_steps or config.steps
    return max(0.0, (steps - step) / max(1, steps - config.warmup_steps))
