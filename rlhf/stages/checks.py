"""What must hold before PPO and in it: refusals that show the figure, and say what to change."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from rlhf.config.evaluation import ChecksConfig
from rlhf.config.run import Config
from rlhf.errors import CheckError
from rlhf.models.layers import room
from rlhf.validate import check


def check_context(lm: PreTrainedModel, config: Config) -> None:
    """Raises ConfigError where the model has no room for a prompt and its response."""
    context, rollout = room(lm), config.rollout
    allowed = f"with the prompts of rollout or evaluation a sequence takes {config.longest} tokens, and model.path has "
    check(config.longest <= context, "rollout.max_response_tokens", rollout.max_response_tokens, f"{allowed}{context}")


def check_finite(what: str, figures: Mapping[str, Any], advice: str) -> None:
    """Raises CheckError, naming the figure, where training has diverged: no stage keeps what is no number."""
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckError(f"{what} has diverged: {name} is {value}; {advice}")


def check_factuality(factuality: float | None, checks: ChecksConfig) -> None:
    """Raises CheckError where the SFT model's factuality leaves PPO nothing to show."""
    if checks.min_factuality is not None and (factuality is None or factuality < checks.min_factuality):
        found = "unknown, since it states no facts" if factuality is None else f"{factuality:.1f} %"
        raise CheckError(
            f"the SFT model's factuality is {found}: checks.min_factuality={checks.min_factuality} asks for more; "
            "it has not learnt its facts, raise pretrain.steps or sft.epochs"
        )
    if checks.max_factuality is not None and factuality is not None and factuality > checks.max_factuality:
        raise CheckError(
            f"the SFT model's factuality is {factuality:.1f} %: checks.max_factuality={checks.max_factuality} asks for "
            "less, so that PPO has something to change; lower pretrain.steps or sft.epochs"
        )


def check_reward(name: str, figures: dict[str, Any], checks: ChecksConfig) -> None:
    """Raises CheckError where a reward model has learnt too little to be optimized; a verifier has nothing to learn."""
    if "accuracy" not in figures:  # of a reward that was made elsewhere, where the data has no comparisons
        return
    accuracy, error = figures["accuracy"], figures["accuracy_se"]
    if checks.min_accuracy is not None and accuracy < checks.min_accuracy:
        raise CheckError(
            f"the {name} model ranks {100 * accuracy:.1f} % (standard error {100 * error:.1f}) of the pairs kept aside "
            f"as their annotator did, below checks.min_accuracy={checks.min_accuracy}: it has learnt too little; "
            "raise reward.epochs or give it more comparisons"
        )
    agreement = figures.get("oracle_agreement")
    if agreement is not None and checks.min_oracle_agreement is not None and agreement < checks.min_oracle_agreement:
        raise CheckError(
            f"the {name} model agrees with the oracle on {100 * agreement:.1f} % of pairs of SFT responses to tuning "
            f"prompts, below checks.min_oracle_agreement={checks.min_oracle_agreement}: "
            "raise reward.epochs or data.comparison_prompts"
        )
