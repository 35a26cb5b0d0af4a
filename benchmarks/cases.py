"""What is timed: networks, batches, and the inputs that every peer gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

STEPS = 15
DT = 0.5
ENERGY_WEIGHT = 0.5  # lambda of H-JEPA's loss, the middle of its curriculum


@dataclass(frozen=True)
class Case:
    """One question: ``kind`` ("rollout" or "training") of ``model`` ("hamiltonian" or "baseline") at one batch."""

    name: str
    kind: str
    model: str
    widths: tuple[int, ...]
    batch: int
    steps: int = STEPS
    baseline: str | None = None  # name of the case that does the same with a plain MLP, for context

    @property
    def flop(self) -> int:
        """Floating-point operations of the algorithm, pointwise work left out: the same number for every peer."""
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
    """A case's inputs. ``targets`` (batch, steps + 1, dim) are what training fits; (batch, 0, dim) in a rollout."""

    case: Case
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    z0: Tensor
    dt: Tensor
    targets: Tensor

    def to(self, dtype: torch.dtype) -> Problem:
        return replace(
            self,
            weights=tuple(w.to(dtype) for w in self.weights),
            biases=tuple(b.to(dtype) for b in self.biases),
            z0=self.z0.to(dtype),
            dt=self.dt.to(dtype),
            targets=self.targets.to(dtype),
        )

    def first(self, rows: int) -> Problem:
        return replace(self, z0=self.z0[:rows], targets=self.targets[:rows])


def make_problem(case: Case, device: str, seed: int = 0) -> Problem:
    """Inputs in float32, the same for a case on every machine.

    Weights are larger than torch's initialisation, so that states and energies move by much more than rounding:
    the loss holds |H(t) - H(0)|, whose gradient is a sign.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(device)

    dim = case.widths[0]
    fitted = case.steps + 1 if case.kind == "training" else 0
    z0 = normal(case.batch, dim)
    return Problem(
        case=case,
        weights=tuple(normal(n_out, n_in, scale=(2 / n_in) ** 0.5) for n_in, n_out in pairwise(case.widths)),
        biases=tuple(normal(n_out, scale=0.1) for n_out in case.widths[1:]),
        z0=z0,
        dt=torch.tensor(DT, device=device),
        targets=z0[:, None] + normal(case.batch, fitted, dim, scale=0.3),
    )


def loss(trajectory: Tensor, energies: Tensor | None, targets: Tensor) -> Tensor:
    """H-JEPA, eq. 5 to 7, mean over the batch; without energies (the baseline) eq. 6 alone."""
    prediction = (trajectory[:, 1:] - targets[:, 1:]).square().sum(-1).mean()
    if energies is None:
        return prediction
    return prediction + ENERGY_WEIGHT * (energies - energies[:, :1]).abs().mean()


NETWORKS = {
    "paper": ("hamiltonian", (1024, 512, 512, 256, 1)),
    "small": ("hamiltonian", (8, 64, 64, 1)),
    "baseline": ("baseline", (1024, 512, 512, 1024)),
    "small-baseline": ("baseline", (8, 64, 64, 8)),
}
BASELINES = {"paper": "baseline", "small": "small-baseline"}


def _cases(*rows: tuple[str, str, tuple[int, ...]]) -> dict[str, Case]:
    names = [f"{kind}/{network}/b{batch}" for kind, network, batches in rows for batch in batches]
    cases = {}
    for name in names:
        kind, network, batch = name.split("/")
        baseline = f"{kind}/{BASELINES[network]}/{batch}" if network in BASELINES else None
        model, widths = NETWORKS[network]
        cases[name] = Case(name, kind, model, widths, int(batch[1:]), baseline=baseline if baseline in names else None)
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
    ),
}
