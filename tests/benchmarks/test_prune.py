"""What pruning saves, and whether it costs the winner: by rows made up by hand, and a search that is not repeated."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import prune
from benchmarks.__main__ import main
from rlhf.storage.files import read_json

WHOLE = {"seconds": [10.0, 20.0, 10.0], "states": ["done"] * 3, "values": [50.0, 60.0, 55.0]}


def searched(states: list[str], values: list[float]) -> dict[str, Any]:
    return {"seconds": [10.0, 5.0, 5.0], "states": states, "values": values}


@pytest.mark.parametrize(
    ("states", "values", "expected"),
    [
        # half of the 40 s; the second is the best of those that are left
        (["pruned", "done", "pruned"], [50.0, 60.0, 52.0], {"pruned_runs": 2, "same_winner": True, "lost": 0.0}),
        # the best was stopped; the third is left, and reaches 55 in the whole search
        (["done", "pruned", "done"], [50.0, 70.0, 55.0], {"pruned_runs": 1, "same_winner": False, "lost": 5.0}),
    ],
)
def test_the_share_and_the_winner_by_its_figure_in_the_whole_search(
    states: list[str], values: list[float], expected: dict[str, Any]
) -> None:
    assert prune.compared(WHOLE, searched(states, values)) == {"share": 0.5, **expected}


def test_trials_are_the_same_whenever_they_are_asked_for() -> None:
    first = prune.trials(30, 3)
    assert prune.trials(30, 5)[:3] == first != prune.trials(31, 3)
    for trial in first:
        for text, (key, (low, high)) in zip(trial, prune.SPACE.items(), strict=True):
            assert text.startswith(f"{key}=")
            assert low <= float(text.partition("=")[2]) <= high


def test_worlds_that_are_done_are_not_searched_again_and_all_stand_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def search(folder: Path, shared: list[str], sampled: list[list[str]]) -> dict[str, Any]:
        asked.append(folder.name)
        return searched(["pruned", "done", "done"], [0.0, 60.0, 55.0]) if "prune=asha" in shared else WHOLE

    monkeypatch.setattr(prune, "search", search)
    given = ("prune", "prune=asha", "--trials", "3", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json"))
    main([*given, "--worlds", "1"])
    main([*given, "--worlds", "2"])
    each = ("stages", "whole", "pruned")
    assert asked == [f"{world}-{arm}" for world in (30, 31) for arm in each]
    main([*given, "--worlds", "1", "prune.first=20"])
    assert asked[6:] == ["30-pruned"]  # by another rule
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["31", "40", "20", "0.5", "1 of 3", "60.0", "0.0"] in rows
    assert set(read_json(tmp_path / "found.json")["worlds"]) == {"30"}
