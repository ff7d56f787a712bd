"""The stage cache: built once, found again, never half of it, whoever asks and whatever dies."""

import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import UserError
from rlhf.storage import cache
from rlhf.storage.cache import Stage, finish, progress, unfinished_work
from rlhf.storage.checkpoint import save_checkpoint
from rlhf.storage.files import checksum, read_json, write_json

Build = Callable[[Path], dict[str, Any]]


@dataclass
class Section:
    lr: float = 0.5
    steps: int = 3


class Builder:
    """Writes one file, returns one figure, counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, directory: Path) -> dict[str, Any]:
        self.calls += 1
        (directory / "weights").write_text("trained")
        return {"loss": 1.25}


def stage(
    name: str = "sft", version: int = 1, reads: dict[str, Any] | None = None, parents: tuple[str, ...] = ("base",)
) -> Stage:
    return Stage(name, version, {"sft": Section(), "seed": 0} if reads is None else reads, list(parents))


@pytest.fixture
def build() -> Builder:
    return Builder()


def test_built_once_then_found(tmp_path: Path, build: Builder) -> None:
    first = finish(tmp_path / "cache", stage(), build)
    again = finish(tmp_path / "cache", stage(), build)
    assert build.calls == 1
    assert (first.built_now, again.built_now) == (True, False)
    assert first.directory == again.directory
    assert first.key == again.key == stage().key
    assert again.figures == {"loss": 1.25}
    assert again.seconds == first.seconds >= 0
    assert (again.directory / "weights").read_text() == "trained"
    other = finish(tmp_path / "cache", stage(version=2), build)
    assert build.calls == 2
    assert other.directory != first.directory
    assert (first.directory / "weights").exists()


@pytest.mark.parametrize(
    "changed",
    [
        stage(name="reward"),
        stage(version=2),
        stage(reads={"sft": Section(lr=0.25), "seed": 0}),
        stage(reads={"sft": Section(), "seed": 1}),
        stage(reads={"sft": Section(), "seed": 0, "judge": True}),
        stage(reads={"reward": Section(), "seed": 0}),
        stage(parents=("other",)),
        stage(parents=("base", "base")),
        stage(parents=()),
    ],
)
def test_the_key_changes_with_what_was_read(changed: Stage) -> None:
    assert changed.key != stage().key


def test_the_key_is_that_of_the_values() -> None:
    """Neither the order of a dict nor the class that carried the values counts."""
    assert stage(reads={"seed": 0, "sft": {"steps": 3, "lr": 0.5}}).key == stage().key
    assert len(stage().key) == 64
    assert stage(parents=("one", "two")).key != stage(parents=("two", "one")).key


def test_nan_identifies_nothing() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        _ = stage(reads={"lr": float("nan")}).key


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_build_that_raises_leaves_nothing(tmp_path: Path, build: Builder, error: type[BaseException]) -> None:
    def broken(directory: Path) -> dict[str, Any]:
        build(directory)
        raise error("half-way")

    with pytest.raises(error, match="half-way"):
        finish(tmp_path, stage(), broken)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert finish(tmp_path, stage(), build).built_now


def test_figures_that_json_lacks_finish_nothing(tmp_path: Path, build: Builder) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        finish(tmp_path, stage(), lambda directory: {"loss": float("inf")})
    assert finish(tmp_path, stage(), build).figures == {"loss": 1.25}


def test_a_directory_without_marker_is_built_anew(tmp_path: Path, build: Builder) -> None:
    done = finish(tmp_path, stage(), build)
    (done.directory / "stage.json").unlink()
    (done.directory / "stale").touch()
    again = finish(tmp_path, stage(), build)
    assert again.built_now
    assert build.calls == 2
    assert sorted(path.name for path in again.directory.iterdir()) == ["stage.json", "weights"]


def test_an_unfinished_leftover_is_cleared_away(tmp_path: Path, build: Builder) -> None:
    place = finish(tmp_path / "elsewhere", stage(), build).directory.name
    leftover = tmp_path / "cache" / f"{place}.0123abcd.unfinished"
    leftover.mkdir(parents=True)
    (leftover / "stale").touch()
    done = finish(tmp_path / "cache", stage(), build)
    assert not leftover.exists()
    assert sorted(path.name for path in done.directory.iterdir()) == ["stage.json", "weights"]


# Several processes. Each says that it is about to ask; the builder goes on once all have said so, half a second later.
ASK = """
import socket, sys, time
from pathlib import Path

