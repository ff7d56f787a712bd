"""What a GPU makes of it, in one command and some minutes: `make bench-gpu`.

Correctness against float64 on the CPU; decoding with and without CUDA graphs, against `generate` and the measured
bandwidth; PPO steps at 7B shape, with bf16 and with 4-bit weights, as many responses as the clock allows; TRL beside
ours; small runs side by side. Each part is measured in processes of its own, so that one that runs out of memory is
reported and the others go on.
"""

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.exactness import TOLERANCES, worst_errors
from benchmarks.options import Options
from benchmarks.rollout import LAUNCHED, MERGED, OURS, UNMERGED
from benchmarks.runs import fresh, one_thread, samples_per_second
from benchmarks.step import device_name
from benchmarks.table import figure, show, spread
from rlhf.errors import CheckError
from rlhf.storage.files import read_json
from rlhf.validate import check

SHAPES: dict[str, tuple[str, ...]] = {
    "7b": (
        *("model=llama_7b_random", "device=cuda", "rollout.max_prompt_tokens=192", "rollout.max_response_tokens=300"),
        *("rollout.decode_batch_size=32", "ppo.epochs=2", "ppo.micro_batch_size=2", "regularizer.horizon=2000"),
    ),
    "tiny": (
        *("model=bench_tiny", "model.intermediate_size=384", "device=cpu"),
        *("rollout.max_response_tokens=4", "ppo.micro_batch_size=2"),
    ),
}
FIRST, MOST = {"7b": 16, "tiny": 2}, {"7b": 256, "tiny": 4}
"""Responses of the first step, from which the others' time is predicted, and of the largest."""

DECODED: dict[str, dict[str, tuple[str, ...]]] = {
    "7b": {
        "25M, float32": ("model=bench_25m",),
        "25M, bf16": ("model=bench_25m", "model.dtype=bfloat16"),
        "135M, bf16": (
            *("model=bench_25m", "model.dtype=bfloat16", "model.hidden_size=576", "model.layers=30", "model.heads=9"),
            *("model.intermediate_size=1536", "model.vocab_size=49152"),
            *("rollout.max_prompt_tokens=128", "rollout.max_response_tokens=128"),
        ),
    },
    "tiny": {
        "tiny": (*SHAPES["tiny"], "rollout.batch_size=2", "ppo.step_batch_size=2"),
    },
}

WORLD_RUN = (
    *("tracker=none", "data.seed=0", "evaluation.every=0", "evaluation.prompts=32", "reward.epochs=1", "sft.epochs=1"),
    *("checks.min_factuality=null", "checks.max_factuality=null", "checks.min_accuracy=0.0"),
    "checks.min_oracle_agreement=null",
)
"""A run of the embedded world whose model has learnt next to nothing: that is what an update's launches cost."""
TOGETHER: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "7b": ((1, 4, 8), ("pretrain.steps=100", "ppo.steps=30", "device_memory=9")),
    "tiny": ((2,), ("experiment=smoke", "ppo.steps=2")),
}
"""How many runs are started side by side, and what each of them does."""
TOGETHER_SECONDS = 150.0
"""Seconds reserved for them: 85 on an H100, and their stages."""

PEER = ("model=bench_25m", "device=cuda")
PEER_SECONDS = 180.0
"""Seconds reserved for TRL, which took 133 s on an H100 once installed; with less than half of it TRL is left out."""

Figures = dict[str, Any]


@dataclass
class Clock:
    """The seconds that are left of a budget."""

    budget: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.start)


def measure(options: Options) -> Figures:
    """Measure all parts in turn and print the tables; raise CheckError after them where a figure is wrong."""
    device = checked_device(options)
    clock = Clock(options.budget)
    figures: Figures = {
        "device": device_name(device),
        "errors": {dtype: worst_errors(device, dtype) for dtype in TOLERANCES},
        "decoding": measure_decoding(options, clock),
        "steps": measure_sizes(options, clock),
        "trl": measure_peer(options, clock),
        "together": measure_together(options, clock),
        "seconds": options.budget - clock.left,
    }
    report(figures)
    check_errors(figures["errors"])
    return figures


