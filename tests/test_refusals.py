"""Every command's arguments at their bounds: a refusal is one line, names what it is about, and leaves no trace."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.report.conftest import point, write_run

WRONG, FAILED = 2, "error: "
"""The exit status of arguments that argparse refuses, and the start of what all else is refused with."""

REFUSALS = [
    ("rlhf.status", "nowhere", WRONG, "no such directory: nowhere"),
    ("rlhf.status", "--watch nowhere", WRONG, "no such directory: nowhere"),
    ("rlhf.status", "--watch --every 0", WRONG, "argument --every: '0' is no number of seconds"),
    ("rlhf.status", "--watch --every nan", WRONG, "argument --every: 'nan' is no number of seconds"),
    ("rlhf.status", "--watch --every 1e300", WRONG, "argument --every: '1e300' is no number of seconds"),
    ("rlhf.status", "--retry done", WRONG, "argument --retry: invalid choice: 'done'"),
    ("rlhf.status", "--json --cancel", WRONG, "not allowed with argument"),
    ("rlhf.samples", "empty", FAILED, "empty/responses.jsonl does not exist: a run writes it at its first evaluation"),
    ("rlhf.samples", "nowhere", FAILED, "nowhere/responses.jsonl does not exist"),
    ("rlhf.samples", "run --count 0", WRONG, "argument --count: '0' is no whole number from 1"),
    ("rlhf.samples", "run --count 1.5", WRONG, "argument --count: '1.5' is no whole number"),
    ("rlhf.samples", "run --count 99999999999", WRONG, "argument --count: '99999999999' is no whole number"),
    ("rlhf.report.__main__", "nowhere", FAILED, "no such directory: nowhere"),
    ("rlhf.report.__main__", "empty", FAILED, "no runs below empty"),
    ("rlhf.report.__main__", "run --by lora.rank", FAILED, "--by lora.rank: no run has this key"),
    ("rlhf.report.__main__", "run --out file", FAILED, "--out=file is not allowed: "),
    ("rlhf.report.__main__", "run --responses -1", WRONG, "argument --responses: '-1' is no whole number from 0"),
    ("studies.__main__", "nowhere", FAILED, "no such directory: nowhere"),
    ("studies.__main__", "file", FAILED, "file was not written by `python -m studies --pack`"),
    ("studies.__main__", "empty --out file", FAILED, "no finished run below empty: file stays as it is"),
    ("studies.settings", "run --out file", FAILED, "no finished run on the tuning people below run"),
    ("rlhf.evaluate", "run judge.model=x", FAILED, "judge.model=x is not allowed: choose one first, judge=NAME"),
    ("rlhf.evaluate", "run", FAILED, "judge=??? is not allowed"),
    ("rlhf.judge", "check --data nowhere.jsonl --limit 0", WRONG, "argument --limit: '0' is no whole number from 1"),
    ("rlhf.judge", "check --data nowhere.jsonl", FAILED, "--data: there is no file nowhere.jsonl"),
    ("rlhf.judge", "check --data nowhere.jsonl --out file/x.json", FAILED, "--out=file/x.json is not allowed: "),
    ("rlhf.judge", "check --data nowhere.jsonl --out empty", FAILED, "--out=empty is not allowed: "),
    ("rlhf.alpaca_eval", "run file", FAILED, "OUT=file is not allowed: "),
    ("rlhf.alpaca_eval", "empty out", FAILED, "there is no file empty/outputs.json"),
    ("rlhf.export.__main__", "nowhere out", FAILED, "there is no run directory nowhere"),
    ("rlhf.export.__main__", "run out --private", FAILED, "--private is not allowed"),
    ("rlhf.export.__main__", "run file", FAILED, "OUT=file is not allowed: "),
    ("rlhf.export.__main__", "run run", FAILED, "run is there already, and not empty"),
    ("rlhf.dashboard", "sweep nowhere", FAILED, "no such directory: nowhere"),
    ("rlhf.dashboard", "sweep empty", FAILED, "empty holds no finished run"),
    ("rlhf.resume", "empty", FAILED, "empty holds no run that can be started: empty/config.yaml: "),
    ("rlhf.prepare", "nowhere", FAILED, "nowhere holds no run that can be started"),
]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """Calls a command in a folder that has a finished run, an empty folder and a file; returns what it ended with."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", [point(0, 50.0, 0.0), point(40, 58.0)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text(json.dumps("as it was"))

    def run(module: str, arguments: str) -> tuple[object, str]:
        before = snapshot(tmp_path)
        with pytest.raises(SystemExit) as end:
            import_module(module).main(arguments.split())
        assert snapshot(tmp_path) == before
        code, shown = end.value.code, capsys.readouterr()
        assert shown.out == ""
        return code, shown.err.splitlines()[-1] if code == WRONG else str(code)

    return run


@pytest.mark.parametrize(("module", "arguments", "how", "told"), REFUSALS, ids=[f"{m} {a}" for m, a, *_ in REFUSALS])
def test_it_is_refused(
    call: Callable[..., tuple[object, str]], module: str, arguments: str, how: object, told: str
) -> None:
    code, message = call(module, arguments)
    assert code == WRONG if how == WRONG else message.startswith(FAILED)
    assert told in message
    assert "\n" not in message
