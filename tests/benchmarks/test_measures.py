"""Each measuring command in miniature: its table, and its JSON."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import kl
from benchmarks.__main__ import main, parse
from benchmarks.rollout import MERGED, OURS, UNMERGED, StopAt
from benchmarks.start import import_total
from benchmarks.step import part_rows
from benchmarks.table import figure, ratios
from rlhf.errors import UserError
from tests.benchmarks.small import SMALL


def run(tmp_path: Path, what: str, *arguments: str) -> dict:
    file = tmp_path / "figures.json"
    main([what, *SMALL, *arguments, "--folder", str(tmp_path), "--json", str(file)])
    return json.loads(file.read_text())


def test_overrides_stand_between_flags_too() -> None:
    given = parse(["step", "a=1", "--rounds", "2", "b=2"])
    assert (given["overrides"], given["rounds"]) == (["a=1", "b=2"], 2)
    with pytest.raises(SystemExit):
        parse(["step", "--budget", "3"])  # another command's


def test_a_typo_is_told_in_words() -> None:
    with pytest.raises(SystemExit, match=r"error: .*rollout\.batchsize"):
        main(["step", "rollout.batchsize=3"])


def test_a_steps_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(tmp_path, "step", "--rounds", "2")
    assert (figures["samples"], figures["response_tokens"]) == (4, [6.0, 6.0])
    assert 5 <= figures["prompt_tokens"] <= 7
    assert {part: len(seconds) for part, seconds in figures["seconds"].items()} == dict.fromkeys(figures["floor"], 2)
    assert min(figures["floor"].values()) > 0
    assert figures["memory_mib"]["peak"] >= figures["memory_mib"]["before"] > 0
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("| ") and "(" in line] == [
        *("rollout", "scoring", "update", "step"),
    ]


def test_rows_of_a_step() -> None:
    """8 samples of 10 tokens in 4 s, a fourth of it in the rollout: 20 tokens a second, in the rollout 80."""
    figures = {
        "samples": 8,
        "response_tokens": [10.0],
        "seconds": {"rollout": [1.0], "scoring": [1.0], "update": [2.0]},
        "samples_per_second": [2.0],
        "floor": {"rollout": 0.25, "scoring": 0.5, "update": 0.25},
    }
    rows = {row[0]: row[1:] for row in part_rows(figures)}
    assert rows["rollout"] == ["1 (1 to 1)", "8", "80", "0.25", "25%"]
    assert rows["step"] == ["4 (4 to 4)", "2", "20", "1", "25%"]


@pytest.mark.parametrize("ends", [(), ("--mean-length", "3")])
def test_the_rollout_against_generate(tmp_path: Path, ends: tuple[str, ...]) -> None:
    figures = run(tmp_path, "rollout", "--rounds", "2", *ends)
    speeds = figures["tokens_per_second"]
    assert set(speeds) == {OURS, UNMERGED, MERGED}
    for name, found in figures["ratios"].items():
        assert found == [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[name], strict=True)]
    assert (figures["mean_length"] == [6.0, 6.0]) == (not ends)


def test_a_peer_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"lora\.r=None is not allowed"):
        run(tmp_path, "rollout", "lora=full")


def test_rows_stop_at_their_own_lengths() -> None:
    stop = StopAt(4, torch.tensor([1, 3]))
    assert stop(torch.zeros(2, 5), None).tolist() == [True, False]
    assert stop(torch.zeros(2, 7), None).tolist() == [True, True]


def test_what_exact_kl_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl, "VOCABULARIES", (16, 32))
    figures = run(tmp_path, "kl", "--rounds", "1")
    assert set(figures) == {"16", "32"}
    for found in figures.values():
        seconds = {name: values[0] for name, values in found["seconds"].items()}
        assert found["shares"] == [pytest.approx((seconds["exact"] - seconds["sampled"]) / seconds["step"])]
        assert found["ratios"] == [pytest.approx(seconds["full_step"] / seconds["step"])]


REPORT = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   rlhf.compose
import time:       300 |     250000 | rlhf
import time:       200 |    1250000 | rlhf.stages.pipeline
import time:       200 |       7000 | site
"""


def test_imports_are_summed_from_pythons_own_report() -> None:
    """The package counts where it is imported at the top, beside the module; what they import is in their own."""
    assert import_total(REPORT, "rlhf.stages.pipeline") == pytest.approx(1.5)
    with pytest.raises(UserError, match=r"nothing of rlhf\.run"):
        import_total("", "rlhf.run")


@pytest.mark.slow
def test_what_starting_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    small = ("ppo.steps=1", "device=cpu", f"cache_dir={tmp_path}/cache")
    main(["start", *small, "--rounds", "1", "--folder", str(tmp_path), "--json", str(file)])
    figures = json.loads(file.read_text())
    seconds = {name: values[0] for name, values in figures["seconds"].items()}
    assert seconds["import rlhf.run"] < seconds["import rlhf.stages.pipeline"]
    assert seconds["first step"] <= seconds["one run"]
    assert figures["ratios"] == [pytest.approx(seconds["multirun"] / (2 * seconds["one run"]))]
    assert "multirun / (2 x one run)" in capsys.readouterr().out


def test_figures_are_short() -> None:
    assert [figure(value) for value in (0.012345, 1.5, 123.4, 6123.4)] == ["0.0123", "1.5", "123", "6,123"]
    assert ratios([6.0, 2.0], [3.0, 4.0]) == [2.0, 0.5]


def test_memory_is_reckoned_without_loading_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = (
        "model=llama_7b_random",
        "model.gradient_checkpointing=false",
        "lora=attention",
        "rollout.decode_batch_size=2",
    )
    file = tmp_path / "figures.json"
    main(["memory", *shape, "--json", str(file)])
    figures = json.loads(file.read_text())["gib"]["ppo"]
    # 6.74e9 weights of 2 bytes; of 2 responses in the works the layers' inputs are little beside them
    assert 12.5 < figures["weights"] < 13.0
    assert f"{sum(figures.values()):.3g}" in capsys.readouterr().out
