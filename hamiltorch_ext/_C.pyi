"""
Native kernels of hamiltorch_ext. Addresses are of contiguous memory that the caller keeps alive.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['Chain', 'CudaBlockPlan', 'CudaDelRollout', 'CudaDiscreteRollout', 'CudaExtendedRollout', 'CudaImplicitRollout', 'CudaPlan', 'CudaSeparableRollout', 'DelRollout', 'Direct', 'DirectDel', 'Method', 'Rollout', 'SeparableRollout', 'chain_backward', 'chain_forward', 'cuda', 'cuda_del_adjoint', 'cuda_del_forward', 'cuda_del_plan', 'cuda_discrete_adjoint', 'cuda_discrete_forward', 'cuda_discrete_plan', 'cuda_extended_adjoint', 'cuda_extended_forward', 'cuda_extended_plan', 'cuda_implicit_adjoint', 'cuda_implicit_forward', 'cuda_implicit_plan', 'cuda_plans', 'cuda_separable_adjoint', 'cuda_separable_forward', 'cuda_separable_plan', 'del_adjoint', 'del_forward', 'del_gradient', 'discrete_adjoint', 'discrete_forward', 'extended_adjoint', 'extended_forward', 'extended_points', 'gpu_description', 'implicit_adjoint', 'implicit_forward', 'implicit_gradient', 'instruction_set', 'instruction_sets', 'measure_peak', 'measure_peak_bfloat16', 'measure_read', 'rollout_backward', 'rollout_forward', 'separable_adjoint', 'separable_forward', 'separable_gradient', 'supports_bfloat16', 'use_instruction_set']
class Method:
    """
    A method's stages: (moves, coefficient, at_q, at_p) each, as in hamiltorch/rollout.h.
    """
    def __init__(self, stages: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]]) -> None:
        ...
class Rollout:
    """
    A network, a method and the size of a rollout.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, condition_dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], method: Method, dt: typing.SupportsFloat | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, condition: typing.SupportsInt | typing.SupportsIndex, bfloat16: bool) -> None:
        ...
class Direct:
    """
    Rollouts of tensors on the CPU past torch's dispatcher. `exchange` is the tensor type's capsule of DLPack's C functions, or None where it has none; the other arguments are the types that are read, and the activations' codes.
    """
    def __init__(self, exchange: typing.Any, tensor: typing.Any, parameter: typing.Any, module: typing.Any, linear: typing.Any, activations: dict) -> None:
        ...
    def rollout(self, network: typing.Any, method: Method, dt: typing.Any, condition: typing.Any, bfloat16: bool, recording: bool, threads: typing.SupportsInt | typing.SupportsIndex, z0: typing.Any, steps: typing.Any, return_energy: bool, tape_bytes: typing.SupportsInt | typing.SupportsIndex) -> typing.Any:
        """
        (trajectory, energies or None, tape or None where it would take more than tape_bytes); None where an argument is not plain or does not fit. With `recording` a tensor that requires a gradient is not plain.
        """
    def rollout_backward(self, network: typing.Any, method: Method, dt: typing.Any, condition: typing.Any, bfloat16: bool, recording: bool, threads: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.Any, tape: typing.Any, grad_trajectory: typing.Any, grad_energies: typing.Any) -> typing.Any:
        """
        Its adjoint: gradients by z0, dt, the weights, the biases and the condition, or None in the same cases.
        """
class CudaPlan:
    """
    One way to run a rollout on a GPU; see hamiltorch_ext.cuda_plans.
    """
    @property
    def in_place(self) -> bool:
        ...
    @property
    def members(self) -> int:
        ...
    @property
    def precision(self) -> int:
        ...
    @property
    def predicted_us(self) -> float:
        ...
    @property
    def right(self) -> int:
        ...
    @property
    def shared_bytes(self) -> int:
        ...
    @property
    def team(self) -> int:
        ...
    @property
    def teams(self) -> int:
        ...
    @property
    def vectors_global(self) -> bool:
        ...
    @property
    def weights(self) -> int:
        ...
    @property
    def workspace_bytes(self) -> int:
        ...
