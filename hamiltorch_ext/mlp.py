"""The one description of an MLP Hamiltonian, and the modules that carry it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS, activation_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MLP", "HamiltonianMLP", "ScalarMLP", "check_architecture", "check_condition", "describe", "first_hooked"]


class MLP(NamedTuple):
    """H(z) = w . h_L + b as plain tensors: what the native kernels, the analytic gradient and the reference all read.

    ``weights[l]`` has shape (width_{l+1}, width_l), the last one (1, width_L); ``biases[l]`` has shape (width_{l+1},)
    or is None. The first layer's last ``condition_dim`` columns multiply the condition, the others z.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    activation: str
    condition_dim: int = 0

    @property
    def dim(self) -> int:
        """Size of the state z = (q, p), that is 2d."""
        return self.weights[0].shape[1] - self.condition_dim

    def first_layer(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Pre-activation a_1 = W_1 (z, condition) + b_1, shape (..., width_1)."""
        weight, bias = self.weights[0], self.biases[0]
        if condition is None:
            return F.linear(z, weight, bias)
        per_sample_bias = F.linear(condition, weight[:, self.dim :], bias)
        return F.linear(z, weight[:, : self.dim]) + per_sample_bias

    def energy(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """H(z), shape (...); design of the network: H-JEPA eq. 2."""
        value = ACTIVATIONS[self.activation].value
        a = self.first_layer(z, condition)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            a = F.linear(value(a), weight, bias)
        return a.squeeze(-1)

    def gradient(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """dH/dz, shape (..., 2d), by the chain rule written out, so that it needs no autograd pass of its own."""
        act = ACTIVATIONS[self.activation]
        preactivations = [self.first_layer(z, condition)]
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            preactivations.append(F.linear(act.value(preactivations[-1]), weight, bias))
        delta = self.weights[-1][0] * act.derivative(preactivations[-1])
        for weight, a in zip(reversed(self.weights[1:-1]), reversed(preactivations[:-1]), strict=True):
            delta = (delta @ weight) * act.derivative(a)
        return delta @ self.weights[0][:, : self.dim]


class ScalarMLP(nn.Module):
    """A scalar function of a vector as a multilayer perceptron: the part of an energy or an action that is learned.

    Args:
        dim: size of the vector; positive.
        hidden: widths of the hidden layers, one or more.
        activation: "softplus", "tanh", "silu", "gelu" (exact) or "sin".
        condition_dim: size of a per-trajectory condition (context vector, physical parameter); 0 for none.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    The layers are plain ``nn.Linear`` in order (``self.layers``), initialised as torch does.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (512, 512, 256),
        activation: str = "softplus",
        *,
        condition_dim: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._take_architecture(dim, hidden, activation, condition_dim)
        widths = (self.dim + self.condition_dim, *self.hidden, 1)
        self.layers = nn.ModuleList(
            nn.Linear(n_in, n_out, device=device, dtype=dtype) for n_in, n_out in pairwise(widths)
        )

    @property
    def description(self) -> MLP:
        """The network as plain tensors, shared with this module's parameters."""
        layers = self._modules["layers"]
        assert layers is not None
        return _describe_layers(layers._modules.values(), self.activation, self.condition_dim)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The value at z, shape (...). ``z``: (..., dim); ``condition``: (..., condition_dim)."""
        return self.description.energy(z, self._checked(z, condition))

    def gradient(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Analytic gradient by z, shape (..., dim), differentiable in z, the condition and every parameter."""
        return self.description.gradient(z, self._checked(z, condition))

    @classmethod
    def from_sequential(cls, network: nn.Sequential, condition_dim: int = 0) -> Self:
        """Wrap an ``nn.Sequential`` of ``nn.Linear`` and one supported activation; the Linear layers are shared.

        ``parameters()`` yields the same tensors in the same order. ValueError says what does not fit.
        """
        parsed = _parse_sequential(network)
        if isinstance(parsed, str):
            raise ValueError(parsed)
        linears, activation = parsed
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        hidden = tuple(linear.out_features for linear in linears[:-1])
        self._take_architecture(linears[0].in_features - condition_dim, hidden, activation, condition_dim)
        self.layers = nn.ModuleList(linears)
        return self

    def to_sequential(self) -> nn.Sequential:
        """The same network as ``nn.Sequential``, sharing the Linear layers; its input is (z, condition) joined."""
        modules: list[nn.Module] = []
        for layer in self.layers:
            modules += [layer, ACTIVATIONS[self.activation].module()]
        return nn.Sequential(*modules[:-1])

    def extra_repr(self) -> str:
        """What ``print`` shows beside the layers."""
        condition = f", condition_dim={self.condition_dim}" if self.condition_dim else ""
        return f"dim={self.dim}, hidden={self.hidden}, activation={self.activation!r}{condition}"

    def _take_architecture(self, dim: int, hidden: Sequence[int], activation: str, condition_dim: int) -> None:
        check_architecture(dim, hidden, activation, condition_dim)
        self.dim, self.hidden = int(dim), tuple(int(width) for width in hidden)
        self.activation, self.condition_dim = activation, int(condition_dim)

    def _checked(self, z: Tensor, condition: Tensor | None) -> Tensor | None:
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"z must have shape (..., {self.dim}), got {tuple(z.shape)}")
        check_condition(condition, self.condition_dim)
        return condition


