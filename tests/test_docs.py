"""The documents: links lead somewhere, the commands they name exist, and their code runs as it stands."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from rlhf.__main__ import COMMANDS
from rlhf.compose import SWEEPS, compose_checked
from rlhf.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
COMMAND = re.compile(r"rlhf run |python -m |torchrun |rlhf [a-z]|make [a-z]")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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


@by_page
def test_documented_runs_can_be_composed(page: Path) -> None:
    for command in commands(page):
        if re.search(r"rlhf[ .]run", command) and not re.search(r"\.\.\.|NAME|\|", command):
            words = [word for word in shlex.split(command) if re.match(r"\+?(?!hydra)[a-z][\w.]*=", word)]
            swept = [param for name in re.findall(r"-cn (\w+)", command) for param in sweep_params(name)]
            try:
                compose_checked("config", ["tracker=none", *map(first_value, [*swept, *words])])
            except ConfigError as error:
                pytest.fail(f"{command}\n{error}")


def sweep_params(name: str) -> list[str]:
    """The overrides that a file of sweeps/ varies, as they stand there."""
    params = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    return [f"{key}={values}" for key, values in params.items()]


def first_value(override: str) -> str:
    """Of a sweep over values its first one."""
    key, _, value = override.partition("=")
    return override if value.startswith(("[", "'")) else f"{key}={value.split(',')[0]}"
