"""Time our rollouts against threads, batch and width, each beside what the machine allows at most.

Networks are 2w-w-w-w/2-1, of which w = 512 is the paper's: that one against threads and batch. The points of a curve
take turns, as peers do in run.py, and each result is checked before it is timed. A point's limit is the larger of two
times: its multiply-adds at the rate that as many threads reach on registers, and one read of the weights a pass at the
rate that as many threads reach on an array of their size. Both rates are measured in the same run. Work is counted as
cases.py counts it, so that rates compare; steps in layer-1 space need a little less.

    python benchmarks/scaling.py --quick                                  a few seconds, to see that all runs
    python benchmarks/scaling.py --output benchmarks/results/NAME.json    everything: two minutes on two cores
    python benchmarks/plot.py benchmarks/results/NAME.json NAME.png       draw it
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import machine
import torch
from cases import Case, make_problem
from check import Checker
from output import write_json
from peers import ours
from timing import Effort, measure

LAYOUT = 1  # of the JSON
PAPER = 512
BYTES = {"float32": 4, "bfloat16": 2}  # of a weight
MEMORY = 256 << 20  # bytes, far beyond any cache


@dataclass(frozen=True)
class Sizes:
    """What is measured: ``batches`` against threads and width, ``all_batches`` against batch."""

    batches: tuple[int, ...] = (1, 32, 256)
    all_batches: tuple[int, ...] = tuple(2**n for n in range(12))
    widths: tuple[int, ...] = (16, 32, 48, 64, 100, 128, 200, 256, 512, 1024)

    @classmethod
    def quick(cls) -> Sizes:
        return cls(batches=(1, 8), all_batches=(1, 2, 8), widths=(16, 50))


@dataclass(frozen=True)
class Point:
    """One rollout, on the curve ``against`` "threads", "batch" or "width"."""

    against: str
    threads: int
    batch: int
    width: int
    precision: str

    def __str__(self) -> str:
        return f"width {self.width}, batch {self.batch}, {self.threads} threads, {self.precision}"

    @property
    def case(self) -> Case:
        w = self.width
        return Case(f"rollout/width{w}/b{self.batch}", "rollout", "hamiltonian", (2 * w, w, w, w // 2, 1), self.batch)

    @property
    def weight_bytes(self) -> int:
        return BYTES[self.precision] * sum(n_in * n_out for n_in, n_out in pairwise(self.case.widths))

    @property
    def bytes_read(self) -> int:
        """At least, by the whole rollout: each weight once for every multiply-add that a sample needs it for."""
        return BYTES[self.precision] * self.case.flop // (2 * self.batch)


class Limits:
    """The best rates seen so far, in GFLOP/s and GB/s: a limit that was taken in a busy moment would be none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.peaks: dict[int, dict[str, float]] = {}  # by threads and precision
        self.reads: dict[tuple[int, int], float] = {}  # by threads and bytes

    def measure(self, points: list[Point]) -> None:
        for threads in sorted({point.threads for point in points}):
            before = self.peaks.setdefault(threads, {})
            for precision, rate in machine.peaks(threads, self.seconds).items():
                before[precision] = max(rate, before.get(precision, 0.0))
        for threads, size in sorted({(point.threads, point.weight_bytes) for point in points}):
            self._read(threads, size)
        self._read(max(point.threads for point in points), MEMORY)

    def of(self, point: Point) -> dict[str, Any]:
        """Seconds that the rollout takes at least, for either reason."""
        arithmetic = point.case.flop / self.peaks[point.threads][point.precision] / 1e9
        reading = point.bytes_read / self.reads[point.threads, point.weight_bytes] / 1e9
        return {"arithmetic_s": arithmetic, "reading_s": reading, "limit_s": max(arithmetic, reading)}

    def as_dict(self) -> dict[str, Any]:
        return {
            "peaks": [{"threads": threads, "gflops": rates} for threads, rates in self.peaks.items()],
            "reads": [{"threads": key[0], "bytes": key[1], "gbs": rate} for key, rate in self.reads.items()],
        }

    def _read(self, threads: int, size: int) -> None:
        rate = machine.read_bandwidth(threads, size, self.seconds)
        self.reads[threads, size] = max(rate, self.reads.get((threads, size), 0.0))


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    machine.restrict(options.threads)
    sizes, effort, limits = Sizes(), Effort(0.02, 9, 25, 0.5), Limits(0.05)
    if options.quick:
        sizes, effort, limits = Sizes.quick(), Effort.quick(), Limits(0.002)
    reasons = {precision: ours.unavailable("cpu", precision) for precision in BYTES}
    skipped = {precision: reason for precision, reason in reasons.items() if reason}
    for precision, reason in skipped.items():
        print(f"skipped: {precision}: {reason}", flush=True)
    report: dict[str, Any] = {
        "layout": LAYOUT,
        "command": machine.command(__file__),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "device": "cpu",
        "versions": machine.versions(),
        "machine": machine.describe("cpu", options.threads),
        "quick": options.quick,
        "skipped": skipped,
        "refused": {},
        "limits": limits.as_dict(),
        "points": [],
    }
    measured: dict[Point, dict[str, Any]] = {}
    for curve in curves(sizes, options.threads, [precision for precision in BYTES if precision not in skipped]):
        limits.measure(curve)
        timed = _timed(curve, effort, report["refused"])
        limits.measure(curve)  # again, after: one busy moment cannot spoil both
        for point, result in timed.items():
            print(_line(_related(point, result, limits)), flush=True)
        measured |= timed
        report["limits"] = limits.as_dict()
        report["points"] = [_related(point, result, limits) for point, result in measured.items()]
        if options.output:  # after every curve, since its points take turns: an interruption loses one curve
            write_json(options.output, report)
    for name, error in report["refused"].items():
        print(f"not timed, wrong result: {name}: error {error:.1e}")
    return 1 if report["refused"] else 0


