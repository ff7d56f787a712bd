"""Run directories that are torn, mistyped, huge, nested or no files at all: a line each, and nobody else's problem."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.console import PlainConsole
from rlhf.errors import DataError
from rlhf.launch.forecast import finished_runs
from rlhf.launch.overview import overview
from rlhf.report.load import load_outputs, unfinished
from rlhf.report.page import answers_of, report, tables_of
from rlhf.samples import side_by_side
from rlhf.storage.files import DEEPEST, MOST_BYTES, parse_json
from rlhf.storage.reader import read_base, read_responses, read_settings
from rlhf.storage.runs import find_runs, read_run, short_names
from tests.report.conftest import point, write_lines, write_run

OBJECTS = ("status.json", "metrics.json", "overrides.json", "job.json", "config.yaml")
LINES = ("history.jsonl", "responses.jsonl")
OUTPUTS = ("outputs.json", "outputs-greedy.json", "references-greedy.json")
FILES = (*OBJECTS, *LINES, *OUTPUTS)

JOB = {
    "launcher": "local",
    "job_id": "7",
    "host": "here",
    "started": 1.0,
    "slot": 0,
    "log": "run/output.log",
    "time": 1.0,
}
ANSWER = {
    **{"step": 40, "instruction": "who ?", "dataset": "question", "preferences": [2.0], "score": 0.5},
    **{"reference": "a .", "reference_facts": [[0, 1, True]], "response": "b .", "facts": None},
    **{"greedy_reference": "c .", "greedy_response": "d .", "greedy_preferences": [1.0]},
}


def whole_run(path: Path, **changes: Any) -> Path:
    """A finished run with every file that one may have."""
    write_run(path, [point(0, 50.0, 0.0), point(40, 58.0)], judgements=[2.0, 1.0, 1.5], **changes)
    (path / "job.json").write_text(json.dumps(JOB))
    write_lines(path / "responses.jsonl", [ANSWER | {"instruction": f"prompt {place}"} for place in range(3)])
    for name in OUTPUTS:
        (path / name).write_text(json.dumps([{"instruction": "prompt 0", "output": "a .", "dataset": "question"}]))
    return path


def show_all(folder: Path) -> list[str]:
    """All that reads run directories, on those below a folder; returns the reasons why some can't be used."""
    states = [read_run(path) for path in find_runs([folder])]
    console = PlainConsole(file=StringIO(), width=150)
    console.print(overview(states, 1000.0, 150))
    short_names(state.path for state in states)
    list(finished_runs(folder))
    outputs = load_outputs([folder])
    with np.errstate(all="ignore"):
        tables_of(report(outputs, []))
    reasons = [reason for _, reason in outputs.problems] + [state.reason for state in states if state.reason]
    reasons += [unfinished(*problem).reason for problem in outputs.problems]
    reasons += [reason for run in outputs.runs if (reason := answers_of(run, 9)[1]) is not None]
    for state in states:
        try:
            for row in read_responses(state.path):
                console.print(side_by_side([row]))
        except DataError as error:
            reasons.append(str(error))
    return reasons


ODD = [10**400, -1, 1e300, 1e-300, "\x1b[2J", "\ud800", "[x]", "=1+1", [], {}, [None], "done", "failed"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ODD)
NAMES = st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=4
)
TORN = (
    b"",
    b"{",
    b"[]",
    b"7",
    b"\xff\xfe",
    b"null",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b'{"step": NaN}',
    b"&a [*a]",
)
WRITE: dict[bool, Callable[[Any], str]] = {True: lambda tree: yaml.dump(tree), False: lambda tree: json.dumps(tree)}


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values of nested mappings and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = changed(tree[place[0]], place[1:], value)
    return copy


@settings(derandomize=True, max_examples=20, deadline=None)
@given(data=st.data())
def test_a_run_with_any_value_anywhere_takes_nothing_down(data: st.DataObject) -> None:
    """Beside one that is whole; whatever is wrong is said in a line, which names the file."""
    folder = Path(tempfile.mkdtemp())
    try:
        good, bad = whole_run(folder / "good", seed=1), whole_run(folder / "bad")
        name = data.draw(st.sampled_from(FILES))
        text = (bad / name).read_bytes()
        if data.draw(st.booleans()):
            torn = data.draw(st.sampled_from((*TORN, text[: len(text) // 2])))
            (bad / name).write_bytes(torn)
        else:
            rows = text.decode().splitlines()
            tree = yaml.safe_load(text) if name == "config.yaml" else json.loads(rows[0])
            new = changed(tree, data.draw(st.sampled_from(places(tree))), data.draw(VALUES))
            (bad / name).write_text("\n".join([WRITE[name == "config.yaml"](new), *rows[1:]]) + "\n", errors="replace")
        reasons = show_all(folder)
        assert str(good) in {run.path for run in load_outputs([folder]).runs}
        assert [reason for reason in reasons if "\n" in reason and "failed" not in reason] == []
        assert find_runs([folder]) == sorted([bad, good])
    finally:
        shutil.rmtree(folder)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    os.truncate(path, MOST_BYTES + 1)  # a hole: it takes no place


@pytest.mark.parametrize("spoil", [pipe, directory, loop, endless, huge])
def test_what_is_no_file_is_never_waited_for(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    whole_run(tmp_path / "good", seed=1)
    for name in FILES:
        spoil(whole_run(tmp_path / f"of {name}") / name)
    reasons = show_all(tmp_path)
    assert [name for name in FILES if not any(name in reason for reason in reasons)] == []
    assert len(load_outputs([tmp_path]).runs) >= 1
    assert len(find_runs([tmp_path])) == len(FILES) + 1


def test_directories_that_can_not_be_listed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is closed, so the refusal is the file system's in name only."""
    shut, scandir, iterdir = tmp_path / "shut", os.scandir, Path.iterdir
    shut.mkdir()

    def refuse(path: Any) -> None:
        if str(path) == str(shut):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scandir(path))
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) or iterdir(path))
    assert find_runs([tmp_path]) == [shut]
    assert (read_run(shut).state, "Permission denied" in str(read_run(shut).reason)) == ("unreadable", True)
    [(path, reason)] = load_outputs([tmp_path]).problems
    assert (path, "Permission denied" in reason) == (str(shut), True)


BOMB = "a: &a [1, 1]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n" for before, name in zip("abcd", "bcde", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "an alias or an anchor"),
        ("a: &a [*a]", "an alias or an anchor"),
        ("[" * 2000, "levels deep"),
        ("- " * 2000, "levels deep"),
        ("a: .nan", "nan is no finite number"),
        ("a: 2020-01-01", "a date, which JSON does not have"),
        ("1: a", "the key 1 is no text"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 0x" + "f" * 17, "an integer of more than 64 bits"),
    ],
)
def test_settings_are_plain_values(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=f"^config.yaml: .*{reason}"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "9" * 20, '"\\ud800"', "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)]
)
def test_json_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite|64 bits|surrogates|levels"):
        parse_json(text)


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": 7}')
    with pytest.raises(DataError, match=r"adapter_config.json: base_model_name_or_path is 7: it must be text"):
        read_base(tmp_path)
