import pytest

from rlhf.config import ChecksConfig
from rlhf.errors import CheckError
from rlhf.stages.pipeline import check_factuality, check_reward

CHECKS = ChecksConfig(min_factuality=60.0, max_factuality=85.0, min_accuracy=0.55, min_oracle_agreement=0.65)
NO_CHECKS = ChecksConfig(min_factuality=None, max_factuality=None, min_accuracy=0.0, min_oracle_agreement=None)


@pytest.mark.parametrize("factuality", [60.0, 72.5, 85.0, None])
def test_factuality_within_its_bounds_passes(factuality: float | None) -> None:
    check_factuality(factuality, CHECKS)


@pytest.mark.parametrize(("factuality", "bound"), [(59.9, "min_factuality=60.0"), (85.1, "max_factuality=85.0")])
def test_factuality_outside_its_bounds_stops_the_run_with_the_figure(factuality: float, bound: str) -> None:
    with pytest.raises(CheckError, match=rf"{factuality} %.*checks\.{bound}"):
        check_factuality(factuality, CHECKS)
    check_factuality(factuality, NO_CHECKS)


def test_a_reward_model_that_learnt_too_little_stops_the_run_with_the_figure() -> None:
    figures = {"accuracy": 0.512, "accuracy_se": 0.02, "oracle_agreement": 0.7}
    with pytest.raises(CheckError, match=r"51\.2 % \(standard error 2\.0\).*checks\.min_accuracy=0\.55"):
        check_reward("reward", figures, CHECKS)
    check_reward("reward", figures, NO_CHECKS)


def test_a_reward_model_far_from_the_oracle_stops_the_run_with_the_figure() -> None:
    figures = {"accuracy": 0.6, "accuracy_se": 0.02, "oracle_agreement": 0.649}
    with pytest.raises(CheckError, match=r"64\.9 %.*checks\.min_oracle_agreement=0\.65"):
        check_reward("reward", figures, CHECKS)
    del figures["oracle_agreement"]  # text has no oracle
    check_reward("judge", figures, CHECKS)
