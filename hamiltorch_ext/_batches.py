"""Batches of any shape as the native calls take them, in rows, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

from .reference import RolloutInfo

__all__ = ["energies_at", "in_batches", "rows"]


@overload
def rows(x: Tensor) -> Tensor: ...
@overload
def rows(x: None) -> None: ...
def rows(x: Tensor | None) -> Tensor | None:
    """x (..., n) as (batch, n), of batches of no sample too."""
    return None if x is None else x.reshape(x.shape[:-1].numel(), x.shape[-1])


def in_batches(trajectory: Tensor, info: RolloutInfo, batch: torch.Size) -> tuple[Tensor, RolloutInfo]:
    """A trajectory (rows, steps + 1, 2d) and what became of its steps (rows, steps), of batches of this shape."""
    shaped = RolloutInfo(*(field.reshape(*batch, *field.shape[1:]) for field in info))
    return trajectory.reshape(*batch, *trajectory.shape[1:]), shaped


def energies_at(energy: Callable[..., Tensor], trajectory: Tensor, condition: Tensor | None) -> Tensor:
    """H at every state, shape (..., steps + 1)."""
    if condition is not None:
        condition = condition.unsqueeze(-2).expand(*trajectory.shape[:-1], condition.shape[-1])
    return energy(trajectory, condition)
