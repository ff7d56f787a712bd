"""The model of all forms and worlds, by hand and by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from studies.additive import differences

VALUES = {"js": {0: 60.0, 1: 70.0, 2: 80.0}, "kl": {0: 53.0, 1: 65.0, 2: 77.0}, "none": {0: 49.0, 1: 61.0, 2: 73.0}}


def test_two_ways_by_hand() -> None:
    found = differences(VALUES, "js")
    assert [each.estimate for each in found.values()] == pytest.approx([-5.0, -9.0])
    table = np.array([list(each.values()) for each in VALUES.values()])
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    error = math.sqrt((residuals**2).sum() / 4 * 2 / 3)  # (3 - 1) (3 - 1) degrees; two means of three
    assert found["kl"].standard_error == pytest.approx(error)
    margin = student.ppf(0.975, 4) * error
    assert (found["kl"].low, found["kl"].high, found["kl"].n) == pytest.approx((-5 - margin, -5 + margin, 3))


def test_a_world_that_a_form_lacks_is_left_out() -> None:
    found = differences({**VALUES, "kl": {0: 53.0, 1: 65.0}}, "js")
    assert found["kl"].estimate == pytest.approx(-6.0)
    assert found["kl"].n == 2


def test_at_an_equal_covariate() -> None:
    rng = np.random.default_rng(0)
    length = {
        form: {world: float(rng.normal(shift, 1)) for world in range(6)} for form, shift in (("js", 16), ("kl", 22))
    }
    wins = {form: {world: 10 * world - 2 * length[form][world] for world in range(6)} for form in length}
    assert differences(wins, "js", length)["kl"].estimate == pytest.approx(0.0, abs=1e-9)
    assert differences(wins, "js")["kl"].estimate == pytest.approx(-12, abs=2)


@pytest.mark.parametrize(
    "values", [{"js": VALUES["js"]}, {"kl": VALUES["kl"], "none": VALUES["none"]}, {"js": {0: 1.0}, "kl": {0: 2.0}}]
)
def test_nothing_without_forms_worlds_and_a_reference(values: dict) -> None:
    assert differences(values, "js") == {}
