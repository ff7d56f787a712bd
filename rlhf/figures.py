"""The win rate that a run is judged by, wherever there is room for one."""

from collections.abc import Mapping
from typing import Any

GREEDY, SAMPLED = "win_rate_greedy", "win_rate"

DECODING = {GREEDY: "greedy", SAMPLED: "sampled"}
"""How the responses were drawn, of the policy and of the SFT model alike."""


def headline(*metrics: Mapping[str, Any]) -> str:
    """Names the win rate that all of these figures have: the greedy one, but where the best of several was taken."""
    return GREEDY if metrics and all(each.get(GREEDY) is not None for each in metrics) else SAMPLED
