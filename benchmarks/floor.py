"""The machine's floor for a step: on a CPU the time of its bare matrix products, on a GPU its bandwidth and FLOP/s."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from benchmarks.work import Lengths, Linears, Products, flops, rollout_products, scoring_products, update_products
from rlhf.config.run import Config
from rlhf.models.precision import LINEAR_DTYPES
from rlhf.stages.learner import PARTS

TRIALS = 3
TRIAL_SECONDS = 0.01
"""Seconds over which a product is repeated, in each of `TRIALS` trials; the fastest counts."""

COPIED = 2**30
"""Bytes that are copied to measure a GPU's bandwidth."""

SQUARE = 8192
"""Rows and columns of the product that measures a GPU's FLOP/s."""


def floor(
    config: Config, linears: Linears, lengths: Lengths, device: torch.device, lm: PreTrainedModel
) -> dict[str, float]:
    """The least seconds of rollout, scoring and update on this machine."""
    products = (
        rollout_products(linears, lengths, config.rollout.decode_batch_size),
        scoring_products(linears, lengths, config),
        update_products(linears, lengths, config),
    )
    dtype = LINEAR_DTYPES[config.model.dtype]
    if device.type == "cpu":
        seconds = [gemm_seconds(part, dtype) for part in products]
    else:
        machine = measure_machine(dtype, device)
        decode = decode_seconds(
            machine, linears, lengths, config.rollout.decode_batch_size, weight_bytes(lm), cache_bytes(lm)
        )
        seconds = [decode, *(flops(part) / machine.flops for part in products[1:])]
    return dict(zip(PARTS, seconds, strict=True))


def gemm_seconds(products: Products, dtype: torch.dtype) -> float:
    """Seconds of all products, each measured on this CPU by itself, its operands in the cache where they fit."""
    return sum(count * product_seconds(*product, dtype) for product, count in products.items())


@torch.inference_mode()
def product_seconds(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    states, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    return fastest(lambda: F.linear(states, weight))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of one call, in the fastest of several trials."""
    work()
    seconds = []
    for _ in range(TRIALS):
        start, calls = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < TRIAL_SECONDS:
            work()
            calls += 1
        seconds.append(spent / max(1, calls))
    return min(seconds)


@dataclass(frozen=True)
class Machine:
    """A GPU's measured rates per second: bytes read or written, and floating point operations."""

    bandwidth: float
    flops: float


def measure_machine(dtype: torch.dtype, device: torch.device, copied: int = COPIED, square: int = SQUARE) -> Machine:
    """Measure the bandwidth by a copy, which reads and writes, and FLOP/s by a square product."""
    source = torch.empty(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / timed(lambda: target.copy_(source), device)
    matrix = torch.randn(square, square, device=device, dtype=dtype)
    return Machine(bandwidth, 2 * square**3 / timed(lambda: matrix @ matrix, device))


def timed(work: Callable[[], object], device: torch.device, calls: int = 10) -> float:
    """Seconds of one call, when `calls` follow each other."""
    work()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def decode_seconds(
    machine: Machine, linears: Linears, lengths: Lengths, at_once: int, weights: int, cache: int
) -> float:
    """Least seconds of a rollout: prompts by FLOP/s, each later token by the slower of its bytes and its operations.

    A token reads `weights` bytes once, and `cache` bytes for each token before it of each row.
    """
    seconds = 0.0
    for group in lengths.groups(at_once):
        seconds += flops(linears.trunk_pass(sum(group.prompts))) / machine.flops
        for count, rows in enumerate(group.rows()):
            if count == 0:
                continue  # the prompts' pass gives the first token
            pairs = zip(group.prompts, group.responses, strict=True)
            context = sum(prompt + count for prompt, response in pairs if response > count)
            read = weights + cache * context
            seconds += max(read / machine.bandwidth, 2.0 * rows * linears.weights / machine.flops)
    return seconds


def weight_bytes(lm: PreTrainedModel) -> int:
    """Bytes of the weights that each decoded token reads: all but adapters and the embedding, which is looked up."""
    embedding = lm.get_input_embeddings().weight
    base = [weight for name, weight in lm.named_parameters() if "lora_" not in name and weight is not embedding]
    tied = lm.get_output_embeddings().weight is embedding  # pyright: ignore[reportOptionalMemberAccess]
    return sum(weight.numel() * weight.element_size() for weight in [*base, *([embedding] if tied else [])])  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue, reportArgumentType]


def cache_bytes(lm: PreTrainedModel) -> int:
    """Bytes of one token's keys and values."""
    shape = lm.config
    heads = shape.num_key_value_heads or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * heads * size * lm.dtype.itemsize
