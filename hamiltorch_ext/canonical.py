"""Learned phase spaces: invertible maps of a latent z to (q, p), orthogonal or symplectic by construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mlp import ScalarMLP

__all__ = ["CanonicalTransform"]


class CanonicalTransform(nn.Module):
    """An invertible map of latents z (..., 2d) to phase space x = (q, p) (..., 2d); it begins as the identity.

    Args:
        dim: size 2d of z and of x; even and positive.
        kind: one of these, or several to apply in order:
            "orthogonal": x = Q z, Q = (1 + A)^-1 (1 - A) with A antisymmetric (Cayley). Q keeps lengths, and every Q
            without an eigenvalue of -1 is there; it chooses which directions of z are coordinates and which momenta.
            "symplectic": a product of linear shears q += S p + b, p -= S q + b with symmetric S. Products of a few of
            them are all linear symplectic maps.
            "shears": the same with gradients of networks, q += dT/dp and p -= dV/dq: nonlinear symplectic maps.
        layers: number of shears of each of the two last kinds; they move q and p by turns.
        hidden: widths of the networks of "shears".
        activation: of these: "softplus", "tanh", "silu", "gelu" or "sin".
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    Where ``symplectic`` is true, a symplectic rollout between ``forward`` and ``inverse`` is symplectic in z too.
    Source: Jin et al. 2020, SympNets, section 3 (linear and gradient modules); Cayley's map: Hairer, Lubich, Wanner,
    Geometric Numerical Integration, IV.8.3.
    """

    def __init__(
        self,
        dim: int,
        kind: str | Sequence[str] = "shears",
        *,
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        activation: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim must be even and positive (x = (q, p)), got {dim}")
        if layers < 1:
            raise ValueError(f"layers must be one or more, got {layers}")
        self.dim = int(dim)
        self.kinds = (kind,) if isinstance(kind, str) else tuple(kind)

        def network() -> ScalarMLP:
            V = ScalarMLP(dim // 2, hidden, activation, device=device, dtype=dtype)
            nn.init.zeros_(V.description.weights[-1])
            return V

        makers: dict[str, Callable[[], nn.Module]] = {
            "orthogonal": lambda: _Cayley(dim, device, dtype),
            "symplectic": lambda: _Shears(_Quadratic(dim // 2, device, dtype) for _ in range(layers)),
            "shears": lambda: _Shears(network() for _ in range(layers)),
        }
        if not self.kinds or not set(self.kinds) <= makers.keys():
            raise ValueError(f"kind must be one or more of {', '.join(map(repr, makers))}, got {kind!r}")
        self.maps = nn.ModuleList(makers[kind]() for kind in self.kinds)

    @property
    def symplectic(self) -> bool:
        """Whether the map keeps the symplectic form, whatever its parameters."""
        return "orthogonal" not in self.kinds

    def forward(self, z: Tensor) -> Tensor:
        """Phase space point x = (q, p) of z, both (..., 2d)."""
        z = self._checked("z", z)
        for part in self.maps:
            z = part(z)
        return z

    def inverse(self, x: Tensor) -> Tensor:
        """The z (..., 2d) that ``forward`` takes to x (..., 2d)."""
        x = self._checked("x", x)
        for part in reversed(self.maps):
            x = part.inverse(x)  # type: ignore[operator]
        return x

    def extra_repr(self) -> str:
        """What ``print`` shows beside the maps."""
        return f"dim={self.dim}, kind={self.kinds}"

    def _checked(self, name: str, z: Tensor) -> Tensor:
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"{name} must have shape (..., {self.dim}), got {tuple(z.shape)}")
        return z


class _Cayley(nn.Module):
    """x = Q z. 1 + A has no singular value below one, so its systems are as well-conditioned as A is small."""

    def __init__(self, dim: int, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(dim, dim, device=device, dtype=dtype))

    def forward(self, z: Tensor) -> Tensor:
        A = self.raw - self.raw.mT
        return _divided(z + z @ A, self._one - A)

    def inverse(self, x: Tensor) -> Tensor:
        A = self.raw - self.raw.mT
        return _divided(x - x @ A, self._one + A)

    @property
    def _one(self) -> Tensor:
        return torch.eye(len(self.raw), device=self.raw.device, dtype=self.raw.dtype)


def _divided(x: Tensor, matrix: Tensor) -> Tensor:
    """x matrix^-1, x being (..., n): a factorisation and no inverse, which would cost three of them."""
    y: Tensor = torch.linalg.solve(matrix, x.reshape(-1, x.shape[-1]).to(matrix.dtype), left=False)
    return y.reshape(x.shape).to(x.dtype)  # autocast may have made x's another


class _Quadratic(nn.Module):
    """x . S x / 2 + b . x by its gradient, S symmetric; it begins as zero."""

    def __init__(self, d: int, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(d, d, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d, device=device, dtype=dtype))

    def gradient(self, x: Tensor) -> Tensor:
        return F.linear(x, self.raw + self.raw.mT, self.bias)


class _Shears(nn.Module):
    """q += gradient of p, p -= gradient of q, and so on: each leaves what its gradient is taken at, so it can be undone
    with the same bits."""

    def __init__(self, functions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.functions = nn.ModuleList(functions)

    def forward(self, z: Tensor) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        for index in range(len(self.functions)):
            q, p = (q, p - self._gradient(index, q)) if index % 2 else (q + self._gradient(index, p), p)
        return torch.cat((q, p), dim=-1)

    def inverse(self, x: Tensor) -> Tensor:
        q, p = x.chunk(2, dim=-1)
        for index in reversed(range(len(self.functions))):
            q, p = (q, p + self._gradient(index, q)) if index % 2 else (q - self._gradient(index, p), p)
        return torch.cat((q, p), dim=-1)

    def _gradient(self, index: int, x: Tensor) -> Tensor:
        gradient: Tensor = self.functions[index].gradient(x)  # type: ignore[operator]
        return gradient
