"""How much faster is a fused rollout than autograd's, on this machine?

    python examples/rollout_speed.py --plot rollout_speed.png

Times ``leapfrog_rollout`` against ``reference.leapfrog_rollout``, which differentiates H with one autograd pass per
stage, with and without the backward pass. Results are compared first; then the two take turns, and the best time of
each counts. A quick look: ``benchmarks/run.py`` is the measurement, with best, more peers and the machine's limits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from hamiltorch_ext import HamiltonianMLP, build_info, leapfrog_rollout, reference

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NETWORKS = {"8-64-64-1": (8, (64, 64)), "1024-512-512-256-1": (1024, (512, 512, 256))}
DT = 0.1
FUSED, AUTOGRAD = "fused", "autograd"
COLOURS = {FUSED: "#c2410c", AUTOGRAD: "#1d4ed8"}
LINES = {"rollout": "-", "rollout and backward": "--"}


def calls(H: HamiltonianMLP, z0: Tensor, steps: int, what: str) -> dict[str, Callable[[], Tensor]]:
    """Both ways of one computation; each returns a tensor to compare."""

    def call(rollout: Callable[..., Tensor]) -> Tensor:
        if what == "rollout":
            with torch.no_grad():
                return rollout(H, z0, DT, steps)
        H.zero_grad()
        rollout(H, z0, DT, steps).square().mean().backward()
        return H.layers[0].weight.grad

    return {FUSED: lambda: call(leapfrog_rollout), AUTOGRAD: lambda: call(reference.leapfrog_rollout)}


def measure(ways: dict[str, Callable[[], Tensor]], budget: float) -> dict[str, float]:
    """Best seconds of each, taking turns for about ``budget`` seconds and twice at least."""
    results = {name: call() for name, call in ways.items()}  # warm-up, and the check
    error = (results[FUSED] - results[AUTOGRAD]).norm() / results[AUTOGRAD].norm()
    if not error < 1e-4:
        raise SystemExit(f"the two disagree: relative difference {error:.1e}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times[FUSED]) < 2:
        for name, call in ways.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("rollout_speed.png"), help="the picture (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="sizes (%(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="of each rollout (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.7, help="for each pair of measurements (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of both (%(default)s); 1 on a busy machine"
    )
    parser.add_argument("--seed", type=int, default=0, help="of networks and states (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    info = build_info()
    where = f"{info['instruction_set']}, threads: {info['threads']}, torch {info['torch']}"
    print(f"{where}; {options.steps} steps, float32, best times in ms")
    print(f"{'network':<20}{'batch':>6}  {'':<22}{FUSED:>9}{AUTOGRAD:>10}{'ratio':>7}")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(NETWORKS), figsize=(10, 4.2), layout="constrained")
    for axis, (network, (dim, hidden)) in zip(axes, NETWORKS.items(), strict=True):
        H = HamiltonianMLP(dim, hidden)
        for what, line in LINES.items():
            best: dict[str, list[float]] = {FUSED: [], AUTOGRAD: []}
            for batch in options.batches:
                times = measure(calls(H, torch.randn(batch, dim), options.steps, what), options.seconds)
                fused, autograd = (times[name] * 1e3 for name in (FUSED, AUTOGRAD))
                best[FUSED].append(fused)
                best[AUTOGRAD].append(autograd)
                print(f"{network:<20}{batch:>6}  {what:<22}{fused:>9.2f}{autograd:>10.2f}{autograd / fused:>6.1f}x")
                # Above the slowest line and below the fastest, where nothing is in the way.
                at, name = ((0, -14), FUSED) if what == "rollout" else ((0, 7), AUTOGRAD)
                axis.annotate(f"{autograd / fused:.1f}x", (batch, times[name] * 1e3), xytext=at, ha="center",
                              textcoords="offset points", fontsize=8, color="#374151")  # fmt: skip
            for name, values in best.items():
                axis.plot(options.batches, values, line, marker="o", color=COLOURS[name], label=f"{name}, {what}")
        axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="ms", title=network)
        axis.set_xticks(options.batches, [str(batch) for batch in options.batches])
        axis.minorticks_off()
        axis.margins(0.12)
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center")
    figure.suptitle(f"{options.steps} leapfrog steps: {where}", fontsize=10)
    figure.savefig(options.plot, dpi=150)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
