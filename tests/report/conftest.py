"""Run directories as PPO leaves them, with figures of our choice."""

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlhf.report.load import Run, effective, flatten
from rlhf.storage.reader import with_cost

BASE: dict[str, Any] = {
    "seed": 0,
    "cache_dir": "outputs/cache",
    "device": "auto",
    "data": {"name": "world", "seed": 0, "people": 200},
    "model": {"path": None, "threads": 1},
    "lora": {"r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": ["all-linear"], "dtype": "float32"},
    "reward": {"members": 1, "combine": "mean"},
    "rollout": {"batch_size": 64},
    "regularizer": {"name": "js", "placement": "reward", "coef": 1.5, "strength": 1.0, "schedule": "constant"},
    "value": {"name": "reward_features", "init": "reward"},
    "ppo": {
        **{"steps": 40, "lr": 5e-4, "lr_full": 5e-5, "dropout": False, "average": "tokens", "step_batch_size": 32},
        **{"repeat_micro_batch": False, "whiten_padding": False, "bootstrap_padding": False, "retokenize": False},
    },
    "algorithm": {"name": "ppo", "samples_per_prompt": 1},
    "evaluation": {"split": "eval", "prompts": 40, "best_of": 1},
    "checks": {"min_accuracy": 0.55},
}

Checkpoint = dict[str, Any]
TOKENS = 20
"""Of each response."""


def point(step: int, win_rate: float, kl: float | None = 1.0, factuality: float = 75.0, **more: Any) -> Checkpoint:
    """An evaluated row of history.jsonl, of a greedy win rate and nats per response; sampled, half as much is won.

    At step 0 stands the SFT model, whose win rates are known exactly.
    """
    errors = {"win_rate_greedy_se": 1.5, "win_rate_se": 1.2} if step else {}
    return {
        **{"step": step, "win_rate_greedy": win_rate, "win_rate": sampled(win_rate), **errors},
        **{"true_kl_per_response": kl, "true_kl_per_token": None if kl is None else kl / TOKENS},
        **{"factuality": factuality, "factuality_se": 1.8, "reward": 0.1, "repeats": 0.01},
        **{"objective": 0.02 * (win_rate - 50), "objective_se": 0.05},
        **{"response_length": 19.0, "response_length_se": 0.4, **more},
    }


def sampled(win_rate: float) -> float:
    return 50 + (win_rate - 50) / 2


def write_run(
    path: Path, points: Sequence[Checkpoint], *, judgements: Sequence[float | None] | None = None, **settings: Any
) -> Path:
    """A finished run; `settings` are dotted keys with `__` for the stop, `judgements` one preference per prompt."""
    path.mkdir(parents=True)
    config = configured(settings)
    metrics = metrics_of(points, flatten(config))
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "metrics.json").write_text(json.dumps(metrics))
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    (path / "overrides.json").write_text(json.dumps({"config": "config", "overrides": overrides}))
    write_lines(path / "history.jsonl", [*points[:1], {"step": 1, "rollout/kl": 0.01}, *points[1:]])
    if judgements is not None:
        write_lines(path / "responses.jsonl", [judgement(place, value) for place, value in enumerate(judgements)])
    (path / "status.json").write_text(json.dumps({"state": "done", "step": 40, "reason": None, "time": 0.0}))
    return path


def configured(settings: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(BASE)
    for key, value in settings.items():
        *groups, last = key.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[last] = value
    if config["regularizer"]["name"] in ("none", "dropout_only"):
        config["regularizer"]["coef"] = 0.0
    return config


def metrics_of(points: Sequence[Checkpoint], config: dict[str, Any]) -> dict[str, Any]:
    """The last point, with the first as the SFT model's own."""
    sft, policy = ({name: value for name, value in row.items() if name != "step"} for row in (points[0], points[-1]))
    weights = 3696 * (config["lora.r"] or 64)
    cooler = {name: value for name, value in point(1, 50.0).items() if "greedy" not in name and name != "step"}
    controls = {"0.7": cooler | {"win_rate": 54.0}, "0.5": cooler | {"win_rate": 56.0}}
    more = {"objective_problem": None, "trainable_weights": weights, "seconds": {"ppo": 24.0, "evaluation": 12.0}}
    return {**policy, "baseline": sft, "controls": controls, **more}


def judgement(place: int, preference: float | None) -> dict[str, Any]:
    """The greedy response's; every other prompt asks for a biography, in which three facts stand, one of them wrong."""
    biography, length = place % 2 == 0, {"length": 19, "reference_lengths": [19]}
    return {
        **{"instruction": f"prompt {place}", "dataset": "biography" if biography else "question"},
        **{"greedy_preferences": None if preference is None else [preference]},
        **{"preferences": None if preference is None else [1.5, 1.5], **length},
        **{f"greedy_{name}": value for name, value in length.items()},
        **{"correct": 2 if biography else None, "wrong": 1 if biography else None, "score": 0.0},
    }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(
    points: Sequence[Checkpoint], judgements: Sequence[float | None] | None = None, path: str = "", **settings: Any
) -> Run:
    """A run as `load_run` reads it, without a directory."""
    config = effective(flatten(configured(settings)))
    rows = None if judgements is None else [judgement(place, value) for place, value in enumerate(judgements)]
    name = path or ",".join(f"{key}={value}" for key, value in settings.items())
    return Run(name, config, with_cost(metrics_of(points, config)), list(points), rows)
