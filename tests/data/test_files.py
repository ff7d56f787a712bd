import gzip
import json
from pathlib import Path

import pytest

from rlhf.data.files import Row, read_rows
from rlhf.errors import DataError


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_json_lines_keep_their_line_numbers_across_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", '{"a": 1}\n\n{"a": 2}\r\n')
    assert read_rows(path, "data.x") == [Row({"a": 1}, path, "line 1"), Row({"a": 2}, path, "line 3")]


def test_a_json_array_counts_from_index_0(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", '[{"a": 1},\n\n\n{"a": 2}]')
    assert read_rows(path, "data.x") == [Row({"a": 1}, path, "index 0"), Row({"a": 2}, path, "index 1")]


@pytest.mark.parametrize(("name", "content"), [("a.json.gz", '[{"a": "é"}]'), ("a.jsonl.gz", '{"a": "é"}\n')])
def test_gzipped_files_read_like_plain_ones(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()))
    assert [row.values for row in read_rows(path, "data.x")] == [{"a": "é"}]


def test_unicode_line_separators_and_a_byte_order_mark_do_not_cut_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", '\ufeff{"a": "one\u2028two\x85three"}\n{"a": "four"}')
    assert [row.values["a"] for row in read_rows(path, "data.x")] == ["one\u2028two\x85three", "four"]


def test_a_missing_file_is_named_with_the_key_that_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.instructions: there is no file .*nowhere\.json$"):
        read_rows(tmp_path / "nowhere.json", "data.instructions")


@pytest.mark.parametrize("name", ["rows.csv", "rows.gz", "rows", "rows.json.zip"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "[]")
    with pytest.raises(DataError, match=r"data\.x: .*must end in \.json or \.jsonl"):
        read_rows(path, "data.x")


@pytest.mark.parametrize(("name", "content"), [("a.json", "[]"), ("a.jsonl", "\n \n")])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=rf"^data\.x: .*{name} holds no rows"):
        read_rows(write(tmp_path, name, content), "data.x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "{path}, line 2: not JSON: Expecting value at column 7"),
        ("a.json", '[{"a": 1},\n{"a": }]', "{path}, line 2: not JSON: Expecting value at column 7"),
        ("a.jsonl", '{"a": 1}\n\n[1, 2]\n', "{path}, line 3 is [1, 2]: it must be a JSON object"),
        ("a.json", '[{"a": 1}, "b"]', '{path}, index 1 is "b": it must be a JSON object'),
    ],
)
def test_a_broken_row_is_named_by_file_and_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read_rows(path, "data.x")
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize("value", ['{"a":' * 100_000, "9" * 5_000], ids=["nested too deep", "too many digits"])
def test_json_beyond_what_python_reads_is_a_line_too(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{{"a": {value}}}\n')
    with pytest.raises(DataError, match=f"^{path}, from line 2 on: can't be read: .*(?i:exceed)"):
        read_rows(path, "data.x")


def test_an_object_where_an_array_is_needed_is_shown_in_short(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps({"a": "b" * 100}))
    with pytest.raises(DataError) as caught:
        read_rows(path, "data.x")
    # {"a": " takes 7 of the 60 characters.
    assert str(caught.value).startswith(f'{path} holds {{"a": "{"b" * 53}...: it must be one JSON array of objects')


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-10])
    damaged = tmp_path / "damaged.jsonl.gz"
    # Past the header of 10 bytes, a first byte of ones announces a kind of block that doesn't exist.
    damaged.write_bytes(gzip.compress(b'{"a": 1}\n')[:10] + b"\xff" * 20)
    plain = write(tmp_path, "plain.jsonl.gz", '{"a": 1}')
    latin = tmp_path / "latin.json"
    latin.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    for path in (cut, damaged, plain, latin):
        with pytest.raises(DataError, match=rf"^data\.x: {path} can't be read: "):
            read_rows(path, "data.x")


def test_text_fields_are_returned_unchanged() -> None:
    row = Row({"a": " x\n", "b": "", "c": " \n", "d": None}, Path("f.json"), "index 4")
    assert row.text("a") == row.filled_text("a") == row.optional_text("a") == " x\n"
    assert row.text("b") == ""
    assert [row.optional_text(name) for name in "bcde"] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("method", "values", "found", "needed"),
    [
        ("text", {}, "missing", "a string"),
        ("text", {"a": None}, "null", "a string"),
        ("text", {"a": ["b"]}, '["b"]', "a string"),
        ("text", {"a": "\ud800"}, '"\\ud800"', "valid Unicode"),
        ("filled_text", {"a": " \n"}, '" \\n"', "a string that isn't empty"),
        ("optional_text", {"a": 5}, "5", "a string"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found_and_needed(
    method: str, values: dict, found: str, needed: str
) -> None:
    row = Row(values, Path("f.jsonl"), "line 7")
    with pytest.raises(DataError) as caught:
        getattr(row, method)("a")
    assert str(caught.value).startswith(f"f.jsonl, line 7, field 'a' is {found}: it must be {needed}")
