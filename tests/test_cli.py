"""The command line as a user meets it: `rlhf COMMAND`, and `python -m rlhf.run` in a process of its own."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def command(*arguments: object, cwd: Path = ROOT, **more: str) -> Done:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | more
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


# ---- One command. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_page_has_a_line_for_each_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(purpose.strip() for _, purpose in lines)


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"^error: train .*run, resume"):
        main(["train"])


def show_help(module: str, *words: str) -> None:
    """`python -m MODULE WORDS --help`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words, "--help"])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_module(module, run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_a_command_is_also_a_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_help("rlhf", name)
    page = capsys.readouterr().out
    assert page.startswith("usage: ")
    show_help(COMMANDS[name].removesuffix(".__main__"))
    assert capsys.readouterr().out == page


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["benchmarks", "studies", "studies.ceiling", "studies.settings"])
def test_the_measurements_have_help(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_help(module)
    assert capsys.readouterr().out.startswith(f"usage: python -m {module}")


def test_help_of_a_run_names_the_groups_and_examples() -> None:
    done = command("--help")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [group for group in GROUPS if not any(line.startswith(f"{group}: ") for line in lines)] == []
    assert "algorithm: best_of_n, dr_grpo, grpo, gspo, ppo, reinforce, rloo" in lines
    [forms] = [line.removeprefix("regularizer: ").split(", ") for line in lines if line.startswith("regularizer: ")]
    assert forms == sorted(path.stem for path in (ROOT / "conf" / "regularizer").glob("*.yaml"))
    assert " regularizer=kl lora.r=4 " in done.out


def test_cfg_job_prints_the_configuration_and_runs_nothing(tmp_path: Path) -> None:
    done = command("--cfg", "job", "regularizer=kl", "lora.r=4", f"hydra.run.dir={tmp_path}/run")
    assert (done.code, done.err) == (0, "")
    shown = yaml.safe_load(done.out)
    assert shown.keys() >= set(GROUPS) - {"experiment"}
    assert (shown["regularizer"]["name"], shown["regularizer"]["coef"], shown["lora"]["r"]) == ("kl", 0.15, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("+regularizer.coeff=0.2", "there is no such key; did you mean regularizer.coef?"),
        ("regularizer=jensen", "\n\tbregman\n\tclamped_kl\n"),  # those that there are
        ("lora.r", "lora.r is no override: write KEY=VALUE"),
    ],
)
def test_a_mistake_is_a_message_of_a_few_lines_and_leaves_nothing(tmp_path: Path, overrides: str, message: str) -> None:
    done = command(*overrides.split(), f"hydra.run.dir={tmp_path}/run", f"cache_dir={tmp_path}/cache")
    assert message in error(done)
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_make_run_text_says_how_to_get_weights_where_there_are_none_and_no_network(tmp_path: Path) -> None:
    [given] = re.findall(r"rlhf run (-cn text_verifier \S+)", (ROOT / "Makefile").read_text())
    nowhere = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    done = command(*given.split(), cwd=tmp_path, **nowhere)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert f"`hf download {name} --local-dir DIR`, and give model.path=DIR" in error(done)
    assert done.out.count("the hub can't be reached") == 1
    assert list(tmp_path.rglob("status.json")) == []  # no run was begun


# ---- Sweeps. ------------------------------------------------------------------------------------------------------

STAGES = ("pretrain", "sft", "reward", "baseline")


