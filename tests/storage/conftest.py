"""A run directory to be made, and the configuration to make it with."""

from pathlib import Path

import pytest

from rlhf.config.run import Config
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure


@pytest.fixture(scope="module")
def config() -> Config:
    return configure("experiment=smoke")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "one")
