"""The reward model: a linear head on the states of an adapter or of a trunk of its own.

Its running score at a position is what the score would be if the response ended there, so the running scores are also a
first estimate of the value.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf.config.models import RewardConfig
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch

ADDITIVE_SCALE = 4.0
"""Divides the additive score, so that a head of ordinary size gives scores of order 1 over some twenty tokens."""


class ScoreHead(nn.Module):
    """Running scores from states: `additive`, the sum over the response so far, or `last_token`, at that token."""

    def __init__(self, hidden_size: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    mean: Tensor
    deviation: Tensor

    def forward(self, hidden: Float[Tensor, "batch length hidden"], batch: Batch) -> Float[Tensor, "batch length"]:
        """Running scores in standard deviations of the SFT model's scores, once `standardize` has been called."""
        scores = self.linear(hidden.float()).squeeze(-1)
        if self.kind == "additive":
            in_response = torch.zeros_like(scores)
            in_response[:, batch.prompt_length :] = batch.mask.float()
            scores = (scores * in_response).cumsum(1) / ADDITIVE_SCALE
        return (scores - self.mean) / self.deviation

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """Shift and scale what is given from now on, so that `scores` (raw until now) have mean 0 and deviation 1."""
        self.mean.copy_(scores.mean())
        self.deviation.copy_(scores.std().clamp(min=1e-6))


class RewardModel:
    """A trunk (adapter or copy) and its score head."""

    def __init__(self, config: RewardConfig, trunk: Role, head: ScoreHead) -> None:
        self.config, self.trunk, self.head = config, trunk, head

    @classmethod
    def create(cls, base: SharedBase, config: RewardConfig, name: str) -> "RewardModel":
        """An untrained reward model on `base`, its head from torch's global generator; `name` is its adapter's."""
        trunk = base.add(name, config.lora, trainable=True) if config.backbone == "adapter" else base.full_copy()
        return cls(config, trunk, ScoreHead(base.lm.config.hidden_size, config.head).to(base.lm.device))

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """See ScoreHead."""
        self.head.standardize(scores)

    def parameters(self) -> list[nn.Parameter]:
        return self.trunk.parameters() + list(self.head.parameters())

    def running_scores(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch length hidden"], Float[Tensor, "batch length"]]:
        """Hidden states and running scores at every position."""
        hidden = self.trunk.hidden(batch)
        return hidden, self.head(hidden, batch)

    def scores(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Each response's score, read at its last real token."""
        return at_last_token(self.running_scores(batch)[1], batch)

    def save(self, directory: Path) -> None:
        save_file(self.head.state_dict(), directory / "head.safetensors")
        save_file(
            {name: weight.detach().clone() for name, weight in self.trunk.state().items()},
            directory / "trunk.safetensors",
        )

    def load(self, directory: Path) -> "RewardModel":
        """Take the weights saved in `directory`, and freeze them."""
        self.head.load_state_dict(load_file(directory / "head.safetensors"))
        self.trunk.load_state(load_file(directory / "trunk.safetensors"))
        self.trunk.freeze()
        self.head.requires_grad_(False)
        return self


def at_last_token(values: Float[Tensor, "batch length"], batch: Batch) -> Float[Tensor, " batch"]:
    """The entry of each row at its response's last real token."""
    last = batch.prompt_length + batch.lengths - 1
    return values.gather(1, last[:, None]).squeeze(1)
