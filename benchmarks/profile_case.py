"""One call of our kernels in each of the named cases, after one that warms up: what a profiler is pointed at.

ncu --clock-control none python benchmarks/profile_case.py rollout/paper/b1 training/paper/b32
"""

from __future__ import annotations

import argparse
import sys

import machine
from cases import CASES, make_problem
from check import COARSER
from peers import ours


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES["cuda"], metavar="CASE", help="as run.py names them")
    parser.add_argument("--precision", choices=list(COARSER), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu only serves the tests")
    options = parser.parse_args(arguments)
    machine.restrict(machine.available_processors())
    for name in options.cases:
        case = CASES["cuda"][name]
        call = getattr(ours, case.kind)(make_problem(case, options.device), options.precision)
        for _ in range(2):
            machine.synchronise(options.device, call())
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
