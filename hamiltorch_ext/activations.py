"""The activations that the native kernels know, in one table.

Every other part asks this table: the analytic gradient in torch, the recogniser of ``nn.Sequential``, the error
messages, and, through ``code``, the native kernels (``csrc/include/hamiltorch/mlp.h`` lists the same codes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Activation", "Sin", "activation_of"]

# torch's softplus is the identity above this pre-activation; the native kernels follow it.
SOFTPLUS_THRESHOLD = 20.0


class Sin(nn.Module):
    """The sine as a layer, which torch does not have: ``nn.Sequential(nn.Linear(8, 64), Sin(), nn.Linear(64, 1))``."""

    def forward(self, a: Tensor) -> Tensor:
        """Return sin(a) elementwise, in a's shape."""
        return torch.sin(a)


@dataclass(frozen=True)
class Activation:
    """One activation: its code in the native kernels, its torch module, its value and its two derivatives."""

    code: int
    module: type[nn.Module]
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]
    recognises: Callable[[Any], bool] = lambda module: True


def _softplus_derivative(a: Tensor) -> Tensor:
    return torch.where(a > SOFTPLUS_THRESHOLD, torch.ones_like(a), torch.sigmoid(a))


def _softplus_second(a: Tensor) -> Tensor:
    return torch.where(a > SOFTPLUS_THRESHOLD, 0, torch.sigmoid(a) * torch.sigmoid(-a))


def _tanh_derivative(a: Tensor) -> Tensor:
    return 1 - torch.tanh(a).square()


def _tanh_second(a: Tensor) -> Tensor:
    value = torch.tanh(a)
    return -2 * value * (1 - value.square())


def _silu_derivative(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 + a * (1 - s))


def _silu_second(a: Tensor) -> Tensor:
    s, falling = torch.sigmoid(a), torch.sigmoid(-a)
    return s * falling * (2 + a * (falling - s))


def _gelu_derivative(a: Tensor) -> Tensor:
    density = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(a / math.sqrt(2))) + a * density


def _gelu_second(a: Tensor) -> Tensor:
    return torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi) * (2 - a * a)


def _sin_second(a: Tensor) -> Tensor:
    return -torch.sin(a)


ACTIVATIONS: dict[str, Activation] = {
    "softplus": Activation(
        0,
        nn.Softplus,
        F.softplus,
        _softplus_derivative,
        _softplus_second,
        lambda module: (module.beta, module.threshold) == (1, SOFTPLUS_THRESHOLD),
    ),
    "tanh": Activation(1, nn.Tanh, torch.tanh, _tanh_derivative, _tanh_second),
    "silu": Activation(2, nn.SiLU, F.silu, _silu_derivative, _silu_second),
    "gelu": Activation(3, nn.GELU, F.gelu, _gelu_derivative, _gelu_second, lambda module: module.approximate == "none"),
    "sin": Activation(4, Sin, torch.sin, torch.cos, _sin_second),
}


def activation_of(module: nn.Module) -> str | None:
    """Return the name of the activation that ``module`` computes, or None where the table does not hold it."""
    for name, activation in ACTIVATIONS.items():
        if type(module) is activation.module and activation.recognises(module):
            return name
    return None
