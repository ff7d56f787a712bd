"""The commands that make runs again, from the overrides that their directories hold."""

from rlhf.report.commands import command
from rlhf.report.load import Run
from rlhf.storage.rundir import MadeBy


def made(*overrides: str, config: str = "config", world: int = 0, seed: int = 0) -> Run:
    made_by = MadeBy(config=config, overrides=list(overrides))
    return Run("", {"data.seed": world, "seed": seed}, {}, [], None, made_by)


def test_overrides_are_given_again_with_the_seeds_that_the_runs_had() -> None:
    run = made("regularizer=kl", "lora.r=16", "seed=1", seed=1)
    assert command([run]) == "python -m rlhf.run regularizer=kl lora.r=16 data.seed=0 seed=1"


def test_a_sweeps_file_is_named() -> None:
    run = made("regularizer=kl", config="settings", world=24)
    assert command([run]) == "python -m rlhf.run -cn settings regularizer=kl data.seed=24 seed=0"


def test_what_a_shell_would_take_apart_is_quoted() -> None:
    assert "'data.root=/some where'" in command([made("data.root=/some where")])


def test_a_run_that_no_command_made_has_none() -> None:
    assert command([Run("", {"data.seed": 0, "seed": 0}, {}, [], None)]) == ""


def test_seeds_become_one_sweep_or_a_line_for_each_kind_of_world() -> None:
    full = [made("lora.r=4", world=world, seed=seed) for world in (0, 1) for seed in (0, 1)]
    assert command(full) == "python -m rlhf.run -m lora.r=4 data.seed=0,1 seed=0,1"
    assert command(full[:3]).splitlines() == [
        "python -m rlhf.run -m lora.r=4 data.seed=0 seed=0,1",
        "python -m rlhf.run lora.r=4 data.seed=1 seed=0",
    ]
