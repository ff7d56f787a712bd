"""The documents: links lead somewhere, the commands they name exist, and their code runs as it stands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from rlhf.__main__ import COMMANDS
from rlhf.compose import CONF, SWEEPS, compose_checked, to_config
from rlhf.errors import ConfigError
from rlhf.storage.files import read_json
from tests.configure import composed

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

EXTENDING = ROOT / "docs" / "extending.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
RECIPE_FILE = re.compile(r"^`([^`\n]+)`(, at its end)?:\n\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:rlhf|conf|sweeps|tests|benchmarks|studies)/[\w/.]*)`")
COMMAND = re.compile(r"rlhf run |python -m |torchrun |rlhf [a-z]|make [a-z]")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


by_page = pytest.mark.parametrize("page", PAGES, ids=relative)


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text()) if found == language]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> Iterator[str]:
    """Command lines in code, whole: indented, fenced, or between backticks; without comments."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    lines = re.findall(r"^    (.*)$", text, flags=re.MULTILINE)
    fenced = [line for language, code in FENCE.findall(text) if language == "sh" for line in code.splitlines()]
    prose = re.sub(r"^    .*$", "", FENCE.sub("", text), flags=re.MULTILINE)
    inline = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    for line in (*lines, *fenced, *inline):
        command = line.split("  #")[0].split(" # ")[0].strip()
        if COMMAND.match(command):
            yield command


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


@by_page
def test_named_files_exist(page: Path) -> None:
    made = {name for name, _, _ in RECIPE_FILE.findall(EXTENDING.read_text())}
    for name in FILE.findall(page.read_text()):
        assert name in made or re.search("NAME|GROUP", name) or (ROOT / name).exists(), name


@by_page
def test_named_commands_exist(page: Path) -> None:
    for command in commands(page):
        words = command.split()
        if words[0] == "rlhf":
            assert words[1] in COMMANDS, command
        elif words[0] == "make":
            assert words[1] in TARGETS, command
        for module in re.findall(r"-m ((?:rlhf|benchmarks|studies|tests)[\w.]*)", command):
            assert find_spec(module) is not None, command
        for sweep in re.findall(r"-cn (\w+)", command):
            assert sweep == "NAME" or (SWEEPS / f"{sweep}.yaml").exists(), command


@pytest.mark.parametrize("page", [page for page in PAGES if page != EXTENDING], ids=relative)
def test_documented_runs_can_be_composed(page: Path) -> None:
    for command in commands(page):
        if re.search(r"rlhf[ .]run", command) and not re.search(r"\.\.\.|NAME|\|", command):
            words = [word for word in shlex.split(command) if re.match(r"\+?(?!hydra)[a-z][\w.]*=", word)]
            swept = [param for name in re.findall(r"-cn (\w+)", command) for param in sweep_params(name)]
            overrides = ["tracker=none", *map(first_value, [*swept, *words])]
            named = re.findall(r"-cn (?!NAME)(\w+)", command)
            try:
                if named:  # a sweep's file may choose options itself
                    search = f"hydra.searchpath=[file://{CONF}]"
                    to_config(composed(search, *overrides, name=named[0], folder=SWEEPS))
                else:
                    compose_checked("config", overrides)
            except ConfigError as error:
                pytest.fail(f"{command}\n{error}")


def sweep_params(name: str) -> list[str]:
    """The overrides that a file of sweeps/ varies, as they stand there."""
    params = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    return [f"{key}={values}" for key, values in params.items()]


def first_value(override: str) -> str:
    """Of a sweep over values its first one, of an interval or a range its start."""
    key, _, value = override.partition("=")
    value = re.sub(r"^(?:tag\(log, interval|range)\(([^,]+),.*$", r"\1", value)
    return f"{key}={value}" if value.startswith(("[", "'")) else f"{key}={value.split(',')[0]}"


@pytest.mark.slow
def test_the_library_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(ROOT / "docs" / "library.md", "python"):
        exec(code, names)


# ---- The recipes of docs/extending.md, carried out in a copy of the code. --------------------------------------------

