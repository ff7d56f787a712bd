"""Text of users, models and files, made safe for where it is shown: there it is text, and nothing else.

Terminals get it through `rlhf.console`, which makes all that it prints `visible`; HTML pages are escaped by templates.
"""

import html
import re
from typing import Any

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but the tab and the line feed: escape sequences begin with one
    "\u2028-\u202e\u2066-\u2069"  # separators that end lines, and what turns the direction of writing
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # marks that nothing shows
    "\ud800-\udfff]"  # halves of surrogate pairs, as file names may hold
)

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def visible(text: str) -> str:
    """Characters that would steer a terminal or can't be seen, written as Python writes them: `\\x1b`."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """The same without line breaks, for tables and messages."""
    return visible(" ".join(text.split()))


def markdown(text: str) -> str:
    """In a line of Markdown, or a cell of its tables: no HTML, links, code or columns."""
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", html.escape(one_line(text), quote=False))


def code(text: str) -> str:
    """As a code span of Markdown, in a table too: fenced by more backticks than it holds."""
    text = one_line(text).replace("|", "\\|")
    fence = backticks(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def fenced(text: str) -> str:
    """As a block of shell commands in Markdown."""
    fence = backticks(text, 3)
    return f"{fence}bash\n{visible(text)}\n{fence}"


def backticks(text: str, least: int) -> str:
    """More of them in a row than there are in the text."""
    return "`" * max(least, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def cell(value: Any) -> Any:
    """A value for a cell of CSV: text that would be a formula has an apostrophe first; all else is left as it is."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def label(text: str) -> str:
    """A label of plotly's, which reads some HTML."""
    return html.escape(one_line(text), quote=False)
