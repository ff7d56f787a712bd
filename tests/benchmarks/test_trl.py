"""What is told to TRL, what is made of its answers, and the real thing where it is installed."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import trl
from benchmarks.__main__ import main
from benchmarks.options import Options, configure
from benchmarks.peer_ppo import mean_length
from rlhf.errors import ConfigError, UserError
from tests.benchmarks.small import SMALL

FOLDER = os.environ.get("RLHF_BENCH_TRL", "outputs/bench")
"""Where `python -m benchmarks trl` has made its environment before."""


def test_the_work_in_trls_words(tmp_path: Path) -> None:
    config = configure([*SMALL, "regularizer.coef=0.07", "model.threads=2"])
    work = trl.peer_work(config, Options(folder=tmp_path, steps=5), [[2, 3]])
    assert (work["batch_size"], work["minibatches"], work["epochs"], work["response_length"]) == (4, 2, 2, 6)
    assert (work["steps"], work["stops"], work["threads"], work["device"]) == (5, False, 2, "cpu")
    assert (work["ppo"]["kl_coef"], work["lora"]["r"], work["lora"]["lora_alpha"]) == (0.07, 8, 16)
    assert trl.peer_work(config, Options(mean_length=3.0), [])["stops"] is True
    assert (work["dtype"], work["bf16"]) == ("float32", False)
    mixed = trl.peer_work(configure([*SMALL, "model.dtype=mixed"]), Options(folder=tmp_path), [])
    assert (mixed["dtype"], mixed["bf16"]) == ("float32", True)
    json.dumps(work)


@pytest.mark.parametrize(
    "override",
    ["lora=full", "regularizer=js", "ppo.micro_batch_size=1", "model.quantization=4bit", "algorithm=rloo value=none"],
)
def test_what_trl_has_not_is_refused(override: str) -> None:
    extra = ["algorithm.samples_per_prompt=2"] if "rloo" in override else []
    with pytest.raises(ConfigError, match="TRL"):
        trl.check_comparable(configure([*SMALL, *override.split(), *extra]))


def test_responses_end_with_their_eos() -> None:
    assert mean_length([[5, 1, 0], [5, 6, 7], [1, 0, 0]], eos_id=1) == (2 + 3 + 1) / 3


def test_ratios_are_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounds in which the machine is twice as slow: a speed of each changes, and no ratio."""
    speeds = {"adapter": 6.0, "reward_features": 12.0, "lora": 3.0, "whole": 2.0}
    calls: list[str] = []

    def found(kind: str) -> dict:
        calls.append(kind)
        slowed = speeds[kind] / (1 + calls.count(kind) % 2)
        return {"samples_per_second": slowed, "samples_per_cpu_second": speeds[kind] ** 2, "mean_length": 6.0}

    monkeypatch.setattr(trl, "environment", lambda folder: Path("python"))
    monkeypatch.setattr(trl, "measure_ours", lambda options, value, work: found(value))
    monkeypatch.setattr(trl, "measure_trl", lambda options, kind, work, python: found(kind))
    file = tmp_path / "figures.json"
    main(["trl", *SMALL, "--rounds", "2", "--folder", str(tmp_path), "--json", str(file)])
    assert calls == ["adapter", "reward_features", "lora", "whole"] * 2
    figures = json.loads(file.read_text())
    assert figures["samples_per_second"]["value=adapter"] == [3.0, 6.0]
    assert figures["ratios"]["value=adapter"] == {trl.TRL_VALUES["lora"]: [2.0] * 2, trl.TRL_VALUES["whole"]: [3.0] * 2}
    assert figures["ratios"]["value=reward_features"][trl.TRL_VALUES["whole"]] == [6.0] * 2
    assert figures["cpu_ratios"]["value=adapter"][trl.TRL_VALUES["lora"]] == [4.0] * 2
    printed = capsys.readouterr().out
    assert "4 (4 to 4)" in printed  # reward_features to LoRA
    assert all(difference in printed for difference in trl.DIFFERENCES)


def test_an_environment_that_can_not_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl, "RELEASE", "no-such-package-of-ours==1.12.*")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"no-such-package-of-ours==1\.12\.\* can't be installed"):
        trl.environment(tmp_path / "trl")
    assert (tmp_path / "trl" / "bin" / "python").exists()  # begun, and begun again the next time
    assert not trl.has_trl(tmp_path / "trl" / "bin" / "python")


@pytest.mark.slow
@pytest.mark.skipif(not Path(FOLDER, "trl", "bin", "python").exists(), reason="python -m benchmarks trl has not run")
def test_trl_does_the_same_work(tmp_path: Path) -> None:
    config = configure([*SMALL, "value=adapter"])
    options = Options([*SMALL], folder=tmp_path, mean_length=3.0, steps=2)
    work = trl.prepare(config, options)
    found = trl.measure_trl(options, "lora", work, Path(FOLDER, "trl", "bin", "python").absolute())
    assert len(found["seconds"]) == len(found["cpu_seconds"]) == 2
    assert 1 <= found["mean_length"] <= 6
    assert found["versions"]["trl"].startswith("1.12.")
    trained = 2 * 4 * 8 * (16 + 16) + 16  # both adapters on q, k, v and o of one layer, and the value's head
    assert found["trained_weights"] == trained
