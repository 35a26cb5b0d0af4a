"""Fixtures that every test file may use, and the devices that a test may run on."""

from __future__ import annotations

import emulation
import pytest
import torch
from helpers import DEVICES, on_instruction_set

from hamiltorch_ext import _C


@pytest.fixture(autouse=True)
def _restore_threads():
    """Tests may change torch's thread count, which is also the native kernels'."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request):
    """Each that this processor runs."""
    with on_instruction_set(request.param):
        assert _C.instruction_set() == request.param
        yield request.param


@pytest.fixture(params=DEVICES)
def device(request):
    """Where a body runs: the CPU's kernels, the CUDA kernels on the emulator (their tensors are on the CPU), a GPU.

    ``helpers.on`` restricts it, and the mark ``large`` leaves the emulator out.
    """
    if request.param == "emulated":
        with emulation.emulated_gpu():
            yield "cpu"
    else:
        yield request.param


def pytest_configure():
    """Numbers drawn while tests are collected are in their names, which every process must find alike."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config, items):
    """Skips what needs a GPU where there is none, and drops what the emulator would take too long for."""
    kept, too_large = [], []
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        emulated = hasattr(item, "callspec") and item.callspec.params.get("device") == "emulated"
        (too_large if emulated and item.get_closest_marker("large") else kept).append(item)
    if too_large:
        config.hook.pytest_deselected(items=too_large)
        items[:] = kept
