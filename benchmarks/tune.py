"""Time every plan of the CUDA kernels, so that the table that chooses between them can be one of measurements.

Each plan's result is checked before it is timed, as in run.py. An adjoint's plan is timed as a whole training step, in
which nothing but the adjoint differs from plan to plan.

    python benchmarks/tune.py --output FILE                         everything
    python benchmarks/tune.py --quick --budget 60 --output FILE     the two benchmarked networks in float32
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import plans
import torch
from cases import NETWORKS, Case, make_problem
from check import COARSER, Checker
from output import write_json
from peers import ours
from timing import Effort, measure

WIDTHS = {
    "paper": NETWORKS["paper"][1],
    "small": NETWORKS["small"][1],
    "200x2": (4, 200, 200, 1),
    "1024x2": (1024, 1024, 1024, 1),
}
BATCHES = (1, 8, 32, 128, 1024, 8192, 65536)
MOST_TRAINED = 1024  # the oracle of a training step keeps the graph of the whole batch, in float64
SLACK = 1.05  # a choice that is slower than the best by less is as good


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a CUDA device and a CUDA build of torch; this torch sees none")
    machine.restrict(machine.available_processors())
    end = time.perf_counter() + options.budget
    report: dict[str, Any] = {
        "time_budget_s": options.budget if math.isfinite(options.budget) else None,
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.describe(options.device, torch.get_num_threads()),
        "not_begun": 0,
        "settings": [],
    }
    for network, case, precision in _settings(options.quick):
        if time.perf_counter() > end:
            report["not_begun"] += 1
        else:
            found = tune(case, precision, options.device, Effort.quick() if options.quick else Effort.gpu())
            report["settings"].append({"network": network, **found})
            print(_line(found), flush=True)
            gc.collect()
            torch.cuda.empty_cache()
        if options.output:
            write_json(options.output, report)
    settings = report["settings"]
    slow = [found for found in settings if found["ratio"] is not None and found["ratio"] > SLACK]
    bad = [found for found in settings if found["wrong"] or found["failed"] or found["ratio"] is None]
    print(f"\n{len(settings)} settings, {report['not_begun']} not begun; not the best choice in {len(slow)}")
    for found in slow:
        print(f"  {_line(found)}")
    for found in bad:
        print(f"  WRONG OR FAILED: {found['case']} {found['precision']}: {found['wrong']} {found['failed']}")
    return 1 if bad else 0


def tune(case: Case, precision: str, device: str, effort: Effort) -> dict[str, Any]:
    """Seconds of every plan for one case, and how far the chosen one is from the best."""
    problem = make_problem(case, device)
    checker = Checker(problem)
    found = {str(plan): plan for plan in plans.candidates(case, precision)}
    calls, wrong, failed = {}, {}, {}
    for name, plan in found.items():
        call = _forced(getattr(ours, case.kind)(problem, precision), plan)
        try:
            error = checker.error(call())
        except Exception as exception:
            failed[name] = f"{type(exception).__name__}: {exception}"
            continue
        if error <= checker.allowed[precision]:
            calls[name] = call
        else:
            wrong[name] = error
    times = measure(calls, effort, lambda results: machine.synchronise(device, results)) if calls else {}
    return {
        "case": case.name,
        "batch": case.batch,
        "precision": precision,
        "adjoint": case.kind == "training",
        **compare({name: result["median_s"] for name, result in times.items()}, str(plans.chosen(case, precision))),
        "plans": {name: {"plan": found[name].as_dict(), **result} for name, result in times.items()},
        "wrong": wrong,
        "failed": failed,
    }


def compare(seconds: dict[str, float], chosen: str) -> dict[str, Any]:
    """The chosen plan beside the fastest; ``ratio`` is None where the chosen one was not among those timed."""
    best = min(seconds, key=seconds.__getitem__) if seconds else None
    ratio = seconds[chosen] / seconds[best] if best is not None and chosen in seconds else None
    return {"chosen": chosen, "best": best, "ratio": ratio}


def _forced(call: Callable[[], Any], plan: Any) -> Callable[[], Any]:
    def forced() -> Any:
        with plans.forced(plan):
            return call()

    return forced


def _settings(quick: bool) -> Iterator[tuple[str, Case, str]]:
    """float32 before the others, the benchmarked networks first, so that a budget cuts what matters least."""
    for precision in ("float32",) if quick else COARSER:
        for kind in ("rollout", "training"):
            for network, widths in WIDTHS.items():
                if quick and network not in NETWORKS:
                    continue
                for batch in BATCHES:
                    if kind == "rollout" or batch <= MOST_TRAINED:
                        yield network, Case(f"{kind}/{network}/b{batch}", kind, "hamiltonian", widths, batch), precision


def _line(found: dict[str, Any]) -> str:
    name = f"{found['case']:<24} {found['precision']:<9}"
    if found["ratio"] is None:
        return f"{name} chosen {found['chosen']} was not timed"
    seconds = found["plans"][found["best"]]["median_s"]
    judgement = "the best" if found["ratio"] <= SLACK else f"{found['ratio']:.2f} times the time of {found['best']}"
    return f"{name} {1e6 * seconds:10.1f} us at best; chosen {found['chosen']}: {judgement}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few, short samples, two networks, float32")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="begin nothing after")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu only serves the tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
