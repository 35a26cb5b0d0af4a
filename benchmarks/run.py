"""Time whole rollouts and training steps, ours and the alternatives, side by side.

Every peer's result is checked against a float64 oracle before it is timed; one that is wrong is not timed. Peers take
turns within each case. The machine's own limits are measured in the same run, and each rate is given as a part of them;
what is solved to a tolerance (implicit stages, discrete Euler-Lagrange equations) has no rate: its work is a peer's
choice.

    python benchmarks/run.py --quick                                       a few minutes, to see that all runs
    python benchmarks/run.py --output benchmarks/results/NAME.json         all cases, all peers
    python benchmarks/run.py --cases 'rollout/paper/*' --peers ours "jax jit"
    python benchmarks/run.py --cases 'implicit_midpoint*' 'rollout/paper/b1'
    python benchmarks/run.py --cases 'del*'                                discrete Euler-Lagrange rollouts alone
    python benchmarks/run.py --device cuda --budget 240 --output FILE      on a GPU, in about four minutes
"""

from __future__ import annotations

import argparse
import datetime
import gc
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import machine
import torch
from cases import CASES, Case, make_problem
from check import Checker
from output import write_json
from peers import PEERS, Peer
from table import OURS, plain_table
from timing import Effort, measure

LAYOUT = 1  # of the JSON


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    known, all_cases = PEERS[options.device], CASES[options.device]
    cases = [case for case in all_cases.values() if any(fnmatch(case.name, pattern) for pattern in options.cases)]
    if not cases:
        raise SystemExit(f"--cases {' '.join(options.cases)} matches none of: {', '.join(all_cases)}")
    if unknown := [name for name in options.peers or () if name not in known]:
        raise SystemExit(f"--peers {', '.join(unknown)}: not among those on {options.device}: {', '.join(known)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a CUDA device and a CUDA build of torch; this torch sees none")
    machine.restrict(options.threads)
    end = time.perf_counter() + options.budget
    effort, limit_s = {"cpu": (Effort(), 0.5), "cuda": (Effort.gpu(), 0.1)}[options.device]
    if options.quick:
        effort, limit_s = Effort.quick(), 0.05

    names = options.peers or list(known)
    skipped = {name: reason for name in names if (reason := known[name].unavailable(options.device))}
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}", flush=True)
    peers = {name: known[name] for name in names if name not in skipped}

    report: dict[str, Any] = {
        "layout": LAYOUT,
        "command": machine.command(__file__),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "device": options.device,
        "versions": machine.versions(),
        "machine": machine.describe(options.device, options.threads),
        "limits": machine.limits(options.device, options.threads, limit_s),
        "quick": options.quick,
        "skipped": skipped,
        "not_begun": [],
        "failed": {},
        "cases": [],
    }
    for case in cases:
        if time.perf_counter() > end:
            report["not_begun"].append(case.name)
        else:
            try:
                report["cases"].append(_run(case, peers, options.device, effort, report["failed"]))
            except Exception as error:
                _note_failure(report["failed"], case.name, error)
            gc.collect()
            torch.cuda.empty_cache()  # what a large case held, other libraries need; nothing where there is no GPU
            # Measured again beside every case, and the best kept: a limit taken in a busy moment would be none.
            report["limits"] = machine.limits(options.device, options.threads, limit_s, report["limits"])
            _relate_to_limits(report)
        if options.output:  # after every case: an interruption loses one case, not the run
            write_json(options.output, report)
    rates = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in report["limits"]["gflops_by_precision"].items())
    print(f"\nlimits: {rates}, {report['limits']['bandwidth_gbs']:.1f} GB/s")
    print("\n" + plain_table(report))
    wrong = [f"{case['name']}: {name}" for case in report["cases"] for name in case["refused"]]
    for line in wrong:
        print(f"not timed, wrong result: {line}")
    for where, message in report["failed"].items():
        print(f"failed: {where}: {message}")
    if report["not_begun"]:
        print(f"not begun, out of time: {', '.join(report['not_begun'])}")
    return 1 if wrong or report["failed"] else 0


def _note_failure(failed: dict[str, str], where: str, error: Exception) -> None:
    """One peer that runs out of memory, say, must not cost the others their run."""
    failed[where] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"  FAILED: {where}", flush=True)
    traceback.print_exception(error)


def _run(case: Case, peers: dict[str, Peer], device: str, effort: Effort, failed: dict[str, str]) -> dict[str, Any]:
    work = "" if case.flop is None else f", {case.flop / 1e9:.3g} GFLOP"
    print(f"\n{case.name}: {case.widths} x {case.batch}, {case.steps} steps{work}", flush=True)
    problem = make_problem(case, device)
    checker = Checker(problem)
    calls, errors, refused = {}, {}, {}
    for name, peer in peers.items():
        if not peer.takes(case):
            continue
        try:
            call = getattr(peer, case.kind)(problem)
            error = checker.error(call())
        except Exception as exception:
            _note_failure(failed, f"{case.name}: {name}", exception)
            continue
        allowed = checker.allowed[peer.precision]
        right = error <= allowed  # false for nan as well
        print(f"  {name:<15} error {error:.1e} {'<=' if right else 'EXCEEDS'} {allowed:.1e}", flush=True)
        if right:
            calls[name], errors[name] = call, error
        else:
            refused[name] = error
    times = measure(calls, effort, lambda results: machine.synchronise(device, results)) if calls else {}
    for name, result in times.items():
        precision = peers[name].precision
        result.update(precision=precision, error=errors[name], allowed_error=checker.allowed[precision])
        if case.flop is not None:
            result["gflops"] = case.flop / result["median_s"] / 1e9
        if OURS in times:
            result["ratio_to_ours"] = result["median_s"] / times[OURS]["median_s"]
        print(f"  {name:<15} {result['median_s'] * 1e3:10.3f} ms", flush=True)
    return {
        "name": case.name,
        "kind": case.kind,
        "model": case.model,
        "widths": case.widths,
        "batch": case.batch,
        "steps": case.steps,
        "dtype": "float32",
        "baseline": case.baseline,
        "flop": case.flop,
        "allowed_error": checker.allowed["float32"],
        "refused": refused,
        "peers": times,
    }


def _relate_to_limits(report: dict[str, Any]) -> None:
    for case in report["cases"]:
        for peer in case["peers"].values():
            if "gflops" not in peer:
                continue
            peer["fraction_of_peak"] = peer["gflops"] / report["limits"]["gflops_by_precision"][peer["precision"]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(CASES), default="cpu")
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="PATTERN",
                        help=f"names or patterns of those; {_by_device(CASES)}")  # fmt: skip
    parser.add_argument("--peers", nargs="+", metavar="PEER",
                        help=f"which of those; {_by_device(PEERS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few, short samples: a smoke test, not a measurement")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, as JSON")
    parser.add_argument("--threads", type=int, default=machine.available_processors(), metavar="N",
                        help="processors that every peer gets (default: all, here %(default)s)")  # fmt: skip
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS",
                        help="begin no case after so long (default: no end)")  # fmt: skip
    return parser


def _by_device(tables: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"on {device}: {', '.join(names)}" for device, names in tables.items())


if __name__ == "__main__":
    sys.exit(main())
