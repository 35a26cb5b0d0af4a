"""The device of a run: chosen in one place, named in what is written, waited for before a clock is read."""

from __future__ import annotations

import re

import torch

__all__ = ["describe_device", "peak_memory", "reset_peak_memory", "resolve_device", "synchronize"]


def resolve_device(name: str) -> torch.device:
    """The one device that ``--device`` names: "cpu", "cuda" (which is "cuda:0"), "cuda:N", or "auto".

    "auto" is "cuda" where torch can use a GPU, else "cpu".

    Raises:
        ValueError: no such name, or torch cannot use that device here; the message says why.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N (such as cuda:1), got {name!r}")
    if not torch.cuda.is_available():
        reason = "is built without CUDA" if torch.version.cuda is None else "finds no GPU with a working driver"
        raise ValueError(
            f"--device {name} needs a GPU that torch can use, but torch {torch.__version__} {reason}; use --device cpu"
        )
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        found = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ValueError(f"--device must be a GPU that torch finds here ({found}), got {name!r}")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """The device as it stands in files and in the report: "cpu", or "cuda:0 (NVIDIA H100 80GB HBM3)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done all it was asked to: a GPU works on while Python goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of ``peak_memory``."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """The most memory of a GPU that tensors took at once since ``reset_peak_memory``, in MiB; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
