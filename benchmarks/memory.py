"""How much memory a run would take on one device, by arithmetic alone: nothing is loaded, no GPU is needed."""

from typing import Any

from benchmarks.options import Options, configure
from benchmarks.table import figure, show
from rlhf.models.backbone import model_shape
from rlhf.models.logprobs import CHUNK
from rlhf.models.memory import GIB, empty_model, estimate


def measure(options: Options) -> dict[str, Any]:
    """GiB of each stage that needs much, by what takes them; the program itself left out."""
    config = configure(options.overrides)
    found = estimate(config, empty_model(model_shape(config.model)), CHUNK, processes=1)
    stages = {
        name: {part: value / GIB for part, value in parts.items() if value} for name, parts in found.stages.items()
    }
    for name, parts in stages.items():
        rows = [[part, figure(value)] for part, value in parts.items()]
        show(f"an estimate, {name}:", ["", "GiB"], [*rows, ["in all", figure(sum(parts.values()))]])
    return {"gib": stages}
