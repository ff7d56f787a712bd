"""What a stage shows while it runs, on a terminal and elsewhere."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from rlhf.console import Track


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What is printed where the console is no terminal."""
    file = StringIO()
    console = Console(file=file, force_terminal=False, highlight=False, soft_wrap=True)
    monkeypatch.setattr("rlhf.console.console", console)
    return file


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds that pass only when told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("rlhf.console.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_a_line_for_each_tenth(plain: StringIO, clock: SimpleNamespace) -> None:
    track = Track(range(20), 20, "sft")
    for item in track:
        clock.now += 3
        track.note(f"loss {item}.5")
    # Three seconds an item, two items a line: after 2 of 20, 18 are left for 54 seconds.
    assert plain.getvalue().splitlines() == [
        "sft 2/20, 6 s, 54 s left loss 1.5",
        "sft 4/20, 12 s, 48 s left loss 3.5",
        "sft 6/20, 18 s, 42 s left loss 5.5",
        "sft 8/20, 24 s, 36 s left loss 7.5",
        "sft 10/20, 30 s, 30 s left loss 9.5",
        "sft 12/20, 36 s, 24 s left loss 11.5",
        "sft 14/20, 42 s, 18 s left loss 13.5",
        "sft 16/20, 48 s, 12 s left loss 15.5",
        "sft 18/20, 54 s, 6 s left loss 17.5",
        "sft 20/20, 60 s, 0 s left loss 19.5",
    ]


def test_fewer_than_ten_items_have_a_line_each(plain: StringIO, clock: SimpleNamespace) -> None:
    for _ in Track("abc", 3, "baseline"):
        clock.now += 2
    assert plain.getvalue().splitlines() == [
        "baseline 1/3, 2 s, 4 s left",
        "baseline 2/3, 4 s, 2 s left",
        "baseline 3/3, 6 s, 0 s left",
    ]


def test_a_thousand_items_have_ten_lines(plain: StringIO) -> None:
    assert list(Track(iter(range(1000)), 1000, "ppo")) == list(range(1000))
    counts = [line.split()[1] for line in plain.getvalue().splitlines()]
    assert counts == [f"{done}/1000," for done in range(100, 1001, 100)]


def test_slow_items_have_a_line_each_half_minute(plain: StringIO, clock: SimpleNamespace) -> None:
    track = iter(Track(range(1000), 1000, "reward"))
    for _ in range(7):
        next(track)
        clock.now += 12
    counts = [line.split()[1] for line in plain.getvalue().splitlines()]
    assert counts == ["3/1000,", "6/1000,"]  # after 36 and 72 s


def test_a_last_item_off_the_tenths_has_its_line(plain: StringIO) -> None:
    list(Track(range(101), 101, "ppo"))
    assert plain.getvalue().splitlines()[-1].startswith("ppo 101/101, ")


def test_nothing_to_do_shows_nothing(plain: StringIO) -> None:
    assert list(Track([], 0, "ppo")) == []
    assert plain.getvalue() == ""


def test_a_line_comes_after_the_work_it_counts(plain: StringIO) -> None:
    track = iter(Track(range(10), 10, "ppo"))
    next(track)
    assert plain.getvalue() == ""
    next(track)
    assert plain.getvalue().startswith("ppo 1/10, ")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    monkeypatch.setattr("rlhf.console.console", Console(file=file, force_terminal=True, width=100))
    track = Track("abc", 3, "sft")
    items = []
    for item in track:
        items.append(item)
        track.note(f"loss of {item}")
    assert items == ["a", "b", "c"]
    shown = file.getvalue()
    assert "sft" in shown
    assert "3/3" in shown
    assert "loss of c" in shown
