"""A reward ensemble: several reward models, adapters on the one base, whose scores are combined.

Members that learnt from other draws err in other ways; a combination that is low where they disagree leaves a policy
less to exploit (arXiv 2310.02743).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.models import RewardConfig
from rlhf.models.batch import Batch
from rlhf.models.logprobs import Tokens
from rlhf.models.reward import Hidden, RewardModel, Running, Scaled, at_last_token

Members = Float[Tensor, "members *scores"]

COMBINE: dict[str, Callable[[Members], Float[Tensor, "*scores"]]] = {
    "mean": lambda scores: scores.mean(0),
    "min": lambda scores: scores.min(0).values,
    "mean_minus_std": lambda scores: scores.mean(0) - scores.std(0, correction=0),
}
"""What becomes of the members' standardised scores; `mean_minus_std` takes off one standard deviation over members."""


class RewardEnsemble(Scaled):
    """Several reward models as one, which are saved where they were trained."""

    def __init__(self, config: RewardConfig, members: Sequence[RewardModel]) -> None:
        self.config, self.members = config, list(members)

    def use_raw(self) -> None:
        """Combine the members' own scores from now on."""
        super().use_raw()
        for member in self.members:
            member.use_raw()

    def running_scores(self, batch: Batch, ref_logprobs: Tokens | None = None) -> tuple[Hidden, Running]:
        """The first member's hidden states, and the combined running scores at every position."""
        hidden, running = self.members_running(batch, ref_logprobs)
        return hidden, self.combine(running)

    def members_running(
        self, batch: Batch, ref_logprobs: Tokens | None = None
    ) -> tuple[Hidden, Float[Tensor, "members batch length"]]:
        """The first member's hidden states, and each member's running scores in its own deviations."""
        found = [member.running_scores(batch, ref_logprobs) for member in self.members]
        return found[0][0], torch.stack([running for _, running in found])

    def combine(self, scores: Members) -> Float[Tensor, "*scores"]:
        """One score of the members'."""
        return self.standardized(COMBINE[self.config.combine](scores))

    def scores(self, batch: Batch, ref_logprobs: Tokens | None = None) -> Float[Tensor, " batch"]:
        """Each response's score, read at its last real token."""
        return at_last_token(self.running_scores(batch, ref_logprobs)[1], batch)
