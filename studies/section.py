"""The pieces of the document: sections, and claims with their verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

AGREES, CONTRADICTS, OPEN = "agrees", "contradicts", "can't tell"

MARGIN = 5.0
"""Points of greedy win rate up to which one thing does about as well as another: a sixth of what PPO gains here."""

FACTS_MARGIN = 2.0
"""Points of factuality that are no loss worth speaking of."""

LEAST_WORLDS = 4
"""Worlds that a verdict needs; of fewer, Student's t makes intervals wider than any effect."""

UNITS = (("response", 2), ("token", 3))
"""What true KLs are given per, and with how many digits."""


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was found here, and whether the two agree; `counted`: in how many comparisons.

    `outside`: of each comparison, the p-value of its lying beyond what the claim allows, where its interval does; of
    the others that of its lying at the edge. They make up one family, of all claims: see `studies.claims.decided`.
    """

    paper: str
    here: str
    verdict: str
    counted: str = ""
    verdicts: tuple[str, ...] = ()
    outside: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report; its claims, and questions with the sentence that answers them, stand in the summary too."""

    title: str
    paragraphs: list[str]
    claims: list[Claim] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)


def verdict(low: float, high: float, region: tuple[float, float]) -> str:
    """Whether an interval lies inside the region that a claim allows, outside it, or neither."""
    if region[0] < low and high < region[1]:
        return AGREES
    if high <= region[0] or low >= region[1]:
        return CONTRADICTS
    return OPEN


def most(verdicts: Sequence[str]) -> str:
    """The verdict on a claim about most of several comparisons."""
    for outcome in (AGREES, CONTRADICTS):
        if 2 * verdicts.count(outcome) > len(verdicts):
            return outcome
    return OPEN


def tally(verdicts: Sequence[str]) -> str:
    """Count verdicts: `of 5, 3 agree, 0 contradict, 2 can't tell`; empty for one or none."""
    if len(verdicts) < 2:
        return ""
    agree, contradict, unclear = (verdicts.count(outcome) for outcome in (AGREES, CONTRADICTS, OPEN))
    return f"of {len(verdicts)}, {agree} agree, {contradict} contradict, {unclear} can't tell"


def missing(sweep: str) -> str:
    """What a section says that has no runs to go by."""
    return f"No finished runs for this yet. `rlhf run -cn {sweep}` makes them."


def claims_list(claims: Sequence[Claim]) -> str:
    """A bullet for each claim, its verdict last."""
    return "\n".join(f"- Paper: {claim.paper} Here: {claim.here} → {outcome(claim)}" for claim in claims)


def outcome(claim: Claim) -> str:
    corrected = claim.verdict == OPEN and CONTRADICTS in claim.verdicts
    notes = [claim.counted] * bool(claim.counted) + ["none contradicts after Holm's correction"] * corrected
    return f"**{claim.verdict}**" + (f" ({'; '.join(notes)})" if notes else "")


def render(section: Section, level: int = 2) -> str:
    parts = [f"{'#' * level} {section.title}", *section.paragraphs]
    if section.claims:
        parts.append(claims_list(section.claims))
    return "\n\n".join(parts)
