"""`hydra/launcher=local`, as a user meets it: real runs in miniature, several at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.launch.cancel import cancel
from rlhf.process.identity import find
from rlhf.storage.files import read_json
from rlhf.storage.runs import find_runs, read_run
from tests.configure import composed
from tests.launch.processes import until
from tests.terminal import CTRL_C, Terminal
from tests.test_cli import command, error

LOCAL = ("-m", "hydra/launcher=local", "experiment=smoke", "device=cpu")
SWEEP = Path("outputs/sweeps/multirun")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_the_settings_are_those_of_the_file() -> None:
    launcher = composed("hydra/launcher=local", with_hydra=True).hydra.launcher
    assert launcher == {
        "_target_": "hydra_plugins.rlhf_launcher.LocalLauncher",
        "wait": True,
        "parallel": None,
        "gpus_per_run": 1,
        "threads": 1,
    }


def test_a_setting_that_cannot_be_used_is_told_before_any_work(tmp_path: Path) -> None:
    done = command(*LOCAL, "hydra.launcher.parallel=0", "seed=0,1", cwd=tmp_path)
    assert error(done).startswith("hydra.launcher.parallel=0 is not allowed")
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
def test_a_sweep_of_which_one_fails(tmp_path: Path) -> None:
    done = command(*LOCAL, "ppo.steps=1", "checks.min_accuracy=1.0,0.0", "hydra.launcher.parallel=2", cwd=tmp_path)
    names = [f"checks.min_accuracy={least},device=cpu,experiment=smoke,ppo.steps=1" for least in ("1.0", "0.0")]
    bad, good = (read_run(tmp_path / SWEEP / name) for name in names)
    assert (good.state, bad.state) == ("done", "failed")
    message = error(done)
    assert message.startswith(f"1 of 2 runs in {tmp_path / SWEEP} did not get done:\n  {names[0]}: failed, ")
    assert "the reward model ranks" in message
    assert message.strip().endswith(f"; log: {bad.log}")
    assert bad.log is not None
    assert "the reward model ranks" in bad.log.read_text()
    lines = done.out.splitlines()
    assert lines.index("running checks.min_accuracy=0.0") < lines.index(
        f"done checks.min_accuracy=0.0: greedy win rate {good.win_rate:.1f} ± {good.win_rate_se:.1f} %"
    )
    assert any(line.startswith("failed checks.min_accuracy=1.0: the reward model ranks") for line in lines)
    assert (tmp_path / SWEEP / "launcher.log").read_text() == ""


@pytest.fixture
def stopped_at_the_end(tmp_path: Path) -> Iterator[None]:
    """Whatever the test leaves at work here is ended."""
    yield
    list(cancel([read_run(path) for path in find_runs([tmp_path])]))


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_at_the_end")
def test_ctrl_c_has_the_runs_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """First in the background, where its process is asked to end; then on a terminal."""
    sweep = (*LOCAL, "ppo.steps=1000", "evaluation.every=0")
    run = tmp_path / SWEEP / "device=cpu,evaluation.every=0,experiment=smoke,ppo.steps=1000"
    started = command(*sweep, "hydra.launcher.wait=false", cwd=tmp_path)
    assert (started.code, started.err) == (0, "")
    assert f"follow: python -m rlhf.status {tmp_path / SWEEP}" in started.out
    assert read_run(run).state in ("pending", "running")
    until(lambda: (read_run(run).step or 0) >= 2, 120.0)
    process = find(read_json(run / "job.json"))
    assert process is not None
    process.terminate()
    until(lambda: read_run(run).state == "preempted")
    step = read_run(run).step
    terminal = Terminal("rlhf.run", *sweep, cwd=tmp_path)
    terminal.until(rf"running +(?!{step}/)\d+/1000", 120.0)  # it goes on from there
    terminal.press(CTRL_C)
    assert terminal.wait() == 130
    assert "stopping: the runs save and end; Ctrl-C again kills them" in terminal.shown
    assert "stopped; the same command goes on from there" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert read_run(run).state == "preempted"
    assert (read_run(run).step or 0) > (step or 0)
