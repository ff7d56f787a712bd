"""What holds for all tests."""

import pytest
import torch

from tests.fake_endpoint import loopback, model

__all__ = ["loopback", "model"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors this small only lose by more, and the same number everywhere keeps results the same."""
    torch.set_num_threads(1)
