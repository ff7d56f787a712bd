"""An update written out anew: chosen responses of known lengths, and losses in a few lines, to hold ours against."""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from rlhf.rl.trajectory import Targets, Trajectory
from rlhf.stages.learner import Learner, Row

LENGTHS = (3, 1, 6, 2, 4, 1, 5, 2)
"""Tokens of the eight responses; all end in EOS (those of one token are nothing else), but for the third."""

TOKENS = sum(LENGTHS)

FREE = ("ppo.max_grad_norm=1e9", "ppo.step_batch_size=8")
"""One step for the whole rollout, its gradient never clipped."""


def disturb(weights: Sequence[Tensor], size: float = 0.05, seed: int = 0) -> None:
    """Move weights as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight += size * torch.randn(weight.shape, generator=generator).to(weight.dtype)


def roll_out(learner: Learner) -> tuple[Trajectory, Targets]:
    """What the learner makes of responses of those lengths, under weights moved away from the reference's."""
    disturb([*learner.policy_weights, *learner.value_weights])
    prompts, _ = learner._draw_prompts()
    rng, words = Random(0), range(6, len(learner.sampler.tokenizer))
    bodies = [[rng.choice(words) for _ in range(length - 1)] for length in LENGTHS]
    ends = [rng.choice(words) if number == 2 else learner.sampler.eos_id for number in range(len(LENGTHS))]
    responses = [learner.sampler._response([*body, end]) for body, end in zip(bodies, ends, strict=True)]
    trajectory = learner._score(prompts, responses)
    return trajectory, learner._targets(trajectory, learner.coefficient.value)


def gradients(
    learner: Learner, trajectory: Trajectory, goal: Targets, rows: Sequence[int] = range(8)
) -> tuple[list[Tensor], list[Tensor], Row]:
    """What one optimizer step would descend, of the policy and of the value; the step is not made."""
    seen: list[list[Tensor]] = []

    def look() -> None:
        seen.extend(
            [weight.grad.clone() for weight in group] for group in (learner.policy_weights, learner.value_weights)
        )

    learner.optimizer.step = look
    row = learner._optimize(trajectory, goal, torch.tensor(list(rows)))
    return seen[0], seen[1], row


def distributions(learner: Learner, part: Trajectory) -> Tensor:
    """The policy's log-probabilities of every word at every position."""
    return learner.policy.logits(_states(learner, part)).log_softmax(-1)


def logprobs(learner: Learner, part: Trajectory) -> Tensor:
    """The log-probabilities of the sampled tokens, 0 at pads."""
    return _logprobs(learner, _states(learner, part), part)


def _logprobs(learner: Learner, states: Tensor, part: Trajectory) -> Tensor:
    every = learner.policy.logits(states).log_softmax(-1)
    return every.gather(-1, part.batch.responses[..., None])[..., 0] * part.batch.mask


def losses(learner: Learner, part: Trajectory, goal: Targets) -> tuple[Tensor, Tensor]:
    """The policy's and the value's per position, in one pass of each."""
    states = _states(learner, part)
    ratio = (_logprobs(learner, states, part) - part.logprobs).exp()
    policy = torch.maximum(-ratio * goal.advantages, -ratio.clamp(0.8, 1.2) * goal.advantages)
    values = learner.value(part.batch, states, part.features, part.ref_logprobs)
    near = part.values + (values - part.values).clamp(-0.2, 0.2)
    return policy, torch.maximum((values - goal.returns) ** 2, (near - goal.returns) ** 2) / 2


def _states(learner: Learner, part: Trajectory) -> Tensor:
    return learner.policy.hidden(part.batch)[:, part.batch.prompt_length - 1 : -1]


def same(actual: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-6) -> bool:
    """Whether the tensors agree; that they are not all 0 is made sure of."""
    assert max(tensor.abs().max().item() for tensor in wanted) > 100 * tolerance
    return all(
        torch.allclose(one.float(), other.float(), rtol=1e-4, atol=tolerance)
        for one, other in zip(actual, wanted, strict=True)
    )