class HamiltonianMLP(ScalarMLP):
    """A scalar energy H(q, p) as a multilayer perceptron, the network that the fused rollouts run.

    Args and layers as for ``ScalarMLP``; ``dim`` is the size of the state z = (q, p), that is 2d, and even. Source:
    H-JEPA, eq. 2.
    """

    def vector_field(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Hamilton's equations dz/dt = J dH/dz = (dH/dp, -dH/dq), shape (..., 2d)."""
        dq, dp = self.gradient(z, condition).chunk(2, dim=-1)
        return torch.cat((dp, -dq), dim=-1)

    def _take_architecture(self, dim: int, hidden: Sequence[int], activation: str, condition_dim: int) -> None:
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim must be even and positive (z = (q, p)), got {dim}")
        super()._take_architecture(dim, hidden, activation, condition_dim)


def check_condition(condition: Tensor | None, condition_dim: int) -> None:
    """ValueError unless ``condition`` is what a network with ``condition_dim`` needs."""
    if condition is None:
        if condition_dim:
            raise ValueError(f"condition must have shape (..., {condition_dim}) for this network, got None")
    elif condition_dim == 0:
        raise ValueError("condition must be None for a network built with condition_dim=0")
    elif condition.shape[-1:] != (condition_dim,):
        raise ValueError(f"condition must have shape (..., {condition_dim}), got {tuple(condition.shape)}")


def describe(H: object) -> MLP | str:
    """Return the MLP behind ``H``, or one line that says why there is none (then only the reference path runs it).

    TypeError where H is no energy at all, ValueError where it is a Sequential that cannot be one.
    """
    if isinstance(H, nn.Module) and (reason := _why_not_plain(H)):
        return reason
    if isinstance(H, HamiltonianMLP):
        return H.description
    if not callable(H):
        raise TypeError(f"H must be a HamiltonianMLP, an nn.Sequential or another callable, got {type(H).__name__}")
    if not isinstance(H, nn.Sequential):
        return f"H is a {type(H).__name__}, not a HamiltonianMLP or an nn.Sequential"
    parsed = _parse_sequential(H)
    if isinstance(parsed, str):
        return parsed
    return _describe_layers(*parsed)


def _describe_layers(layers: Iterable[nn.Module | None], activation: str, condition_dim: int = 0) -> MLP:
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        weights.append(_parameter(layer, "weight"))
        biases.append(_parameter(layer, "bias"))
    return MLP(tuple(weights), tuple(biases), activation, condition_dim)


def _parameter(layer: nn.Linear, name: str) -> Any:
    """The attribute, in a third of its time. A parametrized one is not among the parameters."""
    try:
        return layer._parameters[name]
    except KeyError:
        return getattr(layer, name)


def _why_not_plain(H: nn.Module) -> str | None:
    """What makes calling H differ from the layers' own arithmetic, which is all that the native kernels run."""
    for base in (HamiltonianMLP, nn.Sequential):
        if isinstance(H, base) and type(H).forward is not base.forward:
            return f"{type(H).__name__} has a forward of its own"
    hooked = first_hooked((H,))
    return None if hooked is None else f"{type(hooked).__name__} has forward hooks"


def first_hooked(modules: Iterable[nn.Module | None]) -> nn.Module | None:
    """The first with forward hooks among these and what they hold, in a third of the time of ``nn.Module.modules``."""
    for module in modules:
        if module is None:
            continue
        if module._forward_hooks or module._forward_pre_hooks:
            return module
        if module._modules and (found := first_hooked(module._modules.values())) is not None:
            return found
    return None


def _parse_sequential(network: nn.Sequential) -> tuple[list[nn.Linear], str] | str:
    """The network's Linear layers and activation, or why the native kernels do not know it; ValueError if broken."""
    modules = list(network)
    linears = [module for module in modules[0::2] if type(module) is nn.Linear]
    if len(modules) < 3 or len(modules) % 2 == 0 or len(linears) != len(modules[0::2]):
        got = ", ".join(type(module).__name__ for module in modules)
        return f"network must alternate Linear and activation, Linear first and last, got ({got})"
    for before, after in pairwise(linears):
        if before.out_features != after.in_features:
            raise ValueError(f"network's layers must fit together, got {before} before {after}")
    if linears[-1].out_features != 1:
        raise ValueError(f"network must end in one output (the energy), got {linears[-1].out_features}")
    activations = modules[1::2]
    names = [activation_of(module) for module in activations]
    if names[0] is None or len(set(names)) != 1:
        got = ", ".join(sorted({repr(module) for module in activations}))
        return f"activation must be one of {', '.join(ACTIVATIONS)}, the same in every layer, got {got}"
    return linears, names[0]


def check_architecture(dim: int, hidden: Sequence[int], activation: str, condition_dim: int) -> None:
    """ValueError unless these can be a network's."""
    if dim <= 0:
        raise ValueError(f"dim must be positive, got {dim}")
    if isinstance(hidden, int) or len(hidden) == 0 or any(width <= 0 for width in hidden):
        raise ValueError(f"hidden must be one or more positive widths, got {hidden!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if condition_dim < 0:
        raise ValueError(f"condition_dim must be zero or positive, got {condition_dim}")
