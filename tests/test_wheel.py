"""The package as it is installed from a wheel: it runs from any folder, and names all that it imports."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an environment has its commands that holds the wheel, and of this one the dependencies alone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (wheel,) = folder.glob("*.whl")
    environment = [*pip, "--python", folder / "env/bin/python"]
    subprocess.run([*environment, "install", "--no-deps", "--no-index", wheel], check=True)
    (site,) = folder.glob("env/lib/python*/site-packages")
    (site / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # whose own .pth files it leaves unread
    return folder / "env/bin"


def run(command: list[object], folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=clean, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_an_installed_command_composes_from_any_folder(scripts: Path, tmp_path: Path) -> None:
    where = run([scripts / "python", "-c", "import rlhf.compose; print(rlhf.compose.CONF)"], tmp_path)
    assert Path(where.strip()).is_relative_to(scripts.parent)
    assert "name: kl" in run([scripts / "rlhf", "run", "regularizer=kl", "--cfg", "job"], tmp_path)
    assert "data.seed: 0,1,2" in run([scripts / "rlhf", "run", "-cn", "regularizers", "--cfg", "all"], tmp_path)


@pytest.mark.slow
def test_an_installed_module_runs_from_any_folder(scripts: Path, tmp_path: Path) -> None:
    run([scripts / "python", "-m", "rlhf.run", "experiment=smoke", "tracker=none"], tmp_path)
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.json")
    assert "tracker" not in metrics.parent.name


def test_every_import_is_a_dependency() -> None:
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    named = {canonical(re.split(r"[\[<>=!~;]", name)[0]) for name in [*PROJECT["dependencies"], *extras]}
    distributions = packages_distributions()
    missing = {module for module in imported() if not {canonical(name) for name in distributions[module]} & named}
    assert missing == set()


def imported() -> set[str]:
    """The top-level modules from elsewhere that the package imports, wherever in its files."""
    found: set[str] = set()
    for folder in ("rlhf", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"rlhf"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
