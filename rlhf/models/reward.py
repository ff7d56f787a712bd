"""The reward model: a linear head on the states of an adapter or of a trunk of its own.

Its running score at a position is what the score would be if the response ended there, so the running scores are also a
first estimate of the value. The head also reads how likely each response token is to the reference (or to the reward
model's own trunk): what a policy must not do in order to please is mostly what the reference finds unlikely, and a
linear head on states sees that poorly.
"""

import logging
import math
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf.config.models import RewardConfig
from rlhf.errors import CheckError
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch
from rlhf.models.hub import check_same_weights
from rlhf.models.layers import state_width
from rlhf.models.logprobs import Tokens, token_logprobs
from rlhf.storage.files import read_json, write_json

HINGES = (-3.0, -6.0)
"""Log-probabilities, in nats, below which a further term reads how far below a token lies."""

FLOOR = -8.0
"""Log-probabilities below it, in nats, are read as it. Hardly any comparison has such tokens, so that what a head makes
of them is extrapolation, and a policy would find out where that pays."""

SAME = 1e-6
"""Scores that deviate by less, beside the largest or 1, are one score: dividing by that would scale up rounding."""

RARE = 0.05
"""Where fewer scores than this share differ from the commonest, their deviation is known too badly to divide by it."""

log = logging.getLogger(__name__)

Hidden = Float[Tensor, "batch length hidden"]
Running = Float[Tensor, "batch length"]


class ScoreHead(nn.Module):
    """Running scores from states: a sum over the response so far, a mean over it, or what its last token gives.

    `additive` divides the sum by `scale`. With `reads_logprobs`, a token also adds a weighted sum of its
    log-probability and of how far that lies below each of HINGES; the weights are linear in the state at the token, and
    0 at first. `additive` sums that over the response so far, the others take the mean.
    """

    def __init__(self, hidden_size: int, kind: str, reads_logprobs: bool = False, scale: float = 4.0) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.gate = nn.Linear(hidden_size, 1 + len(HINGES)) if reads_logprobs else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    mean: Tensor
    deviation: Tensor

    def forward(self, hidden: Hidden, batch: Batch, logprobs: Tokens | None = None) -> Running:
        """Running scores in standard deviations of the SFT model's scores, once `standardize` has been called.

        `logprobs` are those of the response tokens, of a head that reads them.
        """
        scores = self.linear(hidden.float()).squeeze(-1)
        read = torch.zeros_like(scores)
        if self.gate is not None:
            assert logprobs is not None
            weights = self.gate(hidden.float())[:, batch.prompt_length :]
            read[:, batch.prompt_length :] = (weights * hinges(logprobs)).sum(-1) * batch.mask
        in_response = torch.zeros_like(scores)
        in_response[:, batch.prompt_length :] = batch.mask.float()
        count = in_response.cumsum(1).clamp(min=1)
        if self.kind == "last_token":
            scores = scores + read.cumsum(1) / count
        else:
            scores = (scores * in_response + read).cumsum(1) / (self.scale if self.kind == "additive" else count)
        return (scores - self.mean) / self.deviation

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """Shift and scale what is given from now on, so that `scores` (raw until now) have mean 0 and deviation 1."""
        mean, deviation = scale_of(scores)
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)


def scale_of(scores: Float[Tensor, " samples"]) -> tuple[float, float]:
    """Mean and standard deviation; that is 1, with a warning, where (nearly) all scores are the same.

    Raises CheckError where they are not finite.
    """
    mean, deviation = scores.mean().item(), scores.std().item()
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise CheckError("the SFT model's scores can't be standardised: they are not all finite numbers")
    same = deviation <= SAME * max(1.0, scores.abs().max().item())
    common = scores.mode().values.item()
    others = 0 if same else int((scores != common).sum())
    if others >= RARE * len(scores):
        return mean, deviation
    said = "reward: %s %d responses of the SFT model score %.4g: scores are shifted, and not scaled, and there is %s"
    hope = "little to learn from at first" if others else "nothing to learn from unless the policy comes to find it"
    log.warning(said, f"all but {others} of" if others else "all", len(scores), common, hope)
    return mean, 1.0


S = TypeVar("S", bound="Scaled")


