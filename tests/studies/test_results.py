"""The command: what it writes, and what it needs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from studies.__main__ import main
from tests.report.conftest import point, write_run

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_it_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "outputs" / "runs" / "one", [point(0, 50.0, 0.0), point(40, 58.0)])
    failed = write_run(tmp_path / "outputs" / "runs" / "two", [point(0, 50.0, 0.0)])
    (failed / "status.json").write_text(json.dumps({"state": "failed", "step": 3, "reason": "PPO has diverged"}))
    out = tmp_path / "docs" / "results.md"
    main([str(tmp_path / "outputs"), "--out", str(out)])
    text = out.read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("\n")
    assert "1 finished run in 1 world" in text
    assert "Left out, being unfinished or unreadable (1):" in text
    assert f"- `{failed}`: failed at step 3: PPO has diverged" in text
    assert f"{out}: 1 runs, 1 directories left out" in " ".join(capsys.readouterr().out.split())


def test_several_paths(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name / "run", [point(0, 50.0, 0.0), point(40, 58.0)], seed=ord(name))
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "results.md")])
    assert "2 finished runs in 1 world (`data.seed`) with 2 seeds" in (tmp_path / "results.md").read_text()


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"^error: no such directory: {tmp_path / 'nowhere'}$"):
        main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "results.md")])
    assert not (tmp_path / "results.md").exists()


def test_without_runs_the_last_report_stays(tmp_path: Path) -> None:
    torn = write_run(tmp_path / "runs" / "one", [point(0, 50.0, 0.0)])
    (torn / "metrics.json").write_text("{")
    (tmp_path / "results.md").write_text("the last one")
    with pytest.raises(SystemExit, match=r"^error: no finished run below .*runs; 1 directories are .*stays as it is$"):
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "results.md")])
    assert (tmp_path / "results.md").read_text() == "the last one"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "results.md"}


@pytest.mark.slow
def test_the_published_report_is_what_the_packed_runs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digit that is shown, which another machine may round the other way; its figures are not painted."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **more: Path(path).touch())
    main([str(ROOT / "docs" / "study.json.xz"), "--out", str(tmp_path / "results.md")])
    made, published = ((folder / "results.md").read_text() for folder in (tmp_path, ROOT / "docs"))
    assert NUMBER.sub("#", made) == NUMBER.sub("#", published)
    for mine, theirs in zip(NUMBER.findall(made), NUMBER.findall(published), strict=True):
        last = 10.0 ** -len(theirs.partition(".")[2])
        assert abs(float(mine) - float(theirs)) <= 1.01 * last
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == set(re.findall(r"figures/([a-z_0-9]+\.png)", published))


def test_it_needs_no_torch() -> None:
    loaded = "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    code = f"import sys, studies.__main__, studies.settings, studies.ceiling; {loaded}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[]\n"
