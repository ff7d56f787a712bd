"""The command for a GPU: tried out on a CPU, refused there at full size, and run where there is one."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.exactness import TOLERANCES, worst_errors
from benchmarks.gpu import (
    DECODED,
    SHAPES,
    TOGETHER,
    WORLD_RUN,
    Clock,
    affordable,
    check_errors,
    command_figures,
    decoding_row,
    finish_within,
    measure_decoding,
    measure_sizes,
    measure_together,
    report,
    step_row,
    together_row,
)
from benchmarks.options import Options, configure
from benchmarks.rollout import LAUNCHED, MERGED, OURS, UNMERGED
from rlhf.compose import CONF
from rlhf.errors import CheckError, ConfigError
from rlhf.process.identity import has_ended
from rlhf.storage.files import read_json
from tests.benchmarks.small import SMALL
from tests.launch.processes import until


def a_step(samples: int, samples_per_second: float, wall_seconds: float) -> dict:
    return {
        "samples": samples,
        "samples_per_second": [samples_per_second],
        "response_tokens": [10.0],
        "seconds": {"rollout": [2.0], "scoring": [1.0], "update": [5.0]},
        "floor": {"rollout": 0.5, "scoring": 0.5, "update": 1.0},
        "memory_mib": {"peak": 2048.0},
        "wall_seconds": wall_seconds,
    }


def test_the_cpu_computes_what_it_should() -> None:
    errors = worst_errors(torch.device("cpu"), "float32")
    assert max(errors.values()) < 1e-4
    check_errors({"float32": errors})


def test_a_wrong_figure_is_an_error() -> None:
    with pytest.raises(CheckError, match=r"greedy tokens in float32 are 0\.5 nats off"):
        check_errors({"float32": {"greedy tokens": 0.5}})
    with pytest.raises(CheckError):
        check_errors({"float32": {"greedy tokens": float("nan")}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(device="cuda"), "--device=cuda is not allowed: this machine shows no CUDA GPU; --device cpu"),
        (Options(device="cpu", size="7b"), "--size=7b is not allowed: that is for a GPU"),
    ],
)
def test_what_has_no_gpu_is_refused(options: Options, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import measure

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        measure(options)


def test_the_largest_step_that_the_clock_allows() -> None:
    """16 responses in 4 s, 10 s to start: twice 64 take 32 s, twice 128 take 64 s, twice 256 take 128 s."""
    first = a_step(16, 4.0, 18.0)
    assert [affordable(first, left, "7b") for left in (10.0, 45.0, 80.0, 1000.0)] == [16, 64, 128, 256]


def test_a_row_of_a_step() -> None:
    """8 responses of 10 tokens decoded in 2 s; a step of 8 s, with a floor of 2 s."""
    assert step_row("bf16", a_step(8, 1.0, 9.0)) == ["bf16", "40", "25%", "1", "5", "8", "25%", "2"]
    assert step_row("4-bit", {"refused": "no memory"}) == ["4-bit", "no memory"]


def test_a_row_of_decoding_and_one_of_runs_side_by_side() -> None:
    speeds = {OURS: [50.0], LAUNCHED: [20.0], UNMERGED: [5.0], MERGED: [8.0]}
    found = {"tokens_per_second": speeds, "floor_tokens_per_second": 90.0}
    assert decoding_row("25M", found) == ["25M", "50", "20", "5", "8", "90"]
    assert together_row(2, {"samples_per_second": [30.0, 10.0], "seconds": 9.0}) == ["2", "40", "9"]
    assert together_row(2, {"refused": "no time"}) == ["2", "no time"]


def test_a_measurement_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    assert "invalid choice: 'nothing'" in command_figures(["nothing"], tmp_path / "a.json", 60.0)["refused"]
    assert command_figures(["step"], tmp_path / "b.json", 0.0)["refused"] == "not done in 0 s"


def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    inner = (
        "import os, time; from pathlib import Path; from rlhf.storage.files import write_json; "
        "from rlhf.process.identity import identity; "
        f"write_json(Path({str(file)!r}), identity(os.getpid())); time.sleep(60)"
    )
    assert finish_within([sys.executable, "-c", code, inner], 3.0) == (None, "")
    until(lambda: has_ended(read_json(file)))  # a signal takes a while to arrive


def test_the_table_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {dtype: {"greedy tokens": 0.0} for dtype in TOLERANCES}
    steps = {"bf16, 16 responses": a_step(16, 4.0, 18.0), "4-bit": {"refused": "bitsandbytes is not installed"}}
    decoded = {"tokens_per_second": {OURS: [50.0], UNMERGED: [5.0], MERGED: [7.0]}, "floor_tokens_per_second": 90.0}
    parts = {
        "decoding": {"25M": decoded, "135M": {"refused": "no memory"}},
        "together": {1: {"samples_per_second": [30.0], "seconds": 9.0}, 4: {"refused": "no time"}},
        "trl": {"refused": "no index"},
    }
    report({"device": "a card", "errors": errors, "steps": steps, **parts, "seconds": 100.0})
    printed = capsys.readouterr().out
    assert printed.index("no index") < printed.index("a card: PPO steps, in 100 s")
    assert "bitsandbytes is not installed" in printed.splitlines()[-2]


def test_sizes_compose() -> None:
    assert configure([*SHAPES["tiny"]]).device == "cpu"
    if (CONF / "model" / "llama_7b_random.yaml").exists():
        shape = configure([*SHAPES["7b"]])
        assert (shape.rollout.max_prompt_tokens, shape.rollout.max_response_tokens) == (192, 300)


@pytest.mark.slow
def test_steps_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    options = Options([*SMALL[:5], "rollout.max_prompt_tokens=7"], device="cpu", size="tiny", folder=tmp_path)
    found = measure_sizes(options, Clock(500.0))
    assert found["bf16, 2 responses"]["samples"] == 2
    assert found["bf16, 4 responses"]["samples"] == 4


def test_decoding_is_measured_by_the_rollouts_command_in_each_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.command_figures", lambda arguments, file, left: {"arguments": arguments})
    for size, shapes in DECODED.items():
        found = measure_decoding(Options([], device="cpu", size=size, folder=tmp_path), Clock(500.0))
        assert found.keys() == shapes.keys()
        for name, shape in shapes.items():
            measure, *overrides = found[name]["arguments"]
            assert (measure, overrides[-2:]) == ("rollout", ["--rounds", "1"])
            assert configure(overrides[:-2]) == configure([*shape, "device=cpu"])


def test_runs_side_by_side_are_one_sweep_each_and_one_that_lacks_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def finish(command: list[str], seconds: float) -> tuple[int, str]:
        commands.append(command)
        [sweep] = [Path(word.partition("=")[2]) for word in command if word.startswith("hydra.sweep.dir=")]
        for seed in range(min(4, int(sweep.name) or 1)):  # of eight, four have ended
            (sweep / str(seed)).mkdir(parents=True)
            rows = [{"step": step, "samples_per_second": 10.0 + seed} for step in range(4)]
            (sweep / str(seed) / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return 0, "four have failed"

    monkeypatch.setattr("benchmarks.gpu.finish_within", finish)
    found = measure_together(Options([], device="cuda", folder=tmp_path), Clock(500.0))
    assert [found[count].get("samples_per_second") for count in (1, 4)] == [[10.0], [10.0, 11.0, 12.0, 13.0]]
    assert found[8] == {"refused": "four have failed"}
    assert [next(word for word in command if word.startswith("hydra.launcher.parallel")) for command in commands] == [
        f"hydra.launcher.parallel={count}" for count in (1, 1, 4, 8)
    ]
    for size, (_, work) in TOGETHER.items():
        configure([*WORLD_RUN, *(word for word in work if size == "7b" or not word.startswith("experiment"))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_computes_what_it_should() -> None:
    for dtype in TOLERANCES:
        check_errors({dtype: worst_errors(torch.device("cuda"), dtype)})
