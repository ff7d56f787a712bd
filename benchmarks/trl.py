"""A PPO step against TRL's, the last release that has one: same weights, prompts, lengths, epochs and minibatches.

Each measurement is a process of its own, in turn. TRL is installed into an environment of its own in the folder, which
finds torch and transformers in the project's and changes nothing there.
"""

import os
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks import peer_ppo
from benchmarks.options import Options, configure
from benchmarks.runs import finish
from benchmarks.synthetic import load_lm, synthetic_prompts
from benchmarks.table import ratios, show, spread
from rlhf.config.run import Config
from rlhf.console import console
from rlhf.errors import UserError
from rlhf.models.backbone import resolve_device, save_backbone
from rlhf.storage.files import read_json, write_json
from rlhf.validate import check

RELEASE = "trl==1.12.*"
TRL_VALUES = {"lora": "TRL, LoRA on its value model", "whole": "TRL, all weights of its value model (its default)"}

DIFFERENCES = (
    "TRL's value is a model of its own beside the policy's, its reward model another; ours are adapters on one base",
    "value=reward_features has no trunk: a network on the reward model's states; value=head reads the policy's",
    "ours also computes the exact KL and entropy over the vocabulary at each token, TRL the sampled tokens' KL",
    "ours clips gradients (policy and value apart) and has Adam; TRL does not clip, and has AdamW without decay",
    "value and reward heads have learning rates and forms of their own, which cost nothing",
    "each draws the same prompts in its own order, and its own responses",
    "model.dtype=mixed: ours multiplies in bfloat16 by frozen weights held so, TRL by its bf16=True (autocast)",
    "with EOS, TRL computes padding up to the rollout's longest response; ours leaves finished responses",
)

Figures = dict[str, Any]


def measure(options: Options) -> Figures:
    """Measure `rounds` processes of each in turn; ratios are those of their median steps, round by round."""
    config = configure(options.overrides)
    check_comparable(config)
    python = environment(options.folder / "trl")
    work = prepare(config, options)
    speeds: dict[str, list[float]] = {}
    by_cpu: dict[str, list[float]] = {}
    lengths: dict[str, list[float]] = {}
    details: dict[str, Figures] = {}
    for _ in range(options.rounds):
        for name, found in measure_round(options, work, python):
            speeds.setdefault(name, []).append(found["samples_per_second"])
            by_cpu.setdefault(name, []).append(found["samples_per_cpu_second"])
            lengths.setdefault(name, []).append(found["mean_length"])
            details[name] = found
    ours_names = [label(value) for value in options.values]
    figures: Figures = {
        "samples_per_second": speeds,
        "mean_lengths": lengths,
        "last": details,
        "differences": DIFFERENCES,
    }
    figures["ratios"], figures["cpu_ratios"] = (
        {ours: {peer: ratios(each[ours], each[peer]) for peer in TRL_VALUES.values()} for ours in ours_names}
        for each in (speeds, by_cpu)
    )
    report(figures)
    return figures


def measure_round(options: Options, work: peer_ppo.Work, python: Path) -> list[tuple[str, Figures]]:
    """Each of ours, and each of TRL's, once."""
    ours = [(label(value), measure_ours(options, value, work)) for value in options.values]
    return ours + [(name, measure_trl(options, kind, work, python)) for kind, name in TRL_VALUES.items()]


def label(value: str) -> str:
    return f"value={value}"


def check_comparable(config: Config) -> None:
    """Raises ConfigError on settings that TRL's PPO can't have."""
    check(config.lora.r is not None, "lora.r", config.lora.r, "TRL is given a LoRA policy")
    check(config.algorithm.name == "ppo", "algorithm", config.algorithm.name, "TRL's is PPO")
    check(config.regularizer.name == "kl", "regularizer", config.regularizer.name, "TRL's penalty is kl, in the reward")
    quantization = config.model.quantization
    check(quantization is None, "model.quantization", quantization, "TRL is given whole weights")
    size, micro = config.ppo.step_batch_size, config.ppo.micro_batch_size
    check(size == micro, "ppo.micro_batch_size", micro, f"TRL takes a step's {size} responses at once")


