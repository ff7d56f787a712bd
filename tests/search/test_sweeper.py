"""Sweeps that search: what they are refused for, what they are told of runs, and real ones by Optuna in miniature."""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.config.search import DIRECTIONS
from rlhf.errors import ConfigError, DataError
from rlhf.run import main
from rlhf.search.objective import figures_of, value_of
from rlhf.search.sweeper import check_search, directions, dominates
from rlhf.storage.files import write_json
from rlhf.storage.reader import read_made_by, read_metrics, read_status
from rlhf.storage.runs import find_runs
from tests.configure import composed, configure
from tests.search.runs import make_run, searched

with_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="needs hydra-optuna-sweeper")


def refusal(*overrides: str, **sweeper: Any) -> str:
    config = composed(*overrides, with_hydra=True)
    config.hydra.sweeper = {"_target_": "some.Sweeper", "direction": "maximize", **sweeper}
    with pytest.raises(ConfigError) as refused:
        check_search(config)
    return str(refused.value)


def test_a_search_needs_an_objective_a_direction_for_each_and_runs_that_are_waited_for() -> None:
    assert refusal().startswith("objective=None is not allowed: Sweeper searches by what runs return: choose of win_")
    assert refusal("objective=winrate").startswith("objective=winrate is not allowed: choose of win_rate_greedy, ")
    assert refusal("objective=[reward,reward]").endswith("is not allowed: null, or different figures")
    told = "is not allowed: one of maximize, minimize for each objective: "
    assert refusal("objective=reward", direction="up") == f"hydra.sweeper.direction=up {told}reward"
    one = refusal("objective=[reward,win_rate]")
    assert one == f"hydra.sweeper.direction=maximize {told}reward, win_rate"
    waits = refusal("objective=reward", "hydra/launcher=local", "hydra.launcher.wait=false")
    assert waits == "hydra.launcher.wait=False is not allowed: Sweeper waits for what runs return: true"
    pruned = refusal("objective=reward", "prune=asha", direction="minimize")
    assert pruned == "prune.direction=maximize is not allowed: the search is told to minimize"


@pytest.mark.parametrize(
    ("sweeper", "ways"),
    [
        ({"direction": ["minimize", "maximize"]}, ["minimize", "maximize"]),  # Optuna's, of several objectives
        ({"optim": {"maximize": True}}, ["maximize"]),  # Nevergrad's
        ({"ax_config": {"experiment": {"minimize": False}}}, ["maximize"]),
        ({"ax_config": {"experiment": {"minimize": True}}}, ["minimize"]),
    ],
)
def test_each_sweeper_says_its_direction_in_its_own_words(sweeper: dict[str, Any], ways: list[str]) -> None:
    config = composed("objective=reward", with_hydra=True)
    config.hydra.sweeper = {"_target_": "some.Sweeper", **sweeper}
    assert directions(config.hydra.sweeper) == ways
    assert {*ways} <= {*DIRECTIONS}


def test_a_run_is_beaten_by_what_is_as_good_in_all_and_better_in_one() -> None:
    assert dominates([1.0, 2.0], [1.0, 1.0])
    assert not dominates([1.0, 1.0], [1.0, 1.0])
    assert not dominates([2.0, 0.0], [1.0, 1.0])


def test_what_a_run_is_worth(tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", searched("prune=asha"), {5: 3.0, 40: 1.0}, state="done").path
    pruned = make_run(tmp_path / "pruned", searched("prune=asha"), {5: 2.0, 10: 2.5}, state="pruned").path
    assert value_of(done, searched()) == 1.0
    assert value_of(done, searched("objective=[win_rate,reward]")) == [50.0, 1.0]
    assert value_of(done, searched("objective=null")) is None
    assert value_of(pruned, searched("prune=asha")) == 1.0  # it may not beat a run that was not stopped before it fell
    assert value_of(pruned, searched("prune=asha", "prune.direction=minimize")) == 2.5
    unjudged = make_run(tmp_path / "unjudged", searched("prune=asha"), {40: 9.0}, state="done").path
    write_json(unjudged / "metrics.json", read_metrics(unjudged) | {"reward": None})
    assert value_of(pruned, searched("prune=asha")) == 1.0
    with pytest.raises(DataError, match="done: objective=factuality is not known: it has no value"):
        value_of(done, searched("objective=factuality"))


# ---- Real searches. --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which searches share their stages."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def search(name: str, *overrides: str) -> None:
    own = ("-m", "hydra/sweeper=optuna", "experiment=smoke", "evaluation.split=tune", "tracker=none", "device=cpu")
    trials = ("hydra.sweeper.n_jobs=1", f"name={name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rlhf run", *own, *trials, *overrides])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)  # as the command before this one has left it
        main()


