"""Where rows come from: files of each encoding, patterns of files, and the hub, which the tests keep on this disk."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlhf.data.tables import Table, read_table
from rlhf.errors import DataError

ROWS = [{"instruction": f"Ask {n}?", "messages": [{"role": "user", "content": "é"}]} for n in range(5)]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from pyarrow import Table as ArrowTable
        from pyarrow.parquet import write_table

        write_table(ArrowTable.from_pylist(rows), path, row_group_size=2)
    else:
        text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
        path.write_text(text, encoding="utf-8")
    return path


def values(table: Table) -> list[dict[str, Any]]:
    return [row.values for row in table.rows]


@pytest.mark.parametrize(("name", "place"), [("a.json", "index 1"), ("a.jsonl", "line 2"), ("a.parquet", "row 1")])
def test_a_file_of_each_encoding(tmp_path: Path, name: str, place: str) -> None:
    path = write(tmp_path / name)
    table = read_table(name, "data.x", tmp_path)
    assert table.name == str(path)
    assert values(table) == ROWS
    assert (table.rows[1].path, table.rows[1].place) == (path, place)
    assert table.digest == read_table(str(path), "data.x").digest  # a whole path needs no root
    assert values(read_table(name, "data.x", tmp_path, limit=2)) == ROWS[:2]


def test_the_digest_is_of_the_rows_taken_in_whatever_encoding(tmp_path: Path) -> None:
    digests = [read_table(str(write(tmp_path / f"a.{kind}")), "data.x").digest for kind in ("json", "jsonl", "parquet")]
    assert len(digests[0]) == 64
    assert len(set(digests)) == 1
    for rows in ([ROWS[0] | {"instruction": "Ask?"}, *ROWS[1:]], ROWS[::-1], ROWS[:4]):
        digests.append(read_table(str(write(tmp_path / "b.json", rows)), "data.x").digest)
    assert len(set(digests)) == 4
    assert read_table(str(tmp_path / "a.json"), "data.x", limit=4).digest == digests[-1]


def test_lines_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\nno JSON\n')
    assert values(read_table(str(path), "data.x", limit=2)) == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match="line 3: not JSON"):
        read_table(str(path), "data.x", limit=3)


def test_a_pattern_is_all_its_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "train-1.parquet", ROWS[3:])
    write(tmp_path / "train-0.parquet", ROWS[:3])
    write(tmp_path / "test-0.parquet", ROWS[:1])
    table = read_table("train-*.parquet", "data.x", tmp_path)
    assert values(table) == ROWS
    assert [row.place for row in table.rows] == ["row 0", "row 1", "row 2", "row 0", "row 1"]
    assert values(read_table("train-*.parquet", "data.x", tmp_path, limit=4)) == ROWS[:4]
    with pytest.raises(DataError, match=rf"data\.x: there is no file {tmp_path}/no-"):
        read_table("no-*.parquet", "data.x", tmp_path)
    write(tmp_path / "train[v2].parquet", ROWS[:2])  # a file by that very name is no pattern
    assert values(read_table("train[v2].parquet", "data.x", tmp_path)) == ROWS[:2]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("{}")
    with pytest.raises(DataError, match=rf"data\.x: {path} can't be read: "):
        read_table(str(path), "data.x")
    write(path, [])
    with pytest.raises(DataError, match="holds no rows"):
        read_table(str(path), "data.x")


# ---- The hub: `datasets` takes a folder OWNER/NAME below the working directory for the data set of that id. ----


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    write(tmp_path / "owner" / "name" / "train.jsonl")
    write(tmp_path / "owner" / "name" / "test.jsonl", ROWS[:1])
    yield tmp_path
    datasets.enable_progress_bars()


def test_a_split_of_a_data_set(hub: Path) -> None:
    table = read_table("hub:owner/name:train", "data.x", Path("/elsewhere"))
    assert table.name == "hub:owner/name:train"
    assert values(table) == ROWS
    assert (table.rows[4].path, table.rows[4].place) == ("hub:owner/name:train", "row 4")
    assert values(read_table("hub:owner/name:default:test", "data.x")) == ROWS[:1]
    assert table.digest == read_table("owner/name/train.jsonl", "data.x").digest


def test_with_a_limit_a_split_is_streamed_and_not_kept(hub: Path) -> None:
    with open("owner/name/train.jsonl", "a") as file:  # noqa: PTH123  # what follows makes no table of the whole
        file.write("\n" + json.dumps({"instruction": 5, "messages": "another type"}))
    table = read_table("hub:owner/name:train", "data.x", limit=3)
    assert values(table) == ROWS[:3]
    assert not list((hub / "cache").glob("**/*.arrow"))


def test_all_parts_of_an_id_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, **more: Any) -> Iterator[dict[str, Any]]:
        asked.append((path, name, more))
        return iter(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(read_table("hub:a-b/c.d@refs%2Fconvert%2Fparquet:config:train", "data.x", limit=4).rows) == 4
    assert len(read_table("hub:a-b/c.d:train", "data.x").rows) == 5
    pinned = {"split": "train", "revision": "refs/convert/parquet", "streaming": True}
    plain = {"split": "train", "revision": None, "streaming": False}
    assert asked == [("a-b/c.d", "config", pinned), ("a-b/c.d", None, plain)]


def test_a_file_of_a_data_set_is_downloaded_once_and_read_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = write(tmp_path / "sft.json"), []

    def hf_hub_download(repo_id: str, filename: str, **more: Any) -> str:
        asked.append((repo_id, filename, more))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    table = read_table("hub:owner/name@main/folder/sft.json", "data.x", limit=2)
    assert table.name == "hub:owner/name@main/folder/sft.json"
    assert values(table) == ROWS[:2]
    assert asked == [("owner/name", "folder/sft.json", {"repo_type": "dataset", "revision": "main"})]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("hub:owner/name:dev", "dev"),  # no such split
        ("hub:owner/name:other:train", "other"),  # no such configuration
        ("hub:owner/missing:train", "owner/missing"),  # not there, and nobody to ask
        ("hub:owner/missing/a.json", "connection"),
    ],
)
@pytest.mark.parametrize("limit", [None, 2])
def test_what_the_hub_refuses_is_told_with_the_key(hub: Path, location: str, reason: str, limit: int | None) -> None:
    with pytest.raises(
        DataError, match=rf"^data\.preferences={location} can't be loaded: .*{reason}.*$"
    ):  # in one line
        read_table(location, "data.preferences", limit=limit)


@pytest.mark.parametrize(
    "error", [datasets.exceptions.DatasetNotFoundError("a gated dataset"), ConnectionError("broken off")]
)
def test_a_gated_data_set_and_a_connection_that_breaks_off(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*ids: str, **more: Any) -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=rf"^data\.x=hub:a/b:train can't be loaded: {error}$"):
        read_table("hub:a/b:train", "data.x", limit=3)


@pytest.mark.parametrize("location", ["hub:name:train", "hub:a/b", "hub:a/b:", "hub:a/b:c:d:e", "hub:a/b/c:d", "hub:"])
def test_other_ids_are_refused(location: str) -> None:
    with pytest.raises(DataError, match=rf"^data\.x={location} is not allowed: .*hub:OWNER/NAME:SPLIT"):
        read_table(location, "data.x")


def test_what_is_missing_where_the_extra_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for location in ("hub:a/b:train", str(path)):
        with pytest.raises(DataError, match=rf"^data\.x.*{location}.*pip install (datasets|pyarrow)"):
            read_table(location, "data.x")
