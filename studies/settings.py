"""docs/settings.md from the runs that chose the defaults: `python -m studies.settings`; `make settings` runs both.

Reads runs on the tuning people alone. A grid's rows differ in one thing: the penalty's coefficient, a learning rate, or
how many steps of how many responses.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlhf.compose import compose_checked
from rlhf.console import command, console
from rlhf.errors import DataError
from rlhf.figures import GREEDY, SAMPLED
from rlhf.report.load import Run, load_outputs
from rlhf.report.markdown import NOTHING, number, table
from rlhf.report.settings import distinct
from rlhf.storage.files import write_text

COLUMNS = {
    GREEDY: ("win rate, greedy, %", 1),
    SAMPLED: ("sampled, %", 1),
    "objective": ("objective less SFT's", 2),
    "true_kl_per_response": ("KL, nats/response", 2),
    "response_length": ("tokens", 1),
}

INTRODUCTION = """# How the defaults were chosen

Made by `make settings`, on the tuning people of worlds {worlds}, on which no claim is made: what is reported
is of other worlds. Each row is the mean over one run in each of its worlds, the first of these; the worlds' own greedy
win rates stand in brackets, and the standard error of one world's is about {error} points. The objective is the score
less the weighted penalty, per response; a row whose objective ends below the SFT model's in any world is marked *.

The rule: the highest greedy win rate among rows whose objective rises in every world; **the default** is in bold.
Where rows lie within a standard error of each other, the default may be any of them.
"""


class Key(NamedTuple):
    """What distinguishes the rows of all grids."""

    form: str
    placement: str
    coef: float
    lora: bool
    lr: float
    steps: int
    batch: int


class Grid(NamedTuple):
    """A table: which rows belong to it, and what its first columns say of a row."""

    title: str
    header: tuple[str, ...]
    cells: Callable[[Key], tuple[str, ...]]
    varied: tuple[str, ...]


GRIDS = (
    Grid(
        "Coefficients",
        ("form", "placement", "coefficient"),
        lambda key: (f"`{key.form}`", key.placement, f"{key.coef:.3g}"),
        ("form", "placement", "coef"),
    ),
    Grid(
        "Learning rates",
        ("form", "weights", "learning rate"),
        lambda key: (f"`{key.form}`", "LoRA" if key.lora else "all", f"{key.lr:g}"),
        ("form", "placement", "coef", "lora", "lr"),
    ),
    Grid(
        "Steps and responses a step",
        ("form", "steps", "responses"),
        lambda key: (f"`{key.form}`", str(key.steps), str(key.batch)),
        ("form", "placement", "coef", "steps", "batch"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.settings", description="Write how the defaults were chosen."
    )
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("outputs/sweeps/settings")], help="where runs lie")
    parser.add_argument("--out", type=Path, default=Path("docs/settings.md"), help="the page")
    options = parser.parse_args(arguments)
    with command():
        runs = [
            run for run in distinct(load_outputs(options.paths).runs)[0] if run.config.get("evaluation.split") == "tune"
        ]
        if not runs:
            where = ", ".join(map(str, options.paths))
            raise DataError(f"no finished run on the tuning people below {where}: make settings")
        write_text(options.out, page(runs))
    console.print(f"{options.out}: {len(runs)} runs")


def page(runs: Sequence[Run]) -> str:
    """The whole page; rows of a grid differ from the defaults in nothing but what it varies."""
    rows: dict[Key, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.world):
        rows.setdefault(key_of(run.config), []).append(run)
    worlds = ", ".join(str(world) for world in sorted({run.world for run in runs}))
    error = fmean(float(run.metrics[f"{GREEDY}_se"]) for run in runs)
    parts = [INTRODUCTION.format(worlds=worlds, error=number(error))]
    for grid in GRIDS:
        chosen = {key: found for key, found in rows.items() if belongs(key, grid)}
        varied = {key.form for key in chosen if key != default_of(key.form, key.lora)}
        if chosen := {key: found for key, found in chosen.items() if key.form in varied}:
            header = [*grid.header, *(label for label, _ in COLUMNS.values())]
            lines = [row(grid, key, chosen[key]) for key in sorted(chosen)]
            parts.append(f"## {grid.title}\n\n{table(header, lines, text=2)}\n")
    return "\n".join(parts)


def key_of(config: Mapping[str, object]) -> Key:
    """A run's place in the grids, from its flat configuration."""
    weights = {name: config.get(f"regularizer.{name}") for name in ("coef", "strength")}
    return Key(
        str(config["regularizer.name"]),
        str(config["regularizer.placement"]),
        round(float(weights["coef"] or 0) * float(weights["strength"] or 1), 6),  # pyright: ignore[reportArgumentType]
        config.get("lora.r") is not None,
        float(config["ppo.lr"]),  # pyright: ignore[reportArgumentType]
        int(config["ppo.steps"]),  # pyright: ignore[reportArgumentType]
        int(config["rollout.batch_size"]),  # pyright: ignore[reportArgumentType]
    )


@cache
def default_of(form: str, lora: bool) -> Key:
    """Where conf/ puts a run with that form."""
    config = compose_checked("config", [f"regularizer={form}", *([] if lora else ["lora=full"])])
    regularizer, lr = config.regularizer, config.ppo.lr if lora else config.ppo.lr_full
    coef = round(regularizer.coef * regularizer.strength, 6)
    place = (config.ppo.steps, config.rollout.batch_size)
    return Key(form, regularizer.placement, coef, lora, lr, *place)


def belongs(key: Key, grid: Grid) -> bool:
    """Whether a row stands in a grid: it is the default in all that the grid does not vary.

    A grid that does not vary coefficients has those of the defaults only.
    """
    default = default_of(key.form, key.lora)
    alike = all(getattr(key, name) == getattr(default, name) for name in Key._fields if name not in grid.varied)
    at_default = key[:3] == default[:3] or grid.title == GRIDS[0].title
    varied = [name for name in Key._fields if getattr(key, name) != getattr(default, name)]
    return alike and at_default and (key.lora or "lora" in grid.varied) and set(varied) <= set(grid.varied)


def row(grid: Grid, key: Key, runs: Sequence[Run]) -> list[str]:
    """A line of a grid, bold where it is the default."""
    cells = list(grid.cells(key))
    if key == default_of(key.form, key.lora):
        cells[-1] = f"**{cells[-1]}**"
    return [*cells, *(figure(runs, name, digits) for name, (_, digits) in COLUMNS.items())]


def figure(runs: Sequence[Run], name: str, digits: int) -> str:
    """The mean over worlds; the worlds' own in brackets of the headline, and a mark where the objective falls."""
    values = [taken(run, name) for run in runs]
    if any(value is None for value in values):
        return NOTHING
    found = [float(value) for value in values if value is not None]
    text = number(fmean(found), digits, signed=name == "objective")
    if name == GREEDY:
        return f"{text} ({', '.join(number(value, 0) for value in found)})"
    return f"{text} *" if name == "objective" and min(found) < 0 else text


def taken(run: Run, name: str) -> float | None:
    """A run's figure; of the objective, how far it lies above the SFT model's."""
    value = run.metrics.get(name)
    if name == "objective" and value is not None:
        return value - run.metrics["baseline"].get("objective", 0.0)
    return value


if __name__ == "__main__":
    main()
