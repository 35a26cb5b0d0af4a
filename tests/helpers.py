"""What the tests share: random problems, everything there is to know about a rollout by name, and two comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import oracle
import pytest
import torch
from torch import Tensor, nn

from hamiltorch_ext import _C, HamiltonianMLP, Sin, rollout

MODULE = {"softplus": nn.Softplus, "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU, "sin": Sin}
Results = dict[str, Tensor]
DEVICES = ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)]  # of the fixture `device`
large = pytest.mark.large


def on(*names: str) -> pytest.MarkDecorator:
    """The devices that a test is for, where it is not for all."""
    chosen = [device for device in DEVICES if (device if isinstance(device, str) else device.values[0]) in names]
    return pytest.mark.parametrize("device", chosen, indirect=True)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """With so many of torch's threads, which are also the native kernels'."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_instruction_set(name: str) -> Iterator[None]:
    """With the native kernels of this one."""
    before = _C.instruction_set()
    _C.use_instruction_set(name)
    try:
        yield
    finally:
        _C.use_instruction_set(before)


@dataclass
class Problem:
    """A network, its inputs, and random weights of a scalar loss over every output. All tensors are float64, with
    values that float32 holds exactly, so that one oracle serves both precisions."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    activation: str
    z0: Tensor
    dt: Tensor
    steps: int
    method: str
    condition: Tensor | None
    on_trajectory: Tensor
    on_energies: Tensor

    @property
    def condition_dim(self) -> int:
        return 0 if self.condition is None else self.condition.shape[-1]


def make_problem(
    *,
    d: int = 3,
    hidden: tuple[int, ...] = (33, 7),
    activation: str = "softplus",
    batch: tuple[int, ...] = (5,),
    dt: float = 0.1,
    steps: int = 4,
    method: str = "leapfrog",
    condition_dim: int = 0,
    bias: bool = True,
    gain: float = 1.0,
    seed: int = 0,
) -> Problem:
    """Random weights at the scale of a trained network: pre-activations of order ``gain``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(torch.float64)

    widths = (2 * d + condition_dim, *hidden, 1)
    return Problem(
        weights=[normal(n_out, n_in, scale=gain / math.sqrt(n_in)) for n_in, n_out in pairwise(widths)],
        biases=[normal(n, scale=0.3 * gain) if bias else None for n in widths[1:]],
        activation=activation,
        z0=normal(*batch, 2 * d),
        dt=torch.tensor(dt, dtype=torch.float32).to(torch.float64),
        steps=steps,
        method=method,
        condition=normal(*batch, condition_dim) if condition_dim else None,
        on_trajectory=normal(*batch, steps + 1, 2 * d),
        on_energies=normal(*batch, steps + 1),
    )


def sequential(problem: Problem, dtype: torch.dtype = torch.float64, device: str = "cpu") -> nn.Sequential:
    """The problem's network as torch modules, in ``dtype`` and on ``device``."""
    modules: list[nn.Module] = []
    for weight, bias in zip(problem.weights, problem.biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype, device=device)
        with torch.no_grad():
            linear.weight.copy_(weight)
            if bias is not None:
                linear.bias.copy_(bias)
        modules += [linear, MODULE[problem.activation]()]
    return nn.Sequential(*modules[:-1])


def library(
    problem: Problem,
    dtype: torch.dtype = torch.float64,
    *,
    device: str = "cpu",
    backend: str = "auto",
    precision: str = "float32",
    energies: bool = True,
    recompute: bool = False,
    reshape: Callable[[Tensor], Tensor] = lambda x: x,
    plain: bool = False,
) -> Results:
    """Values and all gradients of the library's rollout on ``device``, brought to the CPU.

    ``backend="auto"`` means the native kernels: the warning of a fallback is an error in these tests. ``reshape`` gives
    an input another memory layout; ``plain`` hands over an ``nn.Sequential`` instead of a ``HamiltonianMLP``.
    """
    network = sequential(problem, dtype, device)
    H = network if plain else HamiltonianMLP.from_sequential(network, condition_dim=problem.condition_dim)
    z0 = problem.z0.to(device, dtype).requires_grad_()
    dt = problem.dt.to(device, dtype).requires_grad_()
    condition = None if problem.condition is None else problem.condition.to(device, dtype).requires_grad_()
    results = rollout(
        H, reshape(z0), dt, problem.steps, method=problem.method, backend=backend, return_energy=energies,
        precision=precision, recompute=recompute, condition=None if condition is None else reshape(condition),
    )  # fmt: skip
    trajectory, energy = results if energies else (results, None)
    linears = [module for module in network if isinstance(module, nn.Linear)]
    leaves = {"z0": z0, "dt": dt, "condition": condition}
    leaves |= {f"weight {layer + 1}": linear.weight for layer, linear in enumerate(linears)}
    leaves |= {f"bias {layer + 1}": linear.bias for layer, linear in enumerate(linears)}
    return _with_gradients(problem, trajectory, energy, leaves)


def values(problem: Problem, dtype: torch.dtype = torch.float64, precision: str = "float32") -> Results:
    """Trajectory and energies without a gradient to record, on the CPU: kernels of another form may run then."""
    H = HamiltonianMLP.from_sequential(sequential(problem, dtype), condition_dim=problem.condition_dim)
    condition = None if problem.condition is None else problem.condition.to(dtype)
    with torch.no_grad():
        trajectory, energies = rollout(
            H, problem.z0.to(dtype), float(problem.dt), problem.steps, method=problem.method, condition=condition,
            return_energy=True, precision=precision, backend="native",
        )  # fmt: skip
    return {"trajectory": trajectory, "energies": energies}