def curves(sizes: Sizes, threads: int, precisions: list[str]) -> list[list[Point]]:
    """Those against threads and width once for each batch; a curve holds every precision, so that they take turns."""
    return [
        *(
            [Point("threads", n, batch, PAPER, name) for n in range(1, threads + 1) for name in precisions]
            for batch in sizes.batches
        ),
        [Point("batch", threads, batch, PAPER, name) for batch in sizes.all_batches for name in precisions],
        *(
            [Point("width", threads, batch, width, name) for width in sizes.widths for name in precisions]
            for batch in sizes.batches
        ),
    ]


def _timed(curve: list[Point], effort: Effort, refused: dict[str, float]) -> dict[Point, dict[str, Any]]:
    print(f"\nagainst {curve[0].against}", flush=True)
    calls, errors = {}, {}
    for case, points in groupby(curve, key=lambda point: point.case):
        problem = make_problem(case, "cpu")
        checker = Checker(problem)
        for point in points:
            call = _with_threads(ours.rollout(problem, point.precision), point.threads)
            error = checker.error(call())
            if error <= checker.allowed[point.precision]:  # false for nan as well
                calls[point] = call
                errors[point] = {"error": error, "allowed_error": checker.allowed[point.precision]}
            else:
                refused[str(point)] = error
    if not calls:
        return {}
    times = measure({str(point): call for point, call in calls.items()}, effort, lambda results: None)
    return {point: {**times[str(point)], **errors[point]} for point in calls}


def _with_threads(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    def with_threads() -> Any:
        torch.set_num_threads(threads)
        return call()

    return with_threads


def _related(point: Point, result: dict[str, Any], limits: Limits) -> dict[str, Any]:
    bounds = limits.of(point)
    return {
        **asdict(point),
        "widths": point.case.widths,
        "steps": point.case.steps,
        "flop": point.case.flop,
        "weight_bytes": point.weight_bytes,
        "bytes_read": point.bytes_read,
        **result,
        "gflops": point.case.flop / result["median_s"] / 1e9,
        **bounds,
        "fraction_of_limit": bounds["limit_s"] / result["median_s"],
    }


def _line(point: dict[str, Any]) -> str:
    step, limit = (1e6 * point[key] / point["steps"] for key in ("median_s", "limit_s"))
    return (
        f"  width {point['width']:>4}, batch {point['batch']:>4}, {point['threads']} threads, {point['precision']:<8}  "
        f"{step:10.2f} us a step, limit {limit:10.2f}, {point['fraction_of_limit']:4.0%} of it"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sizes, short samples: a smoke test, no measurement")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, as JSON")
    parser.add_argument("--threads", type=int, default=machine.available_processors(), metavar="N",
                        help="go up to N threads, and vary batch and width with N (default: all, here %(default)s)"
                        )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
