"""Verdicts from intervals, and numbers as they are written."""

import math

import pytest

from rlhf.report.markdown import (
    AGREES,
    CONTRADICTS,
    OPEN,
    Claim,
    Section,
    claims_list,
    count,
    interval,
    most,
    number,
    p_value,
    render,
    table,
    tally,
    verdict,
)

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


def test_numbers() -> None:
    assert number(3.14159) == "3.1"
    assert number(3.14159, 3, signed=True) == "+3.142"
    assert number(-0.04) == "0.0"
    assert number(0.04, signed=True) == "0.0"
    assert number(None) == "–"
    assert interval(1.0, -0.25, 2.0, 2, signed=True) == "+1.00 [-0.25, +2.00]"
    assert (p_value(0.0004), p_value(0.04), p_value(None)) == ("< 0.001", "0.040", "–")
    assert (count(1, "run"), count(1200, "run")) == ("1 run", "1,200 runs")


def test_table() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"
    assert table(["a", "b"], [], text=2) == "| a | b |\n| :-- | :-- |"


def test_section() -> None:
    claim = Claim("It holds.", "it does.", AGREES)
    assert claims_list([claim]) == "- Paper: It holds. Here: it does. → **agrees**"
    assert claims_list([Claim("A.", "b.", OPEN, "of 2")]) == "- Paper: A. Here: b. → **can't tell** (of 2)"
    assert render(Section("Title", ["One.", "Two."], [claim])) == f"## Title\n\nOne.\n\nTwo.\n\n{claims_list([claim])}"
    assert render(Section("Title", ["One."])) == "## Title\n\nOne."
