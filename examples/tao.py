"""What is symplectic: an energy that does not separate, over 100 000 steps of each method.

    python examples/tao.py --plot tao.png

H = (q² + 1)(p² + 1)/2 from (0, -3), dt = 0.01, is Tao's example (2016, section III A). Explicit leapfrog is symplectic
for H = T(p) + V(q) only, and this H is nothing of the kind: most of its energy goes. The other methods keep the
symplectic form, the energy itself (discrete_gradient), or the form of a doubled phase space (extended), for any H.

H is a Python function here, so every gradient is a pass of autograd and every step runs in torch: 100 000 implicit
steps take minutes.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from hamiltorch_ext import integrators, rollout

try:
    from tqdm import tqdm
except ImportError:  # no progress is shown then
    tqdm = None

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DT = 0.01
START = torch.tensor([0.0, -3.0], dtype=torch.float64)
METHODS = ["leapfrog", "extended", "implicit_midpoint", "stormer_verlet", "yoshida4", "discrete_gradient"]
POINTS = 400  # of a curve


def energy(z: Tensor) -> Tensor:
    q, p = z.unbind(-1)
    return (q.square() + 1) * (p.square() + 1) / 2


@torch.no_grad()
def run(method: str, steps: int) -> Tensor:
    """The trajectory, (steps + 1, 2). In pieces, so that progress shows: but the copies that "extended" carries along
    do not come back from a rollout, so it goes in one."""
    piece = steps if method == "extended" else max(steps // 100, 1)
    states = START[None]
    bar = tqdm(total=steps, desc=method, unit="step") if tqdm else None
    while (left := steps + 1 - len(states)) > 0:
        more = rollout(energy, states[-1], DT, min(piece, left), method=method, backend="reference")
        states = torch.cat((states, more[1:]))
        if bar is not None:
            bar.update(len(more) - 1)
    if bar is not None:
        bar.close()
    return states


def draw(paths: dict[str, Tensor], path: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (portrait, drift) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(1, 1.35), layout="constrained")
    q, p = torch.meshgrid(*[torch.linspace(-3.4, 3.4, 201, dtype=torch.float64)] * 2, indexing="xy")
    portrait.contour(q, p, energy(torch.stack((q, p), dim=-1)), [energy(START).item()], colors="#9ca3af", linewidths=3)
    portrait.plot([], [], color="#9ca3af", linewidth=3, label="H = 5: the orbit")
    for index, (method, states) in enumerate(paths.items()):
        some = torch.linspace(0, len(states) - 1, min(len(states), 3000)).long()
        if method in ("leapfrog", "implicit_midpoint"):
            portrait.plot(*states[some].T, ".", color=f"C{index}", markersize=1.5, label=method)
        error = ((energy(states) - energy(START)).abs() / energy(START))[1:]
        ends = torch.linspace(0, len(error), min(len(error), POINTS) + 1).long()
        largest = [error[begin:end].max().item() for begin, end in pairwise(ends)]
        drift.plot(ends[1:] * DT, largest, color=f"C{index}", linewidth=1.2, label=method)
    portrait.set(xlabel="q", ylabel="p", title="States", aspect="equal", ylim=(-3.4, 5))
    portrait.legend(frameon=False, loc="upper center", markerscale=6)
    drift.set(
        xlabel="time", ylabel="|H - H(0)| / H(0), largest by turns", yscale="log", title="Energy", ylim=(1e-15, 1e3)
    )
    drift.legend(frameon=False, loc="upper center", ncols=3)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", "--output", type=Path, default=Path("tao.png"), help="the picture (%(default)s)")
    parser.add_argument("--steps", type=int, default=100_000, help="of every method (%(default)s)")
    methods = list(integrators.INTEGRATORS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=methods, help="(%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)
    paths, rows = {}, []
    for method in options.methods:
        begin = time.perf_counter()
        paths[method] = run(method, options.steps)
        seconds = time.perf_counter() - begin
        along = energy(paths[method])
        largest = (along - along[0]).abs().max() / along[0]
        rows.append(f"| {method} | {along[-1]:.4f} | {largest:.1e} | {seconds:.0f} s |")
    print(f"\n| after {options.steps} steps | H, from {energy(START):.4f} | largest change of H, relative | time |")
    print("\n".join(["|---|---:|---:|---:|", *rows]))
    draw(paths, options.plot)


if __name__ == "__main__":
    main()
