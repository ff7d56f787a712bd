"""Forecast of a sweep's cost, printed before it starts: runs, those done already, responses and time.

The time is estimated from finished runs of the same kind. Imports no torch: sweeps are also started on login nodes.
"""

import math
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf.compose import TAKE_ALL
from rlhf.config.algorithms import training_steps
from rlhf.config.gate import refuse_secrets
from rlhf.console import console, fail
from rlhf.errors import ConfigError, DataError
from rlhf.launch.grids import combinations, grids_of
from rlhf.launch.sweep_loader import sweep_loader
from rlhf.storage.reader import ENDED, METRICS, OWN_STAGES, Row, read_metrics, read_settings, read_status, select, typed

COST_KEYS = (
    *("device", "data.name", "model", "value.name", "rollout.batch_size", "rollout.max_response_tokens"),
    *("algorithm.name", "ppo.steps", "ppo.epochs", "ppo.micro_batch_size"),
    *("evaluation.prompts", "evaluation.best_of", "evaluation.every", "evaluation.interim_prompts", "reward.members"),
)
"""Settings that the time of PPO and evaluation depends on: runs that agree on these are of one kind."""

MOST_RUNS = 100
"""So many finished runs, at most, are read for an estimate."""

Kind = dict[str, Any]


class SweepCost(Callback):
    """Set in conf/config.yaml; Hydra calls it before a sweep, and turns what it raises into a warning."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:  # what a sweep's own file adds to a command line, before multirun.yaml is written
            params = (f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items())
            refuse_secrets([*params, *(each for grid in grids_of(config.hydra.sweeper) for each in grid)])
        except ConfigError as error:
            fail(str(error))  # an exception would become a warning
        try:
            text = forecast(config)
        except (
            HydraException,
            OmegaConfBaseException,
        ):  # the sweeper is about to say what can't be used, and ends there
            return
        except ConfigError as error:  # no Exception ends a sweep from here
            fail(str(error))
        console.print(text)


def forecast(config: DictConfig) -> str:
    """The lines to print, of a sweep's configuration as Hydra hands it over."""
    folder, sweeper = Path(config.hydra.sweep.dir), config.hydra.sweeper._target_
    title = f"sweep {folder.name}"
    if sweeper not in TAKE_ALL:
        return f"{title}: runs in {folder}; {sweeper.rpartition('.')[2]} decides how many"
    jobs = sweep_jobs(config)
    loader = sweep_loader(GlobalHydra.instance().config_loader())
    left = [run for number, job in enumerate(jobs) if not is_done((run := loader.run(config, job, number)).path)]
    line = f"{title}: {runs(len(jobs))} in {folder}, {len(jobs) - len(left)} of them done already, {len(left)} to go"
    if not left:
        return line
    kinds = [kind(asdict(run.config)) for run in left]
    finished = list(finished_runs(folder))
    on_cluster = cluster_time(kinds, finished, config.hydra.launcher)
    return "\n".join(filter(None, (line, responses(kinds), duration(kinds, finished), on_cluster)))


def sweep_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run, as its sweeper makes them."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    return combinations(parser, config.hydra.sweeper, parser.parse_overrides(list(config.hydra.overrides.task)))


def is_done(directory: Path) -> bool:
    try:
        return read_status(directory)["state"] in ENDED
    except DataError:
        return False


def kind(settings: Row) -> Kind:
    """The values of COST_KEYS among nested settings."""
    return {key: select(settings, key) for key in COST_KEYS}


def finished_runs(folder: Path) -> Iterator[tuple[Kind, float]]:
    """Kind and seconds of finished runs, of this sweep or in its usual place, the latest MOST_RUNS of them.

    Malformed ones are passed over.
    """
    outputs = Path("outputs")
    found = (*folder.glob("*/"), *outputs.glob("runs/*/"), *outputs.glob("sweeps/*/*/"))
    latest = sorted({path.resolve() for path in found}, key=lambda path: path.stat().st_mtime, reverse=True)
    for directory in islice(filter(is_done, latest), MOST_RUNS):
        with suppress(DataError):
            yield finished_run(directory)


def finished_run(directory: Path) -> tuple[Kind, float]:
    """Kind and seconds; raises DataError where the directory does not hold them."""
    seconds, settings = read_metrics(directory).get("seconds") or {}, read_settings(directory)
    typed(seconds, METRICS, {}, OWN_STAGES)
    return kind(settings), sum(float(seconds[stage]) for stage in OWN_STAGES)


def responses(kinds: list[Kind]) -> str:
    """How many responses are sampled in training, and how that comes about where all runs are alike."""
    sizes = [(training_steps(kind["algorithm.name"], kind["ppo.steps"]), kind["rollout.batch_size"]) for kind in kinds]
    total = f"{sum(steps * batch for steps, batch in sizes):,} responses"
    if len(set(sizes)) > 1:
        return f"{runs(len(sizes))} of different length, {total} in all"
    steps, batch = sizes[0]
    return f"{len(sizes)} x {steps} steps x {batch} responses = {total}"


def duration(kinds: list[Kind], finished: list[tuple[Kind, float]]) -> str:
    """The time of these runs one after another, each by the median of the finished runs of its kind."""
    medians = run_seconds(kinds, finished)
    if not medians:
        return "no finished run of this kind to estimate from; the first will tell"
    basis = f"by {runs(sum(own in kinds for own, _ in finished), 'finished run')} of this kind here"
    total = f"about {readable(sum(medians))} one after another"
    apart = "apart from shared stages (built once per world)"
    if len(medians) < len(kinds):
        return f"{total} for {len(medians)} of them {basis}, {apart}; nothing to estimate the others from"
    return f"about {readable(sum(medians) / len(medians))} a run {basis}, so {total}, {apart}"


def cluster_time(kinds: list[Kind], finished: list[tuple[Kind, float]], launcher: DictConfig) -> str:
    """GPU hours of these runs and, by the launcher's throttle and limits, wall time apart from the queue; for SLURM."""
    medians = run_seconds(kinds, finished)
    if "array_parallelism" not in launcher or not medians:
        return ""
    seconds = statistics.fmean(medians) * len(kinds)
    jobs = min(launcher.array_parallelism, launcher.max_submit or math.inf, -(-len(kinds) // launcher.runs_per_job))
    beside = launcher.runs_per_gpu
    at_once = min(len(kinds), int(jobs) * beside)
    wall = max(max(medians), seconds / at_once)
    gpus = launcher.nodes * (launcher.gpus_per_node or 0)
    hours = f"{seconds * gpus / beside / 3600:.1f} GPU hours, " if gpus else ""
    return f"on the cluster: {hours}about {readable(wall)} with {at_once} at a time, apart from waiting in the queue"


def run_seconds(kinds: list[Kind], finished: list[tuple[Kind, float]]) -> list[float]:
    """The median time of each run's kind, of those that have one."""
    past = [[seconds for own, seconds in finished if own == kind] for kind in kinds]
    return [statistics.median(seconds) for seconds in past if seconds]


def runs(number: int, name: str = "run") -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def readable(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
