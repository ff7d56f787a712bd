"""The commands that run settings again, checked by composing conf/ with them."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from rlhf.compose import run_name
from rlhf.report.commands import Command, Commands, named_overrides, value_of, written
from rlhf.report.load import Leaf, Run, effective, flatten
from tests.configure import configure


@pytest.fixture(scope="module")
def commands() -> Commands:
    return Commands()


def made(*overrides: str, name: str | None = None) -> Run:
    """A run as that command line makes it, in a directory of the usual name or another."""
    config = effective(flatten(asdict(configure(*overrides))))
    return Run(f"outputs/{run_name(list(overrides)) if name is None else name}", config, {}, [], None)


def test_a_directory_name_is_enough(commands: Commands) -> None:
    run = made("regularizer=kl", "lora.r=16", "seed=1", "data.seed=0")
    assert commands.of([run]) == Command("python -m rlhf.run lora.r=16 regularizer=kl data.seed=0 seed=1", True)


def test_a_name_that_tells_nothing_gives_way_to_what_differs(commands: Commands) -> None:
    run = made("regularizer.strength=3", "ppo.steps=7", name="mine")
    text = "python -m rlhf.run regularizer.strength=3.0 ppo.steps=7 data.seed=0 seed=0"
    assert commands.of([run]) == Command(text, True)


def test_a_name_that_lies_is_not_believed(commands: Commands) -> None:
    run = made("ppo.steps=7", name="ppo.steps=9")
    assert commands.of([run]).text == "python -m rlhf.run ppo.steps=7 data.seed=0 seed=0"


def test_all_weights_have_their_own_learning_rate(commands: Commands) -> None:
    run = made("lora=full", "ppo.lr_full=0.123", name="mine")
    command = commands.of([run])
    assert command.checked
    assert "ppo.lr_full=0.123" in command.text
    assert "lora.r=null" in command.text


def test_other_data_is_chosen_by_its_file(commands: Commands) -> None:
    run = made("data=alpaca_farm", "data.root=/some where", name="mine")
    command = commands.of([run])
    assert command.checked
    words = shlex.split(command.text)
    assert words[3:5] == ["data=alpaca_farm", "data.root='/some where'"]


def test_a_run_of_settings_that_are_gone_is_not_checked(commands: Commands) -> None:
    run = made("regularizer=kl")
    gone: dict[str, Leaf] = {**run.config, "ppo.magic": 3}
    assert commands.of([Run(run.path, gone, {}, [], None)]).checked is False


def test_seeds_become_one_sweep_or_a_line_for_each_kind_of_world() -> None:
    def at(world: int, seed: int) -> Run:
        return Run("", {"data.seed": world, "seed": seed}, {}, [], None)

    full = [at(world, seed) for world in (0, 1) for seed in (0, 1)]
    assert written(["lora.r=4"], full) == "python -m rlhf.run -m lora.r=4 data.seed=0,1 seed=0,1"
    assert written([], full[:3]) == (
        "python -m rlhf.run -m data.seed=0 seed=0,1\npython -m rlhf.run data.seed=1 seed=0"
    )


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("default", []),
        ("lora.r=8,regularizer=js,seed=3", ["lora.r=8", "regularizer=js"]),
        ("a=1,2,seed=0", ["a=1,2"]),
        ("lora.target_modules=-q_proj-01234567", None),  # cut and hashed
        ("my-run", None),
    ],
)
def test_overrides_in_a_name(name: str, overrides: list[str] | None) -> None:
    assert named_overrides(name) == overrides


def test_values_as_hydra_reads_them() -> None:
    leaves: list[Leaf] = [None, True, 3, 0.5, "js", "a b", "it's", '["q", "v"]']
    assert [value_of(leaf) for leaf in leaves] == ["null", "true", "3", "0.5", "js", "'a b'", r"'it\'s'", '["q", "v"]']


def test_conf_is_where_the_runs_compose_from() -> None:
    assert (Commands().conf / "config.yaml").exists()
    assert Commands(Path("/nowhere")).compose(()) is None
