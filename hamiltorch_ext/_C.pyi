"""
Native kernels of hamiltorch_ext. Addresses are of contiguous memory that the caller keeps alive.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['Rollout', 'cuda', 'cuda_activation', 'instruction_set', 'instruction_sets', 'measure_peak', 'rollout_backward', 'rollout_forward', 'use_instruction_set']
class Rollout:
    """
    A network, a method and the size of a rollout.
    """
    def __init__(self, is_double: bool, dim: typing.SupportsInt | typing.SupportsIndex, condition_dim: typing.SupportsInt | typing.SupportsIndex, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], activation: typing.SupportsInt | typing.SupportsIndex, weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], stages: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], dt: typing.SupportsFloat | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, condition: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
def cuda() -> dict:
    """
    What the CUDA part can say: architectures built, device 0, or why there is none.
    """
def cuda_activation(activation: typing.SupportsInt | typing.SupportsIndex, a: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex, count: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Element-wise activation of float32 device memory on a stream; a check of the CUDA path.
    """
def instruction_set() -> str:
    """
    The instruction set in use.
    """
def instruction_sets() -> list[str]:
    """
    Instruction sets that this processor runs, widest last.
    """
def measure_peak(threads: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    float32 multiply-add rate of `threads` threads in operations per second.
    """
def rollout_backward(rollout: Rollout, trajectory: typing.SupportsInt | typing.SupportsIndex, grad_trajectory: typing.SupportsInt | typing.SupportsIndex, grad_energies: typing.SupportsInt | typing.SupportsIndex, grad_z0: typing.SupportsInt | typing.SupportsIndex, grad_dt: typing.SupportsInt | typing.SupportsIndex, grad_weights: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_biases: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_condition: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The adjoint of rollout_forward. Cotangents may be 0 for none; gradients are overwritten.
    """
def rollout_forward(rollout: Rollout, z0: typing.SupportsInt | typing.SupportsIndex, trajectory: typing.SupportsInt | typing.SupportsIndex, energies: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Roll out. z0 (batch, dim), trajectory (batch, steps + 1, dim), energies (batch, steps + 1) or 0.
    """
def use_instruction_set(name: str) -> None:
    """
    Choose the instruction set of all further calls.
    """
__version__: str = '0.1.0'
