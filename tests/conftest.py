"""Fixtures that every test file may use."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _restore_threads():
    """Tests may change torch's thread count, which is also the native kernels'."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
