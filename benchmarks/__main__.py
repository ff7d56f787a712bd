"""Costs of a run, as ratios of what is measured side by side: `python -m benchmarks WHAT [OVERRIDE ...]`."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.options import VALUES, Options
from rlhf.console import command
from rlhf.storage.files import write_json

MEASURES = {
    "step": "a PPO step: rollout, scoring, update, memory, and the machine's floor",
    "rollout": "the rollout against model.generate",
    "trl": "a PPO step against TRL's",
    "kl": "the exact full-vocabulary KL against the sampled tokens' log-probabilities alone",
    "memory": "what a run would take of memory: an estimate, for which nothing is loaded, and what it does take",
    "start": "seconds to the first PPO step, of imports, and of a multirun",
    "gpu": "on a GPU: correctness, decoding against its bandwidth, a PPO step at 7B shape, and TRL",
    "ranks": "two ranks against one",
    "resume": "a stopped run against a whole one",
    "workers": "CPU seconds a run of a sweep: single commands, one process, hydra/launcher=local",
    "against": "a run, or a PPO step, against another commit's: CPU seconds",
    "prune": "a search with and without pruning: CPU seconds, and whether it finds the same winner",
    "submit": "book-keeping: a thousand runs submitted, their states, and a sweep of one beside them; CPU seconds",
    "jobs": "runs of seconds on a SLURM cluster: one a job against several",
}
"""Each is a module of this package with a function `measure`."""

FLAGS: dict[str, dict[str, Any]] = {
    "mean_length": {"type": float, "help": "responses end by EOS, after so many tokens on average; else at the limit"},
    "steps": {"type": int, "help": "PPO steps of each process, after one that warms up"},
    "seeds": {"type": int, "help": "of a sweep: its runs, in `workers` those of each of four regularizers"},
    "values": {"nargs": "+", "choices": VALUES, "help": "the forms of value to set against TRL's"},
    "worlds": {"type": int, "help": "in which both searches are run"},
    "trials": {"type": int, "help": "of each search"},
    "per_job": {"type": int, "help": "runs that a job does one after another, against one"},
    "runs": {"type": int, "help": "that are submitted"},
    "budget": {"type": float, "help": "seconds that the command may take"},
    "size": {"choices": ("7b", "tiny"), "help": "of the model; tiny tries the command out"},
    "commit": {"help": "what this code is set against, by default the last commit"},
    "of": {"choices": ("run", "step"), "help": "a cached run of the main job, or a PPO step of the benchmarks' work"},
    "measured": {"action": "store_true", "help": "carry the run out, in a process of its own with an empty cache"},
    "processes": {"type": int, "help": "of the run, each on a device of its own"},
    "device": {"choices": ("cuda", "cpu"), "help": "cpu tries the command out, with --size tiny"},
}
TAKES = {
    "step": ("mean_length",),
    "rollout": ("mean_length",),
    "trl": ("mean_length", "steps", "values"),
    "gpu": ("budget", "size", "device"),
    "memory": ("measured", "processes"),
    "start": ("seeds",),
    "workers": ("seeds",),
    "against": ("commit", "of", "mean_length", "steps"),
    "prune": ("worlds", "trials"),
    "submit": ("runs",),
    "jobs": ("runs", "per_job"),
}
"""The flags of single commands, beside those of all."""


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    what, json_file = given.pop("what"), given.pop("json")
    options = Options(**given)
    with command():
        figures = import_module(f"benchmarks.{what}").measure(options)
    if json_file is not None:
        write_json(json_file, figures)


def parse(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The command line by name; flags that are not given are left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, text in MEASURES.items():
        command = commands.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)
        command.add_argument("overrides", nargs="*", default=[], help="settings, as on the command line of rlhf.run")
        command.add_argument("--rounds", type=int, help="how often each is measured, in turn")
        command.add_argument("--folder", type=Path, help="where what is made on the way is left")
        command.add_argument("--json", type=Path, default=None, help="a file for the figures")
        for flag in TAKES.get(name, ()):
            command.add_argument(f"--{flag.replace('_', '-')}", **FLAGS[flag])
    known, others = parser.parse_known_args(arguments)
    if strange := [each for each in others if each.startswith("-") or "=" not in each]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    known.overrides = [*known.overrides, *others]  # overrides may stand between flags
    return vars(known)


if __name__ == "__main__":
    main()
