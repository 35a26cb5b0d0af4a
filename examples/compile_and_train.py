"""A training step through ``torch.compile(fullgraph=True)``, and the same step without.

    python examples/compile_and_train.py --plot compile_and_train.png

The rollout and its adjoint are torch operators, so the compiler keeps them as they are and works on what surrounds
them. Both versions start from the same weights and see the same data: their losses should agree to rounding. The data
are trajectories of four coupled springs; the time step is learned too.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout, reference

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MASSES = 4
STEPS = 15
EQUAL = 1e-8  # where the picture puts differences of zero
COLOURS = {"eager": "#1d4ed8", "compiled": "#c2410c"}


class Chain(nn.Module):
    """A learned energy, a learned time step, and H-JEPA's objective: prediction error and energy drift."""

    def __init__(self) -> None:
        super().__init__()
        self.H = HamiltonianMLP(dim=2 * MASSES, hidden=(64, 64))
        self.dt = nn.Parameter(torch.tensor(0.05))

    def forward(self, path: Tensor) -> Tensor:
        predicted, energies = leapfrog_rollout(self.H, path[:, 0], self.dt, path.shape[1] - 1, return_energy=True)
        drift = (energies - energies[:, :1]).abs().mean()
        return (predicted - path).square().mean() + 0.01 * drift


def springs(z: Tensor) -> Tensor:
    """The true energy: unit masses in a row, springs between neighbours and to the walls."""
    q, p = z.chunk(2, dim=-1)
    stretch = nn.functional.pad(q, (1, 1)).diff(dim=-1)
    return 0.5 * (p.square().sum(-1) + stretch.square().sum(-1))


def update(step: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> tuple[float, float]:
    """One training step; its loss, and the seconds it took."""
    begin = time.perf_counter()
    loss = step(batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("compile_and_train.png"), help="the picture (%(default)s)")
    parser.add_argument("--updates", type=int, default=400, help="of Adam (%(default)s)")
    parser.add_argument("--backend", default="inductor", help="of torch.compile: inductor, aot_eager (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and network (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing on networks this small
    torch.manual_seed(options.seed)
    with torch.no_grad():
        data = reference.leapfrog_rollout(springs, torch.randn(256, 2 * MASSES), 0.1, STEPS)
    eager = Chain()
    models = {"eager": eager, "compiled": copy.deepcopy(eager)}
    steps = {
        "eager": models["eager"],
        "compiled": torch.compile(models["compiled"], fullgraph=True, backend=options.backend),
    }
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=3e-3) for name, model in models.items()}
    losses: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.updates):
        batch = data[torch.randint(len(data), (32,))]
        for name, step in steps.items():  # in turns, so that a slow moment of the machine falls on both
            loss, time_taken = update(step, optimizers[name], batch)
            losses[name].append(loss)
            seconds[name].append(time_taken)
    medians = {name: statistics.median(times[1:]) * 1e3 for name, times in seconds.items()}
    for name, model in models.items():
        print(
            f"{name:<9} first update {seconds[name][0]:6.2f} s, then {medians[name]:.2f} ms; "
            f"loss {losses[name][0]:.4f} -> {losses[name][-1]:.4f}; dt {model.dt.item():.4f}"
        )
    difference = [abs(a - b) / a for a, b in zip(losses["eager"], losses["compiled"], strict=True)]
    print(f"largest relative difference of the losses: {max(difference):.1e}")

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (curve, apart) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, look in (("eager", {"linewidth": 4, "alpha": 0.35}), ("compiled", {"linewidth": 1.2})):
        label = f"{name}, {medians[name]:.2f} ms per update"
        curve.plot(losses[name], color=COLOURS[name], label=label, **look)
    curve.set(yscale="log", xlabel="update", ylabel="loss", title="One training, twice")
    curve.legend(frameon=False)
    apart.plot([max(value, EQUAL) for value in difference], ".", color="#374151", markersize=3)
    for level, text in ((2**-23, "float32's resolution"), (EQUAL, "equal")):
        apart.axhline(level, color="#9ca3af", linewidth=1)
        apart.annotate(text, (1, level), xytext=(0, 4), xycoords=("axes fraction", "data"), ha="right",
                       textcoords="offset points", color="#6b7280")  # fmt: skip
    apart.set(yscale="log", xlabel="update", ylabel="relative difference", title="How far the losses are apart")
    figure.savefig(options.plot, dpi=150)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
