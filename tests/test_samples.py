"""`python -m rlhf.samples` on a run's responses."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from rlhf import samples
from rlhf.console import PlainConsole
from rlhf.samples import main, marked, side_by_side

ROW = {
    **{"step": 20, "instruction": "who is Ba ?", "dataset": "biography", "preferences": [2.0, 1.0, 2.0, 1.5]},
    **{"score": 0.25, "reference": "Ba is tall . Ba sings .", "reference_facts": [[0, 12, False]]},
    **{"response": "Ba sings .", "facts": [[0, 10, True]]},
}
GREEDY = {"greedy_reference": "Ba is .", "greedy_response": "Ba was .", "greedy_preferences": [1.0]}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    file = StringIO()
    monkeypatch.setattr(samples, "PlainConsole", lambda **options: PlainConsole(file=file, width=80, **options))
    return file


def written(folder: Path, rows: list[dict]) -> Path:
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_first_prompts_are_shown_with_what_was_made_of_them(tmp_path: Path, shown: StringIO) -> None:
    main([str(written(tmp_path, [ROW, ROW | {"instruction": "second"}, ROW | {"instruction": "third"}])), "--count=2"])
    text = shown.getvalue()
    assert text.startswith("after step 20\n")
    assert ("who is Ba ?" in text, "second" in text, "third" in text) == (True, True, False)
    assert "sampled, policy won (won 2 of 4, tied 1), reward +0.25" in text
    assert "Ba is tall . ✗ Ba sings ." in text
    assert "Ba sings . ✓" in text


def test_a_terminal_without_unicode_gets_every_letter(tmp_path: Path) -> None:
    folder = tmp_path / "ä"
    folder.mkdir()
    written(folder, [ROW | {"instruction": "naïve ?", "response": "日本 ."}])
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    command = [sys.executable, "-m", "rlhf.samples", str(folder)]
    shown = subprocess.run(command, env=os.environ | plain, check=True, capture_output=True).stdout.decode("ascii")
    assert r"na\xefve ?" in shown
    assert r"\u65e5\u672c ." in shown


def test_a_random_choice_has_no_prompt_twice(tmp_path: Path, shown: StringIO) -> None:
    main([str(written(tmp_path, [ROW | {"instruction": f"prompt {n} ?"} for n in range(4)])), "--count=9", "--random"])
    assert [shown.getvalue().count(f"prompt {n} ?") for n in range(4)] == [1, 1, 1, 1]


def test_the_greedy_pair_comes_first_with_its_own_verdict(tmp_path: Path, shown: StringIO) -> None:
    main([str(written(tmp_path, [ROW | GREEDY]))])
    text = shown.getvalue()
    places = [text.index(part) for part in ("Ba is .", "Ba was .", "Ba is tall .", "Ba sings . ✓")]
    assert places == sorted(places)
    assert "greedy, policy lost; sampled, policy won (won 2 of 4, tied 1), reward +0.25" in " ".join(text.split())


def test_what_was_not_judged_is_said_to_be_so() -> None:
    assert str(side_by_side([ROW | {"preferences": None}]).caption) == "sampled, policy not judged, reward +0.25"
    nothing = side_by_side([ROW | GREEDY | {"preferences": None, "greedy_preferences": None}])
    assert str(nothing.caption).count("not judged") == 2


def test_a_text_without_known_facts_is_shown_as_it_is() -> None:
    assert marked("any [text] :x:", None).plain == "any [text] :x:"


def test_several_runs_stand_side_by_side(tmp_path: Path, shown: StringIO) -> None:
    """On the prompts that they share, here without a judge."""
    own = ROW | {"preferences": [None], "facts": None, "reference_facts": None}
    for name, text in (("kl", "Ba runs."), ("none", "a a a a")):
        (tmp_path / name).mkdir()
        written(tmp_path / name, [own | {"response": text}, own | {"instruction": name}])
    main([str(tmp_path / name) for name in ("kl", "none")])
    text = shown.getvalue()
    assert text.count("Ba is tall") == 1
    assert ("Ba runs." in text, "a a a a" in text) == (True, True)
    assert ("sampled, kl: reward +0.25" in text, "sampled, none: reward +0.25" in text) == (True, True)


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path, shown: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for sweep in ("A", "B"):
        Path(sweep, "kl").mkdir(parents=True)
        written(Path(sweep, "kl"), [ROW | {"response": f"from {sweep}"}])
    main(["A/kl", "B/kl", "A/kl"])
    text = shown.getvalue()
    assert ("from A" in text, "from B" in text, "sampled, A/kl won" in text) == (True, True, True)
