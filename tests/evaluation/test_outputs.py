"""Outputs and references, joined on the instruction."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.outputs import Output, load_joined, load_outputs


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def rows(**outputs: str) -> list[dict[str, Any]]:
    return [{"instruction": asked, "output": output, "dataset": "d"} for asked, output in outputs.items()]


def test_rows_are_joined_on_the_instruction_and_what_is_left_is_counted(tmp_path: Path) -> None:
    outputs = write(tmp_path / "own.json", *rows(c="own c", a="own a", x="own x"))
    references = write(tmp_path / "base.json", *rows(a="base a", b="base b", c="base c", d="base d"))
    joined = load_joined(outputs, references)
    assert joined.outputs == [Output("c", "d", "own c"), Output("a", "d", "own a")]
    assert joined.references == [["base c"], ["base a"]]
    assert joined.unused == {"n_left_out": 0, "n_without_reference": 1, "n_references_unused": 2}


def test_occurrences_of_an_instruction_join_in_order(tmp_path: Path) -> None:
    twice = [*rows(a="1"), *rows(a="2"), *rows(b="3")]
    outputs, references = write(tmp_path / "own.json", *twice), write(tmp_path / "base.json", *rows(b="x"), *twice)
    joined = load_joined(outputs, references)
    assert [(output.text, *found) for output, found in zip(joined.outputs, joined.references, strict=True)] == [
        ("1", "1"),
        ("2", "2"),
        ("3", "x"),
    ]


def test_several_draws_are_several_references(tmp_path: Path) -> None:
    outputs = write(tmp_path / "own.json", *rows(a="own", b="own"))
    draws = [
        {**row, "draw": draw, "output": f"{row['instruction']}{draw}"} for draw in (0, 1) for row in rows(a="", b="")
    ]
    joined = load_joined(outputs, write(tmp_path / "base.json", *draws))
    assert joined.references == [["a0", "a1"], ["b0", "b1"]]
    with pytest.raises(DataError, match="field 'draw'"):
        load_joined(outputs, write(tmp_path / "bad.json", {**draws[0], "draw": "first"}))


def test_of_a_run_what_it_left_out_stays_left_out(tmp_path: Path) -> None:
    write(tmp_path / "outputs.json", *rows(a="own a", b="own b", c="own c"))
    write(tmp_path / "references.json", *rows(a="base a", b="base b", c="base c"))
    judged = [("a", [2.0]), ("b", None), ("c", [None])]
    write(tmp_path / "responses.jsonl", *({"instruction": asked, "preferences": each} for asked, each in judged))
    joined = load_joined(tmp_path, None)
    assert [output.instruction for output in joined.outputs] == ["a", "c"]
    assert joined.unused["n_left_out"] == 1
    assert len(load_outputs(tmp_path)) == 3
    other = write(tmp_path / "other.json", *rows(a="other"))
    assert load_joined(tmp_path, other).references == [["other"]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    outputs = write(tmp_path / "own.json", *rows(a="own"))
    with pytest.raises(DataError, match=r"holds no references\.json: name .* by --reference FILE"):
        load_joined(outputs, None)
    with pytest.raises(DataError, match=r"holds no references\.json"):
        load_joined(tmp_path, None)
    with pytest.raises(DataError, match=r"--reference: there is no file .*none\.json"):
        load_joined(outputs, tmp_path / "none.json")
    with pytest.raises(DataError, match="no instruction in common"):
        load_joined(outputs, write(tmp_path / "base.json", *rows(b="base")))
    with pytest.raises(DataError, match=r"own\.json, index 0, field 'output' is missing"):
        load_joined(write(tmp_path / "own.json", {"instruction": "a"}), write(tmp_path / "base.json", *rows(a="base")))
