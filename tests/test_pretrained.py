"""PPO on a real pretrained model: SmolLM2-135M-Instruct, in the directory that RLHF_SMOLLM2 names.

`hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir DIR`, then `RLHF_SMOLLM2=DIR pytest -m pretrained`.
"""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rlhf.compose import CONF, SWEEPS, to_config
from rlhf.config.run import Config
from rlhf.errors import Preempted
from rlhf.experiment import run
from rlhf.storage.files import read_json
from tests.configure import composed
from tests.test_run import stop_in
from tests.test_text_run import rows_of

DIRECTORY = os.environ.get("RLHF_SMOLLM2")
STEPS = 2

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.slow,
    pytest.mark.skipif(DIRECTORY is None, reason="RLHF_SMOLLM2 names no directory with SmolLM2-135M-Instruct"),
]


def settings(cache: Path) -> Config:
    """A run of `make run-text`, made smaller; in float32, where a batch's shape hardly rounds its states otherwise."""
    smaller = (
        "evaluation.prompts=4",
        "checks.prompts=4",
        "reward.standard_prompts=8",
        "rollout.max_response_tokens=12",
    )
    smaller += ("rollout.batch_size=8", "ppo.step_batch_size=4", "ppo.micro_batch_size=4", f"ppo.steps={STEPS}")
    given = (f"model.path={DIRECTORY}", "model.dtype=float32", "device=cpu", f"cache_dir={cache}")
    search = f"hydra.searchpath=[file://{CONF}]"
    return to_config(composed(search, *given, *smaller, "seed=0", name="text_verifier", folder=SWEEPS))


def figures(path: Path) -> list[dict[str, Any]]:
    """What a run has measured at each step, without what the clock says."""
    rows = rows_of(path, "history")
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_ppo_begins_at_the_reference_and_a_stopped_run_ends_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, stopped = settings(tmp_path / "cache"), tmp_path / "whole", tmp_path / "stopped"
    metrics = run(config, whole)
    first, *steps = figures(whole)
    assert first["true_kl_per_response"] == steps[0]["rollout/kl"] == 0.0
    assert len(steps) == STEPS
    assert all(step["ppo/ratio_error"] <= 1e-4 for step in steps)
    assert all(math.isfinite(step["rollout/score"]) for step in steps)
    assert math.isfinite(metrics["raw_reward"])
    assert metrics["true_kl_per_response"] > 0
    with monkeypatch.context() as patch:
        stop_in(patch, STEPS - 1, signal.SIGTERM)
        with pytest.raises(Preempted):
            run(config, stopped)
    assert read_json(stopped / "status.json")["step"] == STEPS - 1
    run(config, stopped)
    assert figures(stopped) == figures(whole)
    for name in ("outputs.json", "policy/adapter_model.safetensors"):
        assert (stopped / name).read_bytes().replace(b"stopped", b"whole") == (whole / name).read_bytes(), name