def exact(problem: Problem, energies: bool = True) -> Results:
    """The same from the float64 oracle."""
    leaves: dict[str, Tensor | None] = {"z0": problem.z0, "dt": problem.dt, "condition": problem.condition}
    leaves |= {f"weight {layer + 1}": weight for layer, weight in enumerate(problem.weights)}
    leaves |= {f"bias {layer + 1}": bias for layer, bias in enumerate(problem.biases)}
    leaves = {name: None if leaf is None else leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    layers = range(1, len(problem.weights) + 1)
    trajectory, energy = oracle.rollout(
        [leaves[f"weight {layer}"] for layer in layers],
        [leaves[f"bias {layer}"] for layer in layers],
        problem.activation,
        leaves["z0"],
        leaves["dt"],
        problem.steps,
        problem.method,
        leaves["condition"],
    )
    return _with_gradients(problem, trajectory, energy if energies else None, leaves)


def _with_gradients(
    problem: Problem, trajectory: Tensor, energies: Tensor | None, leaves: dict[str, Tensor | None]
) -> Results:
    results = {"trajectory": trajectory}
    loss = (trajectory * problem.on_trajectory.to(trajectory)).sum()
    if energies is not None:
        results["energies"] = energies
        loss = loss + (energies * problem.on_energies.to(energies)).sum()
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    gradients = torch.autograd.grad(loss, list(present.values()), allow_unused=True)
    for (name, leaf), gradient in zip(present.items(), gradients, strict=True):
        # What no output depends on may come back as None or as zeros: both say the same.
        results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: value.detach().cpu() for name, value in results.items()}


def neighbour(problem: Problem, seed: int) -> Problem:
    """The problem with every input, the loss's weights too, moved by up to one float32 rounding."""
    generator = torch.Generator().manual_seed(seed)

    def moved(x: Any) -> Any:
        if x is None:
            return None
        relative = torch.finfo(torch.float32).eps * (2 * torch.rand(x.shape, generator=generator) - 1)
        return (x * (1 + relative.double())).float().double()

    return replace(
        problem,
        weights=[moved(weight) for weight in problem.weights],
        biases=[moved(bias) for bias in problem.biases],
        z0=moved(problem.z0),
        dt=moved(problem.dt),
        condition=moved(problem.condition),
        on_trajectory=moved(problem.on_trajectory),
        on_energies=moved(problem.on_energies),
    )


def float32_allowance(problem: Problem, want: Results, energies: bool = True, neighbours: int = 4) -> dict[str, float]:
    """The error that a float32 result may have: twice that of the float32 torch reference, plus a floor.

    A single error of the reference is a draw of luck where the result is a scalar, so its largest error is taken over
    the problem and neighbours at one rounding's distance, each against its own exact result. The floor is how far the
    exact result moves to those neighbours, plus four units in the last place.
    """
    reference, spread = dict.fromkeys(want, 0.0), dict.fromkeys(want, 0.0)
    for seed in range(neighbours + 1):
        near = neighbour(problem, seed) if seed else problem
        truth = exact(near, energies) if seed else want
        got = library(near, torch.float32, energies=energies, backend="reference")
        for name, value in truth.items():
            reference[name] = max(reference[name], norm(got[name].double() - value))
            spread[name] = max(spread[name], norm(value - want[name]))
    eps = torch.finfo(torch.float32).eps
    return {name: 2 * reference[name] + spread[name] + 4 * eps * norm(want[name]) for name in want}


def assert_exact(got: Results, want: Results, rtol: float = 1e-10) -> None:
    """Every result within ``rtol`` of the oracle, in norm, relative to the oracle's norm; zero must be zero."""
    _assert_same_layout(got, want)
    for name, expected in want.items():
        error, scale = norm(got[name].double() - expected), norm(expected)
        assert error <= rtol * scale, f"{name}: relative error {error / scale if scale else math.inf:.2e}"


def assert_within(got: Results, want: Results, allowance: dict[str, float]) -> None:
    """Every result's error, a norm over the tensor, at most its allowance."""
    _assert_same_layout(got, want)
    for name, expected in want.items():
        error = norm(got[name].double() - expected)
        assert error <= allowance[name], f"{name}: error {error:.2e} > {allowance[name]:.2e}, norm {norm(expected):.2e}"


def check(problem: Problem, *, energies: bool = True, neighbours: int = 4, **options: Any) -> None:
    """Both precisions of the library against the oracle: values and all gradients."""
    want = exact(problem, energies)
    assert_exact(library(problem, torch.float64, energies=energies, **options), want)
    got = library(problem, torch.float32, energies=energies, **options)
    allowance = float32_allowance(problem, want, energies, neighbours)
    assert_within(got, want, allowance)
    if energies and options.get("device", "cpu") == "cpu":
        want = {name: want[name] for name in ("trajectory", "energies")}
        assert_exact(values(problem, torch.float64), want)
        assert_within(values(problem, torch.float32), want, allowance)


def _assert_same_layout(got: Results, want: Results) -> None:
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].shape == want[name].shape, f"{name}: {tuple(got[name].shape)} != {tuple(want[name].shape)}"


def norm(x: Tensor) -> float:
    """Euclidean norm over the whole tensor."""
    return float(torch.linalg.vector_norm(x.double()))
