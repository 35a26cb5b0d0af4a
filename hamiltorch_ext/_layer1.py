"""Rollouts in layer-1 space: what the CUDA kernels run, and the products around it.

With q and p only through ``s = W1q q + b1 (+ W1c c)`` and ``r = W1p p``, a kick with impulse ``x = c dt delta_1`` is
``r -= G.T x`` and a drift is ``s += G x``, ``G = W1q W1p.T``. The kernels run that chain for the whole rollout and
return the impulses' sums D; the states are ``q_n = q_0 + W1p.T D_q`` and ``p_n = p_0 + W1q.T D_p``. Those products, and
the parameters' gradients, are few and large, and torch's own.

``native`` is ``hamiltorch_ext._C``, or the emulator of the tests: nothing here depends on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import cuda_plans
from ._addresses import address, contiguous
from .activations import ACTIVATIONS
from .integrators import integrator

__all__ = ["rollout", "rollout_backward"]

# Memory beyond which a rollout goes in parts: of samples for its impulses, of samples and steps for the factors of the
# parameters' gradients.
IMPULSE_BYTES = 2 << 30
FACTOR_BYTES = 1 << 30

_mm_with_dtype = getattr(torch.ops.aten.mm, "dtype_out", None)  # torch 2.8 and newer


@dataclass(frozen=True)
class Network:
    """An MLP Hamiltonian (``mlp.MLP``), its first layer taken apart: W1q, W1p (width_1, d), W1c, and G."""

    weights: list[Tensor]
    biases: list[Tensor]
    activation: str
    dim: int

    @property
    def half(self) -> int:
        """d, the size of q and of p."""
        return self.dim // 2

    @property
    def by_q(self) -> Tensor:
        """W1q, (width_1, d)."""
        return self.weights[0][:, : self.half]

    @property
    def by_p(self) -> Tensor:
        """W1p, (width_1, d)."""
        return self.weights[0][:, self.half : self.dim]

    @property
    def by_condition(self) -> Tensor:
        """W1c, (width_1, condition_dim)."""
        return self.weights[0][:, self.dim :]

    @cached_property
    def joined(self) -> Tensor:
        """G = W1q W1p.T, (width_1, width_1)."""
        return self.by_q @ self.by_p.T

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(weight.shape[0] for weight in self.weights[:-1])

    def base(self, condition: Tensor | None) -> Tensor:
        """Bias of layer 1, (width_1,), or with the condition (batch, width_1)."""
        return self.biases[0] if condition is None else torch.addmm(self.biases[0], condition, self.by_condition.T)


def rollout(
    native: Any,
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
    steps: int,
    return_energy: bool,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Trajectory (batch, steps + 1, 2d) and energies (batch, steps + 1), or an empty tensor in their place."""
    network = Network(weights, biases, activation, z0.shape[1])
    batch, dim, d, width = z0.shape[0], network.dim, network.half, network.hidden[0]
    trajectory = z0.new_empty(batch, steps + 1, dim)
    energies = z0.new_empty((batch, steps + 1) if return_energy else (0,))
    if batch == 0:
        return trajectory, energies
    if steps == 0 and not return_energy:
        trajectory[:, 0] = z0
        return trajectory, energies

    base = network.base(condition)
    rows = max(1, IMPULSE_BYTES // (2 * (steps + 1) * width * z0.element_size()))
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        z, states = z0[part], trajectory[part]
        size = z.shape[0]
        chain = _Chain(native, network, dt, method, steps, size, precision, adjoint=False)
        s0 = torch.addmm(base if condition is None else base[part], z[:, :d], network.by_q.T)
        r0 = z[:, d:] @ network.by_p.T
        impulses = z0.new_empty(2, size * (steps + 1), width)
        terms = z0.new_empty((chain.plan.members, size, steps + 1) if return_energy else (0,))
        chain.forward(s0, r0, impulses, terms)

        flat = states.view(-1, dim)
        _multiply(impulses[0], network.by_p, precision, out=flat[:, :d])
        _multiply(impulses[1], network.by_q, precision, out=flat[:, d:])
        states += z[:, None]
        if return_energy:
            torch.add(terms.sum(0), biases[-1], out=energies[part])
    return trajectory, energies


def rollout_backward(
    native: Any,
    grad_trajectory: Tensor | None,
    grad_energies: Tensor | None,
    trajectory: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    activation: str,
    method: str,
    precision: str,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]:
    """Gradients by z0, dt, the weights, the biases and the condition. Cotangents may be None, for zero."""
    network = Network(weights, biases, activation, trajectory.shape[2])
    grads = _Gradients(network, trajectory, dt, condition)
    batch, states, _ = trajectory.shape
    if grad_trajectory is not None:
        grads.z0 += grad_trajectory[:, 0]
    if grad_energies is not None:
        grads.biases[-1] += grad_energies.sum()
    if batch == 0 or (grad_trajectory is None and grad_energies is None):
        return grads.result()
    rows, steps = _part(network, method, batch, states - 1, trajectory.element_size())
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        adjoint = _Adjoint(native, network, grads, trajectory[part], dt, None if condition is None else condition[part])
        for end in range(states - 1, 0, -steps) if states > 1 else (0,):
            span = slice(max(0, end - steps), end)
            adjoint.walk(
                span,
                None if grad_trajectory is None else grad_trajectory[part, span.start + 1 : end + 1],
                None if grad_energies is None else grad_energies[part, span.start : end + 1],
                end == states - 1,
                method,
                precision,
            )
        adjoint.finish(part, condition)
    return grads.result()


class _Gradients:
    """Sums of the gradients over the parts of an adjoint; those of W1's parts and of G apart."""

    def __init__(self, network: Network, trajectory: Tensor, dt: Tensor, condition: Tensor | None) -> None:
        self.network = network
        self.z0 = trajectory.new_zeros(trajectory.shape[0], trajectory.shape[2])
        self.dt = torch.zeros_like(dt)
        self.weights = [torch.zeros_like(weight, memory_format=torch.contiguous_format) for weight in network.weights]
        self.biases = [torch.zeros_like(bias, memory_format=torch.contiguous_format) for bias in network.biases]
        self.condition = (
            trajectory.new_empty((0,))
            if condition is None
            else torch.zeros_like(condition, memory_format=torch.contiguous_format)
        )
        self.joined = trajectory.new_zeros(network.hidden[0], network.hidden[0])
        d, dim = network.half, network.dim
        self.by_q, self.by_p = self.weights[0][:, :d], self.weights[0][:, d:dim]
        self.by_condition = self.weights[0][:, dim:]

    def result(self) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]:
        self.by_q += self.joined @ self.network.by_p
        self.by_p += self.joined.T @ self.network.by_q
        return self.z0, self.dt, self.weights, self.biases, self.condition


