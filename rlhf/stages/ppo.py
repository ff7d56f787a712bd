"""Proximal policy optimization with LoRA (arXiv 1707.06347; details of arXiv 2403.17031), on one base for all roles.

`Learner` holds all the state of one run; `step` is the algorithm, to be read from top to bottom.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf.config import Config, PPOConfig
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import ConfigError
from rlhf.evaluation.repeats import repeated_share
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import Batch
from rlhf.models.reward import RewardModel, at_last_token
from rlhf.models.value import Value, build_value, reward_features
from rlhf.rl import loss
from rlhf.rl.advantage import masked_mean
from rlhf.rl.regularizer import Coefficient, bregman, kl
from rlhf.rl.rollout import Sampler
from rlhf.rl.statistics import token_logprobs, token_statistics
from rlhf.rl.trajectory import Targets, Trajectory, targets

Row = dict[str, Any]
Tokens = Float[Tensor, "batch response"]

POLICY = "policy"

PARTS = ("rollout", "scoring", "update")
"""What a step's seconds are told apart by."""

MOST_DRAWS = 50
"""How many times a rollout's prompts may be drawn in search of short enough ones."""

STEP_ZERO_TOLERANCE = 1e-5
"""Nats per token by which policy and reference may differ before the first update; they are the same weights."""


