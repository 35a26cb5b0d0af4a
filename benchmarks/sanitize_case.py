"""Small rollouts and their adjoints through every plan of the CUDA kernels, for compute-sanitizer; those of
Lagrangians by the one plan that there is.

Sizes are odd, so that every tile has an edge. Each result is checked against the float64 oracle; the exit status is 1
where one is wrong.

    compute-sanitizer --tool racecheck --error-exitcode 3 python benchmarks/sanitize_case.py
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

import machine
import plans
import torch
from cases import Case, make_problem
from check import COARSER, Checker
from peers import del_ours, ours

WIDTHS = ((2, 1, 1), (6, 7, 1), (10, 33, 17, 1), (66, 100, 70, 30, 1))
BATCHES = (1, 3, 33)
LAGRANGIAN_WIDTHS = ((2, 7, 1), (66, 33, 17, 1))
STEPS = 2


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
    print(f"{runs} runs, {wrong} wrong; precisions: {', '.join(precisions) or 'none'}")
    return 1 if wrong or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
