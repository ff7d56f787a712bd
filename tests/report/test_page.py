"""The command, and the pages that it writes, parsed as a browser would."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf.console import console
from rlhf.figures import FIGURES
from rlhf.report.__main__ import main
from rlhf.report.page import as_data
from tests.report.conftest import point, write_lines, write_run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = """</script><script>alert("1")</script> & 'it' <img src=x onerror=alert(2)> she sings ."""
PROBLEM = "it ended at -1, below 0: lower <ppo.lr>"
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Text, attributes and balance of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and wanted.items() <= attrs.items()]


def make(root: Path) -> Path:
    """Two forms in two worlds, one of the runs failed; js's first run knows its references, and lost its objective."""
    for form, coef, rate in (("js", 1.5, 62.0), ("none", 0.0, 40.0)):
        for world in (0, 1):
            settings = {"regularizer__name": form, "regularizer__coef": coef, "data__seed": world}
            wins = [2.0] * 6 if form == "js" else [1.0] * 4 + [2.0] * 2
            points = [point(0, 50.0, 0.0), point(20, rate, 2.0), point(40, rate + world, 4.0)]
            write_run(root / f"data.seed={world},regularizer={form}", points, judgements=wins, **settings)
    path = root / "data.seed=0,regularizer=js"
    rows = [json.loads(line) for line in (path / "responses.jsonl").read_text().splitlines()]
    start = HOSTILE.index("she")
    spans = [[start, len(HOSTILE), False]]
    write_lines(
        path / "responses.jsonl", [row | {"reference": HOSTILE, "reference_facts": spans, "facts": []} for row in rows]
    )
    outputs = [
        {"instruction": row["instruction"], "output": f"policy {HOSTILE}", "dataset": "biography"} for row in rows
    ]
    (path / "outputs.json").write_text(json.dumps(outputs))
    for name in ("outputs-greedy", "references-greedy"):
        greedy = [row | {"output": f"{name} she sings ."} for row in outputs]
        (path / f"{name}.json").write_text(json.dumps(greedy))
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps(metrics | {"objective_problem": PROBLEM}))
    failed = write_run(root / "regularizer=js,seed=9", [point(0, 50.0)], seed=9, regularizer__name="js")
    (failed / "status.json").write_text(json.dumps({"state": "failed", "step": 3, "reason": f"bad {HOSTILE}"}))
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The report's folder, and what the terminal showed."""
    root = tmp_path_factory.mktemp("report")
    with console.capture() as capture:
        main([str(make(root / "runs")), "--out", str(root / "out"), "--responses", "2"])
    return root / "out", capture.get()


@pytest.fixture(scope="module")
def folder(written: tuple[Path, str]) -> Path:
    return written[0]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Page]:
    """The first page on the runs below tmp_path/runs, without the printed pictures, which take long."""
    monkeypatch.setattr("rlhf.report.plots.write_plots", lambda *_: [])

    def index(*arguments: str) -> Page:
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *arguments])
        return Page(tmp_path / "out" / "index.html")

    return index


@pytest.fixture(scope="module")
def index(folder: Path) -> Page:
    return Page(folder / "index.html")


def test_the_answer_comes_first(index: Page) -> None:
    assert "js has the highest greedy win rate: 62.5 ±" in index.words
    # js won all 6 prompts, none 2 of them
    assert "It leads none, the next, by 66.7 points" in index.words


def test_an_objective_that_fell_is_told_at_the_top_and_at_the_run(folder: Path, index: Page) -> None:
    answer, _, rest = index.words.partition("Win rate and factuality")
    assert f"in 1 of 2 runs of js, as in the first of them: {PROBLEM}" in answer
    assert [span["title"] for span in index.all("span", **{"class": "state"}) if "title" in span].count(PROBLEM) == 1
    pages = [Page(path).words for path in (folder / "runs").iterdir()]
    assert [PROBLEM in words for words in pages].count(True) == 1
    assert PROBLEM not in rest


