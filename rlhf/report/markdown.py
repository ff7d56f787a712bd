"""Numbers and tables as they are written."""

from collections.abc import Sequence

from rlhf.evaluation.pooling import Pooled

NOTHING = "–"


def number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    if value is None:
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if any(digit in text for digit in "123456789") else f"{0:.{digits}f}"


def interval(estimate: float, low: float, high: float, digits: int = 1, signed: bool = False) -> str:
    """`estimate [low, high]`."""
    return f"{number(estimate, digits, signed)} [{number(low, digits, signed)}, {number(high, digits, signed)}]"


def shown(result: Pooled | None, digits: int = 1, signed: bool = False) -> str:
    """The estimate with its interval, if there is one: not of a single figure without an error, nor of equal ones."""
    if result is None:
        return number(None)
    ends = [number(value, digits, signed) for value in (result.low, result.high)]
    if ends[0] == ends[1]:
        return number(result.estimate, digits, signed)
    return interval(result.estimate, result.low, result.high, digits, signed)


def with_error(figure: Pooled | None, digits: int = 1) -> str:
    """`63.8 ± 1.3`; without an error where there is none."""
    if figure is None:
        return NOTHING
    text = number(figure.estimate, digits)
    return text if figure.standard_error == 0 else f"{text} ± {number(figure.standard_error, digits)}"


def span(figure: Pooled | None, digits: int = 1) -> str:
    """The 95 % interval: `57.1 to 62.9`; "" where there is none."""
    if figure is None or figure.low == figure.high:
        return ""
    return f"{number(figure.low, digits)} to {number(figure.high, digits)}"


def p_value(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """A markdown table; the first `text` columns are aligned to the left, the others to the right."""
    marks = [":--"] * text + ["--:"] * (len(header) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))
