"""Many made-up runs of a real size, to time the report with: `python -m tests.report.many DIR [RUNS] [STEPS]`."""

import json
import math
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tests.configure import configure
from tests.report.conftest import Checkpoint, metrics_of, point, write_lines

FORMS = (
    "none",
    "dropout_only",
    "kl",
    "clamped_kl",
    "js",
    "bregman",
    "squared_error",
    "negative_kl",
    "full_kl",
    "js_exact",
)
WORLDS = 5
PROMPTS = 512
WORDS = ("she", "works", "as", "a", "pilot", "in", "Kovin", ".")
DIAGNOSTICS = (
    *("k1", "k3", "kl", "entropy", "penalty", "value", "score", "reward", "response_length", "finished", "repeats"),
    *("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio_error", "grad_norm", "value_grad_norm", "lr"),
    *("coef", "optimizer_steps", "penalty_loss", "entropy_bonus", "value_clip_fraction", "long_prompts", "samples"),
)


def write_many(folder: Path, runs: int = 100, steps: int = 200) -> None:
    """All forms alike, over worlds and then seeds, evaluated at every tenth step on as many prompts as by default."""
    for number in range(runs):
        form, place = FORMS[number % len(FORMS)], number // len(FORMS)
        world, seed = place % WORLDS, place // WORLDS
        write_one(folder / f"data.seed={world},regularizer={form},seed={seed}", form, world, seed, steps)


def write_one(path: Path, form: str, world: int, seed: int, steps: int) -> None:
    path.mkdir(parents=True)
    chance = random.Random(path.name)
    overrides = (f"regularizer={form}", f"data.seed={world}", f"seed={seed}", f"ppo.steps={steps}")
    config = asdict(configure(*overrides))
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    history = [row(step, steps, chance) for step in range(steps + 1)]
    write_lines(path / "history.jsonl", history)
    metrics = metrics_of([each for each in history if "win_rate" in each], {"lora.r": 8})
    (path / "metrics.json").write_text(json.dumps(metrics))
    texts = [" ".join(chance.choices(WORDS, k=20)) for _ in range(PROMPTS)]
    write_lines(path / "judgements.jsonl", [judged(place, text, chance) for place, text in enumerate(texts)])
    outputs = [
        {"instruction": f"prompt {place}", "output": text, "dataset": "biography"} for place, text in enumerate(texts)
    ]
    (path / "outputs.json").write_text(json.dumps(outputs))
    (path / "status.json").write_text(json.dumps({"state": "done", "step": steps, "reason": None, "time": 0.0}))


def row(step: int, steps: int, chance: random.Random) -> Checkpoint:
    progress = step / steps
    diagnostics: dict[str, Any] = {f"ppo/{name}": progress + chance.gauss(0, 0.1) for name in DIAGNOSTICS}
    if step % 10:
        return {"step": step, **diagnostics}
    more = {"win_rate_length_controlled": 55 + chance.gauss(0, 2), "win_rate_length_controlled_se": 1.6}
    more |= {"factuality_greedy": 90 + chance.gauss(0, 2), "factuality_greedy_se": 1.0, "reward": progress}
    rate = 50 + 12 * math.sin(2 * progress) + chance.gauss(0, 2)
    return point(step, rate, 0.3 * progress, 75 + chance.gauss(0, 2), **more) | (diagnostics if step else {})


def judged(place: int, text: str, chance: random.Random) -> dict[str, Any]:
    spans = [[0, 10, chance.random() < 0.7], [12, 30, chance.random() < 0.7]]
    return {
        **{"instruction": f"prompt {place}", "dataset": "biography", "length": 20, "reference_lengths": [20] * 4},
        **{"preferences": chance.choices([1.0, 1.5, 2.0], k=4), "correct": 1, "wrong": 1, "score": chance.random()},
        **{"facts": spans, "reference": text[::-1], "reference_facts": spans},
    }


if __name__ == "__main__":
    write_many(Path(sys.argv[1]), *map(int, sys.argv[2:]))