class Scaled:
    """Scores of a reward without a trained head of its own: in the SFT model's deviations once standardized."""

    mean, deviation = 0.0, 1.0

    def standardized(self, scores: Float[Tensor, "*scores"]) -> Float[Tensor, "*scores"]:
        return (scores - self.mean) / self.deviation

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """Shift and scale what is given from now on, so that `scores` (raw until now) have mean 0 and deviation 1."""
        self.mean, self.deviation = scale_of(scores)

    def use_raw(self) -> None:
        """Give the model's own scores from now on."""
        self.mean, self.deviation = 0.0, 1.0

    def save(self, directory: Path) -> None:
        """Write the scale alone: what is scaled lies elsewhere."""
        write_json(directory / "scale.json", {"mean": self.mean, "deviation": self.deviation})

    def load(self: S, directory: Path) -> S:
        scale = read_json(directory / "scale.json")
        self.mean, self.deviation = scale["mean"], scale["deviation"]
        return self


class RewardModel:
    """A trunk (adapter or copy), its score head, and the role whose log-probabilities the head reads, if any."""

    def __init__(self, config: RewardConfig, trunk: Role, head: ScoreHead, reads: Role | None, temperature: float):
        self.config, self.trunk, self.head = config, trunk, head
        self.reads, self.temperature = reads, temperature

    @classmethod
    def create(cls, base: SharedBase, config: RewardConfig, name: str, temperature: float = 1.0) -> "RewardModel":
        """An untrained reward model on `base`, its head from torch's global generator; `name` is its adapter's.

        Log-probabilities are read at `temperature`.
        """
        trunk = base.add(name, config.lora, trainable=True) if config.backbone == "adapter" else base.full_copy()
        reads = {"reference": base.reference(), "own": trunk, "none": None}[config.logprobs]
        head = ScoreHead(state_width(base.lm), config.head, reads is not None, config.additive_scale)
        return cls(config, trunk, head.to(base.lm.device), reads, temperature)

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """See ScoreHead."""
        self.head.standardize(scores)

    def use_raw(self) -> None:
        """Give the model's own scores from now on."""
        self.head.mean.zero_()
        self.head.deviation.fill_(1.0)

    def parameters(self) -> list[nn.Parameter]:
        return self.trunk.parameters() + list(self.head.parameters())

    def running_scores(self, batch: Batch, ref_logprobs: Tokens | None = None) -> tuple[Hidden, Running]:
        """Hidden states and running scores at every position.

        `ref_logprobs`, the reference's of the response tokens, spare a pass where they are known already.
        """
        hidden = self.trunk.hidden(batch)
        return hidden, self.head(hidden, batch, self._logprobs(batch, hidden, ref_logprobs))

    def scores(self, batch: Batch, ref_logprobs: Tokens | None = None) -> Float[Tensor, " batch"]:
        """Each response's score, read at its last real token."""
        return at_last_token(self.running_scores(batch, ref_logprobs)[1], batch)

    def _logprobs(self, batch: Batch, hidden: Hidden, ref_logprobs: Tokens | None) -> Tokens | None:
        """What the head reads: differentiable of its own trunk, never of the reference."""
        if self.reads is None:
            return None
        if self.reads is self.trunk:
            return token_logprobs(self.trunk, batch.before_responses(hidden), batch, self.temperature)
        if ref_logprobs is not None:
            return ref_logprobs
        with torch.no_grad():
            states = batch.before_responses(self.reads.hidden(batch))
            return token_logprobs(self.reads, states, batch, self.temperature)

    def save(self, directory: Path) -> None:
        save_file(self.head.state_dict(), directory / "head.safetensors")
        save_file(
            {name: weight.detach().clone() for name, weight in self.trunk.state().items()},
            directory / "trunk.safetensors",
        )

    def load(self, directory: Path) -> "RewardModel":
        """Take the weights saved in `directory`, and freeze them."""
        head, place = load_file(directory / "head.safetensors"), str(directory)
        check_same_weights(self.head.state_dict(), head, "reward model", place, "its head")
        self.head.load_state_dict(head)
        self.trunk.load_state(load_file(directory / "trunk.safetensors"), "reward model", place)
        self.freeze()
        return self

    def freeze(self) -> None:
        self.trunk.freeze()
        self.head.requires_grad_(False)


def hinges(logprobs: Tokens) -> Float[Tensor, "batch response terms"]:
    """What a head reads of a token's log-probability: itself, but FLOOR at least, and how far it lies below HINGES."""
    logprobs = logprobs.clamp(min=FLOOR)
    return torch.stack([logprobs, *((logprobs - hinge).clamp(max=0) for hinge in HINGES)], dim=-1)


def at_last_token(values: Running, batch: Batch) -> Float[Tensor, " batch"]:
    """The entry of each row at its response's last real token."""
    last = batch.prompt_length + batch.lengths - 1
    return values.gather(1, last[:, None]).squeeze(1)