def checked_device(options: Options) -> torch.device:
    """Raises ConfigError where there is no such device, or where it is too small."""
    dry = "--device cpu --size tiny tries the command out"
    there = options.device != "cuda" or torch.cuda.is_available()
    check(there, "--device", options.device, f"this machine shows no CUDA GPU; {dry}")
    check(options.device == "cuda" or options.size == "tiny", "--size", options.size, f"that is for a GPU; {dry}")
    return torch.device(options.device)


def measure_decoding(options: Options, clock: Clock) -> dict[str, Figures]:
    """`python -m benchmarks rollout` with one round, of each shape."""
    file = options.folder / "gpu-rollout.json"
    return {
        name: command_figures(["rollout", *shape, f"device={options.device}", "--rounds", "1"], file, clock.left)
        for name, shape in DECODED[options.size].items()
    }


def measure_together(options: Options, clock: Clock) -> dict[int, Figures]:
    """So many runs of the embedded world, started at once as processes; their stages are in the cache by then."""
    counts, size = TOGETHER[options.size]
    folder = fresh(options.folder / "gpu-together").absolute()
    shared = [*WORLD_RUN, *size, f"device={options.device}", f"cache_dir={folder / 'cache'}"]
    found: dict[int, Figures] = {}
    for count in (0, *counts):  # the first run builds the stages
        sweep = [f"seed=range({max(1, count)})", f"hydra.sweep.dir={folder / str(count)}"]
        launcher = ["hydra/launcher=local", f"hydra.launcher.parallel={max(1, count)}"]
        start = time.perf_counter()
        status, words = finish_within(
            [sys.executable, "-m", "rlhf.run", "-m", *shared, *sweep, *launcher], max(1.0, clock.left)
        )
        seconds = time.perf_counter() - start
        speeds = [samples_per_second(path.parent) for path in sorted((folder / str(count)).glob("*/history.jsonl"))]
        done = status == 0 and len(speeds) == max(1, count)
        found[count] = {"seconds": seconds, "samples_per_second": speeds} if done else {"refused": words[-200:]}
    return {count: found[count] for count in counts}


def measure_sizes(options: Options, clock: Clock) -> dict[str, Figures]:
    """Measure, for each kind of weights, a small step and then the largest that fits its share of the time.

    What can't be measured is {"refused": why}.
    """
    kinds = {"bf16": ["model.dtype=bfloat16"], "4-bit": ["model.dtype=bfloat16", "model.quantization=4bit"]}
    found: dict[str, Figures] = {}
    for number, (kind, overrides) in enumerate(kinds.items()):
        if kind == "4-bit" and importlib.util.find_spec("bitsandbytes") is None:
            found[kind] = {"refused": "bitsandbytes is not installed"}
            continue
        deadline = (clock.left - PEER_SECONDS - TOGETHER_SECONDS) / (len(kinds) - number)
        mine = Clock(deadline)
        first = step_figures(options, FIRST[options.size], overrides, mine.left)
        found[f"{kind}, {FIRST[options.size]} responses"] = first
        if "refused" in first:
            continue
        count = affordable(first, mine.left, options.size)
        if count > FIRST[options.size]:
            found[f"{kind}, {count} responses"] = step_figures(options, count, overrides, mine.left)
    return found


def affordable(first: Figures, left: float, size: str) -> int:
    """The most responses, a power of two times the first step's, of which two steps and the start fit into `left`."""
    seconds, count = first["samples"] / first["samples_per_second"][0], first["samples"]
    start = first["wall_seconds"] - 2 * seconds
    while 2 * count <= MOST[size] and start + 2 * seconds * 2 * count / first["samples"] < left:
        count *= 2
    return count


def step_figures(options: Options, responses: int, overrides: list[str], left: float) -> Figures:
    """`python -m benchmarks step` with one round, in `left` seconds at most."""
    sizes = [f"rollout.batch_size={responses}", f"ppo.step_batch_size={min(responses, 128)}"]
    settings = [*SHAPES[options.size], *sizes, *options.overrides, *overrides]
    return command_figures(["step", *settings, "--rounds", "1"], options.folder / "gpu-step.json", left)


