"""What is measured of runs, on made-up ones and on a small real one."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.__main__ import main
from benchmarks.runs import finish, run_in, samples_per_second, steps, stop_after
from benchmarks.table import spread
from rlhf.errors import UserError


def write(path: Path, speeds: list[float]) -> Path:
    rows = [{"step": 0}, *({"step": number, "samples_per_second": speed} for number, speed in enumerate(speeds, 1))]
    path.mkdir(parents=True, exist_ok=True)
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "samp')
    return path


def test_speed_is_over_all_samples_but_the_first_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [1.0, 100.0, 50.0])
    assert steps(path) == 3  # the row that is still being written is none
    assert samples_per_second(path) == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert steps(tmp_path / "nothing") == 0


def test_the_spread_is_the_median_and_the_ends() -> None:
    assert spread([3.0, 1.0, 1.5]) == "1.5 (1 to 3)"


def test_several_ranks_are_started_by_torch(tmp_path: Path) -> None:
    assert run_in(tmp_path, ["seed=1"]) == [sys.executable, "-m", "rlhf.run", "seed=1", f"hydra.run.dir={tmp_path}"]
    assert "--nproc-per-node=2" in run_in(tmp_path, [], ranks=2)


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(UserError, match="ended with 3:\nout of luck"):
        finish([sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"])


def test_a_run_is_stopped_once_it_has_its_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [1.0, 1.0])
    seconds = stop_after([sys.executable, "-c", "import time; time.sleep(60)"], path, 2)
    assert seconds < 30


@pytest.mark.slow
def test_the_ratio_of_two_ranks_to_one_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("experiment=smoke", "device=cpu", f"cache_dir={tmp_path}/cache", "rollout.batch_size=8")
    sizes = ("ppo.step_batch_size=8", "ppo.micro_batch_size=4", "ppo.steps=3")
    main(["ranks", *small, *sizes, "--rounds", "1", "--folder", str(tmp_path)])
    one, two, ratio = capsys.readouterr().out.splitlines()[-3:]
    assert one.startswith("1 rank, one thread each: ")
    assert two.startswith("2 ranks, one thread each: ")
    assert ratio.startswith("2 ranks / 1 rank: ")


def test_another_commit_is_measured_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there, asked = tmp_path / "there", []

    def cpu_seconds(command: list[str], tree: Path) -> float:
        asked.append((tree == there, "seed=7" in command, command[command.index("-m") + 1]))
        return 4.0 if tree == there else 3.0

    monkeypatch.setattr(against, "checked_out", lambda commit, folder: there)
    monkeypatch.setattr(against, "cpu_seconds", cpu_seconds)
    main(["against", "seed=7", "--commit", "abc", "--rounds", "2", "--folder", str(tmp_path)])
    assert asked == [(False, True, "rlhf.run"), (True, True, "rlhf.run")] * 3  # first each fills its cache
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")] for line in out.splitlines() if line.count("|") > 3]
    assert [(row[1], row[3]) for row in cells[1:]] == [("now", "0.75 (0.75 to 0.75)"), ("abc", "1 (1 to 1)")]


def test_a_commit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--commit nonsense is not allowed: "):
        against.checked_out("nonsense", tmp_path)
