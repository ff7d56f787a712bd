"""Long work that is stopped anywhere and goes on computes what it computes undisturbed, to the last bit."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.errors import CheckError, Preempted
from rlhf.models.backbone import CPU, processor
from rlhf.process.signals import StopSignals
from rlhf.stages.fit import fit
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.progress import Pieces, Progress, Saver
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.files import read_json
from tests.configure import configure


class StopAt(StopSignals):
    """As if SIGHUP came before the boundary of the given number, counted from here."""

    def __init__(self, boundary: int) -> None:
        super().__init__()
        self.left = boundary

    @property
    def received(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.left -= 1
        return "SIGHUP" if self.left == 0 else None

    @received.setter
    def received(self, name: str | None) -> None:
        pass


@pytest.mark.parametrize(
    ("seconds", "cost", "saved"),
    [(0.0, 9.0, [1, 2, 3, 4, 5]), (25.0, 0.0, [3]), (1e3, 0.0, []), (1.0, 0.0, [1, 2, 3, 4, 5]), (1.0, 2.0, [4, 5])],
)
def test_so_long_at_least_between_two_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, cost: float, saved: list[int]
) -> None:
    """And so long that saving takes a twentieth of the time: 40 s after one that took 2."""
    steps: list[int] = []
    clock = iter(range(0, 10_000, 10))  # looked at before the first, at each boundary, and after saving
    monkeypatch.setattr("rlhf.stages.progress.save_checkpoint", lambda folder, step, state: steps.append(step))
    monkeypatch.setattr("rlhf.stages.progress.time.monotonic", lambda: float(next(clock)))
    saver = Saver(tmp_path, StopSignals(), seconds)
    saver.cost = cost
    for step in range(1, 6):
        saver.boundary(step, dict)
    assert steps == saved


def test_a_nodes_disk_has_what_is_newer_and_another_node_what_was_copied(tmp_path: Path) -> None:
    def saver(node: str, stop: StopSignals | None = None) -> Saver:
        return Saver(tmp_path / "checkpoint", stop or StopSignals(), 1e3, disk=str(tmp_path / node))

    first = saver("one")
    assert first.load() is None
    first.save(1, lambda: {"step": 1}, last=False)
    assert load_checkpoint(tmp_path / "checkpoint") is None
    assert saver("two").load() is None
    again = saver("one", StopAt(1))
    assert again.load() == {"step": 1}
    again.save(2, lambda: {"step": 2}, last=False)
    assert saver("two").load() == {"step": 1}
    with pytest.raises(Preempted):
        again.boundary(3, lambda: {"step": 3})
    assert saver("two").load() == {"step": 3}


def test_a_signal_saves_at_the_next_boundary_and_ends_the_work(tmp_path: Path) -> None:
    saver = Saver(tmp_path, StopAt(3), 1e3)
    saver.boundary(1, dict)
    saver.boundary(2, dict)
    assert saver.load() is None
    with pytest.raises(Preempted) as stopped:
        saver.boundary(3, lambda: {"step": 3})
    assert (stopped.value.reason, stopped.value.code, stopped.value.by_user) == ("SIGHUP", 129, True)
    assert saver.load() == {"step": 3}


def test_work_that_goes_on_elsewhere_says_that_it_may_round_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Saver(tmp_path, StopSignals(), 1e3).save(1, lambda: {"step": 1}, last=True)
    assert Saver(tmp_path, StopSignals(), 1e3).load() == {"step": 1}
    assert not caplog.records
    monkeypatch.setattr("rlhf.stages.progress.processor", lambda device: f"abacus ({device.type})")
    assert Saver(tmp_path, StopSignals(), 1e3).load() == {"step": 1}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"goes on on abacus (cpu), was saved on {processor(CPU)}: ")


def test_pieces_that_are_known_are_not_computed_again() -> None:
    computed: list[int] = []
    pieces = Pieces(lambda: None, ["a", "b"])
    assert [pieces(lambda place=place: computed.append(place) or "c") for place in range(3)] == ["a", "b", "c"]
    assert computed == [2]
    pieces.begin()
    assert pieces(lambda: "other") == "a"
    pieces.clear()
    assert pieces(lambda: "other") == "other"


@dataclass
class Settings:
    lr: float = 0.1
    warmup_steps: int = 2
    weight_decay: float = 0.1


def fitted(folder: Path, stop: StopSignals) -> tuple[list[torch.Tensor], float]:
    """A small network with dropout after 6 steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    progress = Progress("small", Saver(folder, stop, 1e3))
    batches = (torch.full((2, 3), rng.random()) for rng in [Random(0)] for _ in range(6))
    weights = list(network.parameters())
    last = fit(weights, batches, 6, lambda batch: [network(batch).square().mean()], Settings(), "sft", progress)
    return [weight.detach().clone() for weight in weights], last


def test_training_that_was_stopped_after_any_step_ends_as_if_it_was_not(tmp_path: Path) -> None:
    weights, last = fitted(tmp_path / "whole", StopSignals())
    for step in range(1, 7):
        with pytest.raises(Preempted):
            fitted(tmp_path / str(step), StopAt(step))
        again, loss = fitted(tmp_path / str(step), StopSignals())
        assert loss == last
        assert all(torch.equal(one, other) for one, other in zip(weights, again, strict=True)), step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_that_diverges_is_stopped_and_nothing_of_it_saved(tmp_path: Path, value: float) -> None:
    weight = nn.Parameter(torch.ones(()))
    progress = Progress("reward_1", Saver(tmp_path, StopSignals(), 0.0))
    losses = [1.0, 1.0, value, 1.0]
    with pytest.raises(CheckError, match=r"^reward_1 has diverged: at step 3 the loss is (nan|inf); lower reward\.lr"):
        fit([weight], losses, 4, lambda factor: [weight * factor], Settings(), "reward", progress)
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["training"]["step"] == 2


def test_a_weight_that_is_no_number_at_the_end_is_found(tmp_path: Path) -> None:
    used, unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.tensor(float("nan")))
    with pytest.raises(CheckError, match=r"^sft has diverged: at its end a weight is no number; lower sft\.lr"):
        fit([used, unused], range(2), 2, lambda step: [used * 1.0], Settings(), "sft")


def built(cache: Path, stop: StopSignals) -> Pipeline:
    """All stages of a smoke run whose reward model has dropout."""
    config = configure("experiment=smoke", f"cache_dir={cache}", "reward.lora.dropout=0.1", "checkpoint_seconds=1e9")
    pipeline = Pipeline(config, stop=stop)
    pipeline.build()
    return pipeline


def markers(cache: Path) -> dict[str, tuple[Any, Any]]:
    """Of each stage the checksums of its files, and its figures."""
    found = {path.parent.name: read_json(path) for path in cache.glob("*/stage.json")}
    return {name: (marker["files"], marker["figures"]) for name, marker in found.items()}


def test_stages_that_are_stopped_again_and_again_are_the_stages_that_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In pretraining, fine-tuning, reward training, while responses are drawn, scored and measured."""
    caplog.set_level("INFO")
    built(tmp_path / "whole", StopSignals())
    assert not [line for line in caplog.messages if "going on" in line]
    for _ in range(40):
        try:
            built(tmp_path / "stopped", StopAt(11))
            break
        except Preempted:
            continue
    resumed = {line.split(":")[0] for line in caplog.messages if "going on from where it was stopped" in line}
    assert {"pretrain", "sft", "samples", "reward", "baseline"} <= resumed
    assert markers(tmp_path / "stopped") == markers(tmp_path / "whole")
    assert not list((tmp_path / "stopped").glob("*.checkpoint"))
