"""Text that is hostile to where it is shown, and is only text there."""

import csv
from io import StringIO
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from rlhf.console import PlainConsole, command
from rlhf.errors import DataError
from rlhf.escape import cell, code, fenced, label, markdown, one_line, visible
from rlhf.report.tables import Table as ReportTable
from rlhf.report.tables import frame, write_tables


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\x07\r", "\\x1b[2J\\x07\\r"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\udcff \U000e0041", "\\udcff \\U000e0041"),
        ("שלום, 日本, é, \u200d", "שלום, 日本, é, \u200d"),
    ],
)
def test_what_steers_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == visible(visible(text)) == shown
    assert one_line("a \n\t b") == "a b"


def test_the_console_prints_text_as_text() -> None:
    file = StringIO()
    console = PlainConsole(file=file, width=60, force_terminal=True, color_system=None)
    hostile = "[bold]x[/bold] [/y] :smile: \x1b]0;title\x9c"
    table = Table(hostile, title=hostile)
    table.add_row(Text(hostile, style="red"))
    console.print(hostile)
    console.print(table)
    assert file.getvalue().count("[bold]x[/bold] [/y] :smile: \\x1b]0;title\\x9c") == 4
    assert "\x1b" not in file.getvalue()
    with pytest.raises(SystemExit, match=r"^error: no \\x1b\[2J$"), command():
        raise DataError("no \x1b[2J")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<img src=x onerror=y> & |", "&lt;img src=x onerror=y&gt; &amp; \\|"),
        ("[a](http://b) `c` *d*\n# e", "\\[a\\](http://b) \\`c\\` \\*d\\* # e"),
        ("regularizer.coef_x=1e-05", "regularizer.coef_x=1e-05"),
    ],
)
def test_markdown_is_text(text: str, written: str) -> None:
    assert markdown(text) == written


def test_code_spans_hold_backticks() -> None:
    assert fenced("a\n```\x1b") == "````bash\na\n```\\x1b\n````"
    assert (code("a"), code("`a``"), code("a|b\n"), code("")) == ("`a`", "``` `a`` ```", "`a\\|b`", "`  `")


def test_labels_of_charts_hold_no_html() -> None:
    assert label('<a href="x">$1$</a>') == '&lt;a href="x"&gt;$1$&lt;/a&gt;'


def test_tables_hold_no_formulas(tmp_path: Path) -> None:
    rows = [["=1+1", "<b>", "a|b"]]
    numbers = frame([{"=setting": "=cmd|' /C calc'!A0", "figure": -1.5, "path": "\x1b@x", "n": None}])
    write_tables([ReportTable("t", ["=x", "y", "z"], rows, numbers)], tmp_path)
    [header, values] = list(csv.reader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    assert header == ["'=setting", "figure", "path", "n"]
    assert values == ["'=cmd|' /C calc'!A0", "-1.5", "\\x1b@x", ""]
    assert (tmp_path / "t.md").read_text(encoding="utf-8").endswith("| =1+1 | &lt;b&gt; | a\\|b |\n")
    assert [cell(value) for value in ("+x", "@x", "-x", -1, None)] == ["'+x", "'@x", "'-x", -1, None]
