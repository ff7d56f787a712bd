"""What tests of launching have in common."""

import pytest

from rlhf.launch import queue


@pytest.fixture(autouse=True)
def _no_memory_of_clusters() -> None:
    queue._site.cache_clear()
    queue._forgotten.clear()


@pytest.fixture
def _named_by_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a run's overrides from its directory's name."""
    monkeypatch.setattr("rlhf.storage.runs._parts", lambda path: path.name.split(","))
