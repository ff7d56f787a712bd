"""Many runs in one small file, from which the same report is made."""

import json
import lzma
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.report.load import load_outputs
from studies.rows import pack, unpack
from tests.report.conftest import make_run, point


def test_what_reports_read_comes_back(study: Path, tmp_path: Path) -> None:
    runs = load_outputs([study]).runs[::7]
    pack(tmp_path / "runs.json.xz", runs)
    again = unpack(tmp_path / "runs.json.xz").runs
    for run, found in zip(runs, again, strict=True):
        assert found.config == run.config
        assert [row["step"] for row in found.checkpoints] == [row["step"] for row in run.checkpoints]
        assert found.metrics["win_rate_greedy"] == pytest.approx(run.metrics["win_rate_greedy"], rel=1e-4)
        assert found.metrics["baseline"].keys() <= run.metrics["baseline"].keys()
        kept = ("instruction", "greedy_preferences", "preferences", "correct", "wrong")
        rows = [{name: row[name] for name in kept} for row in run.judgements or []]
        assert [{name: row[name] for name in kept} for row in found.judgements or []] == rows


def test_nothing_judged_stays_nothing(tmp_path: Path) -> None:
    runs = [make_run([point(0, 50.0, 0.0), point(40, 58.0)], [None, 2.0, 1.0]), make_run([point(0, 50.0, 0.0)])]
    pack(tmp_path / "a", runs)
    first, second = unpack(tmp_path / "a").runs
    assert [row["greedy_preferences"] for row in first.judgements or []] == [None, [2.0], [1.0]]
    assert second.judgements is None


def test_a_preference_that_has_no_letter_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^greedy_preferences: 1.25 is none of 1.0, 1.5, 2.0"):
        pack(tmp_path / "a", [make_run([point(0, 50.0, 0.0)], [1.25])])


@pytest.mark.parametrize(
    "content", [b"", b"text", lzma.compress(b"[1"), lzma.compress(json.dumps({"runs": [3]}).encode())]
)
def test_another_file_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="a was not written by"):
        unpack(tmp_path / "a")
