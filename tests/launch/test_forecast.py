"""The forecast before a sweep, from run directories made by hand."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlhf.launch.forecast import COST_KEYS, SweepCost, duration, finished_runs, forecast, is_done, sweep_jobs
from rlhf.storage.files import write_json
from rlhf.storage.rundir import RunDirectory
from tests.configure import CONF, configure

SWEEP = Path("outputs/sweeps/multirun")
NOTHING = "no finished run of this kind to estimate from; the first will tell"
APART = "apart from shared stages (built once per world)"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def sweep(*overrides: str, file: Path = CONF / "config.yaml") -> Iterator[DictConfig]:
    """The configuration that Hydra hands to callbacks before a sweep."""
    arguments = ["hydra.mode=MULTIRUN", f"hydra.searchpath=[file://{CONF}]", *overrides]
    with initialize_config_dir(str(file.parent), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader.load_configuration(file.stem, arguments, run_mode=RunMode.MULTIRUN)


def write_sweep(folder: Path, params: dict[str, str]) -> Path:
    path = folder / "mine.yaml"
    hydra = {"mode": "MULTIRUN", "sweeper": {"params": params}}
    path.write_text(OmegaConf.to_yaml({"defaults": ["config", "_self_"], "hydra": hydra}))
    return path


def lines(*overrides: str) -> list[str]:
    with sweep("experiment=smoke", *overrides) as config:
        return forecast(config).splitlines()


smoke = cache(partial(configure, "experiment=smoke"))


def save(path: Path, *overrides: str, seconds: Any = 30.0, state: str = "done") -> Path:
    """A run's directory, `seconds` in all of which 10 went into evaluation."""
    directory = RunDirectory(path)
    directory.open(smoke(*overrides))
    write_json(path / "metrics.json", {"seconds": {"pretrain": 500.0, "ppo": seconds - 10, "evaluation": 10.0}})
    directory.set_status(state)
    return path


@pytest.mark.parametrize(
    ("overrides", "runs", "responses"),
    [(["regularizer=none,kl", "seed=0,1,2"], "6 runs", 144), (["seed=1"], "1 run", 24)],
)
def test_a_sweep_without_history(overrides: list[str], runs: str, responses: int) -> None:
    count = runs.split()[0]
    assert lines(*overrides) == [
        f"sweep multirun: {runs} in outputs/sweeps/multirun, 0 of them done already, {count} to go",
        f"{count} x 3 steps x 8 responses = {responses} responses",
        NOTHING,
    ]


def test_options_may_be_chosen_by_a_pattern() -> None:
    options = len(list((CONF / "lora").glob("*.yaml")))
    assert lines("lora=glob(*)")[0].startswith(f"sweep multirun: {options} runs in ")


def test_the_command_line_wins_over_the_sweep_s_file(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, {"regularizer": "none,kl,js", "seed": "0,1", "lora.r": "4"})
    with sweep("seed=7", "ppo.epochs=1,2", file=file) as config:
        jobs = sweep_jobs(config)
    assert len(jobs) == 6
    assert jobs[0] == ["regularizer=none", "seed=7", "lora.r=4", "ppo.epochs=1"]


def test_runs_that_are_done_are_not_counted_again() -> None:
    save(SWEEP / "experiment=smoke,regularizer=none,seed=0")
    save(SWEEP / "experiment=smoke,regularizer=none,seed=1", "seed=1", state="failed")
    save(SWEEP / "experiment=smoke,regularizer=kl,seed=0", "regularizer=kl", state="running")
    save(SWEEP / "experiment=smoke,regularizer=js,seed=0", "regularizer=js")
    first, second, _ = lines("regularizer=none,kl", "seed=0,1")
    assert first == f"sweep multirun: 4 runs in {SWEEP}, 1 of them done already, 3 to go"
    assert second == "3 x 3 steps x 8 responses = 72 responses"
    all_done = f"sweep multirun: 2 runs in {SWEEP}, 2 of them done already, 0 to go"
    assert lines("regularizer=none,js", "seed=0") == [all_done]


