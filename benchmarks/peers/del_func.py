"""torch.func: discrete Euler-Lagrange rollouts by Newton's method with ``vmap`` of ``vjp`` of ``grad``.

Gradients by the implicit function theorem: one differentiable Newton step more at every solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import LEAST_MASS, MOST_ITERATIONS, TOLERANCE, Problem, named_leaves, weighted_sum
from torch import Tensor
from torch.func import grad, vjp, vmap

ROUNDINGS = 4  # of the largest entry: a smaller Newton step is none, as in del_rollout

Params = dict[str, Tensor]
Transform = Callable[[Callable[..., Any]], Callable[..., Any]]


def unavailable(device: str) -> str | None:
    return None


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class Newton:
    """A problem's equations and Newton's method for them; ``transform`` is applied to each function of tensors."""

    def __init__(self, problem: Problem, transform: Transform) -> None:
        self.layers, self.dt = len(problem.weights), float(problem.dt)
        self.first, self.second = grad(self._action, argnums=1), grad(self._action, argnums=2)
        self.begin, self.iterate, self.correct = map(transform, (self._begin, self._iterate, self._correct))

    def trajectory(self, leaves: Params, steps: int) -> Tensor:
        """(batch, steps + 2, d), differentiable where grad mode is on."""
        path = [leaves["q0"], leaves["q1"]]
        fixed = {name: leaf.detach() for name, leaf in leaves.items()}
        for _ in range(steps):
            before, q = path[-2:]
            with torch.no_grad():
                carried, bound, y, r, open_ = self.begin(fixed, before.detach(), q.detach())
                for _ in range(MOST_ITERATIONS):
                    if not open_.any():
                        break
                    y, r, open_ = self.iterate(fixed, carried, bound, q.detach(), y, r, open_)
            path.append(self.correct(leaves, fixed, before, q, y) if torch.is_grad_enabled() else y)
        return torch.stack(path, dim=1)

    def _action(self, params: Params, q0: Tensor, q1: Tensor) -> Tensor:
        """Of one sample, or the sum over a batch: it has the same derivatives."""
        h = torch.cat((q0, q1), dim=-1)
        for i in range(self.layers - 1):
            h = F.silu(F.linear(h, params[f"network.layers.{i}.weight"], params[f"network.layers.{i}.bias"]))
        learned = F.linear(h, params[f"network.layers.{self.layers - 1}.weight"])  # its bias moves nothing
        mass = F.softplus(params["raw_mass"]) + LEAST_MASS
        return 0.5 * (mass * (q1 - q0).square()).sum() / self.dt + self.dt * learned.sum()

    def matrix(self, params: Params, q: Tensor, y: Tensor) -> Tensor:
        """Derivative of D1 by the second slot. A row of all samples at a time: faster than a Jacobian a sample."""
        _, pull = vjp(lambda y: self.first(params, q, y), y)
        basis = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        return vmap(lambda row: pull(row.expand_as(y))[0], out_dims=1)(basis)

    def _begin(self, params: Params, before: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        carried, y = self.second(params, before, q), 2 * q - before
        r = carried + self.first(params, q, y)
        bound = TOLERANCE * (1 + carried.abs().amax(-1))
        return carried, bound, y, r, r.abs().amax(-1) > bound

    def _iterate(
        self, params: Params, carried: Tensor, bound: Tensor, q: Tensor, y: Tensor, r: Tensor, open_: Tensor
    ) -> tuple[Tensor, ...]:
        change = torch.linalg.solve(self.matrix(params, q, y), r)
        y = torch.where(open_.unsqueeze(-1), y - change, y)
        r = carried + self.first(params, q, y)
        lost = change.abs().amax(-1) <= ROUNDINGS * torch.finfo(y.dtype).eps * y.abs().amax(-1)
        return y, r, open_ & ~lost & (r.abs().amax(-1) > bound)

    def _correct(self, leaves: Params, fixed: Params, before: Tensor, q: Tensor, y: Tensor) -> Tensor:
        """y, with the solution's derivative."""
        r = self.second(leaves, before, q) + self.first(leaves, q, y)
        return y - torch.linalg.solve(self.matrix(fixed, q.detach(), y), r)


def del_rollout(problem: Problem, transform: Transform = _as_is) -> Callable[[], dict[str, Tensor]]:
    newton, leaves = Newton(problem, transform), named_leaves(problem)

    def call() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"trajectory": newton.trajectory(leaves, problem.case.steps)}

    return call


def del_gradient(problem: Problem, transform: Transform = _as_is) -> Callable[[], dict[str, Tensor]]:
    newton, leaves = Newton(problem, transform), named_leaves(problem)

    def call() -> dict[str, Tensor]:
        trajectory = newton.trajectory(leaves, problem.case.steps)
        grads = torch.autograd.grad(
            weighted_sum(trajectory, problem.targets), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return {"trajectory": trajectory, **dict(zip(leaves, grads, strict=True))}

    return call
