"""The shape of the code: imports point downwards, and files and functions stay small enough to be read."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("rlhf", "benchmarks", "studies") for path in (ROOT / folder).rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

LAYERS = (
    ("rlhf.errors", "rlhf.escape", "rlhf.figures"),
    ("rlhf.validate",),
    ("rlhf.config",),
    ("rlhf.compose",),
    ("rlhf.storage.files", "rlhf.console", "rlhf.process", "rlhf.data.source"),
    ("rlhf.storage", "rlhf.tracking", "rlhf.endpoints", "rlhf.summary"),
    ("rlhf.search",),
    ("rlhf.launch",),
    ("rlhf.data", "rlhf.verifiers"),
    ("rlhf.models", "rlhf.regularizers"),
    ("rlhf.rl",),
    ("rlhf.algorithms",),
    ("rlhf.evaluation",),
    ("rlhf.report",),
    ("rlhf.stages",),
    ("rlhf.experiment",),
    ("rlhf.run", "rlhf.resume", "rlhf.prepare", "rlhf.status", "rlhf.stop", "rlhf.clone"),
    ("rlhf.evaluate", "rlhf.judge", "rlhf.alpaca_eval", "rlhf.export", "rlhf.chat", "rlhf.samples", "rlhf.dashboard"),
    ("rlhf.choose", "rlhf.factscore"),
    ("benchmarks", "studies"),
)
"""From the bottom up; a module belongs to the most exact name that fits it."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
CODE = [name for name, path in MODULES.items() if path.name != "__init__.py"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """The project's modules that `name` imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            module = node.module or ""
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module for alias in node.names
            }
    return {module for module in found if module in MODULES}


def layer(name: str) -> int:
    prefixes = [(prefix, level) for level, names in enumerate(LAYERS) for prefix in names]
    fitting = [(len(prefix), level) for prefix, level in prefixes if name == prefix or name.startswith(f"{prefix}.")]
    assert fitting, f"{name} belongs to no layer"
    return max(fitting)[1]


def test_the_modules_are_found() -> None:
    assert "rlhf.stages.setting" in imported("rlhf.experiment")
    assert "rlhf.rl.loss" in imported("rlhf.stages.learner")  # written as `from rlhf.rl import loss`
    assert imported("rlhf.errors") == set()


def test_no_import_cycles() -> None:
    TopologicalSorter({name: imported(name) for name in MODULES}).prepare()  # raises CycleError, naming the cycle


@pytest.mark.parametrize("name", CODE)
def test_imports_point_downwards(name: str) -> None:
    upwards = {other for other in imported(name) if layer(other) > layer(name)}
    assert upwards == set()


def test_shapes_are_checked_wherever_they_are_written(pytestconfig: pytest.Config) -> None:
    """The import hook of jaxtyping costs too much on modules without tensors: pyproject.toml names those with them."""
    *checked, checker = pytestconfig.getoption("jaxtyping_packages").split(",")
    assert checker == "beartype.beartype"
    written = {name for name in CODE if "jaxtyping" in MODULES[name].read_text(encoding="utf-8")}
    assert len(written) > 20
    unchecked = {name for name in written if not any(f"{name}.".startswith(f"{each}.") for each in checked)}
    assert unchecked == set()


PACKAGES = sorted({path.parent for path in FILES} - {ROOT / "rlhf"})  # rlhf/__init__.py is the library's face


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
def test_packages_open_with_an_empty_file(path: Path) -> None:
    assert (path / "__init__.py").read_text() == ""


@pytest.mark.parametrize("name", CODE)
def test_files_and_functions_stay_short(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE
    functions = [node for node in ast.walk(tree(MODULES[name])) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("name", CODE)
def test_a_file_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(MODULES[name]))
