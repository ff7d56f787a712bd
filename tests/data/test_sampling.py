from random import Random

from rlhf.data.sampling import draw, first_of_each, partition


def test_draw_and_partition() -> None:
    assert sorted(draw("abc", 2, Random(0))) in (["a", "b"], ["a", "c"], ["b", "c"])
    assert draw("abc", 0, Random(0)) == []
    first, second, rest = partition("abcdefgh", [3, 1], Random(0))
    assert (len(first), len(second), len(rest)) == (3, 1, 4)
    assert sorted(first + second + rest) == list("abcdefgh")
    assert all(part == sorted(part) for part in (first, second, rest))


def test_of_the_same_key_the_first_stays() -> None:
    assert first_of_each(["b1", "a1", "b2", "c1", "a2"], lambda item: item[0]) == ["b1", "a1", "c1"]
