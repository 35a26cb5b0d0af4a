"""What rollouts on a GPU share of which a block takes eight samples (``csrc/include/hamiltorch/cuda_block.h``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._addresses import address
from .activations import ACTIVATIONS

__all__ = ["BlockCall", "apart", "network_arguments", "on_device"]


@contextmanager
def apart(tensor: Tensor) -> Iterator[None]:
    """The tensor's device is the current one, and autocast does not reach inside."""
    with (
        torch.cuda.device(tensor.device if tensor.is_cuda else -1),
        torch.autocast(tensor.device.type, enabled=False),
    ):
        yield


def on_device(dt: float | Tensor, like: Tensor) -> Tensor:
    """dt as a tensor of that kind, without a copy from the host where there is nothing to copy."""
    return dt.to(like) if isinstance(dt, Tensor) else like.new_full((), dt)


def network_arguments(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    condition: Tensor | None,
    d: int,
    order: Sequence[int] = (0, 1),
) -> tuple[tuple[Any, ...], list[Tensor]]:
    """What a native description says of a network of states of d numbers, and the tensors whose addresses that is.

    ``order`` says which state's matrix is the first one, and in a network of two states which one's is the last.
    """
    width, columns = weights[0].shape
    *by_state, by_condition = (
        part.contiguous() for part in weights[0].split([d] * len(order) + [columns - len(order) * d], dim=1)
    )
    base = biases[0] if condition is None else torch.addmm(biases[0], condition, by_condition.T)
    inner = [weight.contiguous() for weight in weights[1:]]
    first, *second = (by_state[state] for state in order)
    matrices = [first, *inner[:-1], *second]
    ordered = [bias.contiguous() for bias in (base, *biases[1:-1])]
    arguments = (
        base.dtype == torch.float64,
        d,
        tuple(weight.shape[0] for weight in weights[:-1]),
        ACTIVATIONS[activation].code,
        [address(matrix) for matrix in matrices],
        [address(bias) for bias in ordered],
        address(inner[-1]),
        address(ordered[0]),
        0 if condition is None else width,
    )
    return arguments, [*matrices, *inner, *ordered]


class BlockCall:
    """A native call: a rollout's plan and description, and the tensors whose addresses that holds."""

    def __init__(self, plan: Any, rollout: Any, kept: Sequence[Tensor]) -> None:
        device = kept[0].device
        self.plan, self.rollout, self.kept = plan, rollout, kept
        self.device = device.index or 0
        self.stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        self.workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=device)

    def __call__(self, run: Any, *arrays: Tensor | None) -> None:
        run(self.plan, self.rollout, *map(address, arrays), address(self.workspace), self.device, self.stream)
