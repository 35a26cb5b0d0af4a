"""Draw what run.py wrote: each peer's time over ours. Or what scaling.py wrote: our time beside the machine's limit.

python benchmarks/plot.py benchmarks/results/NAME.json NAME.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from table import OURS, device, step_microseconds

# Of each precision: our points, the line of its limit.
STYLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({"linestyle": "", "marker": "o", "markersize": 5}, {"linestyle": "-", "linewidth": 1.2}),
    "bfloat16": (
        {"linestyle": "", "marker": "D", "markersize": 5, "fillstyle": "none"},
        {"linestyle": ":", "linewidth": 1.5},
    ),
}
NOTE = (
    "Points: time of a rollout of {steps} steps over {steps}, with quartiles. Lines: the larger of two times, that of "
    "the multiply-adds at the rate on registers,\nand that of one read of the weights a pass at the bandwidth on an "
    "array of their size; both rates of as many threads, in the same run.\nWork is counted as for the table of peers "
    "(benchmarks/cases.py); steps in layer-1 space need a little less."
)


def draw(report: dict[str, Any], target: Path) -> None:
    figure = _scaling(report) if "points" in report else _peers(report)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _scaling(report: dict[str, Any]) -> Figure:
    """Time per step against threads, batch and width, beside the limits."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 5.2), layout="constrained")
    threads = f"{report['machine']['threads']['ours']} threads"
    labels = {
        "threads": "threads (the paper's network)",
        "batch": f"batch (the paper's network, {threads})",
        "width": f"width w (networks 2w-w-w-w/2-1, {threads})",
    }
    for axes, (against, label) in zip(panels, labels.items(), strict=True):
        _panel(axes, [point for point in report["points"] if point["against"] == against], against)
        axes.set_xlabel(label)
    panels[0].set_ylabel("time per leapfrog step, µs")
    handles = [
        Line2D([], [], color="0.25", label=label, **style)
        for precision, styles in STYLES.items()
        if precision not in report["skipped"]
        for label, style in zip((f"ours, {precision}", f"limit, {precision}"), styles, strict=True)
    ]
    figure.legend(
        handles=handles,
        title=report["machine"]["device"],
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
    )
    figure.supxlabel(NOTE.format(steps=report["points"][0]["steps"]), fontsize=8, color="0.35")
    return figure


def _panel(axes: Axes, points: list[dict[str, Any]], against: str) -> None:
    """A colour for each batch, unless batch is what varies."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        curves.setdefault("" if against == "batch" else f"batch {point['batch']}", []).append(point)
    for i, (name, curve) in enumerate(curves.items()):
        colour = f"C{i}" if name else "0.25"
        for precision, (ours, limit) in STYLES.items():
            some = [point for point in curve if point["precision"] == precision]
            places = [point[against] for point in some]
            low, middle, high, least = (
                np.array([step_microseconds(point, point, key) for point in some])
                for key in ("q1_s", "median_s", "q3_s", "limit_s")
            )
            axes.plot(places, least, color=colour, **limit)
            axes.errorbar(places, middle, (middle - low, high - middle), color=colour, **ours)
        last = max(curve, key=lambda point: (point[against], point["median_s"]))
        axes.annotate(
            name, (last[against], step_microseconds(last, last)), (8, 0),
            textcoords="offset points", va="center", color=colour,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if against != "batch":
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.25)  # room for the names
    axes.grid(color="0.92")


def _peers(report: dict[str, Any]) -> Figure:
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
    return figure


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
