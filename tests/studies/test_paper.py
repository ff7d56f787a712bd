"""The ablation of the paper's ways: its configurations, and its table of runs by hand."""

import json
from pathlib import Path

import pytest

from rlhf.report.load import Run
from studies import paper
from studies.paper import PAPER, QUIRKS, ablation, configurations, main
from tests.configure import configure


def made(name: str, world: int, win_rate: float, losses: tuple[float, ...]) -> Run:
    metrics = {"win_rate": win_rate, "win_rate_se": 1.0, "true_kl_per_response": 2.0, "response_length": 10.0 * world}
    history = [{"step": step, "ppo/value_loss": loss} for step, loss in enumerate(losses, start=1)]
    config = {"data.seed": world, "seed": 0, "regularizer.name": "js"}
    return Run(f"x/{name}-{world}", config, metrics, history, None)


def test_what_a_quirk_adds_is_paired_by_world() -> None:
    all_on = [made(PAPER, 10, 60.0, (9.0, 9.0, 0.5, 0.7)), made(PAPER, 11, 50.0, (9.0, 9.0, 0.3, 0.5))]
    off = [made("dropout", 10, 57.0, (9.0, 9.0, 0.2, 0.2)), made("dropout", 11, 45.0, (9.0, 9.0, 0.2, 0.2))]
    head, _, first, second = ablation(all_on + off).splitlines()
    assert head.startswith("| what it adds (worlds) | win rate, %")
    assert first.startswith("| all on (2 worlds) | 55 (")
    # 3 and 5 points: their mean, and 12.7 deviations of the mean around it; value losses 0.6 - 0.2 and 0.4 - 0.2
    assert second.startswith("| `dropout` (2) | +4 (-8.71 to +16.7) | +0 (")
    assert "| +0.3 (" in second


def test_each_quirk_is_turned_off_alone_in_each_world() -> None:
    found = dict(configurations([10, 11], ["ppo.steps=1"]))
    assert list(found)[:3] == [f"{PAPER}-10", "repeat_micro_batch-10", "raw_scores-10"]
    assert len(found) == 2 * (1 + len(QUIRKS))
    assert len({json.dumps(str(config)) for config in found.values()}) == len(found)
    assert (found["dropout-11"].ppo.dropout, found["dropout-11"].data.seed, found["lr-11"].ppo.dropout) == (
        False,
        11,
        True,
    )


def test_runs_that_are_finished_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = (
        "experiment=smoke",
        "ppo.steps=1",
        "evaluation.prompts=2",
        "evaluation.every=0",
        f"cache_dir={tmp_path}/cache",
    )
    runs = {f"{PAPER}-{world}": configure(*tiny, f"data.seed={world}") for world in (0, 1)}
    monkeypatch.setattr(paper, "configurations", lambda worlds, overrides: iter(runs.items()))
    for _ in range(2):
        main(["--ablate", "--out", str(tmp_path / "runs")])
    assert capsys.readouterr().out.count("all on (2 worlds)") == 2
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "nowhere")])
