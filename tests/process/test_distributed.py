"""How ranks divide rows and exchange results; with other ranks in earnest in tests/test_exactness.py."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rlhf.config.run import DistributedConfig
from rlhf.errors import ConfigError
from rlhf.process import distributed
from rlhf.process.distributed import ALONE, Ranks, join
from tests.on_ranks import run_on_ranks


@pytest.mark.parametrize("count", [0, 1, 5, 6, 805])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_row_and_item_is_one_ranks(count: int, size: int) -> None:
    rows = list(range(count))
    assert [row for rank in range(size) for row in rows[Ranks(rank, size).shard(count)]] == rows
    turns = [list(Ranks(rank, size).turns(rows, 2)) for rank in range(size)]
    assert sorted(row for own in turns for turn in own for row in turn) == rows
    assert len(set(map(len, turns))) == 1
    shares = [len(rows[Ranks(rank, size).shard(count)]) for rank in range(size)]
    assert max(shares) - min(shares) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    values, weight = torch.arange(3.0), nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    ALONE.sum_gradients([weight])
    ALONE.check_same([weight])
    ALONE.barrier()
    assert ALONE.gather(values) is values
    assert ALONE.sum(values) is values
    assert weight.grad.tolist() == [1.0, 1.0]
    assert (ALONE.largest(2), ALONE.gather_objects([1]), ALONE.run_on_main(lambda: "yes")) == (2, [1], "yes")


def test_gradients_are_summed_in_buckets_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(distributed, "BUCKET", 5)
    monkeypatch.setattr(Ranks, "sum", lambda ranks, values: sizes.append(len(values)) or 2 * values)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (1,), (3,), (7,), (2,), (1,))]
    for number, weight in enumerate(weights[:-1]):
        weight.grad = torch.full_like(weight, float(number))
    Ranks(0, 2).sum_gradients(weights)  # the last one has no gradient
    assert sizes == [5, 3, 7, 2]
    for number, weight in enumerate(weights[:-1]):
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.full_like(weight, 2.0 * number))
    assert weights[-1].grad is None


def test_more_or_fewer_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(DistributedConfig("ddp", None), "cpu") == ALONE
    assert join(DistributedConfig("ddp", 1), "cpu") == ALONE
    with pytest.raises(ConfigError, match=r"distributed\.processes=2 is not allowed: this is one process"):
        join(DistributedConfig("ddp", 2), "cpu")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"distributed\.processes=2 is not allowed: there are 4"):
        join(DistributedConfig("ddp", 2), "cpu")


EXCHANGE = """
import os
import torch
from torch import nn
from rlhf.config.run import DistributedConfig
from rlhf.errors import ConfigError, RankLostError
from rlhf.process.distributed import join

ranks = join(DistributedConfig("ddp", 3), "cpu")
row = torch.tensor([[ranks.rank, 10 * ranks.rank]])
assert ranks.gather(row).tolist() == [[0, 0], [1, 10], [2, 20]]
assert ranks.gather(row > 5).tolist() == [[False, False], [False, True], [False, True]]
assert ranks.gather(torch.zeros(2, 4, 0)).shape == (6, 4, 0)
assert ranks.gather_objects(["a"] * ranks.rank) == ["a"] * 3
assert ranks.sum(torch.tensor([1.0, float(ranks.rank)])).tolist() == [3.0, 3.0]
assert ranks.largest([1, 0, 2][ranks.rank]) == 2

weight = nn.Parameter(torch.zeros(2))
weight.grad = torch.full((2,), float(ranks.rank + 1))
ranks.sum_gradients([weight])
assert weight.grad.tolist() == [6.0, 6.0]

assert ranks.run_on_main(lambda: f"by {ranks.rank}") == "by 0"
def refuse():
    raise ConfigError("refused")
try:
    ranks.run_on_main(refuse)
except ConfigError as error:
    assert str(error) == "refused"
else:
    raise AssertionError

ranks.check_same([torch.ones(2)])
try:
    ranks.check_same([torch.full((2,), 1.0 + 1e-7 * ranks.rank)])
except RuntimeError as error:
    assert "drifted apart" in str(error)
else:
    raise AssertionError
ranks.barrier()
if ranks.rank == 1:
    os._exit(0)
try:
    ranks.barrier()
except RankLostError as error:
    assert str(error).startswith("another rank of this run has ended")
else:
    raise AssertionError
os._exit(0)
"""


@pytest.mark.slow
def test_what_is_exchanged_arrives_everywhere(tmp_path: Path) -> None:
    run_on_ranks(3, EXCHANGE, tmp_path)