def test_the_sft_model_and_its_controls_stand_below_the_settings_and_beside_a_run(folder: Path) -> None:
    names = ["SFT", "SFT, T=0.7", "SFT, T=0.5"]
    assert re.findall(r'<th scope="row">(SFT[^<]*)<', (folder / "index.html").read_text()) == names
    for path in (folder / "runs").iterdir():
        assert re.findall(r'<th scope="col" class="number">([^<]*)<', path.read_text()) == [*names, "policy"]


def test_the_table_has_every_setting_with_its_runs_and_command(index: Page) -> None:
    openers = index.all("button", **{"class": "opener"})
    assert len(openers) == 2
    ids = {attrs.get("id") for _, attrs in index.tags}
    assert {opener["aria-controls"] for opener in openers} <= ids
    assert len([row for row in index.all("tr") if row.get("class") == "run"]) == 2 * (2 + 1)
    assert "1 failed" in index.words
    assert "python -m rlhf.run" in index.words
    assert {"descending"} == {attrs["aria-sort"] for attrs in index.all("th") if "aria-sort" in attrs}


def test_what_failed_is_shown_with_its_reason(index: Page) -> None:
    assert f"bad {HOSTILE}" in index.words
    assert "step 1 of 40" in index.words


def test_hostile_text_stays_text(folder: Path, index: Page) -> None:
    pages = [index, *(Page(path) for path in (folder / "runs").iterdir())]
    for page in pages:
        assert not any("alert" in script for script in page.scripts)
        assert not any("onerror" in attrs for _, attrs in page.tags)
    assert HOSTILE.split(" she")[0] in index.words


def test_all_it_refers_to_is_there_and_nothing_is_elsewhere(folder: Path) -> None:
    for path in (folder / "index.html", *(folder / "runs").iterdir()):
        page = Page(path)
        links = [attrs.get(key) for _, attrs in page.tags for key in ("href", "src") if attrs.get(key)]
        ids = {attrs.get("id") for _, attrs in page.tags}
        for link in (str(link) for link in links if link and not link.startswith("data:")):
            file, _, anchor = link.partition("#")
            assert "//" not in link
            assert (path.parent / file).exists() if file else anchor in ids, link


def test_responses_stand_side_by_side_with_their_facts_marked(folder: Path) -> None:
    pages = [Page(path) for path in (folder / "runs").iterdir()]
    assert len(pages) == 4
    [page] = [page for page in pages if page.all("article")]
    assert len(page.all("article")) == 2
    assert [attrs["data-outcome"] for attrs in page.all("article")] == ["won"] * 2  # of the greedy pair, which is first
    first, second = (page.words.index(text) for text in ("references-greedy she sings .", "[wrong: she sings .]"))
    assert first < page.words.index("outputs-greedy she sings .") < second
    assert [mark["class"] for mark in page.all("mark")] == [
        "right",
        "wrong",
        "wrong",
        "wrong",
    ]  # the legend's two first
    assert "[wrong: she sings .]" in page.words
    assert "won 0 of 2, tied 2" in page.words
    others = [other.words for other in pages if other is not page]
    assert all("This run kept no outputs." in words for words in others)


def test_a_run_that_recorded_no_reference_shows_its_responses(tmp_path: Path, write: Callable[..., Page]) -> None:
    path = write_run(tmp_path / "runs" / "one", [point(0, 50.0), point(40, 60.0)], judgements=[2.0, 1.0])
    outputs = [{"instruction": f"prompt {place}", "output": "she sings .", "dataset": "x"} for place in range(2)]
    (path / "outputs.json").write_text(json.dumps(outputs))
    page = write()
    assert "recorded neither the SFT model's responses nor where facts stand" in page.words
    assert page.words.count("she sings .") == 2
    assert page.all("mark") == []
    assert "all runs: greedy win rate 60.0 ± 1.5 %" in page.words


