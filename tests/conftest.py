"""What holds for all tests."""

import pytest
import torch

from tests.fake_endpoint import loopback, model

__all__ = ["loopback", "model"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that have slow tests, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors this small only lose by more, and the same number everywhere keeps results the same."""
    torch.set_num_threads(1)