def test_the_estimate_is_the_median_of_this_sweep_and_of_what_lies_in_outputs() -> None:
    save(Path("elsewhere/experiment=smoke,seed=9"), "seed=9", seconds=20.0)
    save(Path("outputs/runs/one"), "regularizer=kl", "lora.r=4", seconds=30.5)
    save(Path("outputs/sweeps/other/one"), "regularizer.coef=0.3", "ppo.lr=1e-3", seconds=500.0)
    save(Path("outputs/sweeps/other/two"), seconds=2.0, state="failed")
    assert lines("seed=0,1,2,3", "hydra.sweep.dir=elsewhere") == [
        "sweep elsewhere: 4 runs in elsewhere, 0 of them done already, 4 to go",
        "4 x 3 steps x 8 responses = 96 responses",
        f"about 31 s a run by 3 finished runs of this kind here, so about 2 min one after another, {APART}",
    ]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["array_parallelism=2"], "about 2 min with 2 at a time"),  # four runs of a minute
        (["runs_per_job=4"], "about 4 min with 1 at a time"),
        (["runs_per_job=4", "runs_per_gpu=2", "gpus_per_node=1"], "0.0 GPU hours, about 2 min with 2 at a time"),
        (["gpus_per_node=2", "max_submit=1"], "0.1 GPU hours, about 4 min with 1 at a time"),
    ],
)
def test_on_a_cluster_the_throttle_decides(overrides: list[str], told: str) -> None:
    save(Path("outputs/runs/one"), seconds=60.0)
    given = [f"hydra.launcher.{override}" for override in overrides]
    found = lines("seed=0,1,2,3", "hydra/launcher=slurm", *given)[-1]
    assert found == f"on the cluster: {told}, apart from waiting in the queue"


def test_a_run_of_this_sweep_is_counted_once() -> None:
    save(SWEEP / "experiment=smoke,seed=0", seconds=30.0)
    assert lines("seed=0,1")[-1].startswith("about 30 s a run by 1 finished run of this kind here, so about 30 s one")


@pytest.mark.parametrize(
    ("seconds", "each", "total"),
    [(10.2, "11 s", "21 s"), (60.0, "60 s", "2 min"), (720.0, "12 min", "24 min"), (9000.0, "2.5 h", "5.0 h")],
)
def test_times_are_told_in_a_fitting_unit(seconds: float, each: str, total: str) -> None:
    save(Path("outputs/runs/one"), seconds=seconds)
    finding = "by 1 finished run of this kind here"
    assert lines("seed=3,4")[-1] == f"about {each} a run {finding}, so about {total} one after another, {APART}"


@pytest.mark.parametrize("key", COST_KEYS)
def test_a_run_of_another_kind_tells_nothing(key: str) -> None:
    path = save(SWEEP / "one") / "config.yaml"
    ((kind, seconds),) = finished_runs(SWEEP)
    assert duration([kind], [(kind, seconds)]).startswith("about 30 s a run")
    saved = OmegaConf.load(path)
    OmegaConf.update(saved, "model.layers" if key == "model" else key, 77)
    OmegaConf.save(saved, path)
    assert duration([kind], list(finished_runs(SWEEP))) == NOTHING


def test_each_run_is_estimated_by_its_own_kind() -> None:
    save(Path("outputs/runs/two"), "ppo.steps=2", seconds=20.0)
    save(Path("outputs/runs/four"), "ppo.steps=4", seconds=40.0)
    assert lines("ppo.steps=2,4", "seed=0,1")[1:] == [
        "4 runs of different length, 96 responses in all",
        f"about 30 s a run by 2 finished runs of this kind here, so about 2 min one after another, {APART}",
    ]


def test_only_some_runs_can_be_estimated() -> None:
    """And best of n samples nothing in training."""
    save(Path("outputs/runs/ppo"), seconds=40.0)
    basis = "by 1 finished run of this kind here"
    assert lines("algorithm=ppo,best_of_n", "seed=0,1")[1:] == [
        "4 runs of different length, 48 responses in all",
        f"about 80 s one after another for 2 of them {basis}, {APART}; nothing to estimate the others from",
    ]