folder, name, wanted, host = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
socket.gethostname = lambda: host

from rlhf.errors import UserError
from rlhf.storage import cache
from rlhf.storage.cache import Stage, finish

cache.LEASE_SECONDS = 2.0

def build(directory):
    with (folder / "builds").open("a") as builds:
        builds.write(name + "\\n")
    (directory / "weights").write_text("half")
    while len(list(folder.glob("asking-*"))) < wanted:
        time.sleep(0.02)
    time.sleep(0.5)
    (directory / "weights").write_text("whole")
    return {"loss": 1.25}

(folder / f"asking-{name}").touch()
done = finish(folder / "cache", Stage("sft", 1, {"seed": 0}), build)
print(done.built_now, done.figures["loss"], (done.directory / "weights").read_text())
"""


def ask(folder: Path, name: str, wanted: int, host: str = "here") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, str(folder), name, str(wanted), host]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_a_sweeps_processes_one_builds(tmp_path: Path) -> None:
    processes = [ask(tmp_path, f"p{index}", wanted=24, host=f"node{index % 3}") for index in range(24)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == ["False 1.25 whole"] * 23 + ["True 1.25 whole"]
    assert len((tmp_path / "builds").read_text().splitlines()) == 1


def test_of_those_that_wait_for_a_builder_that_is_killed_one_builds(tmp_path: Path) -> None:
    killed = ask(tmp_path, "killed", wanted=99)
    wait_for(tmp_path / "builds")
    others = [ask(tmp_path, f"p{index}", wanted=5) for index in range(4)]
    for index in range(4):
        wait_for(tmp_path / f"asking-p{index}")
    kill(killed)
    assert any(path.name.endswith(".unfinished") for path in (tmp_path / "cache").iterdir())
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in others)
    assert answers == ["False 1.25 whole"] * 3 + ["True 1.25 whole"]
    assert len((tmp_path / "builds").read_text().splitlines()) == 2
    assert not any(path.name.endswith(".unfinished") for path in (tmp_path / "cache").iterdir())


def test_a_builder_that_died_on_another_machine_is_waited_for_no_longer_than_its_lease(tmp_path: Path) -> None:
    killed = ask(tmp_path, "killed", wanted=99, host="elsewhere")
    wait_for(tmp_path / "builds")
    kill(killed)
    start = time.monotonic()
    answer, _ = ask(tmp_path, "next", wanted=1).communicate(timeout=60)
    assert answer.strip() == "True 1.25 whole"
    assert time.monotonic() - start > 2.0  # nothing here tells at once that it is dead


def test_a_builder_that_was_taken_for_dead_uses_what_the_other_built(tmp_path: Path) -> None:
    """It stood still for longer than its lease lasts, as a process does while its laptop sleeps."""

    def slow(directory: Path) -> dict[str, Any]:
        (directory / "weights").write_text("late")
        finished = directory.with_name(directory.name.split(".")[0])  # what another builder leaves meanwhile
        shutil.copytree(directory, finished)
        sums = {"weights": checksum(finished / "weights")}
        marker = {"key": stage().key, "seconds": 1.0, "figures": {"loss": 7.0}, "files": sums}
        write_json(finished / "stage.json", marker)
        return {"loss": 1.25}

    assert finish(tmp_path, stage(), slow).figures == {"loss": 7.0}
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".unfinished")] == []


def test_a_builder_that_was_taken_for_dead_and_cleared_away_uses_it_too(tmp_path: Path, build: Builder) -> None:
    def slow(directory: Path) -> dict[str, Any]:
        cache._build(directory.with_name(directory.name.split(".")[0]), stage(), build)
        (directory / "weights").write_text("late")
        raise AssertionError("its directory is gone")

    assert finish(tmp_path, stage(), slow).figures == {"loss": 1.25}


def test_whether_anything_was_built_or_saved_is_seen_without_a_clock(tmp_path: Path, build: Builder) -> None:
    seen = [progress(tmp_path / "cache")]
    save_checkpoint(unfinished_work(tmp_path / "cache", stage()), 1, {})
    seen.append(progress(tmp_path / "cache"))
    finish(tmp_path / "cache", stage(), build)
    seen.append(progress(tmp_path / "cache"))
    assert seen[0] == set()
    assert len({frozenset(each) for each in seen}) == 3
    assert progress(tmp_path / "cache") == seen[2]


def test_what_was_saved_of_a_stage_goes_when_it_is_finished(tmp_path: Path, build: Builder) -> None:
    folder = unfinished_work(tmp_path, stage())
    save_checkpoint(folder, 1, {})
    with pytest.raises(RuntimeError):
        finish(tmp_path, stage(), failing)
    assert folder.exists()
    finish(tmp_path, stage(), build)
    assert not folder.exists()


def failing(directory: Path) -> dict[str, Any]:
    raise RuntimeError("half-way")


def zero_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize(
    "spoil", [zero_half, Path.unlink, lambda path: path.write_bytes(b"")], ids=["zero", "gone", "empty"]
)
@pytest.mark.parametrize("name", ["weights", "stage.json"])
def test_a_torn_stage_is_named_and_built_anew(
    tmp_path: Path, build: Builder, caplog: pytest.LogCaptureFixture, name: str, spoil: Callable[[Path], Any]
) -> None:
    caplog.set_level("INFO")
    done = finish(tmp_path, stage(), build)
    spoil(done.directory / name)
    cache._whole.clear()  # as in another process: each compares once
    again = finish(tmp_path, stage(), build)
    assert (again.built_now, build.calls) == (True, 2)
    assert (again.directory / "weights").read_text() == "trained"
    [line] = caplog.messages
    assert line.startswith(f"sft: {done.directory} is torn ({name}")
    assert finish(tmp_path, stage(), build).built_now is False


def test_a_stage_is_for_all_who_may_use_the_cache(tmp_path: Path) -> None:
    def build(directory: Path) -> dict[str, Any]:
        (directory / "deeper").mkdir(mode=0o750)
        for file in (directory / "weights", directory / "deeper" / "weights"):
            file.write_text("trained")
            file.chmod(0o600)  # as safetensors leaves them
        directory.chmod(0o2775)
        return {}

    directory = finish(tmp_path, stage(), build).directory
    modes = [(directory / name).stat().st_mode & 0o777 for name in ("weights", "deeper/weights")]
    assert modes == [0o664, 0o640]


def test_a_stage_that_may_not_be_read_is_left_alone(
    tmp_path: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built anew, it would be taken from under those that read it."""
    done = finish(tmp_path, stage(), build)
    cache._whole.clear()

    def forbidden(directory: Path) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", str(directory / "weights"))

    def exhausted(directory: Path) -> dict[str, str]:
        raise OSError(errno.EMFILE, "Too many open files", str(directory / "weights"))

    for fail, error, told in (
        (forbidden, UserError, "weights may not be read by this account: have its owner allow it"),
        (exhausted, OSError, "Too many open files"),
    ):
        monkeypatch.setattr(cache, "checksums", fail)
        with pytest.raises(error, match=told):
            finish(tmp_path, stage(), build)
    assert build.calls == 1
    assert (done.directory / "weights").read_text() == "trained"


@pytest.mark.parametrize(
    "change", [{"files": None}, {"files": {"weights": 3}}, {"key": "another"}, {"files": {"absent": "0" * 64}}]
)
def test_a_marker_that_does_not_fit_its_stage_finishes_nothing(
    tmp_path: Path, build: Builder, change: dict[str, Any]
) -> None:
    done = finish(tmp_path, stage(), build)
    write_json(done.directory / "stage.json", read_json(done.directory / "stage.json") | change)
    cache._whole.clear()
    assert finish(tmp_path, stage(), build).built_now


def test_a_process_compares_a_stages_checksums_once(
    tmp_path: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, stage(), build)
    cache._whole.clear()
    read: list[Path] = []
    compute = cache.checksums
    monkeypatch.setattr(cache, "checksums", lambda directory: read.append(directory) or compute(directory))
    for _ in range(3):
        assert not finish(tmp_path, stage(), build).built_now
    assert len(read) == 1
