"""Several learners on one Setting, each of which must compute what it computes alone, to the last bit."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from rlhf.config.run import Config
from rlhf.data.source import Response
from rlhf.errors import CheckError, ConfigError
from rlhf.stages.baseline import Baseline
from rlhf.stages.evaluator import Evaluator
from rlhf.stages.learner import Learner, Row
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.setting import Setting, lent_setting, setting_key
from rlhf.stages.train import train
from tests.configure import configure

RUNS = {
    "a": ("regularizer=kl", "lora.r=4"),
    "b": ("regularizer=js", "seed=3", "data.seed=0", "ppo.dropout=true", "lora.dropout=0.1"),
    "c": ("regularizer=full_js", "value=adapter", "algorithm.name=ppo"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def setting(cache: Path) -> Iterator[Setting]:
    with Setting.open(config_of(cache)) as opened:
        yield opened


def config_of(cache: Path, *overrides: str) -> Config:
    return configure("experiment=smoke", f"cache_dir={cache}", *overrides)


def without_times(row: Row) -> Row:
    return {name: value for name, value in row.items() if "second" not in name}


def rows_alone(config: Config) -> list[Row]:
    with Setting.open(config) as alone, alone.learner() as learner:
        return [without_times(row) for row in train(learner)]


def test_runs_stepped_in_turn_are_each_the_run_alone(setting: Setting, cache: Path) -> None:
    configs = {name: config_of(cache, *overrides) for name, overrides in RUNS.items()}
    training = {name: train(setting.learner(config)) for name, config in configs.items()}
    found = {name: [] for name in RUNS}
    for _ in range(configs["a"].ppo.steps):
        for name, rows in training.items():
            found[name].append(without_times(next(rows)))
    assert found == {name: rows_alone(config) for name, config in configs.items()}


def test_a_run_after_others_is_the_run_alone_and_leaves_no_adapter(setting: Setting, cache: Path) -> None:
    assert setting.base.peft is not None
    before = set(setting.base.peft.peft_config)
    config = config_of(cache, *RUNS["b"])
    with setting.learner(config_of(cache, *RUNS["c"])) as first:
        list(train(first))
    with setting.learner(config) as second:
        assert [without_times(row) for row in train(second)] == rows_alone(config)
    assert set(setting.base.peft.peft_config) == before


def test_a_run_that_diverges_or_stops_leaves_the_others_bytes_alone(setting: Setting, cache: Path) -> None:
    config = config_of(cache, *RUNS["a"])
    diverging = setting.learner(config_of(cache, "seed=1", "data.seed=0", "ppo.lr=1e30"))
    stopped = setting.learner()
    with setting.learner(config) as learner:
        rows = train(learner)
        found = [without_times(next(rows))]
        next(train(stopped))
        stopped.close()
        with pytest.raises(CheckError):
            list(train(diverging))
        found += [without_times(row) for row in rows]
    assert found == rows_alone(config)


def test_training_leaves_the_global_generators_alone(setting: Setting) -> None:
    before = torch.get_rng_state()
    with setting.learner() as learner:
        next(train(learner))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_learner_goes_on_from_its_state_on_another_setting(setting: Setting, cache: Path) -> None:
    config = config_of(cache, *RUNS["b"])
    with setting.learner(config) as learner:
        rows = train(learner)
        next(rows)
        state = learner.state()
    with setting.learner() as other:  # another run takes the adapter's name
        next(train(other))
        resumed: Learner = setting.learner(config)
        resumed.load_state(state)
        assert [without_times(row) for row in train(resumed)] == rows_alone(config)[1:]


def test_evaluate_gives_the_figures_of_a_policy(setting: Setting) -> None:
    figures = setting.evaluate(setting.reference)
    assert figures["win_rate_greedy"] == 50.0
    assert figures["true_kl_per_token"] == 0.0


@pytest.mark.parametrize("override", ["data.seed=1", "rollout.temperature=0.5", "rollout.engine=hf", "factuality=none"])
def test_a_run_that_reads_something_else_can_not_share_it(setting: Setting, cache: Path, override: str) -> None:
    section = override.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=section):
        setting.learner(config_of(cache, override))
    assert setting_key(config_of(cache, override)) != setting.key


def test_a_run_that_shares_it_is_checked_like_the_first(
    setting: Setting, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = config_of(cache, "regularizer=custom", "regularizer.function._target_=math.sqrt")
    with pytest.raises(ConfigError, match=r"regularizer\.function"):
        setting.learner(penalty)
    checked: list[Config] = []
    monkeypatch.setattr("rlhf.stages.setting.check_memory", lambda pipeline, config: checked.append(config))
    other = config_of(cache, *RUNS["a"])
    setting.learner(other).close()
    setting.learner(setting.config).close()  # which was checked before its stages were built
    assert checked == [other]


def test_the_setting_of_a_process_is_kept_for_runs_that_share_it(cache: Path) -> None:
    with lent_setting(config_of(cache)) as first:
        pass
    with lent_setting(config_of(cache, "regularizer=kl", "ppo.lr=0.1", "seed=5", "data.seed=0")) as second:
        assert second is first
    with lent_setting(config_of(cache, "rollout.temperature=0.5")) as third:
        assert third is not first
    with suppress(CheckError), lent_setting(config_of(cache, "rollout.temperature=0.5")) as same:
        assert same is third
        raise CheckError("it has diverged")
    with lent_setting(config_of(cache, "rollout.temperature=0.5")) as fresh:
        assert fresh is not third


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        ((), True),
        (("lora=full",), True),
        (("evaluation.temperature=0",), True),
        (("evaluation.best_of=2",), False),
        (("lora.path=somewhere",), False),
        (("regularizer=custom", "regularizer.function._target_=torch.sub"), False),  # whatever it says of equals
    ],
    ids=str,
)
def test_the_start_is_known_where_the_policy_is_the_sft_model(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], known: bool
) -> None:
    setting, evaluator = Setting.__new__(Setting), Evaluator.__new__(Evaluator)
    setting.pipeline = Pipeline(configure("experiment=smoke", *overrides))
    object.__setattr__(evaluator, "config", setting.pipeline.config)
    baseline = Baseline([Response([7, 2], "own", True)], [[Response([8], "other", False)]], [], {})
    monkeypatch.setattr(setting.pipeline, "load_baseline", lambda: baseline)
    measured = {"own": {"win_rate": 50.0}, "scores": [0.25], "controls": {}}
    monkeypatch.setattr(setting.pipeline, "measured_baseline", lambda evaluator: measured)
    start = setting.evaluation_at_start(evaluator)
    assert (start is not None) == known
    assert start is None or (start.figures, start.responses, start.scores) == ({"win_rate": 50.0}, baseline.own, [0.25])
