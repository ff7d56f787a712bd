"""Verdicts on single effects and on families of them."""

import math

import pytest

from rlhf.evaluation.pooling import Pooled
from rlhf.report.compare import p_values
from studies.claims import Effects, claim, compared, decided, each, judge, spread
from studies.section import AGREES, CONTRADICTS, OPEN, Claim

ABOVE, BELOW = (0.0, math.inf), (-math.inf, 0.0)


def told(estimate: float, low: float, high: float, p_value: float = 0.01, n: int = 4) -> Pooled:
    return Pooled(estimate, (high - low) / 4, low, high, 0.0, p_value, n)


def always(*results: Pooled | None) -> Effects:
    """Effects whose p-values do not depend on what they are compared with."""
    return lambda beyond: {str(place): result for place, result in enumerate(results)}


def test_one_effect() -> None:
    assert judge(told(3.0, 2.0, 4.0), ABOVE) == AGREES
    assert judge(told(3.0, 2.0, 4.0), BELOW) == CONTRADICTS
    assert judge(told(3.0, -2.0, 8.0), BELOW) == OPEN


def test_few_worlds_and_no_effect_can_not_tell() -> None:
    assert judge(told(3.0, 2.0, 4.0, n=3), ABOVE) == OPEN
    assert judge(told(3.0, 2.0, 4.0, n=4), ABOVE) == AGREES
    assert judge(None, ABOVE) == OPEN


def test_p_values_are_corrected_for_those_that_there_are() -> None:
    family = [told(1.0, 0.0, 2.0, 0.02), None, told(1.0, 0.0, 2.0, 0.04), told(1.0, 0.0, 2.0, 0.03, n=1)]
    assert p_values(family) == [pytest.approx(0.04), None, pytest.approx(0.04), None]
    assert p_values([]) == []


below, unclear = told(-2.0, -3.0, -1.0, 0.04), told(0.0, -1.0, 1.0, 0.9)
weakly, surely = told(2.0, 1.0, 3.0, 0.04), told(2.0, 1.0, 3.0, 0.02)


@pytest.mark.parametrize(
    ("results", "verdicts", "overall"),
    [
        ([below, below, below], [AGREES, AGREES, AGREES], AGREES),  # what must hold for each needs no correction
        ([below, unclear], [AGREES, OPEN], OPEN),
        ([weakly], [CONTRADICTS], CONTRADICTS),
        ([weakly, unclear], [CONTRADICTS, OPEN], OPEN),  # 2 x 0.04 is more than 0.05
        ([surely, unclear], [CONTRADICTS, OPEN], CONTRADICTS),
        ([surely, below], [CONTRADICTS, AGREES], CONTRADICTS),
        ([unclear, told(-9.0, -10.0, -8.0, 0.0001), weakly], [OPEN, AGREES, CONTRADICTS], OPEN),
        ([None], [OPEN], OPEN),
        ([], [], OPEN),
    ],
)
def test_several_comparisons(results: list[Pooled | None], verdicts: list[str], overall: str) -> None:
    found = compared("It falls.", "it", always(*results), BELOW)
    assert (list(found.verdicts), found.verdict) == (verdicts, overall)


def test_claims_are_corrected_for_the_comparisons_of_all_of_them() -> None:
    rising = compared("It falls.", "it", always(weakly), BELOW)
    assert rising.verdict == CONTRADICTS
    falling, own = compared("It falls.", "it", always(below), BELOW), Claim("Else.", "it", OPEN)
    both = decided([rising, falling, own])
    assert [claim.verdict for claim in both] == [OPEN, AGREES, OPEN]  # 2 x 0.04 is more than 0.05
    assert [claim.verdict for claim in decided([own, rising])] == [OPEN, CONTRADICTS]
    sure = compared("It falls.", "it", always(surely, None), BELOW)
    assert [claim.verdict for claim in decided([falling, sure])] == [AGREES, CONTRADICTS]  # 2 x 0.02 is not


@pytest.mark.parametrize(("region", "edge"), [((-2.0, math.inf), -2.0), ((-math.inf, 2.0), 2.0), (ABOVE, 0.0)])
def test_p_values_are_of_the_difference_to_the_regions_edge(region: tuple[float, float], edge: float) -> None:
    asked = []

    def effects(beyond: float) -> dict[str, Pooled | None]:
        asked.append(beyond)
        outside = region[0] - 3 if math.isfinite(region[0]) else region[1] + 3
        return {"a": told(outside, outside - 1, outside + 1, 0.2 if beyond == edge and len(asked) > 1 else 0.001)}

    found = compared("It rises.", "it", effects, region)
    assert (found.verdicts, found.verdict) == ((CONTRADICTS,), OPEN)
    assert asked == [0.0, edge]


def test_a_claim_tells_its_effects() -> None:
    single = claim("It rises.", "the rise", lambda beyond: {"js": told(3.0, 2.0, 4.0)}, ABOVE)
    assert (single.paper, single.verdict) == ("It rises.", AGREES)
    assert single.here == "the rise is js +3.0 [+2.0, +4.0] points."
    several = claim("It falls.", "the fall", always(below, unclear), (-math.inf, 2.0))
    assert several.here == ("the fall is 0 -2.0 [-3.0, -1.0], 1 0.0 [-1.0, +1.0] points, margin 2.")
    assert (single.counted, several.counted) == ("", "of 2, 2 agree, 0 contradict, 0 can't tell")


def test_lists_of_effects() -> None:
    assert each({"a": told(1.0, -1.0, 3.0), "b": None}) == "a +1.0 [-1.0, +3.0], b –"
    assert spread([told(1.0, 0.0, 2.0), None, told(-0.5, -1.0, 0.0)]) == "-0.5 to +1.0"
    assert spread([told(1.0, 0.0, 2.0)]) == "+1.0"
    assert spread([None]) == "–"
