"""Time whole rollouts and training steps, ours and the alternatives, side by side.

Every peer's result is checked against a float64 oracle before it is timed; one that is wrong is not timed. Peers take
turns within each case. The machine's own limits are measured in the same run, and each rate is given as a part of them.

    python benchmarks/run.py --quick                                       a few minutes, to see that all runs
    python benchmarks/run.py --output benchmarks/results/NAME.json         all cases, all peers
    python benchmarks/run.py --cases 'rollout/paper/*' --peers ours "jax jit"
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import machine
import torch
from cases import CASES, Case, make_problem
from check import Checker
from peers import OURS, PEERS
from table import plain_table
from timing import Effort, measure

LAYOUT = 1  # of the JSON


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES.values() if any(fnmatch(case.name, pattern) for pattern in options.cases)]
    if not cases:
        raise SystemExit(f"--cases {' '.join(options.cases)} matches none of: {', '.join(CASES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a CUDA device and a CUDA build of torch; this torch sees none")
    machine.restrict(options.threads)
    effort, limit_s = (Effort.quick(), 0.05) if options.quick else (Effort(), 0.5)

    skipped = {name: reason for name in options.peers if (reason := PEERS[name].unavailable(options.device))}
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}", flush=True)
    peers = [name for name in options.peers if name not in skipped]

    report: dict[str, Any] = {
        "layout": LAYOUT,
        "command": machine.command(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.describe(options.device, options.threads),
        "limits": machine.limits(options.device, options.threads, limit_s),
        "quick": options.quick,
        "skipped": skipped,
        "cases": [],
    }
    for case in cases:
        report["cases"].append(_run(case, peers, options.device, effort))
        # Measured again beside every case, and the best kept: a limit taken in a busy moment would be none.
        report["limits"] = machine.limits(options.device, options.threads, limit_s, report["limits"])
        _relate_to_limits(report)
        if options.output:  # after every case: an interruption loses one case, not the run
            options.output.write_text(json.dumps(report, indent=1) + "\n")
    print("\nlimits: {gflops:.0f} GFLOP/s ({gflops_source}), {bandwidth_gbs:.1f} GB/s".format_map(report["limits"]))
    print("\n" + plain_table(report))
    wrong = [f"{case['name']}: {name}" for case in report["cases"] for name in case["refused"]]
    for line in wrong:
        print(f"not timed, wrong result: {line}")
    return 1 if wrong else 0


def _run(case: Case, peers: list[str], device: str, effort: Effort) -> dict[str, Any]:
    print(f"\n{case.name}: {case.widths} x {case.batch}, {case.steps} steps, {case.flop / 1e9:.3g} GFLOP", flush=True)
    problem = make_problem(case, device)
    checker = Checker(problem)
    calls, errors, refused = {}, {}, {}
    for name in peers:
        if case.model != PEERS[name].MODEL:
            continue
        call = getattr(PEERS[name], case.kind)(problem)
        error = checker.error(call())
        right = error <= checker.allowed  # false for nan as well
        print(f"  {name:<15} error {error:.1e} {'<=' if right else 'EXCEEDS'} {checker.allowed:.1e}", flush=True)
        if right:
            calls[name], errors[name] = call, error
        else:
            refused[name] = error
    times = measure(calls, effort, lambda: machine.synchronise(device)) if calls else {}
    for name, time in times.items():
        time.update(error=errors[name], gflops=case.flop / time["median_s"] / 1e9)
        if OURS in times:
            time["ratio_to_ours"] = time["median_s"] / times[OURS]["median_s"]
        print(f"  {name:<15} {time['median_s'] * 1e3:10.3f} ms", flush=True)
    return {
        "name": case.name,
        "kind": case.kind,
        "model": case.model,
        "widths": case.widths,
        "batch": case.batch,
        "steps": case.steps,
        "dtype": "float32",
        "flop": case.flop,
        "allowed_error": checker.allowed,
        "refused": refused,
        "peers": times,
    }


def _relate_to_limits(report: dict[str, Any]) -> None:
    for case in report["cases"]:
        for peer in case["peers"].values():
            peer["fraction_of_peak"] = peer["gflops"] / report["limits"]["gflops"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", default=["*"], metavar="PATTERN", help=f"names or patterns of: {', '.join(CASES)}"
    )
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER",
                        help=f"which of: {', '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few, short samples: a smoke test, not a measurement")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, as JSON")
    parser.add_argument("--threads", type=int, default=machine.available_processors(), metavar="N",
                        help="processors that every peer gets (default: all, here %(default)s)")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
