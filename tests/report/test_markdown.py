"""Numbers and tables as they are written."""

from rlhf.evaluation.pooling import Pooled
from rlhf.report.markdown import count, interval, number, p_value, shown, span, table, with_error


def pooled(estimate: float, low: float, high: float, error: float = 1.0) -> Pooled:
    return Pooled(estimate, error, low, high, 0.0, 0.01, 3)


def test_numbers() -> None:
    assert number(3.14159) == "3.1"
    assert number(3.14159, 3, signed=True) == "+3.142"
    assert number(-0.04) == number(0.04, signed=True) == "0.0"
    assert number(None) == "–"
    assert (p_value(0.0004), p_value(0.04), p_value(None)) == ("< 0.001", "0.040", "–")
    assert (count(1, "run"), count(1200, "run")) == ("1 run", "1,200 runs")


def test_estimates_with_their_intervals_or_errors() -> None:
    assert interval(1.0, -0.25, 2.0, 2, signed=True) == "+1.00 [-0.25, +2.00]"
    assert shown(pooled(1.0, -1.0, 3.0), signed=True) == "+1.0 [-1.0, +3.0]"
    assert shown(pooled(0.5, 0.5, 0.5)) == "0.5"
    assert (span(pooled(1.0, -1.0, 3.0)), span(pooled(0.5, 0.5, 0.5))) == ("-1.0 to 3.0", "")
    assert (with_error(pooled(1.0, 0.0, 2.0), 2), with_error(pooled(1.0, 1.0, 1.0, 0.0))) == ("1.00 ± 1.00", "1.0")
    assert (shown(None), span(None), with_error(None)) == ("–", "", "–")


def test_table() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"
    assert table(["a", "b"], [], text=2) == "| a | b |\n| :-- | :-- |"
