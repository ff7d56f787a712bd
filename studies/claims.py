"""Verdicts on the paper's claims, from intervals; claims about several comparisons are corrected for their number."""

import math
from collections.abc import Callable, Mapping, Sequence

from rlhf.evaluation.pooling import Pooled
from rlhf.report.compare import p_values
from rlhf.report.markdown import number, shown
from studies.section import AGREES, CONTRADICTS, OPEN, Claim, tally, verdict

SIGNIFICANT = 0.05

Region = tuple[float, float]
"""The values that a claim allows; one end is infinite."""

Effects = Callable[[float], Mapping[str, Pooled | None]]
"""The effects that a claim is about, by name, each minus the number that it is called with."""


def judge(result: Pooled | None, region: Region) -> str:
    """The verdict on one effect; one world can't tell."""
    return OPEN if result is None or result.n < 2 else verdict(result.low, result.high, region)


def family(effects: Effects, region: Region) -> tuple[list[str], str]:
    """The verdict on each effect, and on the claim that all lie in the region.

    To hold for all, it must hold for each at 95 %, which needs no correction; a single one that contradicts might do so
    by chance, and must do so after Holm's.
    """
    edge = region[0] if math.isfinite(region[0]) else region[1]
    verdicts = [judge(result, region) for result in effects(0.0).values()]
    if CONTRADICTS in verdicts:
        certain = [p is not None and p < SIGNIFICANT for p in p_values(list(effects(edge).values()))]
        outside = [found == CONTRADICTS for found in verdicts]
        return verdicts, CONTRADICTS if any(map(all, zip(outside, certain, strict=True))) else OPEN
    return verdicts, AGREES if verdicts and set(verdicts) == {AGREES} else OPEN


def claim(paper: str, what: str, effects: Effects, region: Region) -> Claim:
    """A claim about effects in points."""
    verdicts, found = family(effects, region)
    margin = next((f", margin {abs(edge):g}" for edge in region if edge != 0 and math.isfinite(edge)), "")
    return Claim(paper, f"{what} is {each(effects(0.0))} points{margin}.", found, tally(verdicts))


def spread(results: Sequence[Pooled | None]) -> str:
    """`-0.4 to +1.2`, of the estimates there are."""
    estimates = [result.estimate for result in results if result is not None]
    if not estimates:
        return number(None)
    low, high = number(min(estimates), signed=True), number(max(estimates), signed=True)
    return low if low == high else f"{low} to {high}"


def each(results: Mapping[str, Pooled | None]) -> str:
    """`none -1.2 [-3.0, +0.6], js ...`."""
    return ", ".join(f"{name} {shown(result, signed=True)}".strip() for name, result in results.items())