def results(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(f"outputs/sweeps/{name}/optimization_results.yaml").read_text())


@with_optuna
@pytest.mark.slow
def test_a_stopped_search_goes_on_from_its_storage_and_is_told_what_failed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import optuna

    ways = ("objective=reward", "hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1")
    kept = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=one")
    for trials, seed in ((2, 0), (1, 2)):  # by which both values are tried, and one again
        sampled = (f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.sampler.seed={seed}")
        search("one", *ways, *kept, *sampled, "checks.min_accuracy=choice(0.0,1.0)")
    study = optuna.load_study(study_name="one", storage="sqlite:///study.db")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    told = capsys.readouterr().out
    assert "the reward model ranks" in told  # why the other has failed
    [run] = Path("outputs/sweeps/one").glob("checks.min_accuracy=0.0*")
    assert results("one")["best_value"] == value_of(run.resolve(), searched())
    assert read_made_by(run)["sweeper"].endswith(".OptunaSweeper")  # type: ignore[index]
    [report] = {line for line in told.splitlines() if "report it" in line}
    overrides = "checks.min_accuracy=0.0 device=cpu experiment=smoke seed=1"
    assert report == f"  report it: rlhf run {overrides}"


@with_optuna
@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["hydra.sweeper.storage=sqlite:///no/such/folder/study.db"], r"hydra\.sweeper\.storage can't be used: .*"),
        (
            ["checks.min_accuracy=1.0", "hydra.sweeper.max_failure_rate=1"],
            "no trial of this search has gone to its end; why each has failed stands above",
        ),
    ],
    ids=["storage", "no trial"],
)
def test_a_search_that_can_not_end_says_why_in_a_line(place: Path, overrides: list[str], told: str) -> None:
    given = ("objective=reward", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=1", "ppo.lr=choice(0.001)")
    with pytest.raises(SystemExit) as ended:
        search("ended", *given, *overrides)
    assert re.fullmatch(f"error: {told}", str(ended.value))


@with_optuna
@pytest.mark.slow
def test_a_search_of_two_objectives_ends_with_those_that_none_beats(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("objective=[win_rate,true_kl_per_response]", "hydra.sweeper.direction=[maximize,minimize]")
    search("two", *both, "hydra.sweeper.n_trials=2", "ppo.lr=choice(0.001,0.02)", "hydra/sweeper/sampler=grid")
    found = {
        run: value_of(run.resolve(), searched("objective=[win_rate,true_kl_per_response]"))
        for run in find_runs([Path("outputs/sweeps/two")])
    }
    assert len(found) == 2
    assert sorted(each["values"] for each in results("two")["solutions"]) == sorted(  # a grid has no order
        value
        for value in found.values()
        if not any(other[0] >= value[0] and other[1] < value[1] for other in found.values())  # type: ignore[index]
    )
    assert capsys.readouterr().out.count("report it") == len(results("two")["solutions"])


@with_optuna
@pytest.mark.slow
def test_a_search_is_told_of_a_run_that_was_pruned(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune = ("prune=asha", "prune.first=2", "objective=reward", "evaluation.split=tune")
    sweep = place / "outputs" / "sweeps" / "pruned"
    make_run(sweep / "better", configure("experiment=smoke", *prune, "device=cpu"), {2: 1e3})
    grid = ("hydra.sweeper.direction=maximize", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=1")
    for _ in range(2):
        search("pruned", *prune, *grid, "ppo.lr=choice(0.001)")
    [run] = sweep.glob("*ppo.lr=0.001*")
    assert read_status(run)["state"] == "pruned"
    assert results("pruned")["best_value"] == figures_of(run)["reward"]
    told = capsys.readouterr().out
    assert "pruned: prune=asha: reward " in told
    assert "pruned already: prune=asha: reward " in told
    assert told.count("no run of this search has gone to its end") == 2
