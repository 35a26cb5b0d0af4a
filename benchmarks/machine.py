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

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hamiltorch_ext", "torch", "numpy", "jax", "jaxlib")


def restrict(threads: int) -> None:
    """Give every peer the same processors: some libraries have no other knob for their thread count.

    Call it before torch or jax start their pools.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["PJRT_NPROC"] = str(threads)  # jax's thread pool
    torch.set_num_threads(threads)


def available_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: str, threads: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_model(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "processors": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads(), "ours": torch.get_num_threads(), "jax": threads},
        "instruction_set": _instruction_set(),
    }


def limits(device: str, threads: int, seconds: float, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Peak float32 rate (GFLOP/s), the largest of what was tried, and memory bandwidth (GB/s, read plus write).

    ``before`` holds an earlier measurement of the same run: a limit is the best of all.
    """
    rates = {"sgemm": _sgemm_rate(device, seconds)}
    measure_peak = None if device == "cuda" else _native("measure_peak")
    if measure_peak is not None:
        rates["multiply-adds in registers"] = measure_peak(threads, seconds) / 1e9
    bandwidth = _copy_bandwidth(device, seconds)
    if before is not None:
        rates = {name: max(rate, before["gflops_tried"][name]) for name, rate in rates.items()}
        bandwidth = max(bandwidth, before["bandwidth_gbs"])
    source = max(rates, key=rates.__getitem__)
    return {
        "gflops": rates[source],
        "gflops_source": source,
        "gflops_tried": rates,
        "bandwidth_gbs": bandwidth,
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The repository's commit, with "+changes" where the tree differs from it."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command() -> str:
    return shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _native(name: str) -> Any:
    try:
        from hamiltorch_ext import _C
    except ImportError:
        return None
    return getattr(_C, name, None)


def _instruction_set() -> str | None:
    query = _native("instruction_set")
    return None if query is None else str(query())


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


def _sgemm_rate(device: str, seconds: float) -> float:
    n = 8192 if device == "cuda" else 1024
    a, b, out = (torch.ones(n, n, device=device) for _ in range(3))
    return _best_rate(lambda: torch.mm(a, b, out=out), 2.0 * n**3, device, seconds)


def _copy_bandwidth(device: str, seconds: float) -> float:
    source = torch.ones(64 << 20, device=device)  # 256 MiB, far beyond any cache
    target = torch.empty_like(source)
    return _best_rate(lambda: target.copy_(source), 2.0 * source.numel() * source.element_size(), device, seconds)
