"""Which of the published code's ways moves which figure: `python -m studies.paper --ablate [OVERRIDE ...]`.

Runs `ppo=paper`, and the same with each quirk off, one at a time, in several worlds, then prints docs/paper.md's table.
Finished runs are not made again: the same command goes on where it was stopped. Without `--ablate` it makes none.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf.compose import load_config
from rlhf.config.run import Config
from rlhf.console import command, console, show_log
from rlhf.evaluation.pooling import Pooled
from rlhf.experiment import run
from rlhf.report.compare import Measure, final, headline_of, level
from rlhf.report.load import Run, load_outputs
from rlhf.report.markdown import table
from studies.measures import difference

WORLD_SIZE = (
    *("regularizer=js", "regularizer.coef=0.02", "reward=full", "reward.head=additive"),
    *("ppo.steps=15", "ppo.lr_steps=65", "rollout.batch_size=64", "ppo.step_batch_size=32", "ppo.micro_batch_size=16"),
    *("ppo.lr=3e-4", "value.lr=5e-4", "evaluation.prompts=256", "evaluation.every=0", "tracker=none"),
)
"""The paper's coefficient, its proportions of steps and batches, and a rate that learns in so few (world 21).

The reward is a model of its own, as the paper's, but with the world's head: with one on the last token alone the preset
learns nothing from this world's comparisons, whatever its rate.
"""

QUIRKS: dict[str, tuple[str, ...]] = {
    "repeat_micro_batch": ("ppo.repeat_micro_batch=false",),
    "raw_scores": ("ppo.raw_scores=false",),
    "dropout": ("ppo.dropout=false",),
    "value": ("value=reward_features", "value.lr=5e-4"),
    "retokenize": ("ppo.retokenize=false",),
    "average": ("ppo.average=tokens",),
    "whiten_padding": ("ppo.whiten_padding=false",),
    "bootstrap_padding": ("ppo.bootstrap_padding=false",),
    "bfloat16": ("lora.dtype=float32", "value.lora.dtype=float32"),
    "clip_jointly": ("ppo.clip_jointly=false",),
    "lr": ("ppo.lr_schedule=constant", "ppo.warmup_from_zero=false"),
    "whole_epochs": ("ppo.whole_epochs=false",),
}
"""What turns each off."""

PAPER = "paper"

Groups = dict[str, list[Run]]


def configurations(worlds: Sequence[int], overrides: Sequence[str]) -> Iterator[tuple[str, Config]]:
    """The name of each run's directory and its configuration, world by world; `paper` has every quirk on."""
    for world in worlds:
        for name, off in {PAPER: (), **QUIRKS}.items():
            chosen = ("ppo=paper", *WORLD_SIZE, *overrides, f"data.seed={world}", *off)
            yield f"{name}-{world}", load_config(*chosen)


def value_loss(runs: Sequence[Run]) -> tuple[float, float] | None:
    """The mean value loss of the second half of a run."""
    losses = [float(row["ppo/value_loss"]) for row in runs[0].history if "ppo/value_loss" in row]
    half = losses[len(losses) // 2 :]
    return (sum(half) / len(half), 0.0) if half else None


def measures(runs: Sequence[Run]) -> dict[str, Measure]:
    """The figures that are compared, by the heads of their columns."""
    return {
        "win rate, %": final(headline_of(runs)),
        "KL, nats per response": final("true_kl_per_response"),
        "length, tokens": final("response_length"),
        "value loss": Measure(value_loss),
    }


def grouped(runs: Sequence[Run]) -> Groups:
    """The runs by quirk, as their directories are named."""
    groups: Groups = {name: [] for name in (PAPER, *QUIRKS)}
    for each in runs:
        groups[Path(each.path).name.rpartition("-")[0]].append(each)
    return {name: found for name, found in groups.items() if found}


def ablation(runs: Sequence[Run]) -> str:
    """The table: levels of `ppo=paper`, then what each quirk adds, `ppo=paper` less the run without it, by world."""
    groups = grouped(runs)
    compared = measures(runs)
    first = [f"all on ({len(groups[PAPER])} worlds)", *(cell(level(groups[PAPER], each)) for each in compared.values())]
    rows = [first]
    for name, found in groups.items():
        if name != PAPER:
            differences = [difference(groups[PAPER], found, each) for each in compared.values()]
            rows.append([f"`{name}` ({len(found)})", *map(signed, differences)])
    return table(["what it adds (worlds)", *compared], rows)


def cell(found: Pooled | None) -> str:
    return "-" if found is None else f"{found.estimate:.3g} ({found.low:.3g} to {found.high:.3g})"


def signed(found: Pooled | None) -> str:
    return "-" if found is None else f"{found.estimate:+.3g} ({found.low:+.3g} to {found.high:+.3g})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.paper", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of all runs")
    parser.add_argument("--ablate", action="store_true", help="make the runs that are not finished yet")
    parser.add_argument("--worlds", type=int, nargs="+", default=[10, 11, 12, 13, 14, 15], help="data.seed of each")
    parser.add_argument("--out", type=Path, default=Path("outputs/paper"), help="where the runs lie")
    options = parser.parse_intermixed_args(arguments)
    with command():
        if options.ablate:
            show_log(True)
            for name, config in configurations(options.worlds, options.overrides):
                run(config, options.out / name)
        runs = load_outputs([options.out]).runs if options.out.is_dir() else []
        if not any(Path(each.path).name.startswith(f"{PAPER}-") for each in runs):
            parser.error(f"{options.out} holds no finished run of ppo=paper: --ablate makes them")
        console.print(ablation(runs), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
