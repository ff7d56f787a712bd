"""Runs as their directories tell them: state, pace, time left, win rate, and what can't be read."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.compose import run_name
from rlhf.storage.runs import RunState, find_runs, read_run, short_names, sweep_seconds_left
from tests.made_up import made_up, step_rows, win_rates

RUN = RunState(Path("run"), "running", step=10, steps=40, pace=2.0, time=1000.0)


def test_a_running_run(tmp_path: Path) -> None:
    job = {"launcher": "slurm", "job_id": "123_4", "log": "logs/123_4.out"}
    rows = [*step_rows(3, 2.0), {"step": 4, **win_rates(55.0, 53.0), "seconds/rollout": 6.0}]
    path = made_up(tmp_path / "sweep" / "run", step=4, rows=rows, job=job, alive=True)
    run = read_run(path)
    assert (run.state, run.step, run.steps, run.time, run.reason) == ("running", 4, 40, 1000.0, None)
    assert run.pace == 3.0  # (2 + 2 + 2 + 6) / 4
    assert (run.headline, run.win_rate, run.win_rate_se) == ("win_rate_greedy", 55.0, 1.25)
    assert run.log is None  # there is none yet
    (tmp_path / "sweep" / "logs").mkdir()
    (tmp_path / "sweep" / "logs" / "123_4.out").touch()
    assert run.log == tmp_path / "sweep" / "logs" / "123_4.out"
    # 36 steps of 3 s, less the 8 s since the last one
    assert run.seconds_left(1008.0) == 100.0
    assert run.seconds_left(9999.0) == 0.0


def test_the_pace_is_that_of_the_last_ten_steps(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds/update": 9.0 if step <= 10 else 1.0} for step in range(1, 21)]
    assert read_run(made_up(tmp_path / "run", rows=rows, alive=True)).pace == 1.0


def test_the_pace_takes_in_a_whole_round_of_evaluation(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds/update": 1.0, "seconds/evaluation": 20.0 * (step == 5)} for step in range(1, 21)]
    # the last 20 steps hold one evaluation: (20 x 1 + 20) / 20
    assert read_run(made_up(tmp_path / "run", every=20, rows=rows, alive=True)).pace == 2.0


def test_the_last_win_rate_is_found_however_far_back(tmp_path: Path) -> None:
    run = read_run(made_up(tmp_path / "run", rows=step_rows(100, 1.0), alive=True))
    assert (run.win_rate, run.win_rate_se) == (50.0, None)


def test_without_greedy_responses_the_sampled_win_rate_counts(tmp_path: Path) -> None:
    rows = [*step_rows(3, 2.0)[1:], {"step": 4, **win_rates(None, 55.0)}, *({"step": step} for step in range(5, 30))]
    run = read_run(made_up(tmp_path / "run", rows=rows, alive=True))
    assert (run.headline, run.win_rate, run.win_rate_se) == ("win_rate", 55.0, 1.0)
    none = read_run(made_up(tmp_path / "other", rows=step_rows(3, 2.0)[1:], alive=True))
    assert (none.headline, none.win_rate) == (None, None)


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = made_up(tmp_path / "run", rows=step_rows(3, 2.0), alive=True)
    with (path / "history.jsonl").open("a") as history:
        history.write('{"step": 4, "win')
    run = read_run(path)
    assert (run.state, run.pace) == ("running", 2.0)


def test_a_done_run_has_its_metrics_and_nothing_left(tmp_path: Path) -> None:
    metrics = win_rates(60.0, 55.0)
    run = read_run(made_up(tmp_path / "run", "done", 40, rows=step_rows(40, 2.0), metrics=metrics))
    assert (run.state, run.win_rate, run.win_rate_se, run.seconds_left(0.0)) == ("done", 60.0, 1.25, 0.0)


def test_best_of_n_has_no_steps(tmp_path: Path) -> None:
    assert read_run(made_up(tmp_path / "run", algorithm="best_of_n", alive=True)).steps == 0


@pytest.mark.parametrize("state", ["failed", "preempted", "cancelled"])
def test_what_has_stopped_has_no_time_left(tmp_path: Path, state: str) -> None:
    run = read_run(made_up(tmp_path / "run", state, 3, "why", rows=step_rows(3, 2.0)))
    assert (run.state, run.step, run.reason, run.seconds_left(1000.0)) == (state, 3, "why", None)


def test_running_without_a_lease_is_lost(tmp_path: Path) -> None:
    assert read_run(made_up(tmp_path / "run", step=3)).state == "lost"


@pytest.mark.parametrize(("age", "state"), [(25, "running"), (35, "lost")])
def test_a_lease_counts_for_half_a_minute(tmp_path: Path, age: float, state: str) -> None:
    path = made_up(tmp_path / "run", step=3, alive=True)
    os.utime(path / ".lock", (time.time() - age,) * 2)
    assert read_run(path).state == state


def test_a_run_that_ends_while_it_is_read_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_up(tmp_path / "run", step=3)

    def gone(path: Path) -> bool:
        made_up(path, "done", 40, metrics={"win_rate": 60.0})
        return False

    monkeypatch.setattr("rlhf.storage.runs.is_leased", gone)
    assert read_run(path).state == "done"


@pytest.mark.parametrize(("age", "state"), [(5, "pending"), (60, "lost")])
def test_a_launcher_has_half_a_minute_to_take_a_run_on(tmp_path: Path, age: float, state: str) -> None:
    assert read_run(made_up(tmp_path / "run", "pending", time=time.time() - age)).state == state


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("status.json", '{"state": "run', "status.json: Unterminated string"),
        ("status.json", "[]", "status.json holds no mapping"),
        ("status.json", '{"state": "walking"}', 'status.json: state is "walking": it must be one of pending, running,'),
        ("status.json", '{"state": ["done"]}', 'status.json: state is ["done"]: it must be one of'),
        ("status.json", '{"state": "running", "step": "two"}', 'status.json: step is "two": it must be a whole number'),
        ("status.json", b"\xff\xfe", "status.json: 'utf-8' codec"),
        ("config.yaml", "a: [", "while parsing a flow"),
        ("config.yaml", "", "config.yaml holds no mapping"),
        ("config.yaml", "ppo: {steps: 3}", "config.yaml lacks algorithm.name"),
        ("job.json", "{", "job.json: Expecting property name"),
        ("history.jsonl", '{"step": 1}\n{"step"\n{"step": 3}\n', "history.jsonl, line 2: "),
        ("history.jsonl", "7\n", "history.jsonl, line 1 holds no mapping"),
        ("history.jsonl", '{"step": "a"}\n', 'history.jsonl, line 1: step is "a": it must be'),
        ("history.jsonl", '{"step": 1, "seconds/update": "a"}\n', 'history.jsonl, line 1: seconds/update is "a"'),
    ],
)
def test_a_malformed_file_makes_a_run_unreadable(tmp_path: Path, name: str, text: str | bytes, reason: str) -> None:
    path = made_up(tmp_path / "run", rows=step_rows(3, 2.0), alive=True)
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    run = read_run(path)
    assert run.state == "unreadable"
    assert run.reason is not None
    assert reason in run.reason
    assert "\n" not in run.reason


def test_a_done_run_without_metrics_is_unreadable(tmp_path: Path) -> None:
    run = read_run(made_up(tmp_path / "run", "done", 40))
    assert run.state == "unreadable"
    assert "metrics.json" in str(run.reason)


def test_runs_are_found_at_any_depth_and_hold_no_others(tmp_path: Path) -> None:
    for name in ("runs/a", "sweeps/s/b", "sweeps/s/c"):
        made_up(tmp_path / name)
    made_up(tmp_path / "runs" / "a" / "inner")
    (tmp_path / "cache" / "sft").mkdir(parents=True)
    (tmp_path / "cache" / "config.yaml").write_text("a: 1")
    assert find_runs([tmp_path]) == [tmp_path / name for name in ("runs/a", "sweeps/s/b", "sweeps/s/c")]
    assert find_runs([tmp_path / "runs" / "a", tmp_path / "runs"]) == [tmp_path / "runs" / "a"]


def test_runs_behind_links_are_found_once(tmp_path: Path) -> None:
    made_up(tmp_path / "scratch" / "s" / "a", state="done")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "s").symlink_to(tmp_path / "scratch" / "s")
    (tmp_path / "scratch" / "s" / "up").symlink_to(tmp_path / "scratch")  # a circle
    assert find_runs([tmp_path / "outputs"]) == [tmp_path / "outputs" / "s" / "a"]


def test_a_run_that_has_only_been_handed_to_a_job_is_found(tmp_path: Path) -> None:
    path = made_up(tmp_path / "run", state=None, job={"launcher": "slurm", "job_id": "1_0"})
    assert find_runs([tmp_path]) == [path]
    assert read_run(path).state == "pending"


def test_two_at_a_time_until_the_last_is_done() -> None:
    running = [replace(RUN, step=30), replace(RUN, step=35)]  # 20 s and 10 s left
    pending = [replace(RUN, state="pending", step=None, pace=None)] * 3
    # each takes 80 s: at 10 -> 90, at 20 -> 100, at 90 -> 170
    assert sweep_seconds_left([*running, *pending], 1000.0) == 170.0
    assert sweep_seconds_left(running, 1000.0) == 20.0


def test_a_run_before_its_first_step_keeps_the_others_pace() -> None:
    done = [replace(RUN, state="done", pace=1.0), replace(RUN, state="done", pace=3.0)]
    building = replace(RUN, step=None, steps=50, pace=None)
    assert sweep_seconds_left([*done, building], 1500.0) == 100.0  # what it builds meanwhile takes nothing off


def test_a_preempted_run_that_waits_goes_on_from_its_step() -> None:
    waiting = replace(RUN, state="pending", step=35)
    assert sweep_seconds_left([replace(RUN, step=39), waiting], 1000.0) == 12.0


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [replace(RUN, state="done")],
        [replace(RUN, pace=None)],
        [replace(RUN, state="pending")],
    ],
    ids=["none", "all done", "no step yet", "none runs"],
)
def test_nothing_tells_how_long(runs: list[RunState]) -> None:
    assert sweep_seconds_left(runs, 1000.0) is None


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (
            [f"s/experiment=smoke,lora.r={rank},seed={seed}" for rank in (4, 8) for seed in (0, 1)],
            ["lora.r=4,seed=0", "lora.r=4,seed=1", "lora.r=8,seed=0", "lora.r=8,seed=1"],
        ),
        (["a/seed=0,x=1", "a/seed=0,x=2", "b/seed=1,x=1", "b/seed=1,x=2"], ["x=1", "x=2", "x=1", "x=2"]),
        (["a/seed=0"], ["seed=0"]),  # a name is never empty
        (["a/seed=0", "a/seed=0,x=1"], ["seed=0", "x=1"]),
    ],
)
def test_names_are_what_differs_within_a_sweep(tmp_path: Path, paths: list[str], names: list[str]) -> None:
    runs = [made_up(tmp_path / path) for path in paths]
    assert list(short_names(runs).values()) == names


def test_names_are_of_the_overrides_as_given_and_else_of_the_directories(tmp_path: Path) -> None:
    overrides = [["name=mine", "tracker=none", "x=1", f"m=[q,{last}]"] for last in "vk"]
    runs = [made_up(tmp_path / "s" / run_name(each)) for each in overrides]
    named, unmade, torn = (made_up(tmp_path / "s" / name) for name in ("named", "unmade", "torn"))
    for path, each in zip([*runs, named], [*overrides, overrides[0]], strict=True):
        (path / "overrides.json").write_text(json.dumps({"config": "config", "overrides": each}))
    (unmade / "overrides.json").unlink()
    (torn / "overrides.json").write_text("[7")
    assert list(short_names(runs).values()) == ["m=[q,v]", "m=[q,k]"]
    assert list(short_names([named, unmade, torn]).values()) == ["named", "unmade", "torn"]


def test_what_is_read_goes_into_json(tmp_path: Path) -> None:
    run = read_run(made_up(tmp_path / "run", rows=step_rows(3, 2.0), alive=True))
    json.dumps({name: value for name, value in vars(run).items() if name != "path"})
