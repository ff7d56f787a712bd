"""Panels: what is drawn where, on which axes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from studies import figures
from studies.figures import BLUE, GREY, Axis, Dots, Line, Panel, draw

POINTS = [(0.02, 50.0, 45.0, 55.0), (0.2, 60.0, 50.0, 70.0)]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """Draws without writing a file, and gives the figure."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: kept.append(figure))
    monkeypatch.setattr(figures.plt, "close", lambda figure: None)

    def call(*panels: Panel, **options: object) -> Figure:
        x = options.pop("x", Axis("KL"))
        draw(tmp_path / "figure.png", list(panels), x, "win rate", **options)
        return kept[-1]

    yield call
    monkeypatch.undo()
    plt.close("all")


def test_panels_share_their_axes(drawn: Callable[..., Figure]) -> None:
    figure = drawn(Panel("a", [Line(POINTS, BLUE)]), Panel("b", [Line([(1.0, 90.0, 80.0, 95.0)], BLUE)]), columns=2)
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] < 45
    assert first.get_ylim()[1] > 95


def test_a_panel_alone_has_its_own(drawn: Callable[..., Figure]) -> None:
    alone = Panel("b", [Line([(1.0, 900.0, 900.0, 900.0)], BLUE)], alone=True)
    figure = drawn(Panel("a", [Line(POINTS, BLUE)]), alone, x=Axis("KL", log=True, shaded=(0.03, 0.1)), columns=2)
    first, second = figure.axes
    assert first.get_ylim()[1] < 100 < second.get_ylim()[0]
    assert (first.get_xscale(), second.get_xscale()) == ("log", "linear")
    assert len(first.patches) == 1
    assert len(second.patches) == 0


def test_rows_of_another_label_have_another_y_axis(drawn: Callable[..., Figure]) -> None:
    wins, facts = (
        Panel("a", [Line(POINTS, BLUE)], y_label="wins"),
        Panel("a", [Line(POINTS[:1], BLUE)], y_label="facts"),
    )
    figure = drawn(wins, wins, facts, facts, columns=2)
    limits = [axes.get_ylim() for axes in figure.axes]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    assert [axes.get_ylabel() for axes in figure.axes] == ["wins", "wins", "facts", "facts"]


def test_logarithmic_axes_read_plain_numbers(drawn: Callable[..., Figure]) -> None:
    wide = Line([(0.1, 1e3, 1e3, 1e3), (100.0, 1e6, 1e6, 1e6)], BLUE)
    figure = drawn(Panel("a", [wide], log_y=True), x=Axis("KL", log=True))
    figure.canvas.draw()
    axes = figure.axes[0]
    assert {"0.1", "1", "10"} <= {label.get_text() for label in axes.get_xticklabels()}
    assert {"1,000", "10,000", "100,000"} <= {label.get_text() for label in axes.get_yticklabels()}
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))


def test_places_without_a_panel_are_blank(drawn: Callable[..., Figure]) -> None:
    figure = drawn(*[Panel(title, [Line(POINTS, BLUE)]) for title in "abcde"])
    assert len(figure.axes) == 8
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3


def test_lines_bands_bars_and_dots(drawn: Callable[..., Figure]) -> None:
    panel = Panel(
        "a",
        [Line(POINTS, BLUE), Line(POINTS, GREY, band=False, bars=True), Line([], BLUE)],
        [Dots([(0.1, 51.0)], BLUE), Dots([], BLUE)],
        words=[("none", GREY)],
        color=GREY,
        x_ticks={0.02: "low", 0.2: "high"},
        log_y=True,
    )
    [axes] = drawn(panel, columns=1).axes
    assert [50.0, 60.0] in [line.get_ydata().tolist() for line in axes.lines]
    assert len(axes.containers) == 1  # the bars
    assert len(axes.collections) == 3  # dots, a band, and the bars' lines
    assert [text.get_text() for text in axes.texts] == ["none"]
    assert axes.get_title("left") == "a"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["low", "high"]
    assert axes.get_yscale() == "log"


def test_bars_span_the_interval(drawn: Callable[..., Figure]) -> None:
    [axes] = drawn(Panel("a", [Line([(1.0, 50.0, 47.0, 51.0)], BLUE, band=False, bars=True)]), columns=1).axes
    [segment] = axes.collections[0].get_segments()
    assert segment[:, 1].tolist() == [47.0, 51.0]


def test_a_file_without_a_date_or_version(tmp_path: Path) -> None:
    paths = [tmp_path / "deep" / "a.png", tmp_path / "b.png"]
    for path in paths:
        draw(path, [Panel("a", [Line(POINTS, BLUE)])], Axis("KL", log=True), "win rate", columns=1)
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1]
    assert b"Software" not in contents[0]
    assert plt.get_fignums() == []
