"""What was built and what this machine offers: the text behind ``python -m hamiltorch_ext``."""

from __future__ import annotations

import platform
from typing import Any

import numpy
import torch

from . import _C

__all__ = ["build_info"]


def build_info() -> dict[str, Any]:
    """Versions, instruction set chosen, threads, CUDA architectures built, and the device or why there is none."""
    cuda = _C.cuda()
    return {
        "hamiltorch_ext": _C.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "instruction_set": _C.instruction_set(),
        "instruction_sets": _C.instruction_sets(),
        "threads": torch.get_num_threads(),
        "cuda_architectures": [a for a in cuda["architectures"].split(",") if a],
        "cuda_device": f"{cuda['name']} (sm_{cuda['capability']})" if cuda["available"] else None,
        "cuda_message": cuda["message"],
    }
