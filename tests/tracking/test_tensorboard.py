"""TensorBoard's event files, read back as TensorBoard reads them."""

from pathlib import Path

import pytest

from rlhf.tracking.choose import start
from rlhf.tracking.tensorboard import markdown
from rlhf.tracking.tracker import Outcome
from tests.configure import configure

reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

RESPONSE = {
    **{"instruction": "who ?", "reference": "a | b", "response": "c", "preferences": [2.0], "score": 0.5},
    **{"correct": 1, "wrong": None},
}


def test_a_resumed_run_is_read_back_without_what_it_logged_twice(tmp_path: Path) -> None:
    for steps in (range(4), range(2, 6)):  # killed after step 3, and gone on with after step 1
        tracker = start(configure("tracker=tensorboard", "tracker.responses=1"), tmp_path)
        for step in steps:
            tracker.log({"step": step, "win_rate": 50.0 + step, "rollout/kl": 0.5 * step})
        tracker.responses(steps[-1], [RESPONSE, RESPONSE])
        tracker.finish(Outcome("done", {"win_rate": 60.0}))
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("evaluation/win_rate")]
    assert found == [(step, 50.0 + step) for step in range(6)]
    assert sorted(events.Tags()["scalars"]) == ["evaluation/win_rate", "rollout/kl"]
    [*_, table] = events.Tensors("evaluation/responses/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.splitlines()[2:] == ["| who ? | a \\| b | c | 2 | 0.5 | 1 |  |"]
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"regularizer"' in config


def test_a_table_in_markdown() -> None:
    assert markdown(["a", "b"], [[1, None], ["x\ny", 0.12345]]) == "| a | b |\n| --- | --- |\n| 1 |  |\n| x y | 0.123 |"
