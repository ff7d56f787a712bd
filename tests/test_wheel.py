"""The package as it is installed from a wheel: it works in any folder, and declares exactly what it imports."""

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
TOOLS = ("test", "bench")
"""Optional dependencies of those who work on the package; the others are its users'."""

INDIRECT = {
    "alpaca-eval": "rlhf alpaca-eval starts it in a process of its own",
    "bitsandbytes": "transformers quantizes with it",
    "hydra-optuna-sweeper": "hydra/sweeper=optuna chooses it",
    "hydra-submitit-launcher": "conf/hydra/launcher/stock_*.yaml choose its launchers",
    "setuptools": "alpaca-eval imports its pkg_resources",
    "sqlalchemy": "hydra-optuna-sweeper's Optuna keeps studies with it, of a version it does not ask for",
    "tensorboard": "torch.utils.tensorboard writes with it",
}
"""What is declared and never imported, and why."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that holds the wheel and finds its dependencies in this one; needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (site,) = folder.glob("env/lib/python*/site-packages")
    # a plain path: the .pth files that lie there are not read, and so not that of an editable rlhf
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", folder / "env/bin/python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    return folder / "env/bin"


@pytest.mark.slow
def test_an_installed_package_works_in_any_folder(scripts: Path, tmp_path: Path) -> None:
    def run(command: str, *arguments: object) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        words = [str(scripts / command), *map(str, arguments)]
        return subprocess.run(words, cwd=tmp_path, env=clean, check=True, capture_output=True, text=True).stdout

    where = run("python", "-c", "import rlhf; print(rlhf.__file__, rlhf.load_config('lora.r=4').lora.r)")
    assert where.startswith(str(scripts.parent))
    assert where.endswith(" 4\n")
    assert "rlhf COMMAND" in run("rlhf", "--help")
    assert "name: kl" in run("rlhf", "run", "regularizer=kl", "--cfg", "job")
    assert "data.seed: 0,1,2" in run("rlhf", "run", "-cn", "regularizers", "--cfg", "all")
    run("rlhf", "run", "experiment=smoke", "tracker=none", "ppo.steps=1")
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.json")
    assert "tracker" not in metrics.parent.name


def test_what_is_imported_is_declared_and_what_is_declared_is_used() -> None:
    extras = [name for group, names in PROJECT["optional-dependencies"].items() if group not in TOOLS for name in names]
    declared = {canonical(re.split(r"[\[<>=!~;]", name)[0]) for name in [*PROJECT["dependencies"], *extras]}
    distributions = packages_distributions()
    used = {
        canonical(name) for module in imported() for name in distributions.get(module, [f"{module} (not installed)"])
    }
    assert used == declared - INDIRECT.keys()
    assert INDIRECT.keys() <= declared


def imported() -> set[str]:
    """The top-level modules from elsewhere that the package imports, at the top of its files or inside functions."""
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