def test_what_the_sweep_s_file_sets_counts(tmp_path: Path) -> None:
    """Hydra composes a sweep's configuration without `hydra.sweeper.params`."""
    save(Path("outputs/runs/one"), "ppo.steps=2", "evaluation.prompts=8", seconds=20.0)
    file = write_sweep(tmp_path, {"experiment": "smoke", "ppo.steps": "2", "evaluation.prompts": "8", "seed": "0,1"})
    with sweep(file=file) as config:
        assert forecast(config).splitlines() == [
            "sweep mine: 2 runs in outputs/sweeps/mine, 0 of them done already, 2 to go",
            "2 x 2 steps x 8 responses = 32 responses",
            f"about 20 s a run by 1 finished run of this kind here, so about 40 s one after another, {APART}",
        ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("metrics.json", content) for content in (None, b"", b"{", b"[]", b"7", b"{}", b"\xff")),
        *(("metrics.json", b'{"seconds": %s}' % content) for content in (b"null", b"7", b'{"ppo": 10}')),
        *(("metrics.json", b'{"seconds": {"ppo": %s, "evaluation": 10}}' % ppo) for ppo in (b"null", b'"x"', b"NaN")),
        *(("config.yaml", content) for content in (None, b"", b"a: [", b"7", b"- 7", b"\xff", b"model: 7")),
        *(("config.yaml", b"model: {layers: '%s'}" % content) for content in (b"${nowhere}", b"${")),
        *(("status.json", content) for content in (None, b"", b"{", b"[]", b"7", b"{}", b"\xff")),
    ],
)
def test_a_malformed_directory_is_passed_over(name: str, content: bytes | None) -> None:
    sound = save(SWEEP / "experiment=smoke,seed=0", seconds=20.0)
    other = save(SWEEP / "experiment=smoke,seed=1", "seed=1", seconds=60.0)
    assert sorted(seconds for _, seconds in finished_runs(SWEEP)) == [20.0, 60.0]
    (other / name).unlink() if content is None else (other / name).write_bytes(content)
    (kind,) = (kind for kind, seconds in finished_runs(SWEEP) if seconds == 20.0)
    assert duration([kind], list(finished_runs(SWEEP))).startswith("about 20 s a run by 1 finished run")
    assert [is_done(sound), is_done(other)] == [True, name != "status.json"]


def test_another_sweeper_decides_itself() -> None:
    with sweep("hydra.sweeper._target_=hydra_plugins.optuna.OptunaSweeper", "seed=0,1") as config:
        expected = f"sweep multirun: runs in {SWEEP}; OptunaSweeper decides how many"
        assert forecast(config) == expected


def test_a_callback_prints_it_and_leaves_the_configuration_and_the_disk_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with sweep("experiment=smoke", "seed=0,1") as config:
        assert config.hydra.callbacks.cost._target_ == f"{SweepCost.__module__}.{SweepCost.__name__}"
        before = OmegaConf.to_container(config)
        SweepCost().on_multirun_start(config, config_name="config")
        assert OmegaConf.to_container(config) == before
        assert capsys.readouterr().out == forecast(config) + "\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("override", ["lora=all,typo", "seed=interval(0,1)"])
def test_what_can_t_be_composed_is_left_to_the_sweeper(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    with sweep(override) as config:
        SweepCost().on_multirun_start(config, config_name="config")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("override", ["seed=range(0)", "data.seed=range(3,3)", "regularizer=glob(nothing*)"])
def test_a_selection_of_nothing_is_refused(override: str) -> None:
    key = override.partition("=")[0]
    with sweep(override) as config, pytest.raises(SystemExit, match=rf"^error: {key}=.* it selects nothing"):
        SweepCost().on_multirun_start(config, config_name="config")
    assert list(Path().iterdir()) == []


def test_it_imports_no_torch() -> None:
    code = "import sys, rlhf.launch.launchers; print({'torch', 'transformers', 'peft', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