class _Adjoint:
    """The walk back over some samples, in spans of steps."""

    def __init__(
        self, native: Any, network: Network, grads: _Gradients, trajectory: Tensor, dt: Tensor, condition: Tensor | None
    ) -> None:
        self.native, self.network, self.grads, self.dt = native, network, grads, dt
        self.trajectory = trajectory
        self.base = network.base(condition)
        self.s_bar, self.r_bar = trajectory.new_zeros(2, trajectory.shape[0], network.hidden[0])
        self.later: Tensor | None = None  # (batch, 2d): cotangent of all states after the span, summed

    def walk(
        self,
        span: slice,
        grad_states: Tensor | None,
        grad_energies: Tensor | None,
        last: bool,
        method: str,
        precision: str,
    ) -> None:
        """Steps ``span``; cotangents of the states after each, of the energies before each and after the last."""
        network, grads, d = self.network, self.grads, self.network.half
        batch, steps, width = self.trajectory.shape[0], span.stop - span.start, network.hidden[0]
        states = self.trajectory[:, span.start : span.stop + 1]
        s = (states[..., :d] @ network.by_q.T + (self.base if self.base.ndim == 1 else self.base[:, None])).contiguous()
        r = (states[..., d:] @ network.by_p.T).contiguous()
        # What a step adds to D moves every later state.
        summed = u_q = u_p = None
        if grad_states is not None:
            summed = grad_states.flip(1).cumsum(1).flip(1)
            if self.later is not None:
                summed = summed + self.later[:, None]
            if steps:
                self.later = summed[:, 0]
                u_q = (summed[..., :d] @ network.by_p.T).contiguous()
                u_p = (summed[..., d:] @ network.by_q.T).contiguous()

        chain = _Chain(self.native, network, self.dt, method, steps, batch, precision, adjoint=True)
        last_energy = last and grad_energies is not None
        evaluations = steps * len(integrator(method).stages) + last_energy
        new = self.trajectory.new_empty
        moves = sum(len(stage.moves) for stage in integrator(method).stages)
        left = [new(steps * moves * batch, width)]
        right = [new(steps * moves * batch, width)]
        for before, after in pairwise(network.hidden):
            left.append(new(evaluations, 2, batch, after))
            right.append(new(evaluations, 2, batch, before))
        head = new(evaluations * batch, network.hidden[-1])
        impulses = new(2, batch * steps, width)
        dt_parts = new(chain.plan.teams * chain.plan.members)
        chain.backward(
            s, r, u_q, u_p, grad_energies, last_energy, self.s_bar, self.r_bar, impulses, dt_parts, left, right, head
        )

        grads.dt += dt_parts.sum()
        grads.joined.addmm_(left[0].T, right[0])
        for layer in range(1, len(left)):
            grads.weights[layer].addmm_(left[layer].flatten(0, 2).T, right[layer].flatten(0, 2))
            grads.biases[layer] += left[layer][:, 1].sum((0, 1))
        grads.weights[-1] += head.sum(0)
        if summed is not None and steps:
            flat = summed.reshape(-1, network.dim)
            grads.by_p.addmm_(impulses[0].T, flat[:, :d])
            grads.by_q.addmm_(impulses[1].T, flat[:, d:])

    def finish(self, part: slice, condition: Tensor | None) -> None:
        """From the cotangents of s_0 and r_0 to those of z0, W1, b1 and the condition."""
        network, grads, d, z0 = self.network, self.grads, self.network.half, self.trajectory[:, 0]
        if self.later is not None:
            grads.z0[part] += self.later
        grads.z0[part, :d] += self.s_bar @ network.by_q
        grads.z0[part, d:] += self.r_bar @ network.by_p
        grads.by_q.addmm_(self.s_bar.T, z0[:, :d])
        grads.by_p.addmm_(self.r_bar.T, z0[:, d:])
        grads.biases[0] += self.s_bar.sum(0)
        if condition is not None:
            grads.condition[part] = self.s_bar @ network.by_condition
            grads.by_condition.addmm_(self.s_bar.T, condition[part])


