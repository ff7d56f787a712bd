"""`python -m rlhf.evaluate` and `python -m rlhf.judge` on files, with a model on loopback."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf import evaluate, judge
from rlhf.console import console
from rlhf.storage.files import read_json
from tests.evaluation.test_llm import likes_a
from tests.fake_endpoint import FakeModel, failure

ROOT = Path(__file__).resolve().parents[1]
OWN, BASE = "aaa" * 5, "b" * 15


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ten outputs, of which six hold more a's than their references, three fewer and one is the same."""
    outputs = [OWN] * 6 + [BASE] * 3 + ["same"]
    references = [BASE] * 6 + [OWN] * 3 + ["same"]
    paths = tmp_path / "own.json", tmp_path / "base.json"
    for path, texts in zip(paths, (outputs, references), strict=True):
        path.write_text(json.dumps([{"instruction": f"q{n}", "output": text} for n, text in enumerate(texts)]))
    return paths


def settings(model: FakeModel, tmp_path: Path, *more: str, section: str = "judge") -> list[str]:
    values = {"model": "fake/one", "base_url": model.url, "api_key_env": "null", "retries": "0"}
    return [f"cache_dir={tmp_path / 'cache'}", *(f"{section}.{key}={value}" for key, value in values.items()), *more]


def run(*arguments: object) -> str:
    with console.capture() as shown:
        evaluate.main([str(each) for each in arguments])
    return shown.get()


def refused(*arguments: object, module: Any = evaluate) -> str:
    with pytest.raises(SystemExit) as stopped:
        module.main([str(each) for each in arguments])
    return str(stopped.value)


def test_a_file_is_judged_and_the_figures_written_beside_it(
    files: tuple[Path, Path], model: FakeModel, tmp_path: Path
) -> None:
    model.reply = likes_a
    prices = ("judge.input_price=1000", "judge.output_price=2000")
    command = (files[0], "judge=llm", *settings(model, tmp_path, *prices), "--reference", files[1])
    shown = run(*command)
    figures = read_json(tmp_path / "own.evaluation-llm-fake-one.json")
    # six at 0.75, three at 0.25, one at 0.5
    assert figures["win_rate"] == pytest.approx(10 * (6 * 0.75 + 3 * 0.25 + 0.5))
    assert figures["win_rate_ties_as_losses"] == 60.0
    assert (figures["n_eval"], figures["n_null"], figures["n_identical"], figures["asked"]) == (10, 0, 1, 9)
    assert figures["cost"] == pytest.approx(9 * (10 * 1000 + 2 * 2000) / 1e6)
    assert figures["settings"]["style"] == "preference"
    assert all(text in shown for text in ("57.5 ± ", "prompts judged", "cost of this command", "0.126"))
    lines = (tmp_path / "own.evaluation-llm-fake-one.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["instruction"] for row in rows] == [f"q{n}" for n in range(10)]
    assert rows[0]["preferences"] == pytest.approx([1.75])
    assert rows[0]["readings"][0][0]["source"] == "logprobs"
    assert (rows[9]["length"], rows[9]["reference_lengths"]) == (4, [4])
    run(*command)  # judging again asks nothing
    assert len(model.bodies) == 9
    assert read_json(tmp_path / "own.evaluation-llm-fake-one.json")["kept"] == 9


def test_a_killed_command_goes_on_where_it_was(files: tuple[Path, Path], model: FakeModel, tmp_path: Path) -> None:
    """Only what was under way when it was killed is asked twice."""
    model.reply, model.seconds = likes_a, 0.2
    overrides = settings(model, tmp_path, "judge.concurrency=1")
    command = [str(files[0]), "--reference", str(files[1]), "judge=llm", *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "rlhf.evaluate", *command], cwd=tmp_path, env=environment)
    end = time.monotonic() + 60
    while len(model.bodies) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    asked = len(model.bodies)
    assert 4 <= asked < 9
    model.seconds = 0.0
    run(*command)
    figures = read_json(tmp_path / "own.evaluation-llm-fake-one.json")
    assert (figures["kept"], figures["asked"]) == (asked - 1, 10 - asked)
    assert len(model.bodies) == 9 + 1


def test_a_run_is_judged_in_its_directory_and_its_greedy_outputs_like_any_file(
    files: tuple[Path, Path], model: FakeModel, tmp_path: Path
) -> None:
    """Its sampled outputs lose where the greedy ones win; they are none of each other's."""
    model.reply = likes_a
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    texts = files[0].read_text(), files[1].read_text()
    for name, text in zip(("outputs-greedy", "references-greedy", "references", "outputs"), texts * 2, strict=True):
        (run_dir / f"{name}.json").write_text(text)
    run(run_dir, "judge=llm", "judge.order=both", *settings(model, tmp_path))
    figures = read_json(run_dir / "evaluation-llm-fake-one-both.json")
    assert (figures["win_rate"], figures["inconsistent"]) == (pytest.approx(42.5), 0.0)
    assert len(model.bodies) == 18
    greedy = (run_dir / "outputs-greedy.json", "--reference", run_dir / "references-greedy.json")
    run(*greedy, "judge=llm", *settings(model, tmp_path))
    assert read_json(run_dir / "outputs-greedy.evaluation-llm-fake-one.json")["win_rate"] == pytest.approx(57.5)


