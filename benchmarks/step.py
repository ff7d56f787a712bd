"""What a PPO step costs: tokens and samples a second, memory, and how much of it the machine can't do without."""

import statistics
import time
from itertools import pairwise
from typing import Any

import psutil
import torch

from benchmarks.floor import floor
from benchmarks.options import Options, configure
from benchmarks.synthetic import Setting, build_setting, load_lm
from benchmarks.table import figure, show, spread
from benchmarks.work import Lengths, Linears
from rlhf.console import console
from rlhf.stages.learner import PARTS
from rlhf.stages.record import peak_memory_mib

MIB = 2**20
Figures = dict[str, Any]


def measure(options: Options) -> Figures:
    """Measure `rounds` steps after one that warms up, print them as a table, and return the figures."""
    config = configure(options.overrides)
    lm, tokenizer = load_lm(config, options.mean_length)
    linears = Linears.of(lm)
    setting = build_setting(config, lm, tokenizer)
    figures = measure_steps(setting, options.rounds)
    figures["overrides"] = options.overrides
    figures["floor"] = floor(config, linears, Lengths(*setting.sampler.lengths()), setting.sampler.device, lm)
    report(figures)
    return figures


def measure_steps(setting: Setting, rounds: int) -> Figures:
    """Seconds by part, tokens and memory of steps through `Learner.step`, its first left out."""
    device = setting.sampler.device
    before = memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of building the model
    learner = setting.learner()
    learner.step()
    rows, cpu = [], [time.process_time()]
    for _ in range(rounds):
        rows.append(learner.step())
        cpu.append(time.process_time())
    prompts, responses = setting.sampler.lengths()
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "samples": len(responses),
        "prompt_tokens": sum(prompts) / len(prompts),
        "response_tokens": [row["rollout/response_length"] for row in rows],
        "seconds": {part: [row[f"seconds/{part}"] for row in rows] for part in PARTS},
        "samples_per_second": [row["samples_per_second"] for row in rows],
        "cpu_seconds": [end - start for start, end in pairwise(cpu)],
        "memory_mib": {"before": before, "peak": peak_memory(device)},
    }


def memory(device: torch.device) -> float:
    """MiB in use: on a GPU what is allocated there, else this process's own."""
    used = torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / MIB


def peak_memory(device: torch.device) -> float:
    """MiB, the most so far."""
    return max(peak_memory_mib(device.type), memory(device))  # the kernel counts a little behind what a process holds


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def report(figures: Figures) -> None:
    samples, memory_mib = figures["samples"], figures["memory_mib"]
    length = statistics.mean(figures["response_tokens"])
    work = f"{samples} prompts of {figures['prompt_tokens']:.0f} tokens, responses of {length:.1f}"
    title = f"{work}; {figures['device']}, threads: {figures['threads']}\nmedians (least to most); tokens of responses"
    show(title, ("", "seconds", "samples/s", "tokens/s", "floor, s", "floor / seconds"), part_rows(figures))
    console.print(f"peak memory {memory_mib['peak']:.0f} MiB, {memory_mib['before']:.0f} before the first step")


def part_rows(figures: Figures) -> list[list[str]]:
    """Table rows for rollout, scoring, update, and the whole step."""
    parts, floors = dict(figures["seconds"]), dict(figures["floor"])
    parts["step"] = [figures["samples"] / speed for speed in figures["samples_per_second"]]
    floors["step"] = sum(floors.values())
    rows = []
    for name, seconds in parts.items():
        speeds = [figures["samples"] / spent for spent in seconds]
        tokens = [speed * length for speed, length in zip(speeds, figures["response_tokens"], strict=True)]
        share = floors[name] / statistics.median(seconds)
        medians = [figure(statistics.median(values)) for values in (speeds, tokens)]
        rows.append([name, spread(seconds), *medians, f"{floors[name]:.3g}", f"{share:.0%}"])
    return rows
