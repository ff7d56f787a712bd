"""One run on several processes: how they find each other, and what they exchange.

All ranks hold the same weights and the same random generators and come to the same decisions. Only the costly work is
divided: of each batch of rows a rank samples, scores and differentiates a slice. So a run has the same result, up to
the rounding of sums, on any number of ranks.
"""

import atexit
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather, gather_object, reduce
from jaxtyping import Shaped
from torch import Tensor, nn

from rlhf.config.run import DistributedConfig
from rlhf.errors import ConfigError, Preempted, RankLostError

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: one may be building a stage. A rank that fails is its launcher's to notice."""


BUCKET = 2**26
"""Elements of gradients that are summed at once: 256 MiB in float32."""


GONE = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset)", re.IGNORECASE)
"""What the libraries by which ranks speak to each other say where one of them has ended."""


@contextmanager
def exchange() -> Iterator[None]:
    """Around what waits for the other ranks: raises RankLostError where one is gone."""
    try:
        yield
    except RuntimeError as error:
        if GONE.search(str(error)):
            raise RankLostError("another rank of this run has ended; its own lines say why, if it could") from error
        raise


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of its run."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This rank's part of `count` rows, in order one after another."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def turns(self, rows: Sequence[Item], count: int) -> Iterator[list[Item]]:
        """This rank's share of rows of falling or rising cost, `count` at a time: one in `size` of the blocks.

        As many turns on all ranks; the last one may be empty.
        """
        for start in range(0, len(rows), count * self.size):
            first = start + count * self.rank
            yield list(rows[first : first + count])

    @exchange()
    def gather(self, rows: Shaped[Tensor, "shard ..."]) -> Shaped[Tensor, "all ..."]:
        """All ranks' rows in order, of which each has the same number."""
        if self.size == 1:
            return rows
        if rows.numel() == 0:
            return rows.new_zeros(len(rows) * self.size, *rows.shape[1:])
        return gather(rows)  # pyright: ignore[reportReturnType]

    @exchange()
    def gather_objects(self, items: list[Any]) -> list[Any]:
        """All ranks' items in order, of which each may have another number."""
        return items if self.size == 1 else gather_object(items)

    @exchange()
    def sum(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        return values if self.size == 1 else reduce(values, "sum")  # pyright: ignore[reportReturnType]

    @exchange()
    def broadcast(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """The main rank's values, on all of them."""
        return values if self.size == 1 else broadcast(values)  # pyright: ignore[reportReturnType]

    def largest(self, value: int) -> int:
        return value if self.size == 1 else max(self.gather_objects([value]))

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over the ranks, as DistributedDataParallel does; many at a time."""
        if self.size == 1:
            return
        for gradients in _buckets([weight.grad for weight in weights if weight.grad is not None]):
            total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = total.split([gradient.numel() for gradient in gradients])
            for gradient, summed in zip(gradients, parts, strict=True):
                gradient.copy_(summed.view_as(gradient))

    def check_same(self, weights: Iterable[Tensor]) -> None:
        """Raises RuntimeError where the ranks' weights are not the same to the last bit."""
        if self.size > 1:
            sums = self.gather_objects([[weight.double().sum().item() for weight in weights]])
            if any(other != sums[0] for other in sums):
                raise RuntimeError("the ranks' weights have drifted apart: are all on the same kind of machine?")

    @exchange()
    def run_on_main(self, decide: Callable[[], Result]) -> Result:
        """Return the result of `decide` on the main rank, or raise the exception that it raises there."""
        if self.size == 1:
            return decide()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = decide()
            except (Exception, Preempted) as error:
                outcome[1] = error
        result, error = broadcast_object_list(outcome)
        if error is not None:
            raise error
        return result

    def barrier(self) -> None:
        """Until all ranks are here."""
        self.gather_objects([None])


ALONE = Ranks()


def join(config: DistributedConfig, device: str) -> Ranks:
    """Find the other ranks of this run, as `torchrun`, `accelerate launch` or SLURM (see slurm.py) have started them.

    Raises ConfigError where there are more or fewer of them than `distributed.processes`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if config.processes is not None and config.processes != size:
        start = f"torchrun --nproc-per-node {config.processes} -m rlhf.run ..., or a launcher of conf/hydra/launcher"
        found = "this is one process" if size == 1 else f"there are {size}"
        raise ConfigError(f"distributed.processes={config.processes} is not allowed: {found}; start with {start}")
    if size == 1:
        return ALONE
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    atexit.register(state.destroy_process_group)
    if state.num_processes != size:
        raise RuntimeError(f"{size} processes were started, and {state.num_processes} of them have met")
    return Ranks(state.process_index, state.num_processes)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of at most BUCKET elements together, or of a single larger tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(map(torch.numel, bucket)) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
