"""Random parts of lists, and what is left of them without repetitions."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from random import Random
from typing import TypeVar

Item = TypeVar("Item")


def first_of_each(items: Iterable[Item], key: Callable[[Item], str]) -> list[Item]:
    """Of the items with the same key, the first; in order."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


def partition(items: Sequence[Item], sizes: Sequence[int], rng: Random) -> list[list[Item]]:
    """Random parts of the given sizes, then the rest as one more part; each keeps the order of `items`."""
    order = rng.sample(range(len(items)), len(items))
    bounds = [0, *accumulate(sizes), len(items)]
    return [[items[index] for index in sorted(order[start:end])] for start, end in pairwise(bounds)]


def draw(items: Sequence[Item], count: int, rng: Random) -> list[Item]:
    """`count` random items; none comes again before all others have come as often."""
    drawn: list[Item] = []
    while len(drawn) < count:
        drawn += rng.sample(items, min(len(items), count - len(drawn)))
    return drawn
