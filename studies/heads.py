"""How a reward model for text should make one score of many tokens: linear heads on the states of a frozen model.

    python -m studies.heads data=alpaca_farm data.root=DIR model.path=MODEL [OVERRIDE ...] [--prompts 268]

Left out: training the model beneath the heads, which would take a night where this takes minutes. `--prompts` compared
prompts, chosen at random, are divided as `reward.holdout` says; each head is trained by the loss of reward training.
"""

import argparse
import statistics
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.compose import load_config
from rlhf.data.source import Comparison
from rlhf.stages.fit import shuffled_batches
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.reward import REWARD, Samples, divided_comparisons, pairwise_loss

SEEDS, EPOCHS, BATCH, TOGETHER = 5, 3, 8, 4
RATES = (1e-3, 3e-3, 1e-2)
HEADS = {"last_token": None, "mean": None, "additive, scale 4": 4.0, "additive, scale 100": 100.0}
"""The heads and by what a sum over tokens is divided."""


class States(NamedTuple):
    """Of one comparison: its verdicts, and of its responses the number of tokens, and the mean and the last state."""

    verdicts: list[tuple[int, int]]
    lengths: Float[Tensor, " responses"]
    mean: Float[Tensor, "responses hidden"]
    last: Float[Tensor, "responses hidden"]

    def read(self, head: str) -> Float[Tensor, "responses hidden"]:
        """What the linear layer of a head reads."""
        if head == "last_token":
            return self.last
        scale = HEADS[head]
        return self.mean if scale is None else self.mean * self.lengths[:, None] / scale


@torch.no_grad()
def read_states(overrides: Sequence[str], prompts: int) -> tuple[list[States], list[States]]:
    """Those of comparisons kept aside, and of those to learn from."""
    config = load_config(*overrides, "sft.epochs=0", "tracker=none")
    pipeline = Pipeline(config)
    base, sampler = pipeline.load_base()
    parts = divided_comparisons(config, pipeline.source, base, sampler, Samples([], [], []), REWARD)
    items = [(part, item) for part, found in enumerate(parts) for item in found]
    Random(0).shuffle(items)
    found: tuple[list[States], list[States]] = ([], [])
    for start in range(0, min(prompts, len(items)), TOGETHER):
        group: list[tuple[int, Comparison]] = items[start : start + TOGETHER]
        rows = [(sampler.encode([item.prompt])[0], response) for _, item in group for response in item.responses]
        batch = sampler.collate([prompt for prompt, _ in rows], [response for _, response in rows])
        hidden = base.reference().hidden(batch).float()[:, batch.prompt_length :]
        mean = (hidden * batch.mask[..., None]).sum(1) / batch.lengths[:, None]
        states = zip(batch.lengths.float(), mean, hidden[torch.arange(len(rows)), batch.lengths - 1], strict=True)
        for part, item in group:
            own = [torch.stack(column) for column in zip(*(next(states) for _ in item.responses), strict=True)]
            found[part].append(States(item.verdicts, *own))
    return found


def measure(held_out: list[States], trained: list[States], head: str, rate: float, seed: int) -> tuple[float, float]:
    """Accuracy and correlation with length, on comparisons kept aside, of a head trained at a learning rate."""
    torch.manual_seed(seed)
    linear = nn.Linear(trained[0].mean.shape[1], 1)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=rate, weight_decay=0.05)
    batches = shuffled_batches(trained, EPOCHS, BATCH, Random(seed))
    for number, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate * min(1, (number + 1) / 20) * (1 - number / len(batches))
        scores, better, worse = torch.cat([linear(item.read(head))[:, 0] for item in batch]), list[int](), list[int]()
        starts = [sum(len(item.lengths) for item in batch[:place]) for place in range(len(batch))]
        for item, start in zip(batch, starts, strict=True):
            better += [start + winner for winner, _ in item.verdicts]
            worse += [start + loser for _, loser in item.verdicts]
        optimizer.zero_grad()
        pairwise_loss(scores, better, worse, score_penalty=0.001).backward()
        nn.utils.clip_grad_norm_(linear.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        scored = [linear(item.read(head))[:, 0] for item in held_out]
    pairs = [(item.verdicts, found) for item, found in zip(held_out, scored, strict=True)]
    right = [bool(found[win] > found[lose]) for verdicts, found in pairs for win, lose in verdicts]
    lengths = torch.cat([item.lengths for item in held_out])
    return statistics.fmean(right), torch.corrcoef(torch.stack([torch.cat(scored), lengths]))[0, 1].item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.heads", description="Compare heads of reward models.")
    parser.add_argument("overrides", nargs="+", help="as of rlhf.run: data of text with preferences, and model.path")
    parser.add_argument("--prompts", type=int, default=268, help="compared prompts that are read (268)")
    options = parser.parse_args(arguments)
    held_out, trained = read_states(options.overrides, options.prompts)
    longer = [bool(item.lengths[win] > item.lengths[lose]) for item in held_out for win, lose in item.verdicts]
    pairs = sum(len(item.verdicts) for item in trained)
    share = 100 * statistics.fmean(longer)
    print(f"{pairs} pairs to learn from, {len(longer)} kept aside; the longer is better in {share:.1f} %")
    for head in HEADS:
        for rate in RATES:
            found = [measure(held_out, trained, head, rate, seed) for seed in range(SEEDS)]
            accuracies, correlations = zip(*found, strict=True)
            accuracy, spread = (100 * each(accuracies) for each in (statistics.fmean, statistics.stdev))
            correlation = statistics.fmean(correlations)
            print(f"{head}, lr {rate:g}: {accuracy:.1f} % ({spread:.1f}), correlation {correlation:.2f}")


if __name__ == "__main__":
    main()
