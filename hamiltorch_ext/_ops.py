"""Torch operators over the native kernels: schemas, fakes, CPU and CUDA implementations and autograd, in one place.

Reads as an index of the native surface. Both operators are functional, and the backward of ``hamiltorch::rollout`` is
an operator of its own, so that ``torch.compile`` traces them without looking inside.

torch's dispatcher and its record of a Python operator take longer than a small rollout does. So where nothing watches
the operators, ``direct_rollout`` goes past them, and ``rollout`` lets autograd record a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._autograd import _profiler_enabled
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import _C, _layer1, cuda_plans
from ._addresses import address, contiguous
from .activations import ACTIVATIONS
from .integrators import INTEGRATORS, integrator
from .mlp import MLP, HamiltonianMLP

__all__ = [
    "EXPLICIT",
    "IMPLICIT",
    "PRECISIONS",
    "NativeCall",
    "check_call",
    "check_layers",
    "check_precision",
    "check_start",
    "direct_rollout",
    "empty_gradients",
    "library",
    "no_second_derivative",
    "rollout",
    "transformed",
    "watched",
    "why_not_native",
    "zeros_for_none",
]

# Of the products, by device; float64 tensors are computed in float64 whichever is asked for.
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "tf32", "bfloat16")}

# Most that a recorded rollout on the CPU keeps for its backward pass; without it, that evaluates the network again.
TAPE_BYTES = 1 << 30

library = torch.library.Library("hamiltorch", "DEF")
library.define(
    "rollout(Tensor z0, Tensor dt, Tensor[] weights, Tensor[] biases, Tensor? condition, "
    "str activation, str method, SymInt steps, bool return_energy, str precision) -> (Tensor, Tensor)"
)
library.define(
    "rollout_backward(Tensor? grad_trajectory, Tensor? grad_energies, Tensor trajectory, Tensor dt, Tensor[] weights, "
    "Tensor[] biases, Tensor? condition, str activation, str method, str precision) "
    "-> (Tensor, Tensor, Tensor[], Tensor[], Tensor)"
)
_rollout = torch.ops.hamiltorch.rollout.default
_rollout_backward = torch.ops.hamiltorch.rollout_backward.default

_METHODS = {
    name: _C.Method([(stage.mask, stage.coefficient, stage.at_q, stage.at_p) for stage in method.stages])
    for name, method in INTEGRATORS.items()
    if method.stages
}
EXPLICIT = frozenset(name for name in _METHODS if INTEGRATORS[name].explicit)  # what this file's operators run
IMPLICIT = frozenset(_METHODS) - EXPLICIT  # those of _implicit_ops
_PLAIN = (Tensor, nn.Parameter)  # a subclass of either may compute what it likes


_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)


def direct_calls(native: Any, module: type[nn.Module], exchange: Any = _EXCHANGE) -> Any:
    """Native calls on plain tensors and networks of type ``module``, as ``native`` has them.

    By the tensor type's table of DLPack functions, ``exchange``; without it they decline all.
    """
    codes = {name: activation.code for name, activation in ACTIVATIONS.items()}
    return native(exchange, *_PLAIN, module, nn.Linear, codes)


_direct = direct_calls(_C.Direct, HamiltonianMLP)


def rollout(
    mlp: MLP,
    z0: Tensor,
    dt: Tensor,
    steps: int,
    method: str,
    condition: Tensor | None,
    return_energy: bool,
    precision: str,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Trajectory and energies of z0 (batch, dim), differentiable; energies that nobody asked for are empty.

    With ``recompute`` nothing but the trajectory is kept for the backward pass.
    """
    biases = zeros_for_none(mlp)
    if not watched() and _to_be_recorded(z0, dt, condition, *mlp.weights, *biases):
        tape_bytes = 0 if recompute else TAPE_BYTES
        z0, condition = z0.contiguous(), contiguous(condition)  # in another order there would be no tape
        results = _Recorded.apply(
            z0, dt, condition, mlp.activation, method, steps, return_energy, precision, tape_bytes,
            *mlp.weights, *biases,
        )  # fmt: skip
    else:
        results = _rollout(
            z0, dt, list(mlp.weights), biases, condition, mlp.activation, method, steps, return_energy, precision
        )
    trajectory, energies = results
    return trajectory, energies


