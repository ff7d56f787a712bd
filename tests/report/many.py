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
    *("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio_error", "grad_norm", "value_grad_norm", "lr"),
    *("optimizer_steps", "penalty_loss", "entropy_bonus", "value_clip_fraction"),
)
ROLLOUT = (
    *("k1", "k3", "kl", "kl_per_response", "entropy", "penalty", "penalty_per_response", "value", "coef"),
    *("score", "score_spread", "objective", "response_length", "finished", "repeats", "long_prompts"),
)
REACH = {"none": 14.0, "dropout_only": 13.0, "negative_kl": 8.0, "kl": 17.0, "js": 18.0}
"""The highest win rate over 50, by form."""


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
    history = [row(step, steps, form, chance) for step in range(steps + 1)]
    write_lines(path / "history.jsonl", history)
    metrics = metrics_of([each for each in history if "win_rate" in each], {"lora.r": 8})
    (path / "metrics.json").write_text(json.dumps(metrics))
    texts = [" ".join(chance.choices(WORDS, k=20)) for _ in range(PROMPTS)]
    write_lines(path / "responses.jsonl", [judged(place, text, chance) for place, text in enumerate(texts)])
    outputs = [
        {"instruction": f"prompt {place}", "output": text, "dataset": "biography"} for place, text in enumerate(texts)
    ]
    for name in ("outputs", "outputs-greedy", "references-greedy"):
        (path / f"{name}.json").write_text(json.dumps(outputs))
    (path / "status.json").write_text(json.dumps({"state": "done", "step": steps, "reason": None, "time": 0.0}))


def row(step: int, steps: int, form: str, chance: random.Random) -> Checkpoint:
    progress = step / steps
    names = [f"ppo/{name}" for name in DIAGNOSTICS] + [f"rollout/{name}" for name in ROLLOUT]
    diagnostics: dict[str, Any] = {name: progress + chance.gauss(0, 0.1) for name in names}
    if step % 10:
        return {"step": step, **diagnostics}
    more = {"win_rate_greedy_length_controlled": 55 + chance.gauss(0, 2), "win_rate_greedy_length_controlled_se": 1.6}
    more |= {"factuality_greedy": 90 + chance.gauss(0, 2), "factuality_greedy_se": 1.0, "reward": progress}
    more |= {"response_length_greedy": 20 + 4 * progress, "response_length_greedy_se": 0.4}
    rate = 50 + REACH.get(form, 15.0) * math.sin(1.9 * progress) + (chance.gauss(0, 2) if step else 0.0)
    return point(step, rate, 6 * progress, 75 + chance.gauss(0, 2), **more) | (diagnostics if step else {})


def judged(place: int, text: str, chance: random.Random) -> dict[str, Any]:
    spans = [[0, 10, chance.random() < 0.7], [12, 30, chance.random() < 0.7]]
    return {
        **{"instruction": f"prompt {place}", "dataset": "biography", "length": 20, "reference_lengths": [20] * 4},
        **{"preferences": chance.choices([1.0, 1.5, 2.0], k=4), "correct": 1, "wrong": 1, "score": chance.random()},
        **{"greedy_preferences": chance.choices([1.0, 1.5, 2.0], k=1)},
        **{"facts": spans, "reference": text[::-1], "reference_facts": spans},
    }


if __name__ == "__main__":
    write_many(Path(sys.argv[1]), *map(int, sys.argv[2:]))
