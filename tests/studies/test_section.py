"""Verdicts from intervals, and sections as they are written."""

import math

import pytest

from studies.section import AGREES, CONTRADICTS, OPEN, Claim, Section, claims_list, most, render, tally, verdict

BELOW, ABOVE = (-math.inf, 2.0), (0.0, math.inf)


@pytest.mark.parametrize(
    ("low", "high", "region", "expected"),
    [
        (-1.0, 1.9, BELOW, AGREES),
        (2.1, 5.0, BELOW, CONTRADICTS),
        (1.0, 3.0, BELOW, OPEN),
        (-9.0, 9.0, BELOW, OPEN),
        (0.1, 3.0, ABOVE, AGREES),
        (-3.0, -0.1, ABOVE, CONTRADICTS),
        (-0.1, 3.0, ABOVE, OPEN),
        (0.04, 0.1, (0.03, 0.17), AGREES),
        (0.2, 0.3, (0.03, 0.17), CONTRADICTS),
        (0.0, 0.02, (0.03, 0.17), CONTRADICTS),
        (0.02, 0.1, (0.03, 0.17), OPEN),
        (0.0, 0.3, (0.03, 0.17), OPEN),
        (0.0, 0.0, ABOVE, CONTRADICTS),  # no difference at all is not a positive one
    ],
)
def test_verdict(low: float, high: float, region: tuple[float, float], expected: str) -> None:
    assert verdict(low, high, region) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([AGREES, AGREES, OPEN], AGREES),
        ([AGREES, AGREES, CONTRADICTS], AGREES),
        ([CONTRADICTS, CONTRADICTS, AGREES], CONTRADICTS),
        ([AGREES, OPEN], OPEN),
        ([AGREES, CONTRADICTS], OPEN),
        ([], OPEN),
    ],
)
def test_most(verdicts: list[str], expected: str) -> None:
    assert most(verdicts) == expected


def test_tally() -> None:
    assert tally([AGREES, OPEN, AGREES, CONTRADICTS]) == "of 4, 2 agree, 1 contradict, 1 can't tell"
    assert tally([AGREES]) == tally([]) == ""


def test_section() -> None:
    claim = Claim("It holds.", "it does.", AGREES)
    assert claims_list([claim]) == "- Paper: It holds. Here: it does. → **agrees**"
    assert claims_list([Claim("A.", "b.", OPEN, "of 2")]) == "- Paper: A. Here: b. → **can't tell** (of 2)"
    assert render(Section("Title", ["One.", "Two."], [claim])) == f"## Title\n\nOne.\n\nTwo.\n\n{claims_list([claim])}"
    assert render(Section("Title", ["One."])) == "## Title\n\nOne."
