"""Verdicts on the paper's claims, from intervals, corrected for the number of all that are compared."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

from rlhf.evaluation.pooling import Pooled, holm
from rlhf.report.markdown import number, shown
from studies.section import AGREES, CONTRADICTS, LEAST_WORLDS, OPEN, Claim, tally, verdict

SIGNIFICANT = 0.05

Region = tuple[float, float]
"""The values that a claim allows; one end is infinite."""

Effects = Callable[[float], Mapping[str, Pooled | None]]
"""The effects that a claim is about, by name, each minus the number that it is called with."""


def judge(result: Pooled | None, region: Region) -> str:
    """The verdict on one effect; few worlds can't tell."""
    return verdict(result.low, result.high, region) if known(result) else OPEN


def known(result: Pooled | None) -> TypeGuard[Pooled]:
    """Whether there are worlds enough for a verdict."""
    return result is not None and result.n >= LEAST_WORLDS


def claim(paper: str, what: str, effects: Effects, region: Region) -> Claim:
    """A claim about effects in points, decided by itself."""
    margin = next((f", margin {abs(edge):g}" for edge in region if edge != 0 and math.isfinite(edge)), "")
    return compared(paper, f"{what} is {each(effects(0.0))} points{margin}.", effects, region)


def compared(paper: str, here: str, effects: Effects, region: Region) -> Claim:
    """The claim that all effects lie in the region.

    To hold for all, it must hold for each at 95 %, which needs no correction; a single one that contradicts might do so
    by chance, and must do so after Holm's.
    """
    edge = region[0] if math.isfinite(region[0]) else region[1]
    verdicts = tuple(judge(result, region) for result in effects(0.0).values())
    outside = tuple(result.p_value if known(result) else None for result in effects(edge).values())
    [found] = decided([Claim(paper, here, OPEN, tally(verdicts), verdicts, outside)])
    return found


def decided(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with their verdicts, corrected by Holm for all the comparisons of all of them.

    A claim without p-values keeps its own verdict.
    """
    adjusted = iter(holm([p for claim in claims for p in claim.outside if p is not None]))
    return [replace(claim, verdict=settled(claim, adjusted)) if claim.outside else claim for claim in claims]


def settled(claim: Claim, adjusted: Iterator[float]) -> str:
    """A claim's verdict, from the corrected p-values of those of its comparisons that have one, in turn."""
    certain = [p is not None and next(adjusted) < SIGNIFICANT for p in claim.outside]
    if CONTRADICTS in claim.verdicts:
        outside = [found == CONTRADICTS for found in claim.verdicts]
        return CONTRADICTS if any(map(all, zip(outside, certain, strict=True))) else OPEN
    return AGREES if claim.verdicts and set(claim.verdicts) == {AGREES} else OPEN


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
