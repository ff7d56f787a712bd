"""Runs of a sweep made by hand: their settings, the figures of their evaluations, and how they ended."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.config.run import Config
from rlhf.storage.reader import MadeBy
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure

SEARCHED = ("experiment=smoke", "ppo.steps=40", "evaluation.every=5", "objective=reward")


@cache
def searched(*overrides: str) -> Config:
    return configure(*SEARCHED, *overrides)


def make_run(
    path: Path, config: Config, rewards: Mapping[int, float], state: str = "running", made_by: MadeBy | None = None
) -> RunDirectory:
    """A run with these rewards by step: of a done one the last stands in metrics.json too."""
    directory = RunDirectory(path)
    directory.prepare(config, made_by)
    for step, reward in rewards.items():
        directory.append_history({"step": step, **figures(reward)})
    if state == "done":
        directory.write_json("metrics.json", figures([*rewards.values()][-1]))
    directory.set_status(state, max(rewards, default=0))
    return directory


def figures(reward: float) -> dict[str, Any]:
    return {"win_rate": 50.0, "win_rate_greedy": 50.0, "reward": reward, "true_kl_per_response": 1.0}
