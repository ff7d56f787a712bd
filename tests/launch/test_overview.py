"""The table of runs: its rows and their order, its width, and the line on all of them."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from rlhf.console import PlainConsole
from rlhf.launch.overview import bars, curves_of, natural, overview, shown, total, win_rate
from rlhf.storage.runs import RunState

pytestmark = pytest.mark.usefixtures("_named_by_overrides")
FOLDER = Path.cwd() / "outputs" / "sweeps" / "s"


def run(name: str, state: str, **fields: object) -> RunState:
    return replace(RunState(FOLDER / f"experiment=smoke,{name}", state, time=1000.0), **fields)


RUNS = [
    run("lora.r=16", "running", step=10, steps=40, pace=2.0, win_rate=51.26, win_rate_se=1.44),
    run("lora.r=8", "running", step=None, steps=40),
    run("lora.r=1", "done", step=40, steps=40, pace=2.0, win_rate=60.0, job={"log": "logs/1.out"}),
    run("lora.r=2", "failed", step=3, steps=40, reason="PPO has [red]diverged[/red]\nmore", job={"log": "logs/2.out"}),
    run("lora.r=3", "lost", step=3, steps=40, reason="its launcher is gone"),
    run("lora.r=4", "unreadable", reason="status.json: Expecting value"),
    run("lora.r=5", "pending", steps=40, reason="Resources"),
]


TABLE = """\
outputs/sweeps/s
run        state                 step  left  win rate, %
lora.r=8   running
lora.r=16  running              10/40  50 s   51.3 ± 1.4
lora.r=2   failed                3/40
lora.r=3   lost                  3/40
lora.r=4   unreadable
lora.r=5   pending (Resources)
lora.r=1   done                 40/40               60.0

failed lora.r=2: PPO has [red]diverged[/red]
lost lora.r=3: its launcher is gone
unreadable lora.r=4: status.json: Expecting value
""".splitlines()
"""lora.r=16 has 30 steps of 2 s left, less the 10 s since its last."""


def printed(runs: list[RunState], width: int, rows: int | None = None) -> list[str]:
    console = PlainConsole(width=width, record=True, file=StringIO())
    console.print(overview(runs, 1010.0, width, rows), crop=False)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_eighty_columns() -> None:
    assert printed(RUNS, 80)[: len(TABLE)] == TABLE


def test_a_wide_terminal_shows_logs() -> None:
    shown = printed(RUNS, 140)
    assert shown[1].endswith("win rate, %  log")
    assert shown[4].endswith("3/40                     logs/2.out")
    assert shown[8].endswith("60.0  logs/1.out")


def test_a_narrow_terminal_folds_names_and_cuts_nothing() -> None:
    shown = printed(RUNS, 50)
    assert max(map(len, shown)) <= 50
    assert "…" not in "".join(shown)
    assert "unreadable" in "".join(shown)


def test_a_live_table_fits_and_leaves_failures_for_the_end() -> None:
    shown = printed(RUNS, 100, rows=3)
    assert [line.split()[0] for line in shown[2:5]] == ["lora.r=8", "lora.r=16", "lora.r=2"]
    assert shown[5:] == [
        "",
        "and 4 more runs",
        "7 runs: 1 done, 2 running, 1 pending, 1 lost, 1 failed, 1 unreadable; about 2 min left",
    ]


def test_the_log_of_a_failure_is_named_in_one_piece(tmp_path: Path) -> None:
    failed = replace(RUNS[3], path=tmp_path / "a run of a long name" / "lora.r=2")
    log = failed.path.parent / "logs" / "2.out"
    assert f"  log: {log}" not in printed([failed], 30)  # there is none
    log.parent.mkdir(parents=True)
    log.touch()
    assert f"  log: {log}" in printed([failed], 30)


def test_each_sweep_has_a_table() -> None:
    other = replace(RUNS[2], path=FOLDER.parent / "t" / "seed=0")
    shown = printed([*RUNS[:3], other], 80)
    assert [line for line in shown if line.startswith("outputs")] == ["outputs/sweeps/s", "outputs/sweeps/t"]


def test_the_line_on_all() -> None:
    # 80 s for the one before its first step, at the others' pace
    assert total(RUNS[:3], 1010.0) == "3 runs: 1 done, 2 running; about 80 s left"
    assert total(RUNS[2:3], 1010.0) == "1 run: 1 done"


def test_numbers_in_names_are_ordered_by_value() -> None:
    names = ["r=16", "r=8", "r=0.5", "a", "r=x"]
    assert sorted(names, key=natural) == ["a", "r=0.5", "r=8", "r=16", "r=x"]


def test_sampled_win_rates_are_said_to_be(tmp_path: Path) -> None:
    runs = [replace(RUNS[0], headline=name) for name in ("win_rate_greedy", "win_rate")]
    assert [line.endswith("51.3 ± 1.4 sampled") for line in printed(runs, 80)[2:4]] == [False, True]


@pytest.mark.parametrize(("se", "shown"), [(1.44, "51.3 ± 1.4"), (None, "51.3")])
def test_win_rates(se: float | None, shown: str) -> None:
    assert win_rate(replace(RUNS[0], win_rate_se=se)) == shown
    assert win_rate(RUNS[1]) == ""


def test_curves_are_on_one_scale_for_all_runs_where_there_is_room(tmp_path: Path) -> None:
    def evaluated(name: str, state: str, *points: tuple[float, float]) -> RunState:
        (tmp_path / name).mkdir()
        rows = [{"step": step, "win_rate": rate, "true_kl_per_response": kl} for step, (rate, kl) in enumerate(points)]
        (tmp_path / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return RunState(tmp_path / name, state)

    low, high = evaluated("a", "running", (50.0, 0.0), (60.0, 1.0)), evaluated("b", "pruned", (50.0, 0.0), (85.0, 7.0))
    assert curves_of([low, high]) == {
        "win rate": {low.path: "▁▃", high.path: "▁█"},
        "KL": {low.path: "▁▂", high.path: "▁█"},
    }
    assert curves_of([evaluated("c", "running", (50.0, 0.0))]) == curves_of([RunState(tmp_path / "d", "lost")]) == {}
    assert bars([3.0, 3.0], 3.0, 3.0) == "▁▁"


def test_of_more_runs_than_rows_the_chosen_one_is_shown() -> None:
    assert [shown(RUNS, 3, run.path) for run in (RUNS[0], RUNS[2], RUNS[4])] == [RUNS[:3], RUNS[:3], RUNS[2:5]]
    assert shown(RUNS, 3, None) == RUNS[:3]
    assert shown(RUNS, None, RUNS[0].path) == RUNS
