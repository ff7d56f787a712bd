"""The project's rollout against `model.generate`: tokens a second of the same responses' lengths, in turn.

The peer is the same weights with a LoRA adapter of peft's own, as it is and merged. Where responses end by EOS, the
peer's end where ours have ended in that round, by a stopping criterion: the same tokens to decode for both. On a GPU
ours is measured without CUDA graphs too, on the same chance. `floor` is what the machine can't do without.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from benchmarks.floor import floor, synchronize
from benchmarks.options import Options, configure
from benchmarks.synthetic import Setting, build_setting, load_lm
from benchmarks.table import figure, ratios, show, spread
from benchmarks.work import Lengths, Linears
from rlhf.config.models import LoraConfig as Adapter
from rlhf.models.batch import pad_left
from rlhf.stages.learner import POLICY
from rlhf.validate import check

Peer = PreTrainedModel | PeftModel

OURS, LAUNCHED = "the project's sampler", "the project's sampler, without CUDA graphs"
UNMERGED, MERGED = "generate, adapter beside the weights", "generate, adapter merged"


class StopAt(StoppingCriteria):
    """Ends each row after its own number of new tokens, as an EOS there would."""

    def __init__(self, prompt_length: int, lengths: Tensor) -> None:
        self.ends = prompt_length + lengths

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **kwargs: Any) -> Tensor:
        return self.ends <= input_ids.shape[1]


def measure(options: Options) -> dict[str, Any]:
    """Measure `rounds` rollouts of each, after one that warms up."""
    config = configure(options.overrides)
    check(config.lora.r is not None, "lora.r", config.lora.r, "the peers have an adapter: choose its rank")
    lm, tokenizer = load_lm(config, options.mean_length)
    linears = Linears.of(lm)
    unmerged, merged = peers(lm, config.lora)
    setting = build_setting(config, lm, tokenizer)
    policy = setting.base.add(POLICY, config.lora, trainable=True)
    own = [LAUNCHED, OURS] if lm.device.type == "cuda" else [OURS]  # the last one's responses are the peers' lengths
    rng, speeds = Random(0), {name: [] for name in (*own, UNMERGED, MERGED)}
    lengths: list[float] = []
    for number in range(options.rounds + 1):
        setting.source.pool = rng.sample(setting.source.pool, len(setting.source.pool))
        prompts = setting.source.pool[: config.rollout.batch_size]

        def ours(graphs: bool) -> None:
            setting.sampler.config.cuda_graphs = graphs
            generator = torch.Generator(lm.device).manual_seed(number)  # noqa: B023
            setting.sampler.sample(policy, prompts, config.rollout.temperature, generator)  # noqa: B023

        works = [partial(ours, name == OURS) for name in own]
        works += [partial(generate, peer, setting) for peer in (unmerged, merged)]
        seconds = [stopwatch(work, lm.device) for work in works]
        tokens = sum(setting.sampler.lengths()[1])
        lengths.append(tokens / len(prompts))
        for name, spent in zip(speeds, seconds, strict=True):
            speeds[name].append(tokens / spent)
    warm = {name: values[1:] for name, values in speeds.items()}
    least = floor(config, linears, Lengths(*setting.sampler.lengths()), lm.device, lm)["rollout"]
    figures = {"tokens_per_second": warm, "mean_length": lengths[1:], "samples": config.rollout.batch_size}
    figures["ratios"] = {name: ratios(warm[OURS], warm[name]) for name in warm if name != OURS}
    figures["floor_tokens_per_second"] = tokens / least  # pyright: ignore[reportPossiblyUnboundVariable]
    report(figures)
    return figures


def peers(lm: PreTrainedModel, lora: Adapter) -> tuple[Peer, Peer]:
    """Copies of `lm` with a fresh adapter of peft's: as it is, and merged into the weights."""
    settings = LoraConfig(
        r=lora.r or 0,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules="all-linear" if lora.target_modules == ["all-linear"] else lora.target_modules,
        task_type="CAUSAL_LM",
    )
    unmerged = get_peft_model(copy.deepcopy(lm), settings).eval()
    merged = get_peft_model(copy.deepcopy(lm), settings).merge_and_unload().eval()  # pyright: ignore[reportCallIssue]
    return unmerged, merged  # pyright: ignore[reportReturnType]


@torch.inference_mode()
def generate(peer: Peer, setting: Setting) -> Tensor:
    """Responses to the last rollout's prompts, each as long as ours was."""
    sampler, rollout = setting.sampler, setting.config.rollout
    lengths = [len(response.token_ids) for response in sampler.responses]
    input_ids, attention_mask = pad_left(sampler.encode(sampler.prompts), sampler.pad_id, sampler.device)
    peer.generation_config.eos_token_id = None  # pyright: ignore[reportOptionalMemberAccess]
    settings = GenerationConfig(
        max_new_tokens=max(lengths),
        do_sample=True,
        temperature=rollout.temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=None,
        pad_token_id=sampler.pad_id,
    )
    stop = StopAt(input_ids.shape[1], torch.tensor(lengths, device=sampler.device))
    varied = min(lengths) < max(lengths)
    return peer.generate(  # pyright: ignore[reportCallIssue, reportReturnType]
        input_ids=input_ids,
        attention_mask=attention_mask,
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([stop] if varied else []),
    )


def stopwatch(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def report(figures: dict[str, Any]) -> None:
    work = f"{figures['samples']} prompts, responses of {spread(figures['mean_length'])} tokens"
    rows = [
        [name, spread(speeds), spread(figures["ratios"][name]) if name in figures["ratios"] else ""]
        for name, speeds in figures["tokens_per_second"].items()
    ]
    rows.append(["floor", figure(figures["floor_tokens_per_second"]), ""])
    show(f"{work}; medians (least to most)", ("", "tokens/s", "ours / this"), rows)