class Chain:
    """
    A network in layer-1 space, a method and the size of a rollout.
    """
    def __init__(self, is_double: bool, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, stages: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class SeparableRollout:
    """
    A rollout of T(p) + V(q): V's rollout, and T's, which says its network, or the address of 1 / m (d).
    """
    def __init__(self, potential: Rollout, kinetic: Rollout, inverse_mass: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def evaluations(self) -> tuple[int, int]:
        """
        Points of V and of T along a sample's rollout.
        """
class DelRollout:
    """
    A discrete Lagrangian and the size of a rollout; addresses may be 0.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, condition_dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], mass: typing.SupportsInt | typing.SupportsIndex, damping: typing.SupportsInt | typing.SupportsIndex, dt: typing.SupportsFloat | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, condition: typing.SupportsInt | typing.SupportsIndex, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class DirectDel:
    """
    Discrete Euler-Lagrange rollouts of tensors on the CPU past torch's dispatcher; arguments as Direct's.
    """
    def __init__(self, exchange: typing.Any, tensor: typing.Any, parameter: typing.Any, module: typing.Any, linear: typing.Any, activations: dict) -> None:
        ...
    def rollout(self, network: typing.Any, mass: typing.Any, dt: typing.Any, damping: typing.Any, condition: typing.Any, settings: tuple, threads: typing.SupportsInt | typing.SupportsIndex, q0: typing.Any, q1: typing.Any, impulses: typing.Any, recording: bool) -> typing.Any:
        """
        (trajectory, converged, iterations, residual, smallest_pivot), how many samples failed, and the weights and biases if with `recording` anything requires a gradient, else None. None in place of all where an argument is not plain or does not fit.
        """
    def rollout_backward(self, network: typing.Any, mass: typing.Any, dt: typing.Any, damping: typing.Any, condition: typing.Any, settings: tuple, threads: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.Any, converged: typing.Any, grad_trajectory: typing.Any, by_impulses: bool, by_others: bool) -> typing.Any:
        """
        Gradients by q0, q1, the impulses, dt, damping, the condition, the masses, the weights and the biases: None by what is no tensor, by the impulses without `by_impulses`, by what follows them without `by_others`. None in place of all in the same cases.
        """
class CudaBlockPlan:
    """
    Where the blocks of a rollout on a GPU whose steps are equations find things.
    """
    @property
    def blocks(self) -> int:
        ...
    @property
    def shared_bytes(self) -> int:
        ...
    @property
    def vectors_global(self) -> bool:
        ...
    @property
    def weights(self) -> int:
        ...
    @property
    def workspace_bytes(self) -> int:
        ...
class CudaDelRollout:
    """
    A discrete Lagrangian and the size of a rollout, as CudaDelRollout in hamiltorch/cuda_variational.h.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, base: typing.SupportsInt | typing.SupportsIndex, base_stride: typing.SupportsInt | typing.SupportsIndex, kinetic: typing.SupportsInt | typing.SupportsIndex, friction: typing.SupportsInt | typing.SupportsIndex, diagonal: typing.SupportsInt | typing.SupportsIndex, inverse: typing.SupportsInt | typing.SupportsIndex, dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class CudaImplicitRollout:
    """
    A network, stages (coefficient, at_q, at_p) that move both halves, and the size of a rollout, as CudaImplicitRollout in hamiltorch/cuda_implicit.h.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, base: typing.SupportsInt | typing.SupportsIndex, base_stride: typing.SupportsInt | typing.SupportsIndex, stages: collections.abc.Sequence[tuple[typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class CudaExtendedRollout:
    """
    A network, the binding of the two copies of the phase space, and the size of a rollout, as CudaExtendedRollout in hamiltorch/cuda_extended.h.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, base: typing.SupportsInt | typing.SupportsIndex, base_stride: typing.SupportsInt | typing.SupportsIndex, binding: typing.SupportsFloat | typing.SupportsIndex, dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class CudaDiscreteRollout:
    """
    A network, the ports of a system, and the size of a rollout, as CudaDiscreteRollout in hamiltorch/cuda_discrete.h.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, base: typing.SupportsInt | typing.SupportsIndex, base_stride: typing.SupportsInt | typing.SupportsIndex, head_bias: typing.SupportsInt | typing.SupportsIndex, dissipation: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, forces: typing.SupportsInt | typing.SupportsIndex, decay: typing.SupportsInt | typing.SupportsIndex, dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class CudaSeparableRollout:
    """
    The networks V and T, or 1 / m in T's place, and the size of a rollout, as CudaSeparableRollout in hamiltorch/cuda_separable.h. A network is (is_double, dim, widths, activation, weights, biases, head, base, base_stride).
    """
    def __init__(self, potential: tuple[bool, typing.SupportsInt | typing.SupportsIndex, collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], typing.SupportsInt | typing.SupportsIndex, collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], kinetic: tuple[bool, typing.SupportsInt | typing.SupportsIndex, collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], typing.SupportsInt | typing.SupportsIndex, collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None, inverse_mass: typing.SupportsInt | typing.SupportsIndex, stages: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], dt: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
def chain_backward(plan: CudaPlan, chain: Chain, s: typing.SupportsInt | typing.SupportsIndex, r: typing.SupportsInt | typing.SupportsIndex, u_q: typing.SupportsInt | typing.SupportsIndex, u_p: typing.SupportsInt | typing.SupportsIndex, grad_energies: typing.SupportsInt | typing.SupportsIndex, last_energy: bool, s_bar: typing.SupportsInt | typing.SupportsIndex, r_bar: typing.SupportsInt | typing.SupportsIndex, impulses: typing.SupportsInt | typing.SupportsIndex, dt_parts: typing.SupportsInt | typing.SupportsIndex, left: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], right: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], head: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Its adjoint; arrays as ChainBackward in hamiltorch/cuda_rollout.h.
    """
def chain_forward(plan: CudaPlan, chain: Chain, s0: typing.SupportsInt | typing.SupportsIndex, r0: typing.SupportsInt | typing.SupportsIndex, impulses: typing.SupportsInt | typing.SupportsIndex, energy_parts: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    A rollout in layer-1 space; arrays as ChainForward in hamiltorch/cuda_rollout.h.
    """
def cuda() -> dict:
    """
    What the CUDA part can say: architectures built, device 0, or why there is none.
    """
def cuda_del_adjoint(plan: CudaBlockPlan, rollout: CudaDelRollout, trajectory: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, multipliers: typing.SupportsInt | typing.SupportsIndex, grad_start: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Multipliers of the adjoint; arrays as del_adjoint's.
    """
def cuda_del_forward(plan: CudaBlockPlan, rollout: CudaDelRollout, q0: typing.SupportsInt | typing.SupportsIndex, q1: typing.SupportsInt | typing.SupportsIndex, impulses: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, smallest_pivot: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out; arrays as del_forward's.
    """
def cuda_del_plan(dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, is_double: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> CudaBlockPlan:
    """
    The plan for a GPU so described; ValueError says why there is none.
    """
def cuda_discrete_adjoint(plan: CudaBlockPlan, rollout: CudaDiscreteRollout, trajectory: typing.SupportsInt | typing.SupportsIndex, changes: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, multipliers: typing.SupportsInt | typing.SupportsIndex, gradients: typing.SupportsInt | typing.SupportsIndex, energy_weights: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_decay: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    What the adjoint leaves; arrays as discrete_adjoint's.
    """
def cuda_discrete_forward(plan: CudaBlockPlan, rollout: CudaDiscreteRollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, changes: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out; arrays as discrete_forward's.
    """
def cuda_discrete_plan(dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, is_double: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> CudaBlockPlan:
    """
    The plan for a GPU so described; ValueError says why there is none.
    """
def cuda_extended_adjoint(plan: CudaBlockPlan, rollout: CudaExtendedRollout, points: typing.SupportsInt | typing.SupportsIndex, turned: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_angle: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint; arrays as extended_adjoint's.
    """
def cuda_extended_forward(plan: CudaBlockPlan, rollout: CudaExtendedRollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, turned: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out; arrays as extended_forward's.
    """
def cuda_extended_plan(dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, is_double: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> CudaBlockPlan:
    """
    The plan for a GPU so described; ValueError says why there is none.
    """
def cuda_implicit_adjoint(plan: CudaBlockPlan, rollout: CudaImplicitRollout, points: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint; arrays as implicit_adjoint's.
    """
def cuda_implicit_forward(plan: CudaBlockPlan, rollout: CudaImplicitRollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out; arrays as implicit_forward's.
    """
def cuda_implicit_plan(dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, stages: typing.SupportsInt | typing.SupportsIndex, is_double: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> CudaBlockPlan:
    """
    The plan for a GPU so described; ValueError says why there is none.
    """
def cuda_plans(widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, moves: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], precision: typing.SupportsInt | typing.SupportsIndex, adjoint: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> list[CudaPlan]:
    """
    Plans that run on a GPU so described, the best by prediction first; ValueError says why there is none.
    """
def cuda_separable_adjoint(plan: CudaBlockPlan, rollout: CudaSeparableRollout, points_q: typing.SupportsInt | typing.SupportsIndex, points_p: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions_q: typing.SupportsInt | typing.SupportsIndex, directions_p: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint; arrays as separable_adjoint's.
    """
def cuda_separable_forward(plan: CudaBlockPlan, rollout: CudaSeparableRollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points_q: typing.SupportsInt | typing.SupportsIndex, points_p: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out; arrays as separable_forward's.
    """
def cuda_separable_plan(dim: typing.SupportsInt | typing.SupportsIndex, potential: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], kinetic: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], batch: typing.SupportsInt | typing.SupportsIndex, is_double: bool, gpu: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> CudaBlockPlan:
    """
    The plan for a GPU so described, kinetic being empty where there are masses; ValueError says why there is none.
    """
def del_adjoint(rollout: DelRollout, trajectory: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, multipliers: typing.SupportsInt | typing.SupportsIndex, grad_start: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Multipliers of the adjoint: converged (batch, steps), grad_trajectory and multipliers (batch, steps, d), grad_start (batch, 2, d).
    """
def del_forward(rollout: DelRollout, q0: typing.SupportsInt | typing.SupportsIndex, q1: typing.SupportsInt | typing.SupportsIndex, impulses: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, smallest_pivot: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out. q0, q1 (batch, d), impulses (batch, steps, d) or 0, trajectory (batch, steps + 2, d); the others (batch, steps), of bool, int64 and twice the configurations' type.
    """
def del_gradient(rollout: DelRollout, trajectory: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, multipliers: typing.SupportsInt | typing.SupportsIndex, grad_weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_mass: typing.SupportsInt | typing.SupportsIndex, grad_damping: typing.SupportsInt | typing.SupportsIndex, grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_condition: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The adjoint's gradients from its multipliers; grad_condition (batch, steps + 1, condition_dim) or 0.
    """
def discrete_adjoint(rollout: Rollout, dissipation: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, forces: typing.SupportsInt | typing.SupportsIndex, decay: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, changes: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, multipliers: typing.SupportsInt | typing.SupportsIndex, gradients: typing.SupportsInt | typing.SupportsIndex, energy_weights: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_decay: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Points, directions, multipliers and, or 0, discrete gradients of the adjoint, (batch, steps, dim); weights of the energies, (batch, steps); the gradient by z0, and of double those by dt, (batch), and decay, (batch, dim / 2) or 0.
    """
def discrete_forward(rollout: Rollout, dissipation: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, forces: typing.SupportsInt | typing.SupportsIndex, decay: typing.SupportsInt | typing.SupportsIndex, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, changes: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out by the discrete gradient. dissipation (dim, columns), or (dim) with 0 columns, forces (batch, steps, dim), decay (dim / 2), each or 0; trajectory (batch, steps + 1, dim), changes (batch, steps, dim) or 0; the others (batch, steps), of bool, int64 and the states' type.
    """
def extended_adjoint(rollout: Rollout, binding: typing.SupportsFloat | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, turned: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_angle: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint at the points, and the gradients by z0 and, (batch) of double, by the angle.
    """
def extended_forward(rollout: Rollout, binding: typing.SupportsFloat | typing.SupportsIndex, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, turned: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out in the extended phase space. trajectory (batch, steps + 1, dim); points (batch, 3 steps + 1, dim) and turned (batch, steps, dim), or 0.
    """
def extended_points(steps: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Points of a sample's rollout at which the gradient is taken.
    """
def gpu_description(device: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, int, int, int, int, int, int]:
    """
    Compute capability (90 for 9.0; 0 without a device), multiprocessors, shared memory of a block in bytes, and how many clusters of 2, 4, 8 and 16 blocks the device holds at once.
    """
def implicit_adjoint(rollout: Rollout, points: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint, (batch, steps, stages, dim), and the gradient by z0.
    """
def implicit_forward(rollout: Rollout, tolerance: typing.SupportsFloat | typing.SupportsIndex, max_iterations: typing.SupportsInt | typing.SupportsIndex, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, iterations: typing.SupportsInt | typing.SupportsIndex, residual: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out by implicit stages. trajectory (batch, steps + 1, dim), points (batch, steps, stages, dim) or 0; the others (batch, steps), of bool, int64 and the states' type.
    """
def implicit_gradient(rollout: Rollout, points: typing.SupportsInt | typing.SupportsIndex, converged: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_condition: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The adjoint's gradients from its directions; grad_condition (batch, steps, stages, condition_dim) or 0.
    """
def instruction_set() -> str:
    """
    The instruction set in use.
    """
def instruction_sets() -> list[str]:
    """
    Instruction sets that this processor runs, the fastest last.
    """
def measure_peak(threads: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    float32 multiply-add rate of `threads` threads in operations per second.
    """
def measure_peak_bfloat16(threads: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    The same of bfloat16 pairs with float32 sums; 0 where the instruction set in use has none.
    """
def measure_read(threads: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    Bytes per second at which `threads` threads read an array of `bytes` forth and back, each its own part.
    """
def rollout_backward(rollout: Rollout, trajectory: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, grad_energies: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_condition: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The adjoint of rollout_forward. Cotangents may be 0 for none; gradients are overwritten.
    """
def rollout_forward(rollout: Rollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, energies: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out. z0 (batch, dim), trajectory (batch, steps + 1, dim), energies (batch, steps + 1) or 0.
    """
def separable_adjoint(rollout: SeparableRollout, points_q: typing.SupportsInt | typing.SupportsIndex, points_p: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, directions_q: typing.SupportsInt | typing.SupportsIndex, directions_p: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Directions of the adjoint at V's and T's points, and the gradient by z0.
    """
def separable_forward(rollout: SeparableRollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, points_q: typing.SupportsInt | typing.SupportsIndex, points_p: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out. trajectory (batch, steps + 1, 2d); points (batch, evaluations, d) of V and of T, or 0.
    """
def separable_gradient(rollout: SeparableRollout, of_kinetic: bool, points: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, grad_weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_condition: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Gradients by the parameters of V or of the network T, from its points and directions; grad_dt is that one's part, grad_condition (batch, evaluations, condition_dim) or 0.
    """
def supports_bfloat16() -> bool:
    """
    Whether the instruction set in use multiplies bfloat16.
    """
def use_instruction_set(name: str) -> None:
    """
    Choose the instruction set of all further calls.
    """
__version__: str = '0.1.0'
