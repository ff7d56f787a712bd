"""A run has the same result whatever happens to it: killed at any place and started again, on one process or on two."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tests.restarts import PLACES, STEPS

ROOT = Path(__file__).resolve().parents[1]
NOISY = (
    *("ppo.dropout=true", "lora.dropout=0.1", "value=adapter", "ppo.warmup_steps=4"),
    *("regularizer=kl", "regularizer.schedule=adaptive", "regularizer.horizon=20"),
)
"""With all that a checkpoint must know of: noise from dropout, moments, a schedule, a coefficient that moves."""

Make = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Leaves runs in directories of their own, as tests/restarts.py says; they share their stages and one process."""
    folder = tmp_path_factory.mktemp("exactness")
    count, said = iter(range(100)), folder / "said"
    command = [sys.executable, "-m", "tests.restarts", str(folder / "cache")]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (
        said.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environ, stdin=PIPE, stdout=PIPE, stderr=log, text=True) as script,
    ):
        assert script.stdin is not None
        assert script.stdout is not None

        def make(*wanted: tuple[int, str, tuple[str, ...]]) -> list[Path]:
            paths = []
            for ranks, mode, overrides in wanted:
                path = folder / str(next(count))
                print(json.dumps([str(path), ranks, mode, overrides]), file=script.stdin, flush=True)
                ends = script.stdout.readline() if select.select([script.stdout], [], [], 600)[0] else ""
                assert ends, said.read_text()
                assert_ended(json.loads(ends), ranks, mode, said)
                paths.append(path)
            return paths

        yield make
        script.kill()  # it waits for more


def assert_ended(ends: list[list[int]], ranks: int, mode: str, said: Path) -> None:
    assert ends[-1] == [0] * ranks, said.read_text()
    if mode == "saving":
        assert len(ends) == len(PLACES) + 1
        # the other rank is killed too, or has lost its connection a moment before
        assert all(end[0] == -9 and {*end} <= {-9, 1} for end in ends[:-1]), ends


@pytest.mark.slow
def test_a_base_in_two_parts_is_the_base(make: Make) -> None:
    [first] = make((1, "never", ("ppo.steps=0",)))
    [sft] = [path for path in (first.parent / "cache").glob("sft-*") if path.is_dir()]
    given = ("ppo.steps=4", f"model.path={sft}", "sft.epochs=0", "value=adapter")
    parts, whole = make((2, "never", (*given, "distributed=fsdp")), (1, "never", given))
    for row, other in zip(history(whole), history(parts), strict=True):
        assert_alike(row, other)


def history(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not timed(name)} for row in rows]


def assert_alike(row: dict[str, Any], other: dict[str, Any]) -> None:
    """Up to the rounding of sums, which may carry a token over the bound of what is clipped: 1 of 128 or fewer."""
    assert row.keys() == other.keys()
    for name, value in row.items():
        tolerance = {"abs": 1 / 64} if name.endswith("clip_fraction") else {"rel": 1e-4, "abs": 1e-6}
        assert other[name] == (None if value is None else pytest.approx(value, **tolerance)), name


def timed(name: str) -> bool:
    return name.startswith("seconds") or name == "samples_per_second"


def metrics(path: Path) -> dict[str, Any]:
    found = json.loads((path / "metrics.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "memory")}


def assert_same(path: Path, other: Path) -> None:
    """To the last bit."""
    assert history(path) == history(other)
    assert metrics(path) == metrics(other)
    for name in ("outputs.json", "outputs-greedy.json", "references-greedy.json", "responses.jsonl"):
        one, two = ((folder / name).read_text() for folder in (path, other))
        assert one.replace(f'"{path.name}"', f'"{other.name}"') == two
    weights = "policy/adapter_model.safetensors"
    assert (path / weights).read_bytes() == (other / weights).read_bytes()
    assert not (path / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_was_killed_is_the_run_that_was_not(make: Make, ranks: int) -> None:
    whole, *killed = make(*((ranks, mode, NOISY) for mode in ("never", "saving", "anywhere")))
    assert [row["step"] for row in history(whole)] == list(range(STEPS + 1))
    for path in killed:
        assert_same(path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("value=adapter",),
        ("reward.members=2", "reward.combine=min", "evaluation.interim_prompts=5"),
        ("algorithm=grpo", "regularizer=full_js", "regularizer.placement=loss"),
        ("lora=full", "evaluation.prompts=15", "ppo.average=responses"),
        ("ppo=paper", "ppo.dropout=false", "lora.dtype=float32", "ppo.step_batch_size=4", "ppo.lr=1e-3"),
    ],
    ids=" ".join,
)
def test_two_ranks_do_what_one_does(make: Make, overrides: tuple[str, ...]) -> None:
    """Up to the rounding of sums, with micro-batches of half the size; the responses are the same ones."""
    sizes = {1: "ppo.micro_batch_size=2", 2: "ppo.micro_batch_size=1"}
    if "ppo=paper" in overrides:  # divides a micro-batch among the ranks by itself
        sizes[2] = sizes[1]
    one, two = make(*((ranks, "never", ("ppo.steps=4", *overrides, size)) for ranks, size in sizes.items()))
    for row, other in zip(history(one), history(two), strict=True):
        assert_alike(row, other)
    assert metrics(one)["processes"] == 1
    assert metrics(two)["processes"] == 2
    texts = [[row["output"] for row in json.loads((path / "outputs.json").read_text())] for path in (one, two)]
    assert texts[0] == texts[1]
