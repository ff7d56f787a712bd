"""The outputs of every sweep, made up."""

import gc
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import TOKENS, Checkpoint, point, write_run

WORLDS, SEEDS = (0, 1, 2, 3), (0, 1)
FORMS = (
    *("none", "dropout_only", "kl", "clamped_kl", "js", "bregman", "squared_error", "negative_kl"),
    *("js_unbiased", "js_exact", "full_kl", "full_forward_kl", "full_js", "full_alpha"),
)
RANKS = (1, 2, 4, 16, 32, 64, None)
PROMPTS = 12
REACH = {"none": 0.5, "dropout_only": 0.4, "negative_kl": 0.9, "kl": 0.22, "js": 0.16}
"""The KL per token at the end, by form."""


class Study:
    """All sweeps of the project, in a made-up world where wins rise with the root of the KL, then fall."""

    def __init__(self, root: Path, forms: Sequence[str] = FORMS, ranks: Sequence[int | None] = RANKS) -> None:
        self.root, self.forms, self.ranks = root, forms, ranks

    def run(self, sweep: str, world: int, seed: int, reach: float, lift: float = 0.0, **settings: Any) -> None:
        name = ",".join(f"{key.replace('__', '.')}={value}" for key, value in settings.items())
        path = self.root / "sweeps" / sweep / f"{name},data.seed={world},seed={seed}"
        noise = random.Random(f"{name} {world} {seed}")
        points = [self.point(step, world, reach * (step / 40) ** 1.5, lift, noise) for step in (0, 10, 20, 30, 40)]
        chance = random.Random(f"{world}")
        share = (points[-1]["win_rate"] - 1) / 100
        wins = [2.0 if 0.7 * chance.random() + 0.3 * noise.random() < share else 1.0 for _ in range(PROMPTS)]
        write_run(path, points, judgements=wins, data__seed=world, seed=seed, **settings)

    def point(self, step: int, world: int, kl: float, lift: float, noise: random.Random) -> Checkpoint:
        root = math.sqrt(kl)
        effect = (0.0 if step == 0 else lift) + 45 * root - 45 * kl + noise.gauss(0, 0.8)
        facts = 75 + 2 * world - 8 * kl + noise.gauss(0, 0.8)
        more = {"reward": 1.6 * root + noise.gauss(0, 0.03), "response_length": 19 + 6 * root}
        more |= {"win_rate_greedy_length_controlled": 49 + effect, "win_rate_greedy_length_controlled_se": 1.6}
        more |= {"response_length_greedy": 19 + 6 * root}
        more |= {"factuality_greedy": facts + 12, "factuality_greedy_se": 1.1}
        return point(step, 49 + world + effect if step else 50.0, TOKENS * kl, facts, **more)

    def regularizers(self) -> None:
        for form, strength, world, seed in product(self.forms, (0.3, 1.0, 3.0), WORLDS, SEEDS):
            if strength != 1 and form in ("none", "dropout_only", "negative_kl"):
                continue
            dropout = {"ppo__dropout": True, "lora__dropout": 0.1} if form == "dropout_only" else {}
            reach = REACH.get(form, 0.2) / math.sqrt(strength)
            lift = 2.0 if form == "js" else 0.0
            names = {"regularizer__name": form, "regularizer__strength": strength}
            names |= {"regularizer__placement": "both"} if form.startswith("full") else {}
            self.run("regularizers", world, seed, reach, lift, **names, **dropout)

    def methods(self) -> None:
        for rank, world, seed in product(self.ranks, WORLDS, SEEDS):
            self.run("study_lora", world, seed, 0.05 + 0.02 * math.log2(rank or 128), lora__r=rank)
        for form, world, seed in product(("none", "kl") if "kl" in self.forms else ("none",), WORLDS, SEEDS):
            self.run("study_lora", world, seed, 0.4, -2.0, regularizer__name=form, lora__r=None)
        for name, world, seed in product(("rloo", "best_of_n"), WORLDS, SEEDS):
            self.run("study_rest", world, seed, 0.1, algorithm__name=name, value__name="none")
        for rate, world in product((5e-4, 1e-3), WORLDS[:2]):
            tune = {"evaluation__split": "tune"}
            self.run("study_rates", world, 0, 200 * rate, ppo__lr=rate, **tune)
            self.run("study_rates", world, 0, 200 * rate, ppo__lr_full=rate / 10, lora__r=None, **tune)

    def published(self) -> None:
        switches = ("repeat_micro_batch", "whiten_padding", "bootstrap_padding", "retokenize")
        on = {f"ppo__{name}": True for name in switches} | {"ppo__average": "positions"}
        for form, world, seed in product(("js",), WORLDS, SEEDS):
            self.run("paper", world, seed, 0.05, regularizer__name=form, **on)


def product(*values: Iterable[Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [()]
    for choices in values:
        rows = [(*row, choice) for row in rows for choice in choices]
    return rows


@pytest.fixture(scope="session", autouse=True)
def _little_garbage() -> None:
    """statsmodels collects garbage at each correction of p-values, which takes long where all of torch is looked at."""
    gc.freeze()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of every sweep, with some of the forms."""
    made = Study(tmp_path_factory.mktemp("study"), ("none", "dropout_only", "js", "negative_kl"), (1, 16, None))
    made.regularizers()
    made.methods()
    made.published()
    return made.root
