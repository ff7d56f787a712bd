"""Forms at equal KL: which strength stands for a form, and what it reaches."""

import math

import pytest

from rlhf.report.load import Run
from studies.frontier import (
    GRID,
    checkpoint_dots,
    curve_by_kl,
    difference_at,
    gold,
    gold_curve,
    level_at,
    on_frontier,
)
from tests.report.conftest import make_run, point


def run(
    world: int, strength: float, low: float, high: float, *, kls: tuple[float, float] = (0.01, 0.09), seed: int = 0
) -> Run:
    """Between two checkpoints, at `kls`; half way in the root is 0.04."""
    points = [point(0, 50.0, 0.0), point(10, low, kls[0], low + 10), point(20, high, kls[1], high + 10)]
    return make_run(points, data__seed=world, seed=seed, regularizer__strength=strength)


def test_the_strength_is_chosen_in_the_other_worlds() -> None:
    weak = [run(0, 0.3, 50.0, 60.0), run(1, 0.3, 50.0, 60.0), run(2, 0.3, 80.0, 90.0)]  # 55, 55, 85
    strong = [run(world, 1.0, 60.0, 70.0) for world in range(3)]  # 65 everywhere
    chosen = on_frontier([*weak, *strong], 0.04)
    assert chosen == [weak[0], weak[1], strong[2]]  # without world 2 the strong one is better, with it the weak one
    found = level_at([*weak, *strong], "win_rate_greedy", 0.04)
    assert found is not None
    assert found.estimate == pytest.approx((55 + 55 + 65) / 3)
    facts = level_at([*weak, *strong], "factuality", 0.04)
    assert facts is not None
    assert facts.estimate == pytest.approx((65 + 65 + 75) / 3)  # of the same policies


def test_only_strengths_that_come_by_in_most_worlds() -> None:
    weak = [run(0, 0.3, 80.0, 90.0), run(1, 0.3, 80.0, 90.0, kls=(0.3, 0.5))]
    strong = [run(world, 1.0, 60.0, 70.0) for world in (0, 1)]
    assert on_frontier([*weak, *strong], 0.04) == strong
    assert on_frontier(weak, 0.04) == []
    assert level_at(weak, "win_rate_greedy", 0.04) is None
    assert on_frontier([*weak, strong[0]], 0.04) == []  # the strong one was not run in world 1
    assert on_frontier([], 0.04) == []


def test_of_four_worlds_one_may_not_come_by() -> None:
    far = (0.3, 0.5)
    weak = [run(world, 0.3, 80.0, 90.0, kls=far if world == 3 else (0.01, 0.09)) for world in range(4)]
    strong = [run(world, 1.0, 60.0, 70.0, kls=far if world > 1 else (0.01, 0.09)) for world in range(4)]
    assert on_frontier([*weak, *strong], 0.04) == weak[:3]  # the strong one comes by in two of four
    near = [run(world, 1.0, 60.0, 70.0) for world in range(4)]
    assert on_frontier([*weak, *near], 0.04) == [*weak[:3], near[3]]
    found = difference_at(weak, near, "win_rate_greedy", 0.04)
    assert found is not None
    assert (found.estimate, found.n) == pytest.approx((20, 3))
    other = [run(world, 1.0, 60.0, 70.0, kls=far if world == 0 else (0.01, 0.09)) for world in range(4)]
    assert difference_at(weak, other, "win_rate_greedy", 0.04) is None  # both come by in two of four


def test_a_single_world_chooses_by_itself() -> None:
    runs = [run(0, 0.3, 50.0, 60.0), run(0, 1.0, 60.0, 70.0)]
    assert on_frontier(runs, 0.04) == runs[1:]


def test_all_seeds_of_the_strength_are_taken() -> None:
    runs = [run(world, 1.0, 50.0 + 2 * seed, 60.0, seed=seed) for world in (0, 1) for seed in (0, 1)]
    assert on_frontier(runs, 0.04) == runs


def test_a_difference_at_equal_kl() -> None:
    first = [run(world, 1.0, 60.0, 70.0 + world) for world in range(3)]
    second = [run(world, 3.0, 50.0, 60.0) for world in range(4)]
    found, excess = (difference_at(first, second, "win_rate_greedy", 0.04, beyond) for beyond in (0.0, 2.0))
    assert found is not None
    assert excess is not None
    assert (found.estimate, excess.estimate, found.n) == pytest.approx((10.5, 8.5, 3))
    assert difference_at(first, second, "win_rate_greedy", 0.2) is None


def test_a_curve_is_drawn_where_most_worlds_are() -> None:
    runs = [run(0, 1.0, 50.0, 60.0, kls=(0.4, 4.0)), run(1, 1.0, 52.0, 62.0, kls=(0.6, 2.0))]
    points = curve_by_kl(runs, "win_rate_greedy")
    assert [row[0] for row in points] == [kl for kl in GRID if 0.6 <= kl < 2.0]
    assert all(50 < row[1] < 62 for row in points)


def test_dots_are_darker_for_larger_strengths() -> None:
    kls = {"kls": (0.2, 1.8)}
    runs = [run(0, 3.0, 50.0, 60.0, **kls), run(0, 0.3, 51.0, 61.0, **kls), run(1, 3.0, 52.0, 62.0, **kls)]
    weak, strong = checkpoint_dots(runs, "win_rate_greedy", "black")
    assert weak.points == [(0.2, 51.0), (1.8, 61.0)]  # SFT, at 0, has no place on the axis
    assert strong.points == [(0.2, 50.0), (1.8, 60.0), (0.2, 52.0), (1.8, 62.0)]
    assert weak.opacity < strong.opacity <= 1
    bare = make_run([point(10, 50.0, None), point(20, 50.0, 2.0, factuality=None)])
    assert [dots.points for dots in checkpoint_dots([bare], "factuality", "black")] == [[]]


def test_the_fit_of_a_curve_that_is_one() -> None:
    kls = (0.25, 1.0, 4.0, 9.0)
    points = [point(0, 50.0, 0.0)]
    points += [
        point(10 * step, 50 + root * (12 - 5 * math.log(root)), root**2)
        for step, root in enumerate(map(math.sqrt, kls), 1)
    ]
    runs = [make_run(points, data__seed=world) for world in (0, 1)]
    assert gold(runs) == pytest.approx((12.0, 5.0))
    curve = gold_curve(runs)
    assert curve[0][0] >= 0.25
    assert curve[-1][0] <= 9
    assert all(rate == pytest.approx(50 + kl**0.5 * (12 - 5 * math.log(kl**0.5))) for kl, rate, _, _ in curve)
    assert gold([make_run(points[:3])]) is None
    assert gold_curve([]) == []