@dataclass(frozen=True)
class Sweep:
    """The command `-m regularizer=none,kl` with an empty cache, and what it has left."""

    arguments: tuple[str, ...]
    folder: Path
    cache: Path
    done: Done

    def run(self, regularizer: str) -> Path:
        (path,) = self.folder.glob(f"*regularizer={regularizer}*")
        return path

    def metrics(self, regularizer: str) -> dict[str, Any]:
        return json.loads((self.run(regularizer) / "metrics.json").read_text())

    def times(self) -> dict[str, int]:
        files = [file for folder in (self.folder, self.cache) for file in folder.rglob("*.json")]
        return {str(file): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    runs, cache = folder / "runs", folder / "cache"
    shared = ("experiment=smoke", "tracker=none", f"cache_dir={cache}")
    arguments = ("-m", *shared, f"hydra.sweep.dir={runs}", "regularizer=none,kl")
    return Sweep(arguments, runs, cache, command(*arguments))


def test_a_sweep_makes_a_directory_for_each_run(sweep: Sweep) -> None:
    assert sweep.done.code == 0
    assert len([path for path in sweep.folder.iterdir() if path.is_dir()]) == 2
    for name in ("none", "kl"):
        assert sweep.metrics(name)["regularizer"] == name
        assert json.loads((sweep.run(name) / "status.json").read_text())["state"] == "done"
    assert sweep.metrics("none")["coef"] == 0.0


def test_a_sweep_trains_what_its_runs_share_once(sweep: Sweep) -> None:
    for stage in STAGES:
        assert sweep.done.out.count(f"\n{stage}: built in ") == 1
        assert len([path for path in sweep.cache.glob(f"{stage}-*") if path.is_dir()]) == 1


def test_a_sweep_given_again_runs_nothing(sweep: Sweep) -> None:
    before = sweep.times()
    done = command(*sweep.arguments)
    assert done.code == 0
    assert sweep.times() == before
    assert done.out.count(": done already") == 2
    assert "ppo 1/3" not in done.out


def test_a_run_by_itself_gives_the_figures_it_gives_in_a_sweep(sweep: Sweep, tmp_path: Path) -> None:
    """In the sweep it came second in its process, after a run that trained every stage; here all are in the cache."""
    shared = ("experiment=smoke", "tracker=none", f"cache_dir={sweep.cache}")
    done = command(*shared, f"hydra.run.dir={tmp_path}/run", "regularizer=kl")
    assert done.code == 0
    alone, in_sweep = json.loads((tmp_path / "run" / "metrics.json").read_text()), sweep.metrics("kl")
    of_the_process = {"seconds": None, "memory": None}
    assert alone | of_the_process == in_sweep | of_the_process
    assert [stage for stage in STAGES if f"{stage}: from the cache" not in done.out] == []
    assert "built in" not in done.out
    assert f"{tmp_path}/run: done\n" in done.out
    assert "win rate, greedy" in done.out


def test_runs_that_fail_do_not_stop_the_others(sweep: Sweep, tmp_path: Path) -> None:
    """One fails on its way, and one is done; where one could not be run at all, none begins."""
    shared = ("experiment=smoke", "tracker=none", f"cache_dir={sweep.cache}", "ppo.steps=1")
    swept = ("regularizer.coef=0.2", "checks.min_accuracy=1.0,0.0")
    refused = command("-m", *shared, f"hydra.sweep.dir={tmp_path}", "regularizer.coef=0.2,-1")
    assert error(refused).startswith("regularizer.coef=-1.0 is not allowed")
    assert list(tmp_path.iterdir()) == []
    done = command("-m", *shared, f"hydra.sweep.dir={tmp_path}", *swept)
    assert "the reward model ranks" in error(done)  # the first
    accuracy = 100 * sweep.metrics("kl")["stages"]["reward"]["accuracy"]
    assert f" failed: the reward model ranks {accuracy:.1f} %" in done.out
    states = {}
    for path in (path for path in tmp_path.iterdir() if path.is_dir()):
        status, made_by = (json.loads((path / f"{name}.json").read_text()) for name in ("status", "overrides"))
        assert "regularizer.coef=0.2" in made_by["overrides"]
        states["checks.min_accuracy=1.0" in made_by["overrides"]] = (status["state"], status["reason"])
    assert states[False] == ("done", None)
    assert states[True][0] == "failed"
    assert f"ranks {accuracy:.1f} %" in states[True][1]


def test_directories_are_named_by_sweep_and_overrides_alone(sweep: Sweep, tmp_path: Path) -> None:
    """Where nothing is said about them: a sweep of sweeps/, one of the command line, and a run by itself."""
    shared = ("experiment=smoke", "tracker=none", f"cache_dir={sweep.cache}", "ppo.steps=0", "evaluation.prompts=2")
    named = ("-cd", ROOT / "sweeps", "-cn", "regularizers", "regularizer=none,js", "data.seed=0", "seed=0")
    codes = [command(*words, *shared, cwd=tmp_path).code for words in (named, ("-m", "lora.r=2,4"), ("lora.r=2",))]
    assert codes == [0, 0, 0]
    folders = [path.parent.parent.relative_to(tmp_path / "outputs") for path in tmp_path.rglob("metrics.json")]
    assert sorted(map(str, folders)) == ["runs", *["sweeps/multirun"] * 2, *["sweeps/regularizers"] * 2]