class _Chain:
    """One native call: its description, its plan, and the tensors whose addresses it holds."""

    def __init__(
        self,
        native: Any,
        network: Network,
        dt: Tensor,
        method: str,
        steps: int,
        batch: int,
        precision: str,
        *,
        adjoint: bool,
    ) -> None:
        if dt.dtype == torch.float64:
            precision = "float64"
        device = dt.device.index or 0
        stages = integrator(method).stages
        self.native, self.device = native, device
        self.plan = cuda_plans.native_plan(native, network.hidden, batch, method, precision, adjoint, device)
        self.stream = torch.cuda.current_stream(dt.device).cuda_stream if dt.is_cuda else 0
        self.kept = [network.joined, *(weight.contiguous() for weight in network.weights[1:])]
        self.kept_biases = [bias.contiguous() for bias in network.biases]
        self.dt = dt
        self.workspace = torch.empty(self.plan.workspace_bytes, dtype=torch.uint8, device=dt.device)
        self.chain = native.Chain(
            dt.dtype == torch.float64,
            network.hidden,
            ACTIVATIONS[network.activation].code,
            [weight.data_ptr() for weight in self.kept[:-1]],
            [bias.data_ptr() for bias in self.kept_biases[:-1]],
            self.kept[-1].data_ptr(),
            [(stage.mask, stage.coefficient) for stage in stages],
            dt.data_ptr(),
            steps,
            batch,
        )

    def forward(self, s0: Tensor, r0: Tensor, impulses: Tensor, energy_parts: Tensor) -> None:
        self.native.chain_forward(
            self.plan,
            self.chain,
            *map(address, (s0, r0, impulses, energy_parts, self.workspace)),
            self.device,
            self.stream,
        )

    def backward(
        self,
        s: Tensor,
        r: Tensor,
        u_q: Tensor | None,
        u_p: Tensor | None,
        grad_energies: Tensor | None,
        last_energy: bool,
        s_bar: Tensor,
        r_bar: Tensor,
        impulses: Tensor,
        dt_parts: Tensor,
        left: list[Tensor],
        right: list[Tensor],
        head: Tensor,
    ) -> None:
        grad_energies = contiguous(grad_energies)
        self.native.chain_backward(
            self.plan,
            self.chain,
            *map(address, (s, r, u_q, u_p, grad_energies)),
            last_energy,
            *map(address, (s_bar, r_bar, impulses, dt_parts)),
            [address(factor) for factor in left],
            [address(factor) for factor in right],
            *map(address, (head, self.workspace)),
            self.device,
            self.stream,
        )


def _part(network: Network, method: str, batch: int, steps: int, element_size: int) -> tuple[int, int]:
    """Samples and steps of one native call of the adjoint, so that their factors fit ``FACTOR_BYTES``."""
    widths = network.hidden
    stages = integrator(method).stages
    moves = sum(len(stage.moves) for stage in stages)
    pairs = sum(before + after for before, after in pairwise(widths))
    numbers = moves * 2 * widths[0] + len(stages) * (2 * pairs + widths[-1]) + 6 * widths[0]
    most = max(1, FACTOR_BYTES // (numbers * element_size))  # samples times steps
    rows = min(batch, most)
    return rows, max(1, min(steps, most // rows))


def _multiply(a: Tensor, b: Tensor, precision: str, out: Tensor) -> None:
    """``out = a @ b``; with "bfloat16" on a GPU the operands are rounded to it, the sums and ``out`` stay float32."""
    if precision == "bfloat16" and a.is_cuda and a.dtype == torch.float32 and _mm_with_dtype is not None:
        _mm_with_dtype(a.bfloat16(), b.bfloat16(), torch.float32, out=out)
    else:
        torch.mm(a, b, out=out)
