"""Learn a pendulum's energy from noisy trajectories, and see what it is worth on a rollout 40 times as long.

    python examples/pendulum.py --plot pendulum.png

The energy H(q, p) is a small network, trained through ``leapfrog_rollout``. The start of every trajectory is known up
to noise only, so it is fitted too: the rollout's adjoint returns its gradient. The baseline is a residual network
z' = z + f(z) of the same size, trained on the same data with the same loss and the same number of updates.

Explicit leapfrog is symplectic for H = T(p) + V(q) only, which a network H(q, p) is not, so its energy wanders too. To
tell the method's part from the model's, the same learned H is also rolled out with steps an eighth as long.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Roll = Callable[[Tensor, int], Tensor]

DT = 0.1
SPAN = 40  # steps of a training trajectory, a little more than half a swing
LONG = 40 * SPAN
FINE = "learned H, fine"
COLOURS = {"truth": "#9ca3af", "residual MLP": "#1d4ed8", "learned H": "#c2410c", FINE: "#15803d"}


def true_energy(z: Tensor) -> Tensor:
    """Unit mass, length and gravity: 2 at the separatrix."""
    return 0.5 * z[..., 1].square() + 1 - torch.cos(z[..., 0])


def true_rollout(z0: Tensor, steps: int, substeps: int = 10) -> Tensor:
    """Leapfrog in float64 with much finer steps; this H is separable, and here leapfrog is symplectic."""
    q, p = z0.double().unbind(-1)
    h = DT / substeps
    states = [z0]
    for _ in range(steps):
        for _ in range(substeps):
            p = p - 0.5 * h * torch.sin(q)
            q = q + h * p
            p = p - 0.5 * h * torch.sin(q)
        states.append(torch.stack((q, p), dim=-1).to(z0.dtype))
    return torch.stack(states, dim=1)


def random_starts(count: int) -> Tensor:
    """States with energies spread evenly between 0.05 and 1.7: swings, no turns over the top."""
    energy = 0.05 + 1.65 * torch.rand(count)
    kinetic = energy * torch.rand(count)
    q = torch.acos(1 - (energy - kinetic)) * torch.randn(count).sign()
    return torch.stack((q, (2 * kinetic).sqrt() * torch.randn(count).sign()), dim=-1)


class Residual(nn.Module):
    """The baseline: z' = z + f(z)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers = [nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 2)]
        self.f = nn.Sequential(*layers)
        nn.init.zeros_(self.f[-1].weight)
        nn.init.zeros_(self.f[-1].bias)

    def roll(self, z: Tensor, steps: int) -> Tensor:
        states = [z]
        for _ in range(steps):
            states.append(states[-1] + self.f(states[-1]))
        return torch.stack(states, dim=1)


