"""Runs that are shown without directories, whose overrides would be written there."""

import pytest


@pytest.fixture
def _named_by_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a run's overrides from its directory's name."""
    monkeypatch.setattr("rlhf.storage.runs._parts", lambda path: path.name.split(","))
