"""What is timed: networks, batches, and the inputs that every peer gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

STEPS = 15
DT = 0.5
ENERGY_WEIGHT = 0.5  # lambda of H-JEPA's loss, the middle of its curriculum

TOLERANCE = 1e-6  # of what is solved: every peer stops each step where ours does

# Of discrete Euler-Lagrange rollouts. A single motion is followed for longer than a batch.
DEL_STEPS, DEL_STEPS_SINGLE = 10, 50
DEL_DT = 0.1
MOST_ITERATIONS = 20

# Of implicit methods: in the end no entry of a solve's residual is larger than the tolerance times one plus
# the largest entry of the sample's solution. At this dt ours takes one iteration a solve from the fourth step on.
IMPLICIT = ("stormer_verlet", "implicit_midpoint", "discrete_gradient")
IMPLICIT_DT = 1.0  # H-JEPA's own
MOST_STAGE_ITERATIONS = 50
UNIT_MASS = 0.5413248546129181  # softplus of it is one
LEAST_MASS = 1e-3


@dataclass(frozen=True)
class Case:
    """One question: ``kind`` of ``model`` at one batch.

    A "hamiltonian" or a "baseline" has the kinds "rollout" (leapfrog's) and "training", a "hamiltonian" those of
    IMPLICIT, each the name of its method, and a "lagrangian" "del_rollout" and "del_gradient". The network of a
    Lagrangian has two configurations as its input: widths (2d, ..., 1).
    """

    name: str
    kind: str
    model: str
    widths: tuple[int, ...]
    batch: int
    steps: int = STEPS
    baseline: str | None = None  # name of the case that does the same with a plain MLP, for context

    @property
    def gradient(self) -> bool:
        """Whether the results are sums over the batch, and not one trajectory a sample."""
        return self.kind in ("training", "del_gradient")

    @property
    def flop(self) -> int | None:
        """Floating-point operations of the algorithm, pointwise work left out: the same number for every peer.

        None where steps are solved to a tolerance: how often one is iterated, and how, is a peer's choice.
        """
        if self.model == "lagrangian" or self.kind in IMPLICIT:
            return None
        multiply_adds = _leapfrog_work(self.widths) if self.model == "hamiltonian" else _plain_work(self.widths)
        return 2 * self.batch * self.steps * multiply_adds[self.kind]


def _leapfrog_work(widths: tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds per step and sample: three gradients, each of half the input at a change of the other half.

    The adjoint of one gradient needs one Hessian-vector product and two outer products per layer; recomputing the
    forward pass is a peer's choice and not counted. A method that needs less (in layer-1 space, say) shows as a higher
    rate, never as less work.
    """
    half = widths[0] // 2 * widths[1]
    rest = sum(n_in * n_out for n_in, n_out in pairwise(widths[1:]))
    gradient = 2 * half + 2 * rest
    hessian_vector = half + 2 * rest + 2 * half
    outer_products = 3 * half + 2 * rest
    return {"rollout": 3 * gradient, "training": 3 * (gradient + hessian_vector + outer_products)}


def _plain_work(widths: tuple[int, ...]) -> dict[str, int]:
    forward = sum(n_in * n_out for n_in, n_out in pairwise(widths))
    return {"rollout": forward, "training": 3 * forward}


@dataclass(frozen=True)
class Problem:
    """A case's inputs.

    ``targets`` (batch, steps + 1, dim) are what training fits; (batch, 0, dim) in a rollout. A Lagrangian's rollout
    begins with the two configurations in ``z0`` (batch, 2d), ``targets`` (batch, steps + 2, d) are its positions'
    weights in the loss, and its masses are softplus(raw_mass) + LEAST_MASS; raw_mass (d,) is empty for other models.
    """

    case: Case
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    z0: Tensor
    dt: Tensor
    targets: Tensor
    raw_mass: Tensor

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """q0 and q1 (batch, d) of a Lagrangian's rollout."""
        q0, q1 = (half.contiguous() for half in self.z0.chunk(2, dim=-1))
        return q0, q1

    def to(self, dtype: torch.dtype) -> Problem:
        return replace(
            self,
            weights=tuple(w.to(dtype) for w in self.weights),
            biases=tuple(b.to(dtype) for b in self.biases),
            z0=self.z0.to(dtype),
            dt=self.dt.to(dtype),
            targets=self.targets.to(dtype),
            raw_mass=self.raw_mass.to(dtype),
        )

    def first(self, rows: int) -> Problem:
        return replace(self, z0=self.z0[:rows], targets=self.targets[:rows])


def make_problem(case: Case, device: str, seed: int = 0) -> Problem:
    """Inputs in float32, the same for a case on every machine.

    Weights are larger than torch's initialisation, so that states and energies move by much more than rounding:
    the loss holds |H(t) - H(0)|, whose gradient is a sign. Those of a Lagrangian are larger still, so that a step needs
    two of Newton's iterations.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(device)

    lagrangian = case.model == "lagrangian"
    dim = case.widths[0]
    d = dim // 2 if lagrangian else 0
    gain = 6 if lagrangian else 2
    z0 = normal(case.batch, dim)
    weights = tuple(normal(n_out, n_in, scale=(gain / n_in) ** 0.5) for n_in, n_out in pairwise(case.widths))
    biases = tuple(normal(n_out, scale=0.1) for n_out in case.widths[1:])
    if lagrangian:
        q0, velocity = 0.5 * z0[:, :d], z0[:, d:]
        z0 = torch.cat((q0, q0 + DEL_DT * velocity), dim=-1)
        targets = normal(case.batch, case.steps + 2 if case.gradient else 0, d)
    else:
        targets = z0[:, None] + normal(case.batch, case.steps + 1 if case.gradient else 0, dim, scale=0.3)
    dt = torch.tensor(DEL_DT if lagrangian else IMPLICIT_DT if case.kind in IMPLICIT else DT, device=device)
    return Problem(case, weights, biases, z0, dt, targets, raw_mass=UNIT_MASS + normal(d, scale=0.1))


def loss(trajectory: Tensor, energies: Tensor | None, targets: Tensor) -> Tensor:
    """H-JEPA, eq. 5 to 7, mean over the batch; without energies (the baseline) eq. 6 alone."""
    prediction = (trajectory[:, 1:] - targets[:, 1:]).square().sum(-1).mean()
    if energies is None:
        return prediction
    return prediction + ENERGY_WEIGHT * (energies - energies[:, :1]).abs().mean()


def named_leaves(problem: Problem) -> dict[str, Tensor]:
    """Copies of all that a Lagrangian's gradient is taken by, under the names of its results."""
    q0, q1 = problem.points
    named = {"raw_mass": problem.raw_mass, "q0": q0, "q1": q1}
    for i, (weight, bias) in enumerate(zip(problem.weights, problem.biases, strict=True)):
        named |= {f"network.layers.{i}.weight": weight, f"network.layers.{i}.bias": bias}
    return {name: tensor.clone().requires_grad_(problem.case.gradient) for name, tensor in named.items()}


def weighted_sum(trajectory: Any, weights: Any) -> Any:
    """The loss of a Lagrangian's case, of tensors or of arrays."""
    return (trajectory * weights).sum()


NETWORKS = {
    "paper": ("hamiltonian", (1024, 512, 512, 256, 1)),
    "small": ("hamiltonian", (8, 64, 64, 1)),
    "baseline": ("baseline", (1024, 512, 512, 1024)),
    "small-baseline": ("baseline", (8, 64, 64, 8)),
    "d8": ("lagrangian", (16, 128, 128, 1)),
    "d32": ("lagrangian", (64, 256, 256, 1)),
    "d64": ("lagrangian", (128, 512, 512, 1)),
}
KINDS = {"del": "del_rollout", "del-gradient": "del_gradient"}  # where a case's name does not say its kind itself
BASELINES = {"paper": "baseline", "small": "small-baseline"}


def _cases(*rows: tuple[str, str, tuple[int, ...]]) -> dict[str, Case]:
    names = [f"{prefix}/{network}/b{batch}" for prefix, network, batches in rows for batch in batches]
    cases = {}
    for name in names:
        prefix, network, batch = name.split("/")
        kind = KINDS.get(prefix, prefix)
        baseline = f"{prefix}/{BASELINES[network]}/{batch}" if network in BASELINES else None
        model, widths = NETWORKS[network]
        steps = STEPS
        if model == "lagrangian":
            steps = DEL_STEPS_SINGLE if batch == "b1" else DEL_STEPS
        beside = baseline if baseline in names else None
        cases[name] = Case(name, kind, model, widths, int(batch[1:]), steps, beside)
    return cases


# By device. What matters most comes first: a run with a budget may not reach the end.
CASES = {
    "cpu": _cases(
        ("rollout", "paper", (1, 32, 256, 2048)),
        ("rollout", "small", (1, 32, 1024)),
        ("training", "paper", (32,)),
        ("training", "small", (32,)),
        ("rollout", "baseline", (1, 32)),
        ("training", "baseline", (32,)),
        *((kind, "paper", (1, 32, 256)) for kind in IMPLICIT),
        *((kind, network, (1, 64, 512)) for kind in KINDS for network in ("d8", "d32", "d64")),
    ),
    "cuda": _cases(
        ("rollout", "baseline", (1, 32, 1024, 65536)),
        ("training", "baseline", (32, 1024)),
        ("rollout", "paper", (1, 32, 1024, 65536)),
        ("training", "paper", (32, 1024)),
        ("rollout", "small", (1, 32, 1024, 65536)),
        ("training", "small", (32, 1024)),
        ("rollout", "small-baseline", (1, 32, 1024, 65536)),
        ("training", "small-baseline", (32, 1024)),
        *((kind, network, (512, 8192)) for kind in KINDS for network in ("d8", "d32", "d64")),
        *((kind, "paper", (32, 1024)) for kind in IMPLICIT),
    ),
}
