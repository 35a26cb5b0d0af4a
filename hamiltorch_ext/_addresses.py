"""Memory as the native code takes it: addresses of contiguous tensors that the caller keeps alive."""

from __future__ import annotations

from torch import Tensor

__all__ = ["address", "contiguous"]


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy in order; None stays None."""
    return None if tensor is None else tensor.contiguous()


def address(tensor: Tensor | None) -> int:
    """The tensor's address; 0 for none or for an empty one, which stands for none."""
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()