QSUB = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
sh > "$2" 2>&1
echo 1.server
"""
"""Runs a job at once: options, then its script on stdin; prints its id."""

TINY_TEXT = (
    *("~experiment", "model.vocab_size=300", "model.hidden_size=16", "model.layers=1", "model.heads=2"),
    *("model.intermediate_size=32", "model.threads=1", "pretrain.steps=4", "sft.epochs=1", "sft.batch_size=4"),
    *("reward.epochs=1", "reward.batch_size=2", "reward.holdout=0.3", "checks.min_accuracy=0", "rollout.batch_size=4"),
    *("rollout.max_response_tokens=6", "ppo.steps=1", "ppo.step_batch_size=2", "ppo.micro_batch_size=2"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside a copy of the code that has the recipes' files, and whose runs are tiny unless told otherwise."""
    code = tmp_path_factory.mktemp("code")
    place = code / "work"
    place.mkdir()
    for folder in ("rlhf", "conf", "sweeps", "hydra_plugins"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, appended, text in RECIPE_FILE.findall(EXTENDING.read_text()):
        path = code / name if "/" in name else place / name
        assert path.exists() == bool(appended), name
        with path.open("a") as file:
            file.write(f"\n\n{text}" if appended else text)
    config = code / "conf" / "config.yaml"
    text = config.read_text().replace("experiment: null", "experiment: smoke")
    config.write_text(text.replace("tracker: wandb_offline", "tracker: none"))
    write_tables(place / "DIR")
    for program, script in (("qsub", QSUB), ("qstat", "#!/bin/sh\n"), ("qdel", "#!/bin/sh\n")):
        (place / program).write_text(script)
        (place / program).chmod(0o755)
    return place


def write_tables(folder: Path) -> None:
    """Questions with answers to learn from, prompts to evaluate on, and preferences on some of these."""
    folder.mkdir()
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(30)]
    pairs = [{"prompt": row["question"], "chosen": row["answer"], "rejected": "I do not know."} for row in rows[:16]]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "test.jsonl").write_text("".join(f'{{"question": "What is {n} + 2?"}}\n' for n in range(20)))
    (folder / "pairs.json").write_text(json.dumps(pairs))


def carry_out(place: Path, title: str, *more: str) -> None:
    """Give the commands below a heading of the page, with `more` overrides."""
    section = re.split(r"^## ", EXTENDING.read_text(), flags=re.MULTILINE)
    [text] = [each for each in section if each.startswith(f"{title}\n")]
    environment = {"PYTHONPATH": str(place.parent), "OMP_NUM_THREADS": "1", "PATH": f"{place}:{os.environ['PATH']}"}
    for language, line in FENCE.findall(text):
        if language == "sh":
            words = shlex.split(line)
            assert words[0] == "rlhf"
            command = [sys.executable, "-P", "-m", *words, *more]  # -P: a script has no working directory on its path
            done = subprocess.run(command, cwd=place, env=os.environ | environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def state(run: Path) -> str:
    return read_json(run / "status.json")["state"]


@pytest.mark.slow
def test_the_regularizer_recipe(place: Path) -> None:
    carry_out(place, "A regularizer")
    [run] = (place / "outputs" / "runs").glob("*penalty.huber*")
    assert state(run) == "done"
    assert yaml.safe_load((run / "config.yaml").read_text())["regularizer"]["function"]["delta"] == 0.5


@pytest.mark.slow
def test_the_recipes_of_an_algorithm_and_a_judge(place: Path) -> None:
    carry_out(place, "An algorithm")
    run = place / "outputs" / "runs" / "algorithm=best_half"
    assert state(run) == "done"
    carry_out(place, "A judge")
    assert 0 <= read_json(run / "evaluation-shorter.json")["win_rate"] <= 100


@pytest.mark.slow
def test_the_data_recipe(place: Path) -> None:
    carry_out(place, "A data format", *TINY_TEXT)
    [run] = (place / "outputs" / "runs").glob("*data.root=DIR*")
    assert state(run) == "done"
    assert [row["instruction"] for row in read_json(run / "outputs.json")][:1] == ["What is 0 + 2?"]


@pytest.mark.slow
def test_the_launcher_recipe(place: Path) -> None:
    carry_out(place, "A launcher")
    sweep = place / "outputs" / "sweeps" / "multirun"
    assert {run.parent.name: state(run.parent) for run in sweep.glob("*/status.json")} == {
        "regularizer=none": "done",
        "regularizer=kl": "done",
    }
    assert read_json(sweep / "launcher.json")["launcher"] == "pbs"


def test_the_tests_that_show_what_is_promised_exist() -> None:
    named = re.findall(
        r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    )
    assert len(named) > 12
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)