def command_figures(arguments: list[str], file: Path, left: float) -> Figures:
    """A measuring command's JSON and the seconds it took as `wall_seconds`; or {"refused": why} where it fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json", str(file)]
    status, words = finish_within(command, max(1.0, left))
    if status is None:
        return {"refused": f"not done in {left:.0f} s"}
    if status != 0:
        return {"refused": (words.strip() or "no words").splitlines()[-1][:200]}
    return {**read_json(file), "wall_seconds": time.perf_counter() - start}


def finish_within(command: list[str], seconds: float) -> tuple[int | None, str]:
    """A command's exit status and its stderr; None where it was killed at the limit, with all its children."""
    process = subprocess.Popen(
        command, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        words = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    return process.returncode, words


def measure_peer(options: Options, clock: Clock) -> Figures:
    """TRL beside ours on this GPU, where it can be installed and there is time."""
    if options.size == "tiny":
        return {"refused": "left out of a try"}
    if clock.left < PEER_SECONDS / 2 + TOGETHER_SECONDS:
        return {"refused": f"{clock.left:.0f} s are left"}
    arguments = ["trl", *PEER, "--rounds", "1", "--steps", "2", "--folder", str(options.folder / "gpu-trl")]
    return command_figures(arguments, options.folder / "gpu-trl.json", clock.left - TOGETHER_SECONDS)


def check_errors(errors: dict[str, dict[str, float]]) -> None:
    for dtype, found in errors.items():
        for name, error in found.items():
            if not error <= TOLERANCES[dtype]:
                raise CheckError(f"{name} in {dtype} are {error:.3g} nats off, and may be {TOLERANCES[dtype]:.3g}")


def report(figures: Figures) -> None:
    """Correctness, decoding, TRL, runs side by side, and last the steps."""
    errors = figures["errors"]
    rows = [[name, *(f"{errors[dtype][name]:.2g}" for dtype in errors)] for name in next(iter(errors.values()))]
    rows.append(["may be", *(f"{TOLERANCES[dtype]:.2g}" for dtype in errors)])
    show(f"{figures['device']}: nats off float64 on the CPU", ("", *errors), rows)
    peers = [["", figures["trl"]["refused"]]] if "refused" in figures["trl"] else peer_rows(figures["trl"])
    show("samples/s against TRL's PPO, 25M weights", ("ours", "/ TRL, LoRA value", "/ TRL, whole value"), peers)
    columns = ("tokens/s", OURS, LAUNCHED, UNMERGED, MERGED, "floor")
    show("decoding", columns, [decoding_row(name, found) for name, found in figures["decoding"].items()])
    columns = ("runs side by side", "samples/s together", "s from start to end")
    show("runs of the embedded world", columns, [together_row(*each) for each in figures["together"].items()])
    step_rows = [step_row(name, found) for name, found in figures["steps"].items()]
    columns = ("", "decode tokens/s", "of floor", "scoring, s", "update, s", "step, s", "of floor", "peak GiB")
    show(f"{figures['device']}: PPO steps, in {figures['seconds']:.0f} s", columns, step_rows)


def peer_rows(found: Figures) -> list[list[str]]:
    return [[name, *(spread(values) for values in peers.values())] for name, peers in found["ratios"].items()]


def decoding_row(name: str, found: Figures) -> list[str]:
    if "refused" in found:
        return [name, found["refused"]]
    speeds = [found["tokens_per_second"].get(way, [math.nan])[0] for way in (OURS, LAUNCHED, UNMERGED, MERGED)]
    return [name, *map(figure, speeds), figure(found["floor_tokens_per_second"])]


def together_row(count: int, found: Figures) -> list[str]:
    if "refused" in found:
        return [str(count), found["refused"]]
    return [str(count), figure(sum(found["samples_per_second"])), figure(found["seconds"])]


def step_row(name: str, found: Figures) -> list[str]:
    """A step's figures, or the reason why there are none."""
    if "refused" in found:
        return [name, found["refused"]]
    seconds = {part: values[0] for part, values in found["seconds"].items()}
    step = found["samples"] / found["samples_per_second"][0]
    decoded = found["samples"] * found["response_tokens"][0] / seconds["rollout"]
    return [
        name,
        figure(decoded),
        f"{found['floor']['rollout'] / seconds['rollout']:.0%}",
        figure(seconds["scoring"]),
        figure(seconds["update"]),
        figure(step),
        f"{sum(found['floor'].values()) / step:.0%}",
        figure(found["memory_mib"]["peak"] / 1024),
    ]
