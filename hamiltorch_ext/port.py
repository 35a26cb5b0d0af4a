"""Port-Hamiltonian systems: learned mechanics with dissipation, controls and a residual, and their rollouts.

    dz/dt = (J - R(z)) grad H(z) + G(z) u + f(z) - (0, gamma p),    R = L L^T

H is an energy, L and G are matrices, constant or functions of the state, f is a residual, gamma a linear damping of the
momenta. With f = 0 and gamma = 0 the energy rises by no more than the controls supply: dH/dt = y . u - |L^T grad H|^2,
where y = G^T grad H is the output at the ports. Source: van der Schaft and Jeltsema (2014), input-state-output
port-Hamiltonian systems.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _implicit, _ops, reference
from ._batches import energies_at, in_batches, rows
from ._checks import (
    check_backend,
    check_network,
    check_state,
    checked_condition,
    checked_dt,
    checked_settings,
    warn_of_failures,
)
from ._discrete_gradient_ops import Ports, discrete_rollout
from ._separable_ops import why_not_native as why_not_separable
from .activations import ACTIVATIONS
from .integrators import Integrator, integrator
from .mlp import MLP, check_architecture, check_condition, describe, first_hooked
from .reference import Field, RolloutInfo, Settings, chosen, plain, rotate
from .rollouts import rollout
from .separable import SeparableHamiltonian

__all__ = ["MatrixMLP", "PortHamiltonian", "port_rollout"]


class MatrixMLP(nn.Module):
    """A matrix as a function of the state: z (..., dim) -> (..., dim, columns), by a multilayer perceptron.

    Args:
        dim: size of the state z = (q, p), that is 2d.
        columns: of the matrix; None for the diagonal of a square one, (..., dim).
        hidden: widths of the hidden layers, one or more.
        activation: "softplus", "tanh", "silu", "gelu" (exact) or "sin".
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.
    """

    def __init__(
        self,
        dim: int,
        columns: int | None,
        hidden: Sequence[int] = (32,),
        activation: str = "tanh",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_architecture(dim, hidden, activation, 0)
        if columns is not None and columns <= 0:
            raise ValueError(f"columns must be positive or None, got {columns}")
        self.shape = (dim,) if columns is None else (dim, columns)
        modules: list[nn.Module] = []
        for n_in, n_out in pairwise((dim, *hidden, dim * (columns or 1))):
            modules += [nn.Linear(n_in, n_out, device=device, dtype=dtype), ACTIVATIONS[activation].module()]
        self.network = nn.Sequential(*modules[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """The matrix at z (..., dim), shape (..., dim, columns), or its diagonal, shape (..., dim)."""
        entries: Tensor = self.network(z).unflatten(-1, self.shape)
        return entries


class PortHamiltonian(nn.Module):
    """The system dz/dt = (J - R(z)) grad H(z) + G(z) u + f(z) - (0, gamma p), R = L L^T, of states z = (q, p).

    A tensor given here is where a learned parameter starts; it keeps its dtype and device, and ``.to(...)`` moves
    everything. A module given here is called with z (..., 2d).

    Args:
        H: the energy: a ``HamiltonianMLP``, or any callable from z (..., 2d) [and a condition] to energies (...).
        dissipation: L, a tensor (2d, r), or (2d,) for a diagonal one, or a module that returns (..., 2d, r) or
            (..., 2d), such as ``MatrixMLP``: R = L L^T has no negative eigenvalue whatever is learned. None for R = 0.
        inputs: G, a tensor (2d, m), or a module that returns (..., 2d, m). None for a system without controls.
        residual: f, a module that returns (..., 2d); it may add energy. None for f = 0.
        damping: gamma, positive, a float or a tensor of shape () or (d,): friction dp/dt = -gamma p, which rollouts
            integrate exactly. It takes energy away where p . dH/dp > 0, as that of a kinetic energy is. None for none.

    Raises:
        ValueError, TypeError: an argument's type, shape or value; the message names it.
    """

    def __init__(
        self,
        H: Any,
        *,
        dissipation: Tensor | nn.Module | None = None,
        inputs: Tensor | nn.Module | None = None,
        residual: nn.Module | None = None,
        damping: float | Tensor | None = None,
    ) -> None:
        super().__init__()
        if not callable(H):
            raise TypeError(f"H must be a HamiltonianMLP or another callable, got {type(H).__name__}")
        if residual is not None and not isinstance(residual, nn.Module):
            raise TypeError(f"residual must be an nn.Module or None, got {type(residual).__name__}")
        self.H = H
        self.dissipation = _learned("dissipation", dissipation, {1: "(2d,)", 2: "(2d, r)"})
        self.inputs = _learned("inputs", inputs, {2: "(2d, m)"})
        self.residual = residual
        self.raw_damping = None if damping is None else nn.Parameter(_raw_damping(damping))
        sizes = {
            "H": getattr(H, "dim", None),
            "dissipation": self.dissipation.shape[0] if isinstance(self.dissipation, Tensor) else None,
            "inputs": self.inputs.shape[0] if isinstance(self.inputs, Tensor) else None,
            "damping": 2 * len(self.raw_damping) if self.raw_damping is not None and self.raw_damping.ndim else None,
        }
        known = {name: size for name, size in sizes.items() if size is not None}
        self.dim: int | None = next(iter(known.values()), None)
        for name, size in known.items():
            if size != self.dim or size % 2:
                raise ValueError(f"{name} must be for one even size 2d of the state, got sizes {known}")

    @property
    def damping(self) -> Tensor | None:
        """gamma, shape () or (d,); None for none."""
        return None if self.raw_damping is None else F.softplus(self.raw_damping)

    def forward(self, z: Tensor, u: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """dz/dt at states z (..., 2d) under controls u (..., m), shape (..., 2d); without u they are zero."""
        gradient = reference.gradient(self.H, z, condition)
        rate = rotate(gradient) + self.rest(z, gradient, u)
        if self.damping is None:
            return rate
        q, p = z.chunk(2, dim=-1)
        return rate - torch.cat((torch.zeros_like(q), self.damping * p), dim=-1)

    def rest(self, z: Tensor, gradient: Tensor, u: Tensor | None = None) -> Tensor:
        """What the controls, dissipation and residual add to J ``gradient``: G u - R ``gradient`` + f, (..., 2d)."""
        total = torch.zeros_like(z)
        if self.dissipation is not None:
            L, diagonal = self._factor(z)
            lost = L.square() * gradient if diagonal else _times(L, _times(L.mT, gradient))
            total = total - lost
        if self.inputs is not None and u is not None:
            total = total + _times(self._ports(z), u)
        if self.residual is not None:
            total = total + _of_shape("residual", self.residual(z), z, z.ndim)
        return total

    def output(self, z: Tensor, gradient: Tensor) -> Tensor:
        """y = G^T ``gradient``, shape (..., m), at z (..., 2d): y . u is the power that controls u supply."""
        return gradient[..., :0] if self.inputs is None else _times(self._ports(z).mT, gradient)

    def damped(self, z: Tensor, time: float | Tensor) -> Tensor:
        """The flow of the linear damping alone: (q, exp(-gamma ``time``) p), shape (..., 2d)."""
        if self.damping is None:
            return z
        q, p = z.chunk(2, dim=-1)
        return torch.cat((q, torch.exp(-self.damping * time) * p), dim=-1)

    def R(self, z: Tensor) -> Tensor:  # noqa: N802
        """R = L L^T at z (..., 2d), shape (..., 2d, 2d)."""
        if self.dissipation is None:
            return z.new_zeros(*z.shape, z.shape[-1])
        L, diagonal = self._factor(z)
        square = L.square().diag_embed() if diagonal else L @ L.mT
        return square.expand(*z.shape, z.shape[-1])

    def G(self, z: Tensor) -> Tensor:  # noqa: N802
        """G at z (..., 2d), shape (..., 2d, m); m = 0 without inputs."""
        if self.inputs is None:
            return z.new_zeros(*z.shape, 0)
        ports = self._ports(z)
        return ports.expand(*z.shape, ports.shape[-1])

    def extra_repr(self) -> str:
        """What ``print`` shows beside the modules: the parameters' shapes."""
        constants = {"dissipation": self.dissipation, "inputs": self.inputs, "damping": self.raw_damping}
        return ", ".join(f"{name}={tuple(x.shape)}" for name, x in constants.items() if isinstance(x, Tensor))

    def _factor(self, z: Tensor) -> tuple[Tensor, bool]:
        """L at z, and whether it is the diagonal alone. A constant has no batch dimensions."""
        if isinstance(self.dissipation, Tensor):
            return self.dissipation, self.dissipation.ndim == 1
        assert self.dissipation is not None
        L = _of_shape("dissipation", self.dissipation(z), z, z.ndim, z.ndim + 1)
        return L, L.ndim == z.ndim

    def _ports(self, z: Tensor) -> Tensor:
        if isinstance(self.inputs, Tensor):
            return self.inputs
        assert self.inputs is not None
        return _of_shape("inputs", self.inputs(z), z, z.ndim + 1)


