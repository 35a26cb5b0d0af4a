"""Draw a benchmark run: for every case, each peer's time over ours.

python benchmarks/plot.py benchmarks/results/NAME.json docs/benchmarks.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from table import OURS, device


def draw(report: dict[str, Any], target: Path) -> None:
    cases = [case for case in report["cases"] if OURS in case["peers"]]
    names = list(dict.fromkeys(name for case in cases for name in case["peers"]))
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.8 * len(cases)), layout="constrained")
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        found = [(row, case["peers"][name]) for row, case in enumerate(cases) if name in case["peers"]]
        ratios = [peer["ratio_to_ours"] for _, peer in found]
        places = [row + (i - (len(names) - 1) / 2) * height for row, _ in found]
        axes.plot(ratios, places, "o", markersize=5, label=name)
        for ratio, place, (_, peer) in zip(ratios, places, found, strict=True):
            axes.annotate(
                _readable(peer["median_s"]), (ratio, place), (6, 0), textcoords="offset points", va="center", fontsize=7
            )
    for row in range(1, len(cases)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set_xlabel("time / ours, log scale (labels: median time)")
    machine = report["machine"]
    threads = f"{machine['threads']['torch']} threads, " if device(report) == "cpu" else ""
    axes.set_title(f"{machine['device']}, {threads}float32 unless named", fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _readable(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON that run.py wrote")
    parser.add_argument("picture", type=Path, help="PNG, SVG or PDF to write")
    options = parser.parse_args(arguments)
    draw(json.loads(options.results.read_text()), options.picture)


if __name__ == "__main__":
    main()
