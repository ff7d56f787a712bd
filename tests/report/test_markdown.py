"""Numbers and tables as they are written."""

from rlhf.report.markdown import count, interval, number, p_value, table


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
