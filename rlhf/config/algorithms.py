"""What the algorithms of rlhf/algorithms/ need, read from their files without importing them, and so without torch."""

import ast
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "algorithms"

NAMES = tuple(sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))
"""An algorithm's name is its file's."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is checked of an algorithm before any work; literals in the call of `Algorithm(...)` in its file."""

    samples: int = 1  # responses to each prompt, at least: 2 where they are compared with each other
    value: bool = False  # whether its advantages read values
    trains: bool = True  # whether it makes PPO steps


@cache
def needs(name: str) -> Needs:
    """The needs of an algorithm; the defaults for a name that has no file, as a run of other code may have."""
    if name not in NAMES:
        return Needs()
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    [call] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Algorithm"
    ]
    known = {field.name for field in fields(Needs)}
    return Needs(**{word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg in known})


def training_steps(algorithm: str, steps: int) -> int:
    """PPO steps of a run with `ppo.steps=steps`: none where the algorithm trains nothing."""
    return steps if needs(algorithm).trains else 0