def test_a_judge_that_fails_is_told_and_writes_nothing(
    files: tuple[Path, Path], model: FakeModel, tmp_path: Path
) -> None:
    model.reply = lambda body: failure(404, "no such model")
    command = (files[0], "--reference", files[1], "judge=llm", *settings(model, tmp_path))
    assert refused(*command).startswith(f"error: {model.url}, model fake/one: HTTP 404: no such model")
    assert not list(tmp_path.glob("*evaluation*"))


def test_factuality_of_a_file(model: FakeModel, tmp_path: Path) -> None:
    outputs = [{"instruction": f"Who is Ada {n}?", "output": "Ada is a bird."} for n in range(3)]
    (tmp_path / "own.json").write_text(json.dumps(outputs))
    (tmp_path / "knowledge.jsonl").write_text('{"title": "Ada", "text": "Ada is a bird."}\n')
    model.reply = lambda body: "True" if "Statement" in body["messages"][0]["content"] else "- Ada is a bird."
    chosen = ("factuality=factscore", f"factuality.knowledge={tmp_path / 'knowledge.jsonl'}")
    shown = run(tmp_path / "own.json", *chosen, *settings(model, tmp_path, section="factuality"))
    figures = read_json(tmp_path / "own.evaluation-factscore-fake-one.json")
    names = ("factuality", "factuality_respond_ratio", "factuality_facts")
    assert [figures[name] for name in names] == [100.0, 100.0, 1.0]
    assert "win_rate" not in figures
    assert "responses that state facts" in shown
    rows = [json.loads(line) for line in (tmp_path / "own.evaluation-factscore-fake-one.jsonl").open()]
    assert rows[0] == {"instruction": "Who is Ada 0?", "facts": ["Ada is a bird."], "supported": [True]}
    assert len(model.bodies) == 3 + 1  # the three splits differ in their question, the fact is the same


def test_nothing_to_do_is_refused(files: tuple[Path, Path]) -> None:
    assert refused(files[0]).startswith("error: judge=??? is not allowed: choose judge=llm")
    assert refused(files[0], "judge=oracle").startswith("error: judge=oracle is not allowed")
    assert "did you mean judge.order" in refused(files[0], "judge=llm", "judge.model=x", "judge.ordr=both")


def test_without_torch(files: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, and with annotations in place of a model."""
    rows = [{"instruction": f"q{n}", "preference": 2} for n in range(10)]
    (tmp_path / "notes.json").write_text(json.dumps(rows))
    arguments = [str(files[0]), "--reference", str(files[1]), "judge=annotations", f"judge.file={tmp_path}/notes.json"]
    code = f"import sys, rlhf.judge; from rlhf.evaluate import main; main({arguments}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert read_json(tmp_path / "own.evaluation-annotations-notes.json")["win_rate"] == 100.0


# ---- A judge beside people. ---------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twelve pairs: people like the one with more a's in nine, the other in three."""
    rows = [
        {"instruction": f"q{n}", "input": "", "output_1": OWN, "output_2": BASE, "old": "2" if n < 6 else "Tie"}
        | {f"annotator{person}": 1 if n < 9 else 2 for person in (1, 2, 3)}
        for n in range(12)
    ]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(*arguments: object) -> str:
    with console.capture() as shown:
        judge.main(["check", *(str(each) for each in arguments)])
    return shown.get()


def test_a_judge_is_checked_against_people(people: Path, model: FakeModel, tmp_path: Path) -> None:
    model.reply = likes_a
    out = tmp_path / "check.json"
    shown = check("--data", people, "--column", "old", "--out", out, "judge=llm", *settings(model, tmp_path))
    figures = read_json(out)
    found = figures["judges"]["fake/one"]
    assert (found["agreement"], found["n"], found["n_null"]) == (75.0, 12, 0)
    assert 0 < found["first_preferred"] < 100  # by the coin
    assert figures["judges"]["old"]["agreement"] == 0.0
    assert figures["annotator_kappas"] == {"1 and 2": 1.0, "1 and 3": 1.0, "2 and 3": 1.0}
    assert "1 and 2 1.00" in shown
    assert "75 ± 13" in shown
    assert len(model.bodies) == 12


def test_fewer_pairs_are_always_the_same(people: Path, model: FakeModel, tmp_path: Path) -> None:
    model.reply = likes_a
    for _ in range(2):
        check("--data", people, "--limit", 5, "judge=llm", *settings(model, tmp_path))
    assert len(model.bodies) == 5


def test_people_alone(people: Path) -> None:
    assert "12 pairs; Cohen's kappa between annotators" in check("--data", people)


def test_what_can_not_be_checked_is_told(people: Path, tmp_path: Path) -> None:
    assert "field 'new' is missing" in refused("check", "--data", people, "--column", "new", module=judge)
    assert "--data: there is no file" in refused("check", "--data", tmp_path / "none.json", module=judge)
    told = refused("check", "--data", people, "judge=annotations", "judge.file=x", module=judge)
    assert told.startswith("error: judge=annotations is not allowed: ")
    assert told.endswith("choose one of llm")
