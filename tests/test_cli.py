"""The command line, as a user meets it: `python -m rlhf.run` in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def command(*arguments: object, cwd: Path = ROOT) -> Done:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    process = subprocess.run(
        [sys.executable, "-m", "rlhf.run", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Done(process.returncode, process.stdout, process.stderr)


def error(done: Done) -> str:
    """The message that ends a command in error: nothing follows it, and no trace comes before it."""
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    before, separator, message = f"\n{done.err}".rpartition("\nerror: ")
    assert separator
    assert "\nerror: " not in before
    return message


def times(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in path.rglob("*") if file.suffix == ".json"}


@dataclass(frozen=True)
class Sweep:
    """`-m regularizer=none,kl` with an empty cache."""

    arguments: tuple[str, ...]
    folder: Path
    cache: Path
    done: Done

    def run(self, regularizer: str) -> Path:
        (path,) = self.folder.glob(f"*regularizer={regularizer}*")
        return path

    def metrics(self, regularizer: str) -> dict[str, Any]:
        return json.loads((self.run(regularizer) / "metrics.json").read_text())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    runs, cache = folder / "runs", folder / "cache"
    arguments = (
        "-m",
        "experiment=smoke",
        "tracker=none",
        f"cache_dir={cache}",
        f"hydra.sweep.dir={runs}",
        "regularizer=none,kl",
    )
    return Sweep(arguments, runs, cache, command(*arguments))


def test_help_names_the_groups_and_examples() -> None:
    done = command("--help")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [group for group in GROUPS if not any(line.startswith(f"{group}: ") for line in lines)] == []
    assert "algorithm: best_of_n, grpo, ppo, reinforce, rloo" in lines
    [forms] = [line.removeprefix("regularizer: ").split(", ") for line in lines if line.startswith("regularizer: ")]
    assert forms == sorted(path.stem for path in (ROOT / "conf" / "regularizer").glob("*.yaml"))
    assert {"bregman", "custom", "dropout_only", "full_kl", "js", "none"} <= set(forms)
    assert "  python -m rlhf.run regularizer=kl lora.r=4 " in done.out


def test_cfg_job_prints_the_configuration_and_runs_nothing(tmp_path: Path) -> None:
    done = command("--cfg", "job", "regularizer=js", "lora.r=4", f"hydra.run.dir={tmp_path}/run")
    assert (done.code, done.err) == (0, "")
    shown = yaml.safe_load(done.out)
    assert shown.keys() >= set(GROUPS) - {"experiment"}
    coef = yaml.safe_load((ROOT / "conf" / "regularizer" / "js.yaml").read_text())["coef"]
    assert (shown["regularizer"]["name"], shown["regularizer"]["coef"], shown["lora"]["r"]) == ("js", coef, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "regularizer.coeff=0.2",
            "regularizer.coeff is not allowed: there is no such key; did you mean",
        ),
        ("+regularizer.coeff=0.2", "there is no such key; did you mean regularizer.coef?"),
        ("regularizer=jensen", "Could not find 'regularizer/jensen'"),
        ("regularizer.coef=-1", "regularizer.coef=-1.0 is not allowed: must be 0 or greater"),
        ("value.init=nothing", "value.init=nothing is not allowed: choose one of reward, backbone, zero"),
        ("lora=full model.dtype=bfloat16", "model.dtype=bfloat16 is not allowed: lora=full and lora.dora need"),
        ("value=adapter reward=full", "value.init=reward is not allowed: the value adapter copies the reward adapter"),
        (
            "lora.r=eight",
            "Error merging override lora.r=eight: Value 'eight' of type 'str'",
        ),
        ("lora.r", "Error parsing override 'lora.r'"),
        ("data=alpaca_farm", "data.root=??? is not allowed: has no default; set it"),
        ("regularizer=custom", "regularizer.function._target_=??? is not allowed: has no default; set it"),
        ("algorithm=rloo value=head", "value=head is not allowed: algorithm=rloo has none: use value=none"),
        # the keyword passes, and what is wrong is another key
        (
            "regularizer=custom regularizer.function._target_=torch.sub +regularizer.function.alpha=2 lora.r=0",
            "lora.r=0 is not allowed: must be greater than 0",
        ),
    ],
)
def test_a_mistake_is_told_in_a_few_lines_and_leaves_nothing(tmp_path: Path, override: str, message: str) -> None:
    done = command(*override.split(), f"hydra.run.dir={tmp_path}/run", f"cache_dir={tmp_path}/cache")
    assert message in error(done)
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    options = error(command("regularizer=jensen", f"hydra.run.dir={tmp_path}/run")).split()
    assert {"bregman", "clamped_kl", "js", "kl", "negative_kl", "none", "squared_error"} <= set(options)


def test_a_sweep_makes_a_directory_for_each_run(sweep: Sweep) -> None:
    assert sweep.done.code == 0
    assert len([path for path in sweep.folder.iterdir() if path.is_dir()]) == 2
    for name in ("none", "kl"):
        assert sweep.metrics(name)["regularizer"] == name
        assert json.loads((sweep.run(name) / "status.json").read_text())["state"] == "done"
    assert sweep.metrics("none")["coef"] == 0.0


def test_a_sweep_trains_what_its_runs_share_once(sweep: Sweep) -> None:
    for stage in ("pretrain", "sft", "reward", "baseline"):
        assert sweep.done.out.count(f"\n{stage}: built in ") == 1
        assert sweep.done.out.count(f"\n{stage}: from the cache") == 1
        assert len([path for path in sweep.cache.glob(f"{stage}-*") if path.is_dir()]) == 1


def test_a_sweep_given_again_runs_nothing(sweep: Sweep) -> None:
    before = times(sweep.folder) | times(sweep.cache)
    done = command(*sweep.arguments)
    assert done.code == 0
    assert times(sweep.folder) | times(sweep.cache) == before
    assert done.out.count(": done already") == 2
    assert "ppo 1/3" not in done.out


def test_a_run_by_itself_gives_the_figures_it_gives_in_a_sweep(sweep: Sweep, tmp_path: Path) -> None:
    """In the sweep it came second in its process, after a run that trained every stage; here all are in the cache."""
    arguments = ("experiment=smoke", f"cache_dir={sweep.cache}", f"hydra.run.dir={tmp_path}/run", "regularizer=kl")
    done = command(*arguments)
    assert done.code == 0
    alone, in_sweep = json.loads((tmp_path / "run" / "metrics.json").read_text()), sweep.metrics("kl")
    of_the_process = {"seconds": None, "memory": None}
    assert alone | of_the_process == in_sweep | of_the_process
    assert "built in" not in done.out
    assert f"{tmp_path}/run: done\n" in done.out
    assert "win rate, greedy" in done.out


def test_one_bad_run_does_not_stop_the_others(sweep: Sweep, tmp_path: Path) -> None:
    done = command(
        *("-m", "experiment=smoke", f"cache_dir={sweep.cache}", f"hydra.sweep.dir={tmp_path}/runs"),
        "regularizer.coef=-1,0.2",
    )
    assert error(done).startswith("regularizer.coef=-1.0 is not allowed")
    assert " failed: regularizer.coef=-1.0 is not allowed" in done.out
    (path,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert "regularizer.coef=0.2" in path.name
    assert json.loads((path / "status.json").read_text())["state"] == "done"
    assert json.loads((path / "metrics.json").read_text())["coef"] == 0.2


def test_one_run_that_fails_on_its_way_does_not_stop_the_others(sweep: Sweep, tmp_path: Path) -> None:
    done = command(
        *("-m", "experiment=smoke", f"cache_dir={sweep.cache}", f"hydra.sweep.dir={tmp_path}/runs"),
        *("ppo.steps=1", "checks.min_accuracy=1.0,0.0"),
    )
    accuracy = sweep.metrics("kl")["stages"]["reward"]["accuracy"]
    message = error(done)
    assert f"the reward model ranks {100 * accuracy:.1f} %" in message
    states = {}
    for path in (tmp_path / "runs").glob("*/status.json"):
        status = json.loads(path.read_text())
        states["=1.0" in path.parent.name] = (status["state"], status["reason"])
    assert states == {True: ("failed", message.strip()), False: ("done", None)}


def test_missing_data_is_named(tmp_path: Path) -> None:
    done = command(
        *("data=alpaca_farm", f"data.root={tmp_path}/nowhere", f"cache_dir={tmp_path}/cache"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert error(done).strip() == f"data.root: there is no folder {tmp_path}/nowhere"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_directories_are_named_by_sweep_and_overrides_alone(sweep: Sweep, tmp_path: Path) -> None:
    """Where nothing is said about them: a sweep of sweeps/, one of the command line, and a run by itself."""
    shared = ("experiment=smoke", f"cache_dir={sweep.cache}", "ppo.steps=0", "evaluation.prompts=2")
    named = command(
        *("-cd", ROOT / "sweeps", "-cn", "regularizers", "regularizer=none,js", "data.seed=0", "seed=0", *shared),
        cwd=tmp_path,
    )
    unnamed = command("-m", "lora.r=2,4", *shared, cwd=tmp_path)
    alone = command("lora.r=2", "experiment=smoke", "ppo.steps=0", f"cache_dir={sweep.cache}", cwd=tmp_path)
    assert [named.code, unnamed.code, alone.code] == [0, 0, 0]
    outputs = tmp_path / "outputs"
    found = [str(path.parent.relative_to(outputs)) for path in outputs.rglob("metrics.json")]
    assert len(found) == 5
    assert sum(name.startswith("sweeps/regularizers/") for name in found) == 2
    assert sum(name.startswith("sweeps/multirun/") for name in found) == 2
    assert sum(name.startswith("runs/") for name in found) == 1