def fit(name: str, model: nn.Module, roll: Roll, data: Tensor, updates: int) -> None:
    """Adam on the model and on the trajectories' starts; the horizon grows during the first half."""
    starts = nn.Parameter(data[:, 0].clone())
    optimizer = torch.optim.Adam([*model.parameters(), starts], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    begin = time.perf_counter()
    for update in range(updates):
        horizon = min(SPAN, 3 + 2 * SPAN * update // updates)
        loss = (roll(starts, horizon) - data[:, : horizon + 1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    size = sum(parameter.numel() for parameter in model.parameters())
    seconds = time.perf_counter() - begin
    print(f"{name}: {size} parameters, {updates} updates in {seconds:.1f} s, loss {loss.item():.5f}")


def report(rolls: dict[str, Roll], starts: Tensor) -> None:
    """Errors on new trajectories that start from exact states."""
    truth = true_rollout(starts, LONG)
    still: Roll = lambda z, steps: z[:, None].repeat(1, steps + 1, 1)  # noqa: E731
    spans = (SPAN, 5 * SPAN, LONG)
    print(f"\n{len(starts)} new trajectories: root mean square error, and the largest change of the true energy")
    print(f"{'':<18}" + "".join(f"{f'{n} steps':>12}" for n in spans) + f"{'change of energy (median)':>28}")
    for name, roll in {**rolls, "no change": still}.items():
        path = roll(starts, LONG)
        energy = true_energy(path)
        change = (energy - energy[:, :1]).abs().amax(dim=1).median().item()
        errors = [(path[:, : n + 1] - truth[:, : n + 1]).square().mean().sqrt().item() for n in spans]
        print(f"{name:<18}" + "".join(f"{error:>12.4f}" for error in errors) + f"{change:>28.4f}")
    print(f"{FINE}: the same H, time steps an eighth as long")


def draw(H: HamiltonianMLP, rolls: dict[str, Roll], data: Tensor, path: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplot_mosaic([["portrait", "swing"], ["portrait", "energy"]], figsize=(11, 5.6),
                                      width_ratios=(1, 1.25), layout="constrained")  # fmt: skip
    start = torch.tensor([[2.0, 0.0]])  # a wide swing, inside the range of energies that was seen
    paths = {name: {"truth": true_rollout, **rolls}[name](start, LONG)[0] for name in COLOURS}

    portrait = axes["portrait"]
    q, p = torch.meshgrid(torch.linspace(-3, 3, 151), torch.linspace(-2.2, 2.2, 151), indexing="xy")
    learned = H(torch.stack((q, p), dim=-1)) - H(torch.zeros(2))
    levels = [0.1, 0.35, 0.7, 1.1, 1.5]
    portrait.plot(*data.reshape(-1, 2).T, ".", color="#e5b770", markersize=2, zorder=0)
    portrait.contour(q, p, true_energy(torch.stack((q, p), dim=-1)), levels, colors=COLOURS["truth"], linewidths=3)
    portrait.contour(q, p, learned, levels, colors=COLOURS["learned H"], linewidths=1, linestyles="dashed")
    portrait.plot(*paths["residual MLP"].T, ".", color=COLOURS["residual MLP"], markersize=1.5)
    portrait.plot([], [], color=COLOURS["truth"], linewidth=3, label="true energy, levels")
    portrait.plot([], [], "--", color=COLOURS["learned H"], linewidth=1, label="learned H, the same levels")
    portrait.plot([], [], ".", color=COLOURS["residual MLP"], label="residual MLP from (2, 0)")
    portrait.plot([], [], ".", color="#e5b770", label="noisy data")
    portrait.set(xlabel="angle q", ylabel="momentum p", ylim=(-2.2, 2.9), title="What was learned")
    portrait.legend(ncols=2, frameon=False, loc="upper center", columnspacing=1)

    times = torch.arange(LONG + 1) * DT
    last = times >= 0.8 * times[-1]
    for name, line in paths.items():
        look = {"color": COLOURS[name], "linewidth": 3 if name == "truth" else 1.1}
        axes["swing"].plot(times[last], line[last, 0], **look)
        axes["energy"].plot(times, true_energy(line), label=name, **look)
    axes["swing"].set(xlabel="time", ylabel="angle q", title="A rollout from (2, 0), its last fifth")
    axes["energy"].axvspan(0, SPAN * DT, color="#fde68a", linewidth=0, label="length trained on")
    axes["energy"].set(xlabel="time", ylabel="true energy", title="True energy along it", xlim=(0, LONG * DT))
    axes["energy"].margins(y=0.4)
    axes["energy"].legend(ncols=3, frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("pendulum.png"), help="where the picture goes (%(default)s)")
    parser.add_argument("--updates", type=int, default=1000, help="of Adam, for each model (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=64, help="to learn from (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation, in the data (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, noise and networks (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing on networks this small
    torch.manual_seed(options.seed)
    clean = true_rollout(random_starts(options.trajectories), SPAN)
    data = clean + options.noise * torch.randn_like(clean)
    H = HamiltonianMLP(dim=2, hidden=(64, 64), activation="tanh")
    baseline = Residual(64)
    rolls: dict[str, Roll] = {
        "learned H": lambda z, steps: leapfrog_rollout(H, z, DT, steps),
        "residual MLP": baseline.roll,
    }
    for name, model in (("learned H", H), ("residual MLP", baseline)):
        fit(name, model, rolls[name], data, options.updates)
    with torch.no_grad():
        rolls[FINE] = lambda z, steps: leapfrog_rollout(H, z, DT / 8, 8 * steps)[:, ::8]
        report(rolls, random_starts(64))
        draw(H, rolls, data, options.plot)


if __name__ == "__main__":
    main()
