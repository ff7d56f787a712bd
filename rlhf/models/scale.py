"""The scale of a reward without a trained head of its own: what makes the SFT model's scores 0 on average."""

from pathlib import Path
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from rlhf.storage.files import read_json, write_json

S = TypeVar("S", bound="Scaled")


class Scaled:
    """Scores in standard deviations of the SFT model's, once `standardize` has been called; raw until then."""

    mean, deviation = 0.0, 1.0

    def standardized(self, scores: Float[Tensor, "*scores"]) -> Float[Tensor, "*scores"]:
        return (scores - self.mean) / self.deviation

    def standardize(self, scores: Float[Tensor, " samples"]) -> None:
        """Shift and scale what is given from now on, so that `scores` (raw until now) have mean 0 and deviation 1."""
        self.mean, self.deviation = scores.mean().item(), max(scores.std().item(), 1e-6)

    def save(self, directory: Path) -> None:
        """Write the scale alone: what is scaled lies elsewhere."""
        write_json(directory / "scale.json", {"mean": self.mean, "deviation": self.deviation})

    def load(self: S, directory: Path) -> S:
        scale = read_json(directory / "scale.json")
        self.mean, self.deviation = scale["mean"], scale["deviation"]
        return self
