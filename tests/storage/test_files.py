"""Files that are whole or absent."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.storage.files import read_json, write_json, write_text, writing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    value = {"name": "Élodie 李", "rows": [1, 2.5, None, True], "nested": {"a": []}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert "Élodie 李" in (tmp_path / "file.json").read_text(encoding="utf-8")


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old and longer")
    write_text(tmp_path / "file.txt", "new")
    assert (tmp_path / "file.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file.txt", "old")
    write_whole = Path.write_text

    def full_disk(path: Path, text: str, **options: Any) -> int:
        write_whole(path, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file.txt", "new content")
    assert (tmp_path / "file.txt").read_text() == "old"


def test_a_first_write_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_text(tmp_path / "file.txt", 3)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_half_of_a_surrogate_pair_is_written_as_json_has_it(tmp_path: Path) -> None:
    """File names that are no UTF-8 hold such."""
    write_json(tmp_path / "file.json", {"path": "a\udcff"})
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8")) == {"path": "a\udcff"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_nan_and_no_infinity(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "file.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": [value]})
    assert read_json(tmp_path / "file.json") == {"loss": 1.0}


def test_half_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"loss": 1')
    with pytest.raises(json.JSONDecodeError):
        read_json(tmp_path / "file.json")


def test_a_full_disk_is_told_with_what_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / f".status.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/status.json'"):
        write_json(tmp_path / "status.json", {})
    assert list(tmp_path.iterdir()) == []
    for hidden in (RuntimeError("unexpected pos"), RuntimeError("I/O error: No space left on device (os error 28)")):
        hidden.__context__ = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match="No space left on device: 'policy'"), writing(Path("policy")):
            raise hidden
    with pytest.raises(ValueError, match="another fault"), writing(Path("policy")):
        raise ValueError("another fault")
