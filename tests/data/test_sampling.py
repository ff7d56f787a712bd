from random import Random

from rlhf.data.text import draw, partition


def test_draw_and_partition() -> None:
    assert sorted(draw("abc", 2, Random(0))) in (["a", "b"], ["a", "c"], ["b", "c"])
    assert draw("abc", 0, Random(0)) == []
    first, second, rest = partition("abcdefgh", [3, 1], Random(0))
    assert (len(first), len(second), len(rest)) == (3, 1, 4)
    assert sorted(first + second + rest) == list("abcdefgh")
    assert all(part == sorted(part) for part in (first, second, rest))
