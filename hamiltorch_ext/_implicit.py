"""Fixed points w = F(w) of many samples at once, and their derivative by the implicit function theorem.

Every sample, an entry of the leading dimensions, is a system of its own: it stops on its own, and what becomes of it
leaves the others alone. F is iterated while that contracts; then come Newton's steps with a line search, by GCR on
Jacobian-vector products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Report", "differentiable", "solve"]

CONTRACTION = 0.5  # what an iteration may leave of the residual before Newton's method takes over
HALVINGS = 12  # of a Newton step, before it is given up
DECREASE = 1e-4  # of the residual that a Newton step has to bring, as a part of what its length promises
DIRECTIONS = 64  # of GCR

Map = Callable[[Tensor], Tensor]


class Report(NamedTuple):
    """What became of each sample: solved or not, iterations, largest entry of F(w) - w over 1 + that of w."""

    converged: Tensor
    iterations: Tensor
    residual: Tensor


def solve(
    F: Map, start: Tensor, tol: float, max_iterations: int, floor: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Report]:
    """The fixed point of F near ``start`` (..., n), without a derivative.

    A sample is solved when its residual is at most ``tol``, or ``floor`` (w) (...), what F's own rounding leaves.
    """
    with torch.no_grad():
        w = start.detach().clone()
        rest = F(w) - w
        length, error = _norm(rest), _error(rest, w)
        iterations = torch.zeros_like(error, dtype=torch.int64)
        newton = torch.zeros_like(error, dtype=torch.bool)
        stuck = torch.zeros_like(newton)
        for _ in range(max_iterations):
            bound = tol if floor is None else floor(w).clamp(min=tol)
            open_ = (error > bound) & ~stuck
            if not open_.any():
                break
            iterations += open_
            step = rest
            if (open_ & newton).any():
                found, _ = conjugate_residuals(lambda x: x - _pushed(F, w, x), rest, 1e-3)  # noqa: B023
                step = torch.where(newton.unsqueeze(-1), found, rest)
            # Plain iterations are taken or left; Newton's steps are halved until the residual falls.
            part = 1.0
            trying = open_
            for halving in range(HALVINGS):
                tried = torch.where(trying.unsqueeze(-1), w + part * step, w)
                left = F(tried) - tried
                shorter = _norm(left)
                falls = trying & (shorter <= (1 - DECREASE * part) * length)  # false for NaN
                slow = falls & ~newton & (shorter > CONTRACTION * length)
                took = falls.unsqueeze(-1)
                w, rest = torch.where(took, tried, w), torch.where(took, left, rest)
                length, error = torch.where(falls, shorter, length), torch.where(falls, _error(rest, w), error)
                # What plain iteration does not bring closer is Newton's from here on.
                turned = (trying & ~falls & ~newton) if halving == 0 else torch.zeros_like(trying)
                trying = trying & ~falls & ~turned
                newton = newton | slow | turned
                if not trying.any():
                    break
                part /= 2
            stuck |= trying
        bound = tol if floor is None else floor(w).clamp(min=tol)
        return w, Report(error <= bound, iterations, error)


def differentiable(F: Map, w: Tensor) -> Tensor:
    """The fixed point w of F with its derivative by all that F closes over; once differentiable.

    With u the cotangent of w, what F's other inputs receive is that of F with (1 - dF/dw)^-T u.
    """
    w = w.detach()
    image = F(w)
    if not image.requires_grad:
        return image

    def through(cotangent: Tensor | None) -> Tensor | None:
        if cotangent is None:
            return None
        if torch.is_grad_enabled():
            raise NotImplementedError("implicit methods are differentiable once")
        with torch.enable_grad():
            leaf = w.clone().requires_grad_()
            value = F(leaf)

        def transposed(x: Tensor) -> Tensor:
            (back,) = torch.autograd.grad(value, leaf, x, retain_graph=True, allow_unused=True)
            return x if back is None else x - back

        solution, _ = conjugate_residuals(transposed, cotangent, 4 * torch.finfo(w.dtype).eps)
        return solution

    image.register_hook(through)
    # The value is w itself: where F does not contract, F(w) is further off, and gradients should change no value.
    return w + (image - image.detach())


def conjugate_residuals(multiply: Map, right: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """x with A x = right (..., n) by GCR, A given by its products, until what is left is ``tol`` of it; and that."""
    x, left = torch.zeros_like(right), right
    target = tol * _norm(right)
    negligible = 64 * torch.finfo(right.dtype).eps
    directions: list[tuple[Tensor, Tensor]] = []
    for _ in range(min(DIRECTIONS, 2 * right.shape[-1] + 2)):
        open_ = _norm(left) > target
        if not open_.any():
            break
        direction = left
        image = multiply(direction)
        whole = _norm(image)
        for _ in range(2):  # the second time against rounding
            for before, its_image in directions:
                along = (its_image * image).sum(-1, keepdim=True)
                image, direction = image - along * its_image, direction - along * before
        size = _norm(image)
        # A sample that has arrived waits for the others, and what is rounding of earlier images is no new direction:
        # made a unit vector, it would spoil x.
        inverse = torch.where(open_ & (size > negligible * whole), 1 / size, 0).unsqueeze(-1)
        image, direction = image * inverse, direction * inverse
        along = (image * left).sum(-1, keepdim=True)
        x, left = x + along * direction, left - along * image
        directions.append((direction, image))
    return x, _norm(left)


def _pushed(F: Map, w: Tensor, x: Tensor) -> Tensor:
    """dF/dw x, by differentiating u -> (dF/dw)^T u, which is linear in u."""
    with torch.enable_grad():
        leaf = w.detach().requires_grad_()
        value = F(leaf)
        if not value.requires_grad:
            return torch.zeros_like(x)
        u = torch.zeros_like(value).requires_grad_()
        (back,) = torch.autograd.grad(value, leaf, u, create_graph=True, allow_unused=True)
        if back is None or not back.requires_grad:
            return torch.zeros_like(x)
        (pushed,) = torch.autograd.grad(back, u, x, allow_unused=True)
    return torch.zeros_like(x) if pushed is None else pushed


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm


def _error(rest: Tensor, w: Tensor) -> Tensor:
    return rest.abs().amax(-1) / (1 + w.abs().amax(-1))