def zeros_for_none(mlp: MLP) -> list[Tensor]:
    """The network's biases, zeros where a layer has none."""
    return [
        weight.new_zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip(mlp.weights, mlp.biases, strict=True)
    ]


def direct_rollout(
    H: HamiltonianMLP | MLP,
    z0: Tensor,
    dt: float | Tensor,
    steps: int,
    method: str,
    condition: Tensor | None,
    return_energy: bool,
    precision: str,
    tape_bytes: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """Trajectory of z0 (..., dim) on the CPU past torch's dispatcher; with ``return_energy`` also the energies.

    Third comes the tape for the backward pass, if it takes no more than ``tape_bytes``. None in place of all where a
    gradient has to be recorded, where something watches, and where anything is out of the ordinary: the arguments need
    not have been checked.
    """
    if watched():
        return None
    result: tuple[Tensor, Tensor | None, Tensor | None] | None = _direct.rollout(
        H,
        _METHODS[method],
        dt,
        condition,
        precision == "bfloat16",
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        z0,
        steps,
        return_energy,
        tape_bytes,
    )
    return result


def check_precision(precision: str, z0: Tensor) -> None:
    """ValueError where ``z0``'s device has no products of that precision."""
    device = z0.device.type
    known = PRECISIONS.get(device, ("float32",))
    if precision not in known:
        raise ValueError(f"precision must be one of {', '.join(known)} on {device}, got {precision!r}")
    if device == "cpu" and precision == "bfloat16" and z0.dtype == torch.float32 and not _C.supports_bfloat16():
        raise ValueError(
            f"precision 'bfloat16' on a CPU needs AVX-512 BF16, got instruction set {_C.instruction_set()!r}"
        )


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is going on."""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def watched() -> bool:
    """Whether anything but autograd may want to see the operators."""
    return (
        is_compiling()
        or transformed()
        or _len_torch_dispatch_stack() > 0
        or _len_torch_function_stack() > 0
        or _get_tracing_state() is not None
        or _profiler_enabled()
    )


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient by one of these tensors, or None, may be asked for."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _to_be_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd has to record what is done to these tensors, all plain or None."""
    return wants_gradient(*tensors) and all(tensor is None or type(tensor) in _PLAIN for tensor in tensors)


def why_not_native(mlp: MLP, z0: Tensor, method: str, precision: str) -> str | None:
    """None where the kernels run this rollout, else one line that says why they do not."""
    if method not in EXPLICIT and precision != "float32" and z0.dtype == torch.float32:
        return f"method {method!r} runs natively with precision 'float32'"
    hidden = tuple(weight.shape[0] for weight in mlp.weights[:-1])

    def find_plans(batch: int, is_double: bool, device: int) -> None:
        others = {"extended": cuda_plans.extended_plan, "discrete_gradient": cuda_plans.discrete_plan}
        if method in IMPLICIT:
            cuda_plans.implicit_plan(_C, mlp.dim // 2, hidden, batch, method, is_double, device)
        elif method in others:
            others[method](_C, mlp.dim // 2, hidden, batch, is_double, device)
        else:
            for adjoint in (False, True):
                wanted = "float64" if is_double else precision
                cuda_plans.native_plans(_C, hidden, batch, method, wanted, adjoint, device)

    return why_not_there(z0, find_plans)


def why_not_there(z0: Tensor, find_plans: Callable[[int, bool, int], object]) -> str | None:
    """Why no kernel runs where z0 (..., 2d) is; None where one does. ``find_plans(batch, is_double, device)`` raises
    ValueError if a GPU has none."""
    if z0.device.type not in ("cpu", "cuda"):
        return f"native rollouts run on CPU and CUDA, not on {z0.device}"
    if z0.device.type == "cpu" or is_compiling():
        return None  # while compiling, the operator itself says so when it runs
    if _no_cuda():
        return _no_cuda()
    try:
        find_plans(z0.shape[:-1].numel(), z0.dtype == torch.float64, z0.device.index or 0)
    except ValueError as reason:
        return str(reason)
    return None


@lru_cache(maxsize=1)
def _no_cuda() -> str:
    """Why our CUDA part has no device, or an empty string; asked once, since the driver takes its time."""
    cuda = _C.cuda()
    return "" if cuda["available"] else str(cuda["message"])


@torch.library.impl(library, "rollout", "CPU")
def _rollout_cpu(
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
    results = trajectory, energies = _empty_results(z0, steps, return_energy)
    z0 = z0.contiguous()
    call = NativeCall(z0, dt, weights, biases, condition, activation, method, steps, precision)
    _C.rollout_forward(call.rollout, z0.data_ptr(), trajectory.data_ptr(), address(energies), torch.get_num_threads())
    return results


@torch.library.impl(library, "rollout", "CUDA")
def _rollout_cuda(
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
    check_call(z0, dt, weights, biases, condition, steps, precision)
    with torch.cuda.device(z0.device), torch.autocast("cuda", enabled=False):
        return _layer1.rollout(
            _C, z0, dt, weights, biases, condition, activation, method, steps, return_energy, precision
        )


def _rollout_fake(
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
    return _empty_results(z0, steps, return_energy)


@torch.library.impl(library, "rollout_backward", "CPU")
def _rollout_backward_cpu(
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
    _check_adjoint(trajectory, grad_trajectory, grad_energies)
    grads = empty_gradients(trajectory, dt, weights, biases, condition)
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = grads
    trajectory = trajectory.contiguous()
    grad_trajectory, grad_energies = contiguous(grad_trajectory), contiguous(grad_energies)
    steps = trajectory.shape[1] - 1
    call = NativeCall(trajectory[:, 0], dt, weights, biases, condition, activation, method, steps, precision)
    _C.rollout_backward(
        call.rollout,
        trajectory.data_ptr(),
        address(grad_trajectory),
        address(grad_energies),
        grad_z0.data_ptr(),
        grad_dt.data_ptr(),
        [grad.data_ptr() for grad in grad_weights],
        [grad.data_ptr() for grad in grad_biases],
        address(grad_condition),
        torch.get_num_threads(),
    )
    return grads


@torch.library.impl(library, "rollout_backward", "CUDA")
def _rollout_backward_cuda(
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
    _check_adjoint(trajectory, grad_trajectory, grad_energies)
    check_call(trajectory[:, 0], dt, weights, biases, condition, trajectory.shape[1] - 1, precision)
    with torch.cuda.device(trajectory.device), torch.autocast("cuda", enabled=False):
        return _layer1.rollout_backward(
            _C,
            grad_trajectory,
            grad_energies,
            trajectory,
            dt,
            weights,
            biases,
            condition,
            activation,
            method,
            precision,
        )


def _rollout_backward_fake(
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
    return empty_gradients(trajectory, dt, weights, biases, condition)


def _save_for_backward(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor], tape: Tensor | None = None
) -> None:
    _, dt, weights, biases, condition, ctx.activation, ctx.method, _, ctx.return_energy, ctx.precision = inputs
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], dt, *weights, *biases, condition, tape)


def _backward(ctx: Any, grad_trajectory: Tensor | None, grad_energies: Tensor | None) -> tuple[Any, ...]:
    trajectory, dt, *parameters, condition, tape = ctx.saved_tensors
    weights, biases = tuple(parameters[: ctx.layers]), tuple(parameters[ctx.layers :])
    if not ctx.return_energy:
        grad_energies = None
    grads = None
    if trajectory.is_cpu and not watched():
        grads = _direct.rollout_backward(
            MLP(weights, biases, ctx.activation, 0 if condition is None else condition.shape[1]),
            _METHODS[ctx.method],
            dt,
            condition,
            ctx.precision == "bfloat16",
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            trajectory,
            tape,
            contiguous(grad_trajectory),
            contiguous(grad_energies),
        )
    if grads is None:
        grads = _rollout_backward(
            grad_trajectory,
            grad_energies,
            trajectory,
            dt,
            list(weights),
            list(biases),
            condition,
            ctx.activation,
            ctx.method,
            ctx.precision,
        )
    grad_z0, grad_dt, grad_weights, grad_biases, grad_condition = grads
    return (
        grad_z0,
        grad_dt,
        list(grad_weights),
        list(grad_biases),
        None if condition is None else grad_condition,
        *(None,) * 5,
    )


class _Recorded(torch.autograd.Function):
    """The rollout as autograd records it where nothing else watches, in a fraction of the operator's time."""

    @staticmethod
    def forward(
        ctx: Any,
        z0: Tensor,
        dt: Tensor,
        condition: Tensor | None,
        activation: str,
        method: str,
        steps: int,
        return_energy: bool,
        precision: str,
        tape_bytes: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As the operator; ``parameters`` are the weights, then the biases."""
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        mlp = MLP(weights, biases, activation, 0 if condition is None else condition.shape[1])
        result = direct_rollout(mlp, z0, dt, steps, method, condition, return_energy, precision, tape_bytes)
        inputs = (z0, dt, list(weights), list(biases), condition, activation, method, steps, return_energy, precision)
        output: tuple[Tensor, Tensor]
        if result is None:
            output, tape = _rollout(*inputs), None
        else:
            trajectory, energies, tape = result
            output = trajectory, z0.new_empty(0) if energies is None else energies
        _save_for_backward(ctx, inputs, output, tape)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """The gradients in the order of ``forward``'s arguments."""
        grad_z0, grad_dt, grad_weights, grad_biases, grad_condition, *others = _backward(ctx, *grads)
        return grad_z0, grad_dt, grad_condition, *others, None, *grad_weights, *grad_biases


def no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(
        "native rollouts are differentiable once; for second derivatives through a rollout use backend='reference'"
    )


torch.library.register_fake("hamiltorch::rollout", _rollout_fake, lib=library)
torch.library.register_fake("hamiltorch::rollout_backward", _rollout_backward_fake, lib=library)
torch.library.register_autograd("hamiltorch::rollout", _backward, setup_context=_save_for_backward, lib=library)
torch.library.register_autograd("hamiltorch::rollout_backward", no_second_derivative, lib=library)


def _empty_results(z0: Tensor, steps: int, return_energy: bool) -> tuple[Tensor, Tensor]:
    rows, dim = z0.shape
    return z0.new_empty(rows, steps + 1, dim), z0.new_empty((rows, steps + 1) if return_energy else (0,))


def empty_gradients(
    trajectory: Tensor, dt: Tensor, weights: list[Tensor], biases: list[Tensor], condition: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]:
    return (
        trajectory.new_empty(trajectory.shape[0], trajectory.shape[2]),
        dt.new_empty(()),
        [weight.new_empty(weight.shape) for weight in weights],
        [bias.new_empty(bias.shape) for bias in biases],
        trajectory.new_empty((0,)) if condition is None else condition.new_empty(condition.shape),
    )


def check_call(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    steps: int,
    precision: str,
) -> None:
    """What the kernels take on trust: an operator called by hand must not read or write beyond its tensors."""
    check_start(z0, dt, steps)
    check_precision(precision, z0)
    check_layers(z0, dt, weights, biases, condition)


def check_start(z0: Tensor, dt: Tensor, steps: int) -> None:
    """What every rollout begins with."""
    if z0.ndim != 2 or z0.shape[1] == 0 or z0.shape[1] % 2:
        raise ValueError(f"z0 must have shape (batch, 2d), got {tuple(z0.shape)}")
    if z0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z0 must be float32 or float64, got {z0.dtype}")
    if dt.ndim:
        raise ValueError(f"dt must be a 0-d tensor, got shape {tuple(dt.shape)}")
    if steps < 0:
        raise ValueError(f"steps must be zero or positive, got {steps}")


def check_cotangents(grad_trajectory: Tensor) -> None:
    """What every adjoint begins with."""
    if grad_trajectory.ndim != 3 or grad_trajectory.shape[1] == 0:
        raise ValueError(f"grad_trajectory must have shape (batch, steps + 1, 2d), got {tuple(grad_trajectory.shape)}")


def check_kept(name: str, kept: Tensor, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> None:
    """What a rollout has left for its adjoint: where ``like`` is, and of its dtype or this one."""
    dtype = dtype or like.dtype
    if kept.shape != shape or kept.dtype != dtype or kept.device != like.device:
        raise ValueError(
            f"{name} must be {dtype} of shape {shape} on {like.device}, "
            f"got {kept.dtype} {tuple(kept.shape)} on {kept.device}"
        )


def check_layers(
    z0: Tensor,
    dt: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    condition: Tensor | None,
    name: str = "",
) -> None:
    """A network of z0 (batch, dim), ``name`` before its lists in messages, and what has to be where z0 is."""
    if len(weights) < 2 or len(biases) != len(weights):
        raise ValueError(
            f"{name}weights and {name}biases must be two or more each, got {len(weights)} and {len(biases)}"
        )
    width = z0.shape[1]
    if condition is not None:
        if condition.ndim != 2 or condition.shape[0] != z0.shape[0]:
            raise ValueError(f"condition must have shape ({z0.shape[0]}, n), got {tuple(condition.shape)}")
        width += condition.shape[1]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        outputs = 1 if layer == len(weights) - 1 else weight.shape[0]
        if outputs == 0 or weight.shape != (outputs, width):
            raise ValueError(
                f"{name}weights[{layer}] must have shape ({outputs or 1}, {width}), got {tuple(weight.shape)}"
            )
        if bias.shape != (outputs,):
            raise ValueError(f"{name}biases[{layer}] must have shape ({outputs},), got {tuple(bias.shape)}")
        width = outputs
    for tensor in (dt, *weights, *biases, *(() if condition is None else (condition,))):
        if tensor.dtype != z0.dtype:
            raise TypeError(f"all tensors must have z0's dtype, {z0.dtype}, got {tensor.dtype}")
        if tensor.device != z0.device:
            raise ValueError(f"all tensors must be on z0's device, {z0.device}, got {tensor.device}")


def _check_adjoint(trajectory: Tensor, grad_trajectory: Tensor | None, grad_energies: Tensor | None) -> None:
    if trajectory.ndim != 3 or trajectory.shape[1] == 0:
        raise ValueError(f"trajectory must have shape (batch, steps + 1, 2d), got {tuple(trajectory.shape)}")
    shapes = {"grad_trajectory": trajectory.shape, "grad_energies": trajectory.shape[:2]}
    for (name, shape), given in zip(shapes.items(), (grad_trajectory, grad_energies), strict=True):
        if given is None:
            continue
        if given.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(given.shape)}")
        if given.dtype != trajectory.dtype or given.device != trajectory.device:
            raise TypeError(
                f"{name} must be {trajectory.dtype} on {trajectory.device}, got {given.dtype} on {given.device}"
            )


class NativeCall:
    """The native description of a call, and the contiguous tensors whose addresses it holds."""

    def __init__(
        self,
        z0: Tensor,
        dt: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        condition: Tensor | None,
        activation: str,
        method: str,
        steps: int,
        precision: str,
    ) -> None:
        check_call(z0, dt, weights, biases, condition, steps, precision)
        self.weights = [weight.contiguous() for weight in weights]
        self.biases = [bias.contiguous() for bias in biases]
        self.condition = contiguous(condition)
        batch, dim = z0.shape
        self.rollout = _C.Rollout(
            z0.dtype == torch.float64,
            dim,
            weights[0].shape[1] - dim,
            [weight.shape[0] for weight in weights[:-1]],
            ACTIVATIONS[activation].code,
            [weight.data_ptr() for weight in self.weights],
            [bias.data_ptr() for bias in self.biases],
            _METHODS[integrator(method).name],
            dt.item(),
            steps,
            batch,
            address(self.condition),
            precision == "bfloat16" and z0.dtype == torch.float32,
        )
