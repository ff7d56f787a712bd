"""Sweeps that search: refused before any work where they could not, and at their end the winner, to be reported anew.

For every sweeper but those that take all combinations. Imports no torch.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rlhf.compose import TAKE_ALL, identifying
from rlhf.config.gate import own_text
from rlhf.config.search import DIRECTIONS, OBJECTIVES, objectives
from rlhf.console import console, fail
from rlhf.errors import ConfigError, DataError
from rlhf.search.objective import figures_of
from rlhf.storage.reader import Row, read_made_by, read_settings, read_status, select
from rlhf.storage.runs import find_runs
from rlhf.validate import check

REPORTED_ANEW = ("evaluation.split", "seed", "data.seed")
"""Overrides of a search that its winner is not reported with."""


class Search(Callback):
    """Set in conf/config.yaml; Hydra calls it before and after a sweep, and turns what it raises into a warning."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_search(config)
        except ConfigError as error:
            fail(str(error))  # no Exception ends a sweep from here

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.sweeper._target_ not in TAKE_ALL:
            for line in winners(config):
                console.print(line)


def check_search(config: DictConfig) -> None:
    """Raise ConfigError where a sweeper that searches would not be told what it needs, or not by which direction."""
    sweeper, own = config.hydra.sweeper, settings(config)
    names = objectives(own["objective"])
    if sweeper._target_ in TAKE_ALL:
        return
    name = sweeper._target_.rpartition(".")[2]
    check(bool(names), "objective", None, f"{name} searches by what runs return: choose of {', '.join(OBJECTIVES)}")
    allowed = f"{name} waits for what runs return: true"
    check(config.hydra.launcher.get("wait", True) is True, "hydra.launcher.wait", False, allowed)
    ways = directions(sweeper)
    told = f"one of {', '.join(DIRECTIONS)} for each objective: {', '.join(names)}"
    ok = len(ways) == len(names) and {*ways} <= {*DIRECTIONS}
    check(ok, "hydra.sweeper.direction", ways[0] if len(ways) == 1 else ways, told)
    direction = config.prune.get("direction", ways[0])
    check(direction == ways[0], "prune.direction", direction, f"the search is told to {ways[0]}")


def settings(config: DictConfig) -> dict[str, Any]:
    """What the sweep sets for all of its runs, of what a search must know."""
    params = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}))
    assert isinstance(params, dict)
    own = OmegaConf.to_container(OmegaConf.create({"objective": config.objective}))
    assert isinstance(own, dict)
    return {"objective": params.get("objective", own["objective"])}


def directions(sweeper: DictConfig) -> list[str]:
    """Which way each objective is better, as the sweeper's own settings say: Optuna's, Ax's or Nevergrad's."""
    if "direction" in sweeper:
        given = OmegaConf.to_container(OmegaConf.create({"way": sweeper.direction}), enum_to_str=True)
        assert isinstance(given, dict)
        way = given["way"]
        return [str(each) for each in way] if isinstance(way, list) else [str(way)]
    maximize = OmegaConf.select(sweeper, "optim.maximize", default=False)  # Nevergrad's
    minimize = OmegaConf.select(sweeper, "ax_config.experiment.minimize", default=not maximize)
    return ["minimize" if minimize else "maximize"]


def winners(config: DictConfig) -> Iterator[str]:
    """What to print once a search has ended: its best run, or those that no other beats in all objectives."""
    names, ways = objectives(settings(config)["objective"]), directions(config.hydra.sweeper)
    found = dict(candidates(config, names))
    signs = [-1 if way == "minimize" else 1 for way in ways]
    scores = {run: [sign * value for sign, value in zip(signs, values, strict=True)] for run, values in found.items()}
    best = [run for run in scores if not any(dominates(other, scores[run]) for other in scores.values())]
    if not best:
        yield "no run of this search has gone to its end"
        return
    fresh = 1 + max(select(read_settings(run), "seed") or 0 for run in found)
    for run in best if len(names) > 1 else best[:1]:
        told = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, found[run], strict=True))
        yield f"best of {len(found)}: {told} on the split that chose it ({run})"
        yield f"  report it: {shlex.join(['rlhf', 'run', *reported(run, fresh)])}"


def dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    """Whether it is as good in every objective, and better in one."""
    return all(a >= b for a, b in zip(other, own, strict=True)) and list(other) != list(own)


def candidates(config: DictConfig, names: Sequence[str]) -> Iterator[tuple[Path, list[float]]]:
    """The finished runs of this search, and what each has reached; others in its folder differ in what is fixed."""
    fixed = fixed_overrides(config)
    for run in find_runs([Path(config.hydra.sweep.dir)]):
        try:
            made_by = read_made_by(run)
            if made_by is None or "sweeper" not in made_by or read_status(run)["state"] != "done":
                continue
            if fixed <= {*identifying(made_by["overrides"])}:
                figures: Row = figures_of(run)
                yield run, [float(figures[name]) for name in names]
        except (DataError, KeyError, TypeError):  # unreadable, or a figure that is not known: no candidate
            continue


def fixed_overrides(config: DictConfig) -> set[str]:
    """The overrides that all runs of a sweep have alike."""
    params = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in params.items()] + own_text(config.hydra.overrides.task)
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(given)
    varied = {each.key_or_group for each in parsed if each.is_sweep_override()}
    return {text for text, each in zip(given, parsed, strict=True) if each.key_or_group not in varied} & {
        *identifying(given)
    }


def reported(run: Path, seed: int) -> list[str]:
    """The overrides that report a search's run: its own, on the evaluation split, in another world by a fresh seed."""
    made_by = read_made_by(run)
    assert made_by is not None
    kept = identifying(each for each in made_by["overrides"] if each.partition("=")[0] not in REPORTED_ANEW)
    return [*kept, f"seed={seed}"]
