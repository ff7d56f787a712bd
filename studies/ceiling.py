"""What a reward model is good for, without any training: `python -m studies.ceiling [OVERRIDE ...]`.

Draws many responses of the SFT model to each prompt and takes the best of n by the reward model, by the annotator that
it learnt from, and by the oracle. If the reward model's favourites win little, PPO has little to gain from it; if the
annotator's win little too, more comparisons won't help. Prompts are those of the tuning split.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rlhf.compose import compose_checked
from rlhf.console import command, console
from rlhf.storage.files import write_json

if TYPE_CHECKING:
    from rlhf.data.source import Prompt, Response
    from rlhf.stages.evaluator import Evaluator
    from rlhf.stages.setting import Setting

    Choose = Callable[[Sequence[Prompt], Sequence[Response]], list[float]]

SIZES = (1, 2, 4, 8, 16)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with command():
        config = compose_checked("config", ["evaluation.split=tune", *options.overrides])
        from rlhf.stages.setting import Setting

        with Setting.open(config) as setting:
            figures = measure(setting, options.sizes)
    show(figures)
    if options.json is not None:
        write_json(options.json, figures)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.ceiling", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("overrides", nargs="*", help="settings, as on the command line of rlhf.run")
    made.add_argument("--sizes", nargs="+", type=positive, default=list(SIZES), metavar="N", help="best of how many")
    made.add_argument("--json", type=Path, default=None, help="a file for the figures")
    return made


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def measure(setting: "Setting", sizes: Sequence[int]) -> dict[str, Any]:
    """Measure each chooser: its agreement with the oracle, and the win rate of its best of n."""
    import torch

    from rlhf.stages.reward import oracle_agreement, score

    evaluator, source, reward, sampler = setting.evaluator(), setting.source, setting.reward, setting.sampler
    generator = torch.Generator(sampler.device).manual_seed(setting.config.seed + 1)  # not the references' draws
    draws = [evaluator.sample(setting.reference, 1.0, generator) for _ in range(max(sizes))]
    choosers: dict[str, Choose] = {
        "reward model": lambda prompts, responses: score(reward, sampler, prompts, responses)
    }
    for name, utility in (("annotator", source.annotator_utility), ("oracle", source.utility)):
        if utility(evaluator.prompts[0], draws[0][0]) is not None:
            choosers[name] = utilities_by(utility)
    found = {}
    for name, choose in choosers.items():
        scores = [choose(evaluator.prompts, draw) for draw in draws]
        agreement = oracle_agreement(choose, source, evaluator.prompts, draws) if "oracle" in choosers else {}
        found[name] = agreement | {"best_of": {str(size): best_of(evaluator, draws, scores, size) for size in sizes}}
    return {"prompts": len(evaluator.prompts), "reward": setting.pipeline.finished_reward().figures, "choosers": found}


def utilities_by(utility: "Callable[[Prompt, Response], float | None]") -> "Choose":
    """Score many responses by a utility of single ones, which must be known for all."""
    return lambda prompts, responses: [utility(*pair) or 0.0 for pair in zip(prompts, responses, strict=True)]


def best_of(
    evaluator: "Evaluator", draws: "Sequence[list[Response]]", scores: Sequence[list[float]], size: int
) -> dict[str, float | None]:
    """Judge the best of the first `size` draws against the sampled references; also its mean length in tokens."""
    from rlhf.evaluation.winrate import win_rates
    from rlhf.stages.evaluator import favourites

    chosen = favourites(draws[:size], scores[:size])
    rates = win_rates(evaluator.judge_responses(chosen, evaluator.references)[0])
    length = sum(len(response.token_ids) for response in chosen) / len(chosen)
    return {"win_rate": rates["win_rate"], "win_rate_se": rates["win_rate_se"], "response_length": length}


def show(figures: dict[str, Any]) -> None:
    """Print a row per n, a column per chooser: win rate against the SFT model's samples, and length in tokens."""
    choosers = figures["choosers"]
    table = Table("best of", *(f"by the {name}" for name in choosers), title="win rate, % (length, tokens)")
    sizes = next(iter(choosers.values()))["best_of"]
    for size in sizes:
        table.add_row(size, *(cell(found["best_of"][size]) for found in choosers.values()))
    agreement = [found.get("oracle_agreement") for found in choosers.values()]
    if agreement[0] is not None:
        table.add_row("ranks pairs as the oracle, %", *(f"{100 * share:.1f}" for share in agreement))
    console.print(table)


def cell(found: dict[str, Any]) -> str:
    if found["win_rate"] is None:
        return f"not judged ({found['response_length']:.1f})"
    return f"{found['win_rate']:.1f} ± {found['win_rate_se']:.1f} ({found['response_length']:.1f})"


if __name__ == "__main__":
    main()