def test_tables_figures_and_data_are_written(folder: Path) -> None:
    names = {path.name for path in (folder / "tables").iterdir()}
    tables = ("ablation", "differences", "settings", "runs", "unfinished")
    assert names == {f"{table}.{kind}" for table in tables for kind in ("csv", "md", "tex")}
    figures = ("win_rate", "factuality", "overoptimisation", "win_rate_by_step", "training")
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")
    }
    assert (folder / "figures" / "win_rate.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "figures" / "win_rate.pdf").read_bytes()[:4] == b"%PDF"
    data = json.loads("".join(Page(folder / "index.html").scripts).split('scripted")')[1])
    assert [group["label"] for group in data["groups"]] == ["js", "none"]
    assert all((folder / metric["file"]).exists() for metric in data["metrics"].values())
    text = (folder / data["metrics"]["rollout/kl"]["file"]).read_text()
    name, content = json.loads(f"[{text.removeprefix('report.loaded(').removesuffix(');' + chr(10))}]")
    assert name == "rollout/kl"
    assert content["means"][data["groups"][0]["id"]] == [[1, 0.01, 0.01, 0.01]]
    assert data["axes"].keys() == data["paths"].keys()
    assert data["axes"]["reward"] == [FIGURES["reward"].axis, FIGURES["win_rate_greedy"].axis]
    js = data["paths"]["true_kl_per_response"][data["groups"][0]["id"]]
    assert [(x, pytest.approx(rate)) for x, rate, *_ in js] == [(0.0, 50.0), (2.0, 62.0), (4.0, 62.5)]


def test_one_script_of_plotly_serves_the_figures(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "assets").iterdir()) == [
        "charts.js", "plotly.min.js", "report.css", "report.js",
    ]  # fmt: skip
    assert all((path.stat().st_size < 50_000) for path in (folder / "runs").iterdir())


def test_the_terminal_shows_the_table(written: tuple[Path, str]) -> None:
    folder, shown = written
    assert "js has the highest greedy win rate" in shown
    assert "62.5 ±" in shown
    assert PROBLEM in " ".join(shown.split())
    assert "failed, step 1 of 40: bad </script>" in shown
    assert f"{folder / 'index.html'}: 4 runs, 1 run not finished" in shown.replace("\n", "")


def test_by_a_key(tmp_path: Path, write: Callable[..., Page]) -> None:
    make(tmp_path / "runs")
    write_run(tmp_path / "runs" / "more", [point(0, 50.0), point(40, 70.0)], lora__r=64)
    words = write("--by", "regularizer.name").words
    assert "Left out, for they differ in more than regularizer.name: 1 run (they differ in lora.r)." in words
    with pytest.raises(SystemExit, match=r"--by lora\.rang: .* lora\.r"):
        write("--by", "lora.rang")


def test_failed_runs_alone_make_a_page(tmp_path: Path, write: Callable[..., Page]) -> None:
    make(tmp_path / "runs")
    for path in (tmp_path / "runs").glob("data.seed=*"):
        shutil.rmtree(path)
    words = write().words
    assert "No finished run yet" in words
    assert "bad </script>" in words


def test_runs_of_an_earlier_version_are_named_and_in_no_figure(tmp_path: Path, write: Callable[..., Page]) -> None:
    make(tmp_path / "runs")
    old = tmp_path / "runs" / "data.seed=1,regularizer=js" / "metrics.json"
    kept = {key: value for key, value in json.loads(old.read_text()).items() if "per_response" not in key}
    old.write_text(json.dumps(kept))
    words = write().words
    assert "made by an earlier version, whose figures mean something else: run it again" in words
    assert "Unfinished (2)" in words
    assert "js has the highest greedy win rate: 62.0 ±" in words  # of the world that is left


def test_data_for_scripts_can_not_end_them() -> None:
    text = as_data({"a": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: no runs below .*status\.json"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"error: no such directory: .*nowhere"):
        main([str(tmp_path / "nowhere")])
    assert not (tmp_path / "out").exists()


def test_it_needs_no_torch() -> None:
    code = "import sys, rlhf.report.__main__; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[]\n"
