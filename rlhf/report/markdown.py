"""Numbers and tables as they are written."""

from collections.abc import Sequence

NOTHING = "–"


def number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    if value is None:
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if any(digit in text for digit in "123456789") else f"{0:.{digits}f}"


def interval(estimate: float, low: float, high: float, digits: int = 1, signed: bool = False) -> str:
    """`estimate [low, high]`."""
    return f"{number(estimate, digits, signed)} [{number(low, digits, signed)}, {number(high, digits, signed)}]"


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
