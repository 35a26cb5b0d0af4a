"""What the numbers were measured on: the machine, its limits in this very run, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hamiltorch_ext import _C

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hamiltorch_ext", "torch", "numpy", "jax", "jaxlib")


def restrict(threads: int) -> None:
    """Give every peer the same processors, and no peer TF32 for float32.

    Some libraries have no other knob for their thread count. Call it before torch or jax start their pools.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["PJRT_NPROC"] = str(threads)  # jax's thread pool
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or jax takes most of a GPU's memory for itself
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False


def available_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: str, threads: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_model(),
        **(_gpu() if device == "cuda" else {}),
        "architecture": platform.machine(),
        "system": platform.system(),
        "processors": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads(), "ours": torch.get_num_threads(), "jax": threads},
        "instruction_set": _C.instruction_set(),
    }


def limits(device: str, threads: int, seconds: float, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Peak rates (GFLOP/s) and memory bandwidth (GB/s, read plus write).

    ``gflops`` is float32's rate, the largest of what was tried; those of other precisions stand beside it. ``before``
    holds an earlier measurement of the same run: a limit is the best of all.
    """
    rates = {"sgemm": _matmul_rate(device, seconds, torch.float32)}
    if device == "cuda":
        coarser = {"bfloat16": _matmul_rate(device, seconds, torch.bfloat16)}
        torch.backends.cuda.matmul.allow_tf32 = True
        coarser["tf32"] = _matmul_rate(device, seconds, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        coarser = peaks(threads, seconds)
        rates["multiply-adds in registers"] = coarser.pop("float32")
    bandwidth = _copy_bandwidth(device, seconds)
    if before is not None:
        rates = {name: max(rate, before["gflops_tried"][name]) for name, rate in rates.items()}
        coarser = {name: max(rate, before["gflops_by_precision"][name]) for name, rate in coarser.items()}
        bandwidth = max(bandwidth, before["bandwidth_gbs"])
    source = max(rates, key=rates.__getitem__)
    return {
        "gflops": rates[source],
        "gflops_source": source,
        "gflops_tried": rates,
        "gflops_by_precision": {"float32": rates[source], **coarser},
        "bandwidth_gbs": bandwidth,
    }


def peaks(threads: int, seconds: float) -> dict[str, float]:
    """GFLOP/s of multiply-adds in registers by precision: without bfloat16 where the processor has none."""
    rates = {"float32": _C.measure_peak(threads, seconds), "bfloat16": _C.measure_peak_bfloat16(threads, seconds)}
    return {precision: rate / 1e9 for precision, rate in rates.items() if rate > 0}


def read_bandwidth(threads: int, size: int, seconds: float) -> float:
    """GB/s at which the threads read an array of so many bytes again and again, from whichever cache holds it."""
    return _C.measure_read(threads, size, seconds) / 1e9


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The repository's commit, with "+changes" where the tree differs from it.

    A copy without its repository says by ``HAMILTORCH_COMMIT`` what it is a copy of.
    """
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("HAMILTORCH_COMMIT", "unknown")


def command(script: str) -> str:
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]])


def synchronise(device: str, results: Any = None) -> None:
    """Wait for the device; jax queues work of its own, so wait for its ``results`` as well."""
    if device == "cuda":
        torch.cuda.synchronize()
        if "jax" in sys.modules:
            sys.modules["jax"].block_until_ready(results)


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties()
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": properties.total_memory / 1e9,
        "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in fields.items()}
    name = stripped.get("model name", platform.machine())
    # Virtual machines hide the model's name behind the vendor's; family and model still tell the generation.
    return f"{name}, family {stripped.get('cpu family', '?')} model {stripped.get('model', '?')}"


def _best_rate(call: Callable[[], object], work: float, device: str, seconds: float) -> float:
    """Work per second of the fastest call within ``seconds``: a limit is a maximum, not a median."""
    call()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or best == 0.0:
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        best = max(best, work / (time.perf_counter() - start))
    return best / 1e9


def _matmul_rate(device: str, seconds: float, dtype: torch.dtype) -> float:
    n = 8192 if device == "cuda" else 1024
    # Random numbers: a GPU draws less power on ones, and then runs faster than it does on data.
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return _best_rate(lambda: torch.mm(a, b, out=out), 2.0 * n**3, device, seconds)


def _copy_bandwidth(device: str, seconds: float) -> float:
    source = torch.ones(64 << 20, device=device)  # 256 MiB, far beyond any cache
    target = torch.empty_like(source)
    return _best_rate(lambda: target.copy_(source), 2.0 * source.numel() * source.element_size(), device, seconds)
