"""Checkpoints: what is read is what was written, and a torn one is passed over for the one before it."""

import errno
import json
from pathlib import Path
from pickle import UnpicklingError
from random import Random
from typing import Any

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.storage.checkpoint import (
    copy_newest,
    load_checkpoint,
    local_folder,
    newest,
    remove_local,
    save_checkpoint,
)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": [torch.full((3,), float(step))], "random": Random(step).getstate()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path / "checkpoint", step, state(step))
    return tmp_path / "checkpoint"


def step_of(found: dict[str, Any] | None) -> int | None:
    return None if found is None else found["step"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_nothing_to_load(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoint") is None


def test_the_last_one_is_read_as_it_was_written_and_two_are_kept(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert found is not None
    assert torch.equal(found.pop("weights")[0], torch.full((3,), 10.0))
    assert found == {"step": 10, "random": Random(10).getstate()}
    assert names(folder) == ["step-00000002", "step-00000010"]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [tear, flip, Path.unlink], ids=["torn", "flipped", "gone"])
@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_spoilt_one_is_passed_over_and_named(
    folder: Path, name: str, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spoil(folder / "step-00000010" / name)
    found = load_checkpoint(folder)
    if name == "manifest.json" and spoil is flip and found is not None and found["step"] == 10:
        assert json.loads((folder / "step-00000010" / name).read_text())["step"] != 10  # what was flipped is not read
        return
    assert step_of(found) == 2
    assert "step-00000010" in caplog.text


def test_where_all_are_spoilt_there_is_none(folder: Path) -> None:
    for place in folder.iterdir():
        tear(place / "state.pt")
    assert load_checkpoint(folder) is None


def test_one_that_is_whole_and_can_not_be_read_now_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that began anew instead would remove it."""

    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for place in ("torch.load", "rlhf.storage.checkpoint.checksum"):
        with monkeypatch.context() as now:
            now.setattr(place, fail)
            with pytest.raises(OSError, match="Input/output"):
                load_checkpoint(folder)
    assert step_of(load_checkpoint(folder)) == 10


def test_work_that_began_anew_leaves_no_later_steps(folder: Path) -> None:
    for place in folder.iterdir():
        tear(place / "state.pt")
    save_checkpoint(folder, 1, state(1))
    assert names(folder) == ["step-00000001"]
    assert step_of(load_checkpoint(folder)) == 1


def test_a_step_is_saved_again_over_a_spoilt_one(folder: Path) -> None:
    tear(folder / "step-00000010" / "state.pt")
    save_checkpoint(folder, 10, state(10))
    assert step_of(load_checkpoint(folder)) == 10


def test_what_a_killed_process_left_is_cleared_away(folder: Path) -> None:
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "state.pt").write_bytes(b"half")
    assert step_of(load_checkpoint(folder)) == 10
    save_checkpoint(folder, 11, state(11))
    assert names(folder) == ["step-00000010", "step-00000011"]


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from a checkpoint",)


def test_no_code_is_run_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(folder, 11, {"trap": Trap()})
    with pytest.raises(UnpicklingError, match="weights_only"):
        load_checkpoint(folder)
    assert "code from a checkpoint\n" not in capsys.readouterr().out


def test_the_newer_whole_one_of_a_nodes_disk_and_the_run_is_gone_on_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own is of step 10."""
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    local = local_folder("$DISK/scratch", folder)
    assert (local.stat().st_mode & 0o777, local.parent) == (0o700, tmp_path / "disk" / "scratch")
    for step, left in ((9, 10), (11, 11), (12, 12)):
        save_checkpoint(local, step, state(step))
        copy_newest(local, folder)
        assert step_of(load_checkpoint(folder)) == left
    save_checkpoint(local, 13, state(13))
    tear(local / "step-00000013" / "state.pt")
    copy_newest(local, folder)
    assert step_of(load_checkpoint(folder)) == 12
    save_checkpoint(folder, 20, state(20))  # by another node
    copy_newest(local, folder)
    assert step_of(load_checkpoint(folder)) == 20
    tear(folder / "step-00000020" / "state.pt")
    copy_newest(local, folder)
    assert step_of(load_checkpoint(folder)) == 12


def test_a_run_that_was_removed_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    disk, folder = str(tmp_path / "disk"), tmp_path / "checkpoint"
    save_checkpoint(local_folder(disk, folder), 3, state(3))
    assert newest(local_folder(disk, folder)) is not None
    (folder / "local.json").unlink()
    assert newest(local_folder(disk, folder)) is None
    remove_local(disk, folder)
    assert len(list((tmp_path / "disk").iterdir())) == 1
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"checkpoint_local_dir=.*/file is not allowed"):
        local_folder(str(tmp_path / "file"), folder)
