"""Choose among a run's kept policies: `python -m rlhf.choose RUN_DIR [--split tune]`; see `--help`.

A run with `ppo.keep_every` keeps its policy every so many PPO steps. Each is evaluated by the run's own judge on a
split that results are not reported on, and the best of them on the run's own split. What each answered lies beside it,
for `rlhf evaluate RUN_DIR/kept/step-N/SPLIT`.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import load_peft_weights
from rich.table import Table

from rlhf.config.run import Config
from rlhf.console import command, console, show_log
from rlhf.errors import DataError
from rlhf.figures import headline
from rlhf.models.adapters import Role
from rlhf.models.backbone import load_backbone
from rlhf.report.markdown import NOTHING
from rlhf.stages.learner import POLICY
from rlhf.stages.record import write_outputs
from rlhf.stages.setting import Setting
from rlhf.storage.files import write_json
from rlhf.storage.reader import CHOSEN, KEPT
from rlhf.storage.rundir import RunDirectory

SPLITS = ("tune", "eval")
SHOWN = ("true_kl_per_response", "response_length", "reward")

Figures = dict[str, Any]


def kept_steps(run: Path) -> dict[int, Path]:
    """The directories of the kept policies by PPO step; raises DataError where there is none."""
    found = {int(path.name.rpartition("-")[2]): path for path in (run / KEPT).glob("step-*")}
    if not found:
        raise DataError(f"{run} holds no {KEPT}/step-N: a run keeps its policies with ppo.keep_every above 0")
    return dict(sorted(found.items()))


@contextmanager
def loaded(setting: Setting, policy: Path) -> Iterator[Role]:
    """A kept policy on the setting's base, or a whole model, for as long as the block lasts."""
    config, sampler = setting.config, setting.sampler
    if config.lora.r is None:
        lm, _ = load_backbone(policy, config.model.dtype, sampler.device)
        yield Role(lm, quick=setting.base.quick)
        return
    role = setting.base.add(POLICY, config.lora, trainable=False)
    role.load_state(load_peft_weights(str(policy), device=str(sampler.device)))
    yield role
    role.remove()


def measure(config: Config, kept: dict[int, Path], split: str) -> dict[int, Figures]:
    """The figures of each kept policy on a split, by step; its responses and references are written beside it."""
    config = replace(config, evaluation=replace(config.evaluation, split=split))
    found = {}
    with Setting.open(config) as setting:
        evaluator = setting.evaluator()
        for step, path in kept.items():
            with loaded(setting, path / POLICY) as role:
                evaluation = evaluator(role, config.seed, config.regularizer.strength * config.regularizer.coef)
            directory = RunDirectory(path / split)
            directory.path.mkdir(exist_ok=True)
            write_outputs(directory, evaluator, evaluation, step, f"{path.parents[1].name}-{path.name}")
            directory.write_json("metrics.json", evaluation.figures)
            found[step] = evaluation.figures
    return found


def choose(run: Path, split: str) -> Figures:
    """Evaluate all kept policies on `split`, then the best, the first of equals, on the run's own; writes chosen.json.

    Raises UserError where no policy is kept, or the judge gives no win rate.
    """
    config, kept = RunDirectory(run).config(), kept_steps(run)
    tried = measure(config, kept, split)
    figure = headline(*tried.values())
    rates = {step: figures[figure] for step, figures in tried.items() if figures.get(figure) is not None}
    if not rates:
        raise DataError(f"{run}: no kept policy has a win rate on {split}: {tried[max(tried)].get('judge_problem')}")
    step, own = max(rates, key=lambda each: rates[each]), config.evaluation.split
    figures = tried[step] if own == split else measure(config, {step: kept[step]}, own)[step]
    chosen = {"step": step, "split": split, "figure": figure, "tried": rates, "reported_split": own, "figures": figures}
    write_json(run / CHOSEN, chosen)
    show(run, tried, chosen)
    return chosen


def show(run: Path, tried: dict[int, Figures], chosen: Figures) -> None:
    table = Table("step", chosen["figure"], *SHOWN, title=f"{run} on {chosen['split']}", title_justify="left")
    for step, figures in tried.items():
        known = (figures.get(name) for name in (chosen["figure"], *SHOWN))
        table.add_row(str(step), *(NOTHING if value is None else f"{value:.3g}" for value in known))
    console.print(table)
    value = chosen["figures"][chosen["figure"]]
    said = f"{value:.1f}" if value is not None else "unknown"
    console.print(f"chosen: step {chosen['step']}; its {chosen['figure']} on {chosen['reported_split']} is {said}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.choose", description="Choose among the policies that a run kept."
    )
    parser.add_argument("path", type=Path, help="a run's directory")
    parser.add_argument("--split", choices=SPLITS, default="tune", help="what they are chosen on; default: tune")
    options = parser.parse_args(arguments)
    with command():
        show_log(True)
        choose(options.path, options.split)


if __name__ == "__main__":
    main()
