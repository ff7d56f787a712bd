"""The cost of a real sweep, as a user meets it: counted before it starts, and again where some of it is done."""

import re
from pathlib import Path

import pytest

from tests.test_cli import command


def told(out: str) -> list[str]:
    """What comes before Hydra starts the first run."""
    return out.partition("Launching")[0].rpartition("\n")[0].splitlines()


@pytest.mark.slow
def test_a_sweep_tells_what_it_will_cost_and_then_what_is_left(tmp_path: Path) -> None:
    start = ("-m", "experiment=smoke", "regularizer=none,kl", "ppo.steps=1", "evaluation.prompts=2")
    first = command(*start, "seed=0", "data.seed=0", cwd=tmp_path)
    assert (first.code, first.err) == (0, "")
    assert told(first.out) == [
        "sweep multirun: 2 runs in outputs/sweeps/multirun, 0 of them done already, 2 to go",
        "2 x 1 steps x 8 responses = 16 responses",
        "no finished run of this kind to estimate from; the first will tell",
    ]
    wider = command(*start, "seed=0,1", "data.seed=0", cwd=tmp_path)
    assert (wider.code, wider.err) == (0, "")
    *counts, time = told(wider.out)
    assert counts == [
        "sweep multirun: 4 runs in outputs/sweeps/multirun, 2 of them done already, 2 to go",
        "2 x 1 steps x 8 responses = 16 responses",
    ]
    assert re.match(r"about \d+ s a run by 2 finished runs of this kind here, so about \d+ s one after another, ", time)
    assert wider.out.count(": done already") == 2
    again = command(*start, "seed=0,1", "data.seed=0", cwd=tmp_path)
    assert told(again.out) == ["sweep multirun: 4 runs in outputs/sweeps/multirun, 4 of them done already, 0 to go"]


def test_a_run_by_itself_tells_nothing(tmp_path: Path) -> None:
    assert "sweep" not in command("experiment=smoke", "lora.r=-1", cwd=tmp_path).out


def test_a_mistake_in_a_sweep_is_told_once(tmp_path: Path) -> None:
    done = command("-m", "lora=all,typo", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("Could not find 'lora/typo'") == 1