def environment(folder: Path) -> Path:
    """The interpreter of an environment with TRL, made in `folder` if it is not there yet."""
    python = folder.absolute() / "bin" / "python"
    if not has_trl(python):
        console.print(f"installing {RELEASE} into {folder}")
        run_setup([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
        packages = next(folder.absolute().glob("lib/python*/site-packages"))
        (packages / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        # pip sees the project's packages through project.pth, and never uninstalls what lies outside its environment
        run_setup([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *constraints(), RELEASE])
    return python


def has_trl(python: Path) -> bool:
    probe = [str(python), "-c", "import trl.experimental.ppo"]
    return python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def constraints() -> list[str]:
    """The project's pins, so that nothing of its environment is taken for too old; where they are at hand."""
    file = Path(__file__).resolve().parents[1] / "constraints.txt"
    return ["--constraint", str(file)] if file.exists() else []


def run_setup(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{RELEASE} can't be installed: {' '.join(command)} ended with\n{done.stderr[-2000:]}")


def prepare(config: Config, options: Options) -> peer_ppo.Work:
    """Save the model that all start from; return the work in TRL's terms."""
    folder = options.folder.absolute()
    lm, tokenizer = load_lm(config, options.mean_length)
    save_backbone(lm, tokenizer, folder / "model")
    pool = synthetic_prompts(config, tokenizer).pool
    return peer_work(config, options, [tokenizer(prompt.text)["input_ids"] for prompt in pool])  # pyright: ignore[reportArgumentType]


def peer_work(config: Config, options: Options, prompts: list[list[int]]) -> peer_ppo.Work:
    """The configuration in TRL's words."""
    ppo, lora, value = config.ppo, config.lora, config.value
    mixed = config.model.dtype == "mixed"
    return {
        "folder": str(options.folder.absolute() / "trl-output"),
        "model": str(options.folder.absolute() / "model"),
        "prompts": prompts,
        "steps": options.steps,
        "stops": options.mean_length is not None or config.model.path is not None,
        "threads": config.model.threads or os.cpu_count(),
        "device": resolve_device(config.device).type,
        "dtype": "float32" if mixed else config.model.dtype,
        "bf16": mixed,
        "batch_size": config.rollout.batch_size,
        "response_length": config.rollout.max_response_tokens,
        "minibatches": config.rollout.batch_size // ppo.step_batch_size,
        "epochs": ppo.epochs,
        "lora": {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "target_modules": lora.target_modules},
        "ppo": {
            "temperature": config.rollout.temperature,
            "learning_rate": ppo.lr,
            "kl_coef": config.regularizer.coef,
            "cliprange": ppo.clip,
            "cliprange_value": value.clip,
            "vf_coef": value.coef,
            "gamma": ppo.gamma,
            "lam": ppo.lam,
            "whiten_rewards": ppo.whiten_rewards,
        },
    }


def measure_ours(options: Options, value: str, work: peer_ppo.Work) -> Figures:
    """`python -m benchmarks step` in a process of its own."""
    file = options.folder / "ours.json"
    command = [sys.executable, "-m", "benchmarks", "step", "--rounds", str(work["steps"]), "--json", str(file)]
    finish([*command, *options.overrides, f"value={value}", f"model.path={work['model']}"])
    found = read_json(file)
    speed, length = statistics.median(found["samples_per_second"]), statistics.mean(found["response_tokens"])
    by_cpu = work["batch_size"] / statistics.median(found["cpu_seconds"])
    return {"samples_per_second": speed, "samples_per_cpu_second": by_cpu, "mean_length": length, "step": found}


def measure_trl(options: Options, kind: str, work: peer_ppo.Work, python: Path) -> Figures:
    """peer_ppo.py in TRL's environment."""
    wanted, file = options.folder / "work.json", options.folder / "trl.json"
    write_json(wanted, work | {"value": kind})
    # -P: else the script's folder, with this module, comes before TRL
    finish([str(python), "-P", peer_ppo.__file__, str(wanted), str(file)])
    found = read_json(file)
    speed, length = work["batch_size"] / statistics.median(found["seconds"]), statistics.mean(found["mean_lengths"])
    by_cpu = work["batch_size"] / statistics.median(found["cpu_seconds"])
    return {"samples_per_second": speed, "samples_per_cpu_second": by_cpu, "mean_length": length, **found}


def report(figures: Figures) -> None:
    rows = []
    for name, speeds in figures["samples_per_second"].items():
        found = [figures["ratios"].get(name, {}).get(peer) for peer in TRL_VALUES.values()]
        length = spread(figures["mean_lengths"][name])
        rows.append([name, spread(speeds), length, *(spread(each) if each else "" for each in found)])
    columns = ("", "samples/s", "response tokens", "/ TRL, LoRA value", "/ TRL, whole value")
    show("medians (least to most) over rounds of each process's median step", columns, rows)
    for name, peers in figures["cpu_ratios"].items():
        found = "; ".join(f"{spread(values)} times {peer}" for peer, values in peers.items())
        console.print(f"{name}, by CPU seconds, which other jobs disturb less: {found}")
    for difference in figures["differences"]:
        console.print(f"- {difference}")
