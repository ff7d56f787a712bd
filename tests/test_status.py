"""`python -m rlhf.status` as a user meets it."""

import json
import os
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from rlhf.process.identity import identity
from rlhf.storage.runs import read_run
from tests.launch.processes import ROOT, fake_run, until
from tests.made_up import made_up, step_rows, win_rates
from tests.terminal import CTRL_C, Terminal


def status(*arguments: object, cwd: Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "rlhf.status", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def finished(path: Path) -> Path:
    return made_up(path, "done", 40, rows=step_rows(40, 2.0), metrics=win_rates(60.0, 55.0))


def test_a_sweep_in_which_all_is_well(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    finished(sweep / "seed=0")
    made_up(sweep / "seed=1", step=20, time=time.time(), rows=step_rows(20, 9.0), alive=True)
    done = status(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "outputs/sweeps/s",
        "run     state        step   left  win rate, %",
        "seed=1  running     20/40  3 min         50.0",
        "seed=0  done        40/40          60.0 ± 1.2",
        "",
        "2 runs: 1 done, 1 running; about 3 min left",
    ]


@pytest.mark.parametrize("state", ["failed", "lost", "unreadable"])
def test_what_went_wrong_is_in_the_exit_status(tmp_path: Path, state: str) -> None:
    finished(tmp_path / "a")
    made_up(tmp_path / "b", "failed" if state == "failed" else "running", 3, "out of luck")
    if state == "unreadable":
        (tmp_path / "b" / "config.yaml").unlink()
    done = status(tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"2 runs: 1 done, 1 {state}" in done.stdout
    advice = f"to go on: python -m rlhf.status {tmp_path} --retry {state}"
    assert (advice in done.stdout) == (state != "unreadable")


def test_json_for_scripts(tmp_path: Path) -> None:
    job = {"launcher": "slurm", "job_id": "1_0", "log": "logs/1.out"}
    path = made_up(tmp_path / "s" / "seed=0", "failed", 3, "out of\nluck", rows=step_rows(3, 2.0), job=job)
    done = status("--json", "s", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == [
        {
            "path": str(path),
            "name": "seed=0",
            "state": "failed",
            "step": 3,
            "steps": 40,
            "pace": 2.0,
            "time": 1000.0,
            "seconds_left": None,
            "headline": "win_rate_greedy",
            "win_rate": 50.0,
            "win_rate_se": None,
            "reason": "out of\nluck",
            "job": job,
            "log": None,  # there is none yet
        }
    ]


def test_no_runs(tmp_path: Path) -> None:
    done = status(".", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no runs in .\n")


def test_two_hundred_runs_take_little_time_and_no_torch(tmp_path: Path) -> None:
    """Their files are as long as real ones."""
    settings = "".join(f"section{n}:\n  key: {n}\n" for n in range(60))
    rows = [row | {f"rollout/figure{n}": n / 7 for n in range(50)} for row in step_rows(40, 2.0)]
    for number in range(200):
        path = made_up(tmp_path / f"regularizer=js,seed={number}", step=40, rows=rows, alive=True)
        with (path / "config.yaml").open("a") as config:
            config.write(settings)
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from rlhf.status import main\n"
        "try: main(['.'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & sys.modules.keys()\n"
        "print(time.perf_counter() - start)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *_, total, seconds = done.stdout.splitlines()
    assert total.startswith("200 runs: 200 running")
    assert float(seconds) < 5.0  # 0.9 s on an idle machine


def test_cancel_says_what_it_did(tmp_path: Path) -> None:
    process = fake_run(tmp_path / "long")
    done = status(tmp_path, "--cancel", cwd=tmp_path)
    assert process.wait(10) == 143
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cancelled at step 2: {tmp_path / 'long'}\n")
    assert "1 run: 1 cancelled" in done.stdout


def test_retry_of_runs_that_no_launcher_had(tmp_path: Path) -> None:
    made_up(tmp_path / "my s" / "a", "failed", 3, "why")
    made_up(tmp_path / "my s" / "b", "preempted", 3, "SIGTERM")
    done = status("my s", "--retry", "failed", cwd=tmp_path)
    assert done.stdout.startswith("no launcher had it; go on with: python -m rlhf.resume 'my s/a'\n")
    assert "my s/b'" not in done.stdout
    assert "to go on: python -m rlhf.status 'my s' --retry all" in done.stdout
    assert status("my s", "--retry", "lost", cwd=tmp_path).stdout.startswith("nothing to start again\n")


def test_retry_by_the_launcher_that_had_them(tmp_path: Path) -> None:
    """What was lost is started again, and says itself that its configuration is none."""
    gone = {"launcher": "local", **identity(os.getpid()), "started": 5.0, "log": "a/output.log"}
    path = made_up(tmp_path / "a", "pending", job=gone)
    made_up(tmp_path / "b", "failed", 3, "why")
    settings = {"parallel": 1, "gpus_per_run": 1, "threads": 1}
    (tmp_path / "launcher.json").write_text(
        json.dumps({"launcher": "local", "settings": settings, "directory": str(tmp_path)})
    )
    done = status(tmp_path, "--retry", "lost", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith(f"submitted again: {path}\n")
    until(lambda: read_run(path).state == "failed")
    assert "ended with status 1; its last words: error: " in str(read_run(path).reason)
    assert read_run(tmp_path / "b").reason == "why"


def test_watch_on_a_terminal_takes_keys_and_ends_with_the_last_run(tmp_path: Path) -> None:
    path = made_up(tmp_path / "seed=0", step=1, time=time.time(), rows=step_rows(1, 2.0), alive=True)
    terminal = Terminal("rlhf.status", "--watch", tmp_path, "--every", "0.2")
    terminal.until("1/40")
    terminal.press(b"jc")
    terminal.until("rlhf clone .*/seed=0 KEY=VALUE")
    terminal.press(b"s")
    terminal.until(r"s\s+again\s+ends\s+seed=0")
    assert not (path / ".stop").exists()
    terminal.press(b"s")
    terminal.until(r"seed=0\s+ends\s+as\s+pruned\s+after\s+the\s+step")
    assert (path / ".stop").exists()
    made_up(path, step=2, time=time.time(), rows=step_rows(2, 2.0), alive=True)
    terminal.until("2/40")
    assert "failed" not in terminal.shown
    made_up(path, "failed", 3, "out of luck")
    assert terminal.wait() == 1
    last = terminal.shown.rpartition("run ")[2]
    assert "failed seed=0: out of luck" in last
    assert "1 run: 1 failed\n" in last


def test_watch_ends_cleanly_by_ctrl_c(tmp_path: Path) -> None:
    for number in range(40):  # more than the terminal has lines
        made_up(tmp_path / f"seed={number}", step=1, time=time.time(), rows=step_rows(1, 2.0), alive=True)
    terminal = Terminal("rlhf.status", tmp_path, "--watch")
    before = termios.tcgetattr(terminal.own)
    terminal.until(r"and 2\d more runs\n40 runs: 40 running; about 7\d s left\nj, k, arrows")
    assert termios.tcgetattr(terminal.own) != before
    terminal.press(CTRL_C)
    terminal.process.wait(10)
    assert termios.tcgetattr(terminal.own) == before
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.shown
