"""The GPU where there is none: the CUDA kernels' own text on the emulator (csrc/emulator), for tensors on the CPU."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from hamiltorch_ext import (
    _C,
    HamiltonianMLP,
    _discrete_gradient_ops,
    _extended_ops,
    _implicit_ops,
    _layer1,
    _ops,
    _separable_ops,
    variational,
)
from hamiltorch_ext._cuda_del import CudaKernels

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "emulator"
Gpu = tuple[int, int, int]
OPERATORS = {
    "implicit": _implicit_ops,
    "extended": _extended_ops,
    "discrete": _discrete_gradient_ops,
    "separable": _separable_ops,
}
SHARED = 232448  # bytes of a block's shared memory, an H100's
# Hidden layers, a GPU, and why no rollout of eight samples on a block has a plan there.
NO_PLAN = [
    ((4,), (75, 68, 65536), r"compute capability 8\.0 or newer, the device has 7\.5"),
    ((600,), (90, 132, 10_000), "the network needs at least .* bytes of shared memory"),
    ((3,) * 32, (90, 132, SHARED), "at most 31 hidden layers, got 32"),
]
GUARD = 4096  # bytes on either side of a workspace, which nobody may write


@dataclass(frozen=True)
class Emulator:
    """The native module as its callers see it, on a device of the test's choice: compute capability, multiprocessors,
    and bytes of shared memory in a block; another for backward passes if need be. ``seed`` is of the order in which the
    threads run."""

    gpu: Gpu = (90, 8, SHARED)
    adjoint_gpu: Gpu | None = None
    seed: int = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(native_module(), name)

    def gpu_description(self, device: int) -> Gpu:
        assert device == 0
        return self.gpu

    def cuda_plans(self, widths: Any, batch: int, moves: Any, precision: int, adjoint: bool, gpu: Gpu) -> list[Any]:
        if adjoint and self.adjoint_gpu:
            gpu = self.adjoint_gpu
        capability, multiprocessors, _ = gpu
        clusters = [multiprocessors // size if capability >= 90 else 0 for size in (2, 4, 8, 16)]
        return native_module().cuda_plans(widths, batch, moves, precision, adjoint, [*gpu, *clusters])

    def chain_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().chain_forward, plan, *arguments)

    def chain_backward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().chain_backward, plan, *arguments)

    def cuda_del_plan(self, dim: int, hidden: Any, batch: int, is_double: bool, gpu: Gpu) -> Any:
        return native_module().cuda_del_plan(dim, hidden, batch, is_double, [*gpu, 0, 0, 0, 0])

    def cuda_del_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_del_forward, plan, *arguments)

    def cuda_del_adjoint(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_del_adjoint, plan, *arguments)

    def cuda_implicit_plan(self, dim: int, hidden: Any, batch: int, stages: int, is_double: bool, gpu: Gpu) -> Any:
        return native_module().cuda_implicit_plan(dim, hidden, batch, stages, is_double, [*gpu, 0, 0, 0, 0])

    def cuda_implicit_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_implicit_forward, plan, *arguments)

    def cuda_implicit_adjoint(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_implicit_adjoint, plan, *arguments)

    def cuda_extended_plan(self, dim: int, hidden: Any, batch: int, is_double: bool, gpu: Gpu) -> Any:
        return native_module().cuda_extended_plan(dim, hidden, batch, is_double, [*gpu, 0, 0, 0, 0])

    def cuda_extended_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_extended_forward, plan, *arguments)

    def cuda_extended_adjoint(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_extended_adjoint, plan, *arguments)

    def cuda_discrete_plan(self, dim: int, hidden: Any, batch: int, is_double: bool, gpu: Gpu) -> Any:
        return native_module().cuda_discrete_plan(dim, hidden, batch, is_double, [*gpu, 0, 0, 0, 0])

    def cuda_discrete_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_discrete_forward, plan, *arguments)

    def cuda_discrete_adjoint(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_discrete_adjoint, plan, *arguments)

    def cuda_separable_plan(self, dim: int, potential: Any, kinetic: Any, batch: int, is_double: bool, gpu: Gpu) -> Any:
        return native_module().cuda_separable_plan(dim, potential, kinetic, batch, is_double, [*gpu, 0, 0, 0, 0])

    def cuda_separable_forward(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_separable_forward, plan, *arguments)

    def cuda_separable_adjoint(self, plan: Any, *arguments: Any) -> None:
        self._run(native_module().cuda_separable_adjoint, plan, *arguments)

    def _run(self, call: Callable[..., None], plan: Any, *arguments: Any) -> None:
        *arguments, _, device, _ = arguments  # type: ignore[assignment]
        workspace = torch.full((GUARD + plan.workspace_bytes + GUARD,), 0xFF, dtype=torch.uint8)  # floats: NaN
        call(plan, *arguments, workspace.data_ptr() + GUARD, device, self.seed)
        for guard in (workspace[:GUARD], workspace[-GUARD:]):
            assert (guard == 0xFF).all(), "the kernel has written beyond its workspace"


ORDERS = [Emulator(seed=order) for order in (1, 2, 3)]  # of the threads


@contextmanager
def emulated_gpu(emulator: Emulator | None = None) -> Iterator[None]:
    """Rollouts of tensors on the CPU run as those of CUDA tensors do, precisions included, on the emulator.

    Uninitialised memory is NaN, so that a result that nobody has written shows.
    """
    native = emulator or Emulator()

    def rollout(z0: Tensor, dt: Tensor, weights: Any, biases: Any, condition: Any, *rest: Any) -> Any:
        _ops.check_call(z0, dt, weights, biases, condition, rest[2], rest[4])
        with torch.autocast("cpu", enabled=False):
            return _layer1.rollout(native, z0, dt, weights, biases, condition, *rest)

    def rollout_backward(on_trajectory: Any, on_energies: Any, trajectory: Tensor, *rest: Any) -> Any:
        _ops._check_adjoint(trajectory, on_trajectory, on_energies)
        _ops.check_call(trajectory[:, 0], *rest[:4], trajectory.shape[1] - 1, rest[6])
        with torch.autocast("cpu", enabled=False):
            return _layer1.rollout_backward(native, on_trajectory, on_energies, trajectory, *rest)

    library = torch.library.Library("hamiltorch", "IMPL", "CPU")
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel", UserWarning)
            library.impl("rollout", rollout)
            library.impl("rollout_backward", rollout_backward)
            for name, operators in OPERATORS.items():
                library.impl(f"{name}_rollout", partial(operators.rollout_by_cuda, native))
                library.impl(f"{name}_rollout_backward", partial(operators.rollout_backward_by_cuda, native))
        torch.use_deterministic_algorithms(True)  # fills what torch.empty returns
        no_short_cut = _ops.direct_calls(_C.Direct, HamiltonianMLP, None)
        with (
            mock.patch.dict(_ops.PRECISIONS, cpu=_ops.PRECISIONS["cuda"]),
            mock.patch.object(_ops, "_direct", no_short_cut),
            mock.patch.object(_C, "supports_bfloat16", return_value=True),
            mock.patch.dict(variational.KERNELS, cpu=CudaKernels(native)),
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        library._destroy()


def every_place(plan: Callable[[Gpu], Any]) -> list[tuple[Gpu, tuple[int, bool]]]:
    """Devices with less and less shared memory until none is left with a plan, and what is where by it."""
    found: list[tuple[Gpu, tuple[int, bool]]] = []
    gpu = (90, 1, SHARED)
    while True:
        try:
            there = plan(gpu)
        except ValueError:
            return found
        found.append((gpu, (there.weights, there.vectors_global)))
        gpu = (90, 1, there.shared_bytes - 1)


def assert_same_bits(emulators: Iterable[Emulator], run: Callable[[], dict[str, Tensor]]) -> None:
    """What ``run`` returns is the same on all of them."""
    first: dict[str, Tensor] = {}
    for emulator in emulators:
        with emulated_gpu(emulator):
            got = run()
        first = first or got
        assert got.keys() == first.keys()
        for name, value in first.items():
            assert torch.equal(got[name], value), (emulator, name)
    assert first


@lru_cache(maxsize=1)
def native_module() -> Any:
    """The emulator's module, built where its sources have changed; one process at a time."""
    import pybind11

    FOLDER.parent.mkdir(exist_ok=True)
    with open(FOLDER.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run_tool(
            "cmake", "-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
            "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1", "-DHAMILTORCH_CUDA=OFF", "-DHAMILTORCH_EMULATOR=ON",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
        )  # fmt: skip
        _run_tool("cmake", "--build", str(FOLDER), "--target", "hamiltorch_emulator")
        file = FOLDER / f"hamiltorch_emulator{sysconfig.get_config_var('EXT_SUFFIX')}"
        loader = ExtensionFileLoader("hamiltorch_emulator", str(file))
        spec = spec_from_loader("hamiltorch_emulator", loader)
        assert spec
        module = module_from_spec(spec)
        loader.exec_module(module)
        return module


@lru_cache
def program(source: Path) -> Path:
    """A program of one file, linked with the emulator."""
    native_module()
    to = FOLDER / source.stem
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", (FOLDER / "CMakeCache.txt").read_text(), re.MULTILINE)
    assert compiler
    emulator = ROOT / "csrc" / "emulator" / "emulator.cpp"
    _run_tool(compiler[1], "-std=c++17", "-O1", str(source), str(emulator), "-o", f"{to}.{os.getpid()}")
    os.replace(f"{to}.{os.getpid()}", to)  # another process may be running it
    return to


def _run_tool(tool: str, *arguments: str) -> None:
    done = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _tool(name: str) -> str:
    """Beside the interpreter first: a virtual environment need not be activated."""
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if found is None:
        raise RuntimeError(f"{name} is not installed; the extra 'test' has it")
    return found