@overload
def port_rollout(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = ...,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    return_info: Literal[False] = ...,
    tol: float | None = ...,
    max_iterations: int = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def port_rollout(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = ...,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    return_info: Literal[False] = ...,
    tol: float | None = ...,
    max_iterations: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def port_rollout(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = ...,
    condition: Tensor | None = ...,
    return_energy: Literal[False] = ...,
    return_info: Literal[True],
    tol: float | None = ...,
    max_iterations: int = ...,
    backend: str = ...,
) -> tuple[Tensor, RolloutInfo]: ...
@overload
def port_rollout(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = ...,
    condition: Tensor | None = ...,
    return_energy: Literal[True],
    return_info: Literal[True],
    tol: float | None = ...,
    max_iterations: int = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor, RolloutInfo]: ...
def port_rollout(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: float | Tensor,
    *,
    method: str = "discrete_gradient",
    condition: Tensor | None = None,
    return_energy: bool = False,
    return_info: bool = False,
    tol: float | None = None,
    max_iterations: int = 50,
    backend: str = "auto",
) -> Any:
    """Integrate a port-Hamiltonian system from z0 under controls and return every state.

    With the discrete gradient D(z, y) of H, m = (z + y) / 2, a step is y = z + dt [(J - R(m)) D + G(m) u + f(m)]. For
    f = 0 then H(y) - H(z) = dt (y . u - |L^T D|^2) exactly, y = G(m)^T D: no step raises the energy by more than the
    controls supply, which ``diagnostics.supplied_energy`` computes, whatever dt. Every other method is put between two
    half steps of G u - R grad H + f by the explicit midpoint rule: second order if the method is, and passive only as
    dt goes to zero. Linear damping is half before a step and half after it, by its exact flow. What a system does not
    have, or what is zero, changes nothing: the step is then bit for bit that of ``rollout``, but for other methods than
    "discrete_gradient" natively, which then agree to rounding and the tolerance of their solves.

    Args:
        system: a ``PortHamiltonian``.
        z0: initial states (q, p), shape (..., 2d), float32 or float64.
        controls: u, constant over each step, shape (..., steps, m); expanded to z0's batch. The number of steps is
            read from it; for a system without inputs m is 0.
        dt: time step; a float or a 0-d tensor (then differentiable).
        method: a name in ``hamiltorch_ext.integrators.INTEGRATORS``.
        condition: per-trajectory input of H, shape (..., condition_dim).
        return_energy: also return H at every state.
        return_info: also return a ``RolloutInfo`` of the solves; without it, a warning tells of unsolved steps.
        tol: as for ``rollout``: by default 1e-6 in float32 and 1e-14 in float64.
        max_iterations: most iterations of one solve.
        backend: "native" (fused kernels, or an error that says why not), "reference" (torch autograd), or "auto":
            native where kernels know the system, else in torch, without a warning. With "discrete_gradient" they take
            the whole rollout, of a network H with constants for L and G and no residual. With other methods but
            "extended" H's steps are those of ``rollout``, where these are native; what stands between them, of whatever
            kind, runs in torch.

    Returns:
        Trajectory (..., steps + 1, 2d), index 0 is z0; with ``return_energy`` also energies (..., steps + 1), with
        ``return_info`` also a ``RolloutInfo``. Trajectory and energies are differentiable once in z0, controls, dt, the
        condition and every parameter (explicit methods on the reference path: any number of times). A step that was not
        solved holds the best that was found, and is constant; natively with "discrete_gradient" so are the steps after
        it.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value; the message names it.

    Source: Gonzalez (1996), midpoint discrete gradient; McLachlan, Quispel and Robidoux (1999), discrete gradients of
    systems that dissipate; Bhatt, Floyd and Moore (2016), linear damping.
    """
    if not isinstance(system, PortHamiltonian):
        raise TypeError(f"system must be a PortHamiltonian, got {type(system).__name__}")
    if _ops.transformed():
        raise ValueError(
            "port_rollout differentiates H, which torch.func transforms and forward mode do not see through"
        )
    table = integrator(method)
    check_state(z0)
    dt = checked_dt(dt, z0)
    if dt.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.isfinite(dt):
        raise ValueError(f"dt must be finite, got {dt.item()}")
    settings = checked_settings(tol, max_iterations, 1.0)
    _check_system(system, z0)
    controls = _checked_controls(system, controls, z0)
    condition = _condition_of(system, condition, z0)
    check_backend(backend)

    native = False
    if backend != "reference":
        reason = _why_not_native(system, z0, method)
        native = reason is None
        if backend == "native" and not native:
            raise ValueError(f"backend='native' cannot run this rollout: {reason}")
    if native and method == "discrete_gradient":
        network = describe(system.H)
        assert isinstance(network, MLP)
        trajectory, info = _passive_natively(system, network, z0, controls, dt, condition, settings)
        energies = energies_at(network.energy, trajectory, condition) if return_energy else None
    elif native or table.explicit or not torch.is_inference_mode_enabled():
        trajectory, energies, info = _integrate(
            system, z0, controls, dt, method, condition, return_energy, settings, native
        )
    else:
        # Newton's method differentiates, which inference mode does not know.
        with torch.inference_mode(False), torch.no_grad():
            trajectory, energies, info = _integrate(
                system, plain(z0), plain(controls), plain(dt), method, condition, return_energy, settings, native
            )
        trajectory, energies = trajectory.clone(), None if energies is None else energies.clone()
        info = RolloutInfo(*(entry.clone() for entry in info))
    if not return_info:
        warn_of_failures(info.converged, settings.tolerance(z0.dtype))
    return chosen(trajectory, energies, info if return_info else None)


def _why_not_native(system: PortHamiltonian, z0: Tensor, method: str) -> str | None:
    """Why no kernel runs this rollout, or H's part of it; None where one does."""
    if method == "extended":
        return "method 'extended' of a port-Hamiltonian system has no kernel"
    if method != "discrete_gradient" and type(system.H) is SeparableHamiltonian and first_hooked((system.H,)) is None:
        return why_not_separable(system.H, z0, method, "float32")
    network = describe(system.H)
    if isinstance(network, str):
        return network
    if method == "discrete_gradient":
        if type(system) is not PortHamiltonian:
            return f"system is a {type(system).__name__}, which may compute what it likes"
        functions = {"dissipation": system.dissipation, "inputs": system.inputs, "residual": system.residual}
        for name, part in functions.items():
            if isinstance(part, nn.Module):
                return f"{name} is a module, which kernels do not know"
    return _ops.why_not_native(network, z0, method, "float32")


def _passive_natively(
    system: PortHamiltonian,
    network: MLP,
    z0: Tensor,
    controls: Tensor,
    dt: Tensor,
    condition: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, RolloutInfo]:
    batch, steps = z0.shape[:-1], controls.shape[-2]
    dissipation = system.dissipation if isinstance(system.dissipation, Tensor) else None
    forces = decay = None
    if isinstance(system.inputs, Tensor):
        with torch.autocast(z0.device.type, enabled=False):
            forces = (controls @ system.inputs.mT).reshape(batch.numel(), steps, network.dim)
    if system.damping is not None:
        decay = torch.exp(-system.damping * dt / 2).expand(network.dim // 2)
    limits = settings.tolerance(z0.dtype), settings.max_iterations
    trajectory, info = discrete_rollout(
        network, rows(z0), dt, steps, rows(condition), *limits, Ports(dissipation, forces, decay)
    )
    return in_batches(trajectory, info, batch)


def _integrate(
    system: PortHamiltonian,
    z0: Tensor,
    controls: Tensor,
    dt: Tensor,
    method: str,
    condition: Tensor | None,
    return_energy: bool,
    settings: Settings,
    native: bool,
) -> tuple[Tensor, Tensor | None, RolloutInfo]:
    field, network = reference.field(system.H, condition), describe(system.H)
    if native:  # written out in torch, which takes less than a pass of autograd
        analytic = network.gradient if isinstance(network, MLP) else system.H.gradient
        field = field._replace(gradient=lambda z: analytic(z, condition))
    table = integrator(method)
    stages = table.separable_stages if field.separable else table.stages
    overridden = type(system).rest is not PortHamiltonian.rest or "rest" in vars(system)
    has_rest = overridden or any(part is not None for part in (system.dissipation, system.inputs, system.residual))
    reads_gradient = overridden or system.dissipation is not None
    copies = 2 if method == "extended" else 1

    def each(step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
        """The step of every copy of the phase space, of which Tao's method has two."""
        return torch.cat([step(z) for z in state.chunk(copies, dim=-1)], dim=-1)

    state = torch.cat((z0,) * copies, dim=-1)
    states, reports = [state], []
    for u in controls.unbind(-2):

        def rest(z: Tensor, u: Tensor = u) -> Tensor:
            return system.rest(z, field.gradient(z) if reads_gradient else torch.zeros_like(z), u)

        def half(z: Tensor, rest: Callable[[Tensor], Tensor] = rest) -> Tensor:
            """Half a step of the controls, dissipation and residual, by the explicit midpoint rule."""
            return z + dt / 2 * rest(z + dt / 4 * rest(z))

        state = each(lambda z: system.damped(z, dt / 2), state)
        if method == "discrete_gradient":
            state, report = _passive(system, field, state, u, dt, settings)
            solved = [report]
        else:
            state = each(half, state) if has_rest else state
            if native:
                state, solved = _native_step(system, state, dt, table, condition, settings)
            else:
                state, solved = reference._step(field, state, dt, table, stages, settings)
            state = each(half, state) if has_rest else state
        state = each(lambda z: system.damped(z, dt / 2), state)
        for report in solved:
            state = torch.where(report.converged.unsqueeze(-1), state, state.detach())
        states.append(state)
        reports.append(solved)
    trajectory = torch.stack(states, dim=-2)[..., : z0.shape[-1]].contiguous()
    energies = reference.energies_along(field, trajectory) if return_energy else None
    return trajectory, energies, reference.gather_reports(reports, z0)


def _native_step(
    system: PortHamiltonian, z: Tensor, dt: Tensor, table: Integrator, condition: Tensor | None, settings: Settings
) -> tuple[Tensor, list[_implicit.Report]]:
    """H's own step, as ``rollout`` makes it."""
    call = partial(rollout, system.H, z, dt, 1, method=table.name, condition=condition, backend="native")
    if table.explicit or (isinstance(system.H, SeparableHamiltonian) and table.explicit_if_separable):
        return call()[..., 1, :], []
    path, info = call(return_info=True, tol=settings.tol, max_iterations=settings.max_iterations)
    return path[..., 1, :], [_implicit.Report(*(entry[..., 0] for entry in info))]


def _passive(
    system: PortHamiltonian, field: Field, z: Tensor, u: Tensor, dt: Tensor, settings: Settings
) -> tuple[Tensor, _implicit.Report]:
    """A step of dt along (J - R) times the discrete gradient and the rest."""

    def update(z: Tensor, y: Tensor) -> Tensor:
        gradient = reference.discrete_gradient(field, z, y)
        return z + dt * (rotate(gradient) + system.rest((z + y) / 2, gradient, u))

    gradient = field.gradient(z)
    start = z + dt * (rotate(gradient) + system.rest(z, gradient, u))
    rounding = reference.rounding_floor(field, z, dt)
    return reference.solve_step(update, z, start, settings, rounding)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """(..., n, k) times (..., k); a constant matrix has no batch dimensions."""
    product: Tensor = torch.einsum("...ij,...j->...i", matrix, x)
    return product


def _learned(name: str, given: Tensor | nn.Module | None, shapes: dict[int, str]) -> nn.Parameter | nn.Module | None:
    if given is None or isinstance(given, nn.Module):
        return given
    expected = f"a tensor {' or '.join(shapes.values())}, an nn.Module or None"
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be {expected}, got {type(given).__name__}")
    if not given.dtype.is_floating_point:
        raise TypeError(f"{name} must be a floating-point tensor, got {given.dtype}")
    if given.ndim not in shapes or given.numel() == 0:
        raise ValueError(f"{name} must be {expected}, got shape {tuple(given.shape)}")
    return given if isinstance(given, nn.Parameter) else nn.Parameter(given.detach().clone())


def _raw_damping(damping: float | Tensor) -> Tensor:
    """What softplus takes to ``damping``."""
    if not isinstance(damping, Tensor) and (isinstance(damping, bool) or not isinstance(damping, numbers.Real)):
        raise TypeError(f"damping must be a float, a tensor or None, got {type(damping).__name__}")
    gamma = damping.detach() if isinstance(damping, Tensor) else torch.tensor(float(damping))
    if not gamma.dtype.is_floating_point:
        raise TypeError(f"damping must be a floating-point tensor, got {gamma.dtype}")
    if gamma.ndim > 1 or gamma.numel() == 0:
        raise ValueError(f"damping must have shape () or (d,), got {tuple(gamma.shape)}")
    if not bool(((gamma > 0) & (gamma < torch.inf)).all()):
        raise ValueError(f"damping must be positive and finite, got {damping}")
    return gamma + torch.log(-torch.expm1(-gamma))


def _of_shape(name: str, value: Tensor, z: Tensor, *dimensions: int) -> Tensor:
    """``value``, which a module returned for z; ValueError unless its shape begins with z's and has no more than that
    many dimensions."""
    if value.shape[: z.ndim] != z.shape or value.ndim not in dimensions:
        more = " or ".join("(..., 2d)" if n == z.ndim else "(..., 2d, n)" for n in dimensions)
        raise ValueError(f"{name} must return {more} for z of shape {tuple(z.shape)}, got {tuple(value.shape)}")
    return value


def _check_system(system: PortHamiltonian, z0: Tensor) -> None:
    network = describe(system.H)
    if isinstance(network, MLP):
        check_network(network.dim, (*network.weights, *network.biases), z0)
    if system.dim is not None and z0.shape[-1] != system.dim:
        raise ValueError(f"z0 must have shape (..., {system.dim}) for this system, got {tuple(z0.shape)}")
    for name, parameter in system.named_parameters():
        if name.startswith("H."):
            continue
        if parameter.dtype != z0.dtype:
            raise TypeError(f"z0 must have the dtype of the system's {name}, {parameter.dtype}, got {z0.dtype}")
        if parameter.device != z0.device:
            raise ValueError(f"z0 must be on the device of the system's {name}, {parameter.device}, got {z0.device}")


def _checked_controls(system: PortHamiltonian, controls: Tensor, z0: Tensor) -> Tensor:
    """``controls`` expanded to z0's batch shape."""
    if not isinstance(controls, Tensor):
        raise TypeError(f"controls must be a torch.Tensor, got {type(controls).__name__}")
    if controls.dtype != z0.dtype:
        raise TypeError(f"controls must have z0's dtype, {z0.dtype}, got {controls.dtype}")
    if controls.device != z0.device:
        raise ValueError(f"controls must be on z0's device, {z0.device}, got {controls.device}")
    with torch.no_grad():
        m = 0 if system.inputs is None else system._ports(z0).shape[-1]
    if controls.ndim < 2 or controls.shape[-1] != m:
        raise ValueError(f"controls must have shape (..., steps, {m}) for this system, got {tuple(controls.shape)}")
    try:
        return controls.expand(*z0.shape[:-1], *controls.shape[-2:])
    except RuntimeError:
        raise ValueError(
            f"controls must have shape {(*z0.shape[:-1], *controls.shape[-2:])} (z0's batch), "
            f"got {tuple(controls.shape)}"
        ) from None


def _condition_of(system: PortHamiltonian, condition: Tensor | None, z0: Tensor) -> Tensor | None:
    if condition is not None and not isinstance(condition, Tensor):
        raise TypeError(f"condition must be a torch.Tensor, got {type(condition).__name__}")
    network = describe(system.H)
    if isinstance(network, MLP):
        check_condition(condition, network.condition_dim)
    return checked_condition(condition, z0)
