"""Small rollouts and their adjoints through every plan of the CUDA kernels, for compute-sanitizer; those of eight
samples on a block by the one plan that there is.

Sizes are odd, so that every tile has an edge. Each result is checked against a float64 oracle; the exit status is 1
where one is wrong.

    compute-sanitizer --tool racecheck --error-exitcode 3 python benchmarks/sanitize_case.py
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import product

import machine
import plans
import torch
from cases import Case, make_problem
from check import COARSER, Checker
from peers import del_ours, ours
from torch import Tensor

from hamiltorch_ext import HamiltonianMLP, SeparableHamiltonian, rollout

WIDTHS = ((2, 1, 1), (6, 7, 1), (10, 33, 17, 1), (66, 100, 70, 30, 1))
BATCHES = (1, 3, 33)
LAGRANGIAN_WIDTHS = ((2, 7, 1), (66, 33, 17, 1))
STEPS = 2
# Methods that take eight samples on a block, and the energies they are tried on; how many samples; what is wrong.
ENERGIES = {
    "stormer_verlet": partial(HamiltonianMLP, 10, (33, 17)),
    "extended": partial(HamiltonianMLP, 10, (33, 17)),
    "discrete_gradient": partial(HamiltonianMLP, 10, (33, 17)),
    "leapfrog of masses": partial(SeparableHamiltonian, 10, (33, 17)),
    "leapfrog of two networks": partial(SeparableHamiltonian, 10, (33,), kinetic="mlp"),
}
SAMPLES, FAR_OFF = 9, 1e-3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu only serves the tests")
    device = parser.parse_args(arguments).device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a CUDA device and a CUDA build of torch; this torch sees none")
    machine.restrict(machine.available_processors())
    precisions = [name for name in COARSER if ours.unavailable(device, name) is None]
    runs = wrong = 0
    for widths, batch, kind in product(WIDTHS, BATCHES, ("rollout", "training")):
        case = Case(f"{kind}/{'x'.join(map(str, widths))}/b{batch}", kind, "hamiltonian", widths, batch, STEPS)
        problem = make_problem(case, device)
        checker = Checker(problem)
        for precision in precisions:
            for plan in plans.candidates(case, precision) if device == "cuda" else [None]:
                with plans.forced(plan):
                    error = checker.error(getattr(ours, kind)(problem, precision)())
                right = error <= checker.allowed[precision]
                runs, wrong = runs + 1, wrong + (not right)
                if not right:
                    print(
                        f"WRONG: {case.name} {precision} {plan or ''}: {error:.1e} > {checker.allowed[precision]:.1e}"
                    )
    for widths in LAGRANGIAN_WIDTHS:
        case = Case(f"del_gradient/{'x'.join(map(str, widths))}/b9", "del_gradient", "lagrangian", widths, 9, STEPS)
        problem = make_problem(case, device)
        checker = Checker(problem)
        error = checker.error(del_ours.del_gradient(problem)())
        right = error <= checker.allowed["float32"]
        runs, wrong = runs + 1, wrong + (not right)
        if not right:
            print(f"WRONG: {case.name} float32: {error:.1e} > {checker.allowed['float32']:.1e}")
    for name in ENERGIES:
        error = energy_error(name, device)
        right = error <= FAR_OFF
        runs, wrong = runs + 1, wrong + (not right)
        if not right:
            print(f"WRONG: {name} float32: {error:.1e} > {FAR_OFF:.1e}")
    print(f"{runs} runs, {wrong} wrong; precisions: {', '.join(precisions) or 'none'}")
    return 1 if wrong or not runs else 0


def energy_error(name: str, device: str) -> float:
    """How far the kernels' trajectory and gradients are off autograd's in float64, relative to each one's norm."""
    z0 = torch.randn(SAMPLES, 10, generator=torch.Generator().manual_seed(0))

    def results(backend: str, where: str, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        H = ENERGIES[name]().to(where, dtype)
        trajectory = rollout(H, z0.to(where, dtype), 0.2, STEPS, method=name.split()[0], backend=backend)
        found = torch.autograd.grad(trajectory.square().sum(), list(H.parameters()), materialize_grads=True)
        return [x.detach().cpu().double() for x in (trajectory, *found)]

    pairs = zip(results("native", device, torch.float32), results("reference", "cpu", torch.float64), strict=True)
    # The maximum of tensors keeps a nan.
    return float(torch.stack([(got - want).norm() / want.norm().clamp(min=1e-6) for got, want in pairs]).max())


if __name__ == "__main__":
    sys.exit(main())