class Learner:
    """One run's policy, value, optimizer, coefficient and random generators."""

    def __init__(self, config: Config, source: Source, base: SharedBase, reward: RewardModel, sampler: Sampler) -> None:
        torch.manual_seed(config.seed)
        self.config, self.source, self.sampler, self.reward = config, source, sampler, reward
        self.reference = base.reference()
        self.policy = base.add(POLICY, config.lora, trainable=True) if config.lora.enabled else base.full_copy()
        self.value: Value = build_value(base, reward, config.value)
        self.policy_weights, self.value_weights = self.policy.parameters(), self.value.weights()
        groups = [
            {"params": self.policy_weights, "lr": config.ppo.lr},
            {"params": self.value_weights, "lr": config.value.lr},
        ]
        self.optimizer = torch.optim.Adam(groups, eps=config.ppo.adam_eps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: lr_factor(step, config.ppo))
        self.coefficient = Coefficient(config.regularizer.coef, config.regularizer)
        self.sampling = torch.Generator(sampler.device).manual_seed(config.seed)
        self.shuffling = torch.Generator().manual_seed(config.seed)
        self.prompting = Random(f"{config.seed}/ppo prompts")
        self.step_count = 0

    def step(self) -> Row:
        """Roll out, score, update; returns the row of history.jsonl."""
        start = time.perf_counter()
        prompts, long_prompts = self._draw_prompts()
        responses = self.sampler.sample(self.policy, prompts, self.config.rollout.temperature, self.sampling)
        sampled = time.perf_counter()
        trajectory = self._score(prompts, responses)
        self._check_start(trajectory)
        coef = self.coefficient.value
        goal = targets(trajectory, self.config.regularizer.name, coef, self.config.ppo)
        scored = time.perf_counter()
        row = rollout_row(trajectory, goal, responses) | {
            "rollout/long_prompts": long_prompts,
            "regularizer/coef": coef,
        }
        row |= self._update(trajectory, goal)
        self.coefficient.update(row["rollout/kl"], len(responses))
        self.schedule.step()
        self.step_count += 1
        end = time.perf_counter()
        seconds = (sampled - start, scored - sampled, end - scored)
        timing = {f"seconds/{name}": round(value, 4) for name, value in zip(PARTS, seconds, strict=True)}
        return row | timing | {"samples_per_second": len(responses) / (end - start)}

    def save(self, directory: Path) -> None:
        """The policy, with its tokenizer where it is a whole model."""
        self.policy.save(directory / POLICY)
        if self.policy.adapter is None:
            self.sampler.tokenizer.save_pretrained(directory / POLICY)

    def _draw_prompts(self) -> tuple[list[Prompt], int]:
        """A rollout's training prompts, and how many longer ones were left out on the way."""
        wanted, drawn = self.config.rollout.batch_size, 0
        prompts: list[Prompt] = []
        while len(prompts) < wanted and drawn < MOST_DRAWS * wanted:
            candidates = self.source.prompts("train", wanted, self.prompting)
            prompts += [prompt for prompt in candidates if self.sampler.fits(prompt)]
            drawn += len(candidates)
        if len(prompts) < wanted:
            limit = self.config.rollout.max_prompt_tokens
            message = f"of {drawn} training prompts drawn, {len(prompts)} are that short, and a rollout takes {wanted}"
            raise ConfigError(f"rollout.max_prompt_tokens={limit} is not allowed: {message}")
        return prompts[:wanted], drawn - len(prompts)

    @torch.no_grad()
    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Trajectory:
        """What policy, reference, reward model and value say of the responses, a micro-batch at a time."""
        batch = self.sampler.collate(self.sampler.encode(prompts), responses)
        finished = torch.tensor([response.finished for response in responses], device=self.sampler.device)
        rows = torch.arange(len(responses), device=self.sampler.device)
        parts = rows.split(self.config.ppo.micro_batch_size)
        return Trajectory.cat(batch, [self._score_part(batch.select(part), finished[part]) for part in parts])

    def _score_part(self, batch: Batch, finished: Tensor) -> Trajectory:
        statistics, states = token_statistics(self.policy, self.reference, batch, self.config.rollout.temperature)
        hidden, running_scores = self.reward.running_scores(batch)
        features = reward_features(hidden, running_scores, batch)
        values = self.value(batch, states, features) * batch.mask
        scores = at_last_token(running_scores, batch)
        return Trajectory(batch, *statistics, values, features, scores, finished)

    def _check_start(self, trajectory: Trajectory) -> None:
        if self.step_count == 0 and trajectory.kl.max() > STEP_ZERO_TOLERANCE:
            raise RuntimeError(f"policy and reference differ by {trajectory.kl.max():.3g} nats before the first update")

    def _update(self, trajectory: Trajectory, goal: Targets) -> Row:
        """Several passes over the rollout in random order; the figures are means over the optimizer steps."""
        rows: list[Row] = []
        self._set_dropout(self.config.ppo.dropout)
        for _ in range(self.config.ppo.epochs):
            order = torch.randperm(len(trajectory.scores), generator=self.shuffling).to(self.sampler.device)
            for chosen in order.split(self.config.ppo.step_batch_size):
                rows.append(self._optimize(trajectory, goal, chosen))
            limit = self.config.ppo.early_stop_kl
            if limit is not None and rows[-1]["ppo/approx_kl"] > limit:
                break
        self._set_dropout(False)
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        return means | {"ppo/ratio_error": rows[0]["ppo/ratio_error"], "ppo/optimizer_steps": len(rows)}

    def _set_dropout(self, on: bool) -> None:
        self.policy.lm.train(on)

    def _optimize(self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"]) -> Row:
        """One optimizer step on the chosen rows, each micro-batch weighted by its share of their response tokens."""
        tokens = trajectory.batch.mask[chosen].sum()
        sums: dict[str, float] = {}
        ratio_error = 0.0
        for micro in chosen.split(self.config.ppo.micro_batch_size):
            part = trajectory.select(micro)
            logprobs, values = self._evaluate(part)
            losses = self._losses(part, goal.select(micro), logprobs, values)
            total = losses["ppo/policy_loss"] + self.config.value.coef * losses["ppo/value_loss"]
            (total * part.batch.mask).sum().div(tokens).backward()
            for name, loss_per_token in losses.items():
                share = (loss_per_token.detach() * part.batch.mask).sum() / tokens
                sums[name] = sums.get(name, 0.0) + share.item()
            ratio = loss.probability_ratio(logprobs.detach(), part.logprobs)
            ratio_error = max(ratio_error, (ratio - 1).abs().max().item())
        return sums | self._step_optimizer() | {"ppo/ratio_error": ratio_error}

    def _evaluate(self, part: Trajectory) -> tuple[Tokens, Tokens]:
        """Log-probabilities and values of the responses under the weights of now, differentiable."""
        states = part.batch.before_responses(self.policy.hidden(part.batch))
        logprobs = token_logprobs(self.policy, states, part.batch, self.config.rollout.temperature)
        return logprobs, self.value(part.batch, states, part.features)

    def _losses(self, part: Trajectory, goal: Targets, logprobs: Tokens, values: Tokens) -> dict[str, Tokens]:
        """Per response token: the two losses, and what is logged of them."""
        policy = (logprobs, part.logprobs, goal.advantages, self.config.ppo.clip)
        value = (values, part.values, goal.returns, self.config.value.clip)
        return {
            "ppo/policy_loss": loss.policy_loss(*policy),
            "ppo/value_loss": loss.value_loss(*value),
            "ppo/clip_fraction": loss.policy_clipped(*policy),
            "ppo/value_clip_fraction": loss.value_clipped(*value),
            "ppo/approx_kl": loss.approximate_kl(logprobs, part.logprobs),
        }

    def _step_optimizer(self) -> Row:
        """Clip, step, and report the norms as they were before clipping; policy and value are clipped apart."""
        limit = self.config.ppo.max_grad_norm
        norms = {
            "ppo/grad_norm": nn.utils.clip_grad_norm_(self.policy_weights, limit).item(),
            "ppo/value_grad_norm": nn.utils.clip_grad_norm_(self.value_weights, limit).item(),
        }
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norms | {"ppo/lr": self.optimizer.param_groups[0]["lr"]}


def rollout_row(trajectory: Trajectory, goal: Targets, responses: Sequence[Response]) -> Row:
    """The same diagnostics for every regularizer: k1, k3, exact KL and entropy in nats per token, scores, lengths."""
    mask = trajectory.batch.mask
    per_token = {
        "rollout/k1": kl(trajectory.logprobs, trajectory.ref_logprobs),
        "rollout/k3": bregman(trajectory.logprobs, trajectory.ref_logprobs),
        "rollout/kl": trajectory.kl,
        "rollout/entropy": trajectory.entropy,
        "rollout/penalty": goal.penalties,
        "rollout/value": trajectory.values,
    }
    count = len(responses)
    return {name: masked_mean(values, mask).item() for name, values in per_token.items()} | {
        "rollout/score": trajectory.scores.mean().item(),
        "rollout/reward": goal.rewards.sum(1).mean().item(),
        "rollout/response_length": mask.sum(1).float().mean().item(),
        "rollout/finished": trajectory.finished.float().mean().item(),
        "rollout/repeats": sum(repeated_share(response.token_ids) for response in responses) / count,
    }


def lr_factor(step: int, config: PPOConfig) -> float:
    """What the learning rate is multiplied with at a PPO step: a linear warm-up, then constant or linear to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return 1.0
    return max(0.0, (config.steps - step) / max(1, config.steps - config.warmup_steps))
