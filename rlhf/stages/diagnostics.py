"""What is logged of a rollout, the same for every regularizer and algorithm, so that runs compare."""

from collections.abc import Sequence
from typing import Any

from rlhf.data.source import Response
from rlhf.evaluation.factuality import repeated_share
from rlhf.regularizers import bregman, kl
from rlhf.rl.advantage import masked_mean
from rlhf.rl.trajectory import Targets, Trajectory

Row = dict[str, Any]
"""A row of history.jsonl."""


def rollout_row(trajectory: Trajectory, goal: Targets, responses: Sequence[Response]) -> Row:
    """k1, k3, exact KL and entropy in nats per token, scores in deviations of the SFT model's, lengths in tokens."""
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
    per_response = {"rollout/kl_per_response": trajectory.kl, "rollout/penalty_per_response": goal.penalties}
    return {name: masked_mean(values, mask).item() for name, values in per_token.items()} | {
        **{name: values.sum(1).mean().item() for name, values in per_response.items()},
        "rollout/score": trajectory.scores.mean().item(),
        "rollout/score_spread": trajectory.score_spread.mean().item(),
        "rollout/objective": goal.objectives.mean().item(),
        "rollout/response_length": mask.sum(1).float().mean().item(),
        "rollout/finished": trajectory.finished.float().mean().item(),
        "rollout/repeats": sum(repeated_share(response.token_ids) for response in responses) / count,
    }
