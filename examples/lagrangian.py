"""Learn a pendulum's discrete Lagrangian from noisy positions alone, and roll it out 25 times as far as was seen.

    python examples/lagrangian.py --plot lagrangian.png

No velocity is measured, and training solves nothing: the loss is ``del_residual``, the left side of the discrete
Euler-Lagrange equations. Over a short time step the noise of the positions outweighs the forces in it. So the motion
behind the observations is fitted too, to be near what was observed and near what the equations allow. Only the
prediction solves the equations, by ``del_rollout``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import numpy
import torch
from torch import Tensor, nn

from hamiltorch_ext import MechanicalLagrangian, del_rollout
from hamiltorch_ext.lagrangians import momenta
from hamiltorch_ext.variational import del_residual, regularity_penalty

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DT = 0.1
SPAN = 40  # steps of a training trajectory, a little more than half a swing
LONG = 25 * SPAN
WIDEST = 2.6  # rad, of the swings to learn from
SLACK = 1e-3  # the residual that weighs as much as an observation one standard deviation off
STARTS = {0.5: "#15803d", 1.1: "#1d4ed8", 1.7: "#7c3aed", 2.3: "#c2410c"}  # rad, at rest; the last is drawn over time
IN_PHASE = 0.1  # rad, in the plane of angle and velocity
TRUTH = "#9ca3af"


def true_energy(q: Tensor, v: Tensor) -> Tensor:
    """Unit mass, length and gravity: 2 where the pendulum stands on its head; q and v (..., 1) -> (...)."""
    return (0.5 * v.square() + 1 - q.cos()).sum(-1)


def true_motion(q: Tensor, v: Tensor, steps: int, substeps: int = 50) -> tuple[Tensor, Tensor]:
    """Angles and velocities, each (N, steps + 1, 1), by Störmer-Verlet with much finer steps."""
    h = DT / substeps
    states = [(q, v)]
    for _ in range(steps * substeps):
        v = v - 0.5 * h * q.sin()
        q = q + h * v
        v = v - 0.5 * h * q.sin()
        states.append((q, v))
    angles, velocities = zip(*states[::substeps], strict=True)
    return torch.stack(angles, dim=1), torch.stack(velocities, dim=1)


def swings(count: int) -> Tensor:
    """Angles of swings of all widths up to ``WIDEST``, begun anywhere, without noise: (count, SPAN + 1, 1)."""
    width = 0.2 + (WIDEST - 0.2) * torch.rand(count, 1)
    q = width * (2 * torch.rand(count, 1) - 1)
    return true_motion(q, (2 * (q.cos() - width.cos())).sqrt() * torch.randn(count, 1).sign(), SPAN)[0]


def fit(L: MechanicalLagrangian, observed: Tensor, noise: float, updates: int) -> Tensor:
    """Adam on the network and on the motion (N, SPAN + 1, 1), which is returned."""
    motion = nn.Parameter(observed.clone())
    optimizer = torch.optim.Adam([*L.parameters(), motion], lr=3e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for update in range(1, updates + 1):
        misfit = ((motion - observed) / noise).square().mean()
        residual = (del_residual(L, motion, dt=DT) / SLACK).square().mean()
        # L times any constant has the same motions, and L = 0 has all: the penalty keeps the mass near one.
        penalty = regularity_penalty(L, observed[:, 0], observed[:, 1], dt=DT, least=1.0)
        loss = misfit + residual + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % max(updates // 5, 1) == 0:
            print(f"update {update}: misfit {misfit.item():.3f}, residual {residual.item():.3f}", flush=True)
    return motion.detach()


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def evaluate(L: MechanicalLagrangian, unseen: Tensor, plot: Path) -> None:
    """Print what was learned and what was not, and draw it."""
    q, v = torch.meshgrid(torch.linspace(-3.1, 3.1, 125), torch.linspace(-2.3, 2.3, 93), indexing="xy")
    learned, true = L.energy(q[..., None], v[..., None]), true_energy(q[..., None], v[..., None])
    # No motion tells the scale and the zero of an energy: they are fitted, over the swings that the data cover.
    seen = true < (widest := 1 - math.cos(WIDEST))
    scale, zero = numpy.polyfit(learned[seen], true[seen], 1).tolist()
    learned = scale * learned + zero
    print(f"energy, aligned: {rms((learned - true)[seen]):.4f} off over the swings seen, which reach {widest:.2f}")
    residual = rms(scale * del_residual(L, unseen, dt=DT) / DT)
    print(f"residual on unseen swings without noise: {residual:.4f} rad/s², of forces of {rms(unseen.sin()):.2f}")
    rest = torch.tensor(list(STARTS))[:, None]
    truth, speed = true_motion(rest, torch.zeros_like(rest), LONG)
    path = del_rollout(L, truth[:, 0], truth[:, 1], LONG - 1, dt=DT, tol=1e-9)
    before, after = path[:, :-1], path[:, 1:]
    velocity = momenta(L, before, after, DT)[0] / L.mass(before)
    energy = (scale * L.energy(before, velocity) + zero) / true_energy(rest, 0 * rest)[:, None]
    spread = energy.amax(1) - energy.amin(1)
    drift = energy[:, -LONG // 5 :].mean(1) - energy[:, : LONG // 5].mean(1)
    off = (torch.complex(before, velocity) / torch.complex(truth, speed)[:, :-1]).angle().abs().squeeze(-1)
    kept = DT * (off.cummax(dim=1).values < IN_PHASE).sum(1)
    print(f"del_rollout, {LONG} steps, {DT * LONG:.0f} s, from two true positions; energy as a part of the swing's:")
    for k, angle in enumerate(STARTS):
        print(f"  {angle} rad: energy spread {spread[k]:.0e}, drift {drift[k]:+.0e}; in phase within {IN_PHASE} rad "
              f"for {kept[k]:.0f} s, at most {off[k].max():.2f} rad off")  # fmt: skip
    top = scale * L.energy(torch.tensor([torch.pi]), torch.zeros(1)).item() + zero
    print("In the data: force over mass, as far as the widest swing. Given: a constant mass, and the noise's size.")
    print(f"Not in the data: the energy's scale and zero, and what lies beyond (on its head: {top:.2f} instead of 2).")

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), width_ratios=(1.15, 1, 1.5), layout="constrained")
    levels = torch.arange(0, 4.6, 0.5)
    filled = axes[0].contourf(q, v, learned, levels, cmap="Blues", extend="both")
    figure.colorbar(filled, ax=axes[0], label="learned energy, scale and zero aligned")
    axes[0].contour(q, v, true, levels, colors="black", linewidths=0.8, linestyles="dashed")
    axes[0].contour(q, v, true, [widest], colors=STARTS[2.3], linewidths=1.5)
    axes[0].set(xlabel="angle, rad", ylabel="velocity, rad/s", title="Energy: learned, true (dashed); data inside red")
    axes[1].contour(q, v, true, true_energy(rest, 0 * rest), colors=TRUTH, linewidths=4)
    for k, colour in enumerate(STARTS.values()):
        axes[1].plot(before[k], velocity[k], ".", color=colour, markersize=1.5)
    axes[1].set(xlabel="angle, rad", ylabel="velocity, rad/s", title=f"{LONG} learned steps on true levels (grey)")
    times = DT * torch.arange(LONG + 1)
    axes[2].axvspan(0, SPAN * DT, color="#fde68a", linewidth=0, label="length of the data")
    axes[2].plot(times, truth[-1], color=TRUTH, linewidth=3, label="truth")
    axes[2].plot(times, path[-1], color=colour, linewidth=1, label="learned")
    axes[2].set(xlabel="time, s", ylabel="angle, rad", title=f"Rollout from {angle} rad at rest", ylim=(-2.5, 3.2))
    axes[2].legend(ncols=3, frameon=False, loc="upper center")
    figure.savefig(plot, dpi=150)
    print(f"plot: {plot}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("lagrangian.png"), help="the picture (%(default)s)")
    parser.add_argument("--updates", type=int, default=2000, help="of Adam (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=64, help="to learn from (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of positions, rad (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, noise and network (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing on networks this small
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(options.seed)
    clean, unseen = swings(options.trajectories), swings(64)
    observed = clean + options.noise * torch.randn_like(clean)
    L = MechanicalLagrangian(dim=1, hidden=(16, 16), activation="tanh")
    motion = fit(L, observed, options.noise, options.updates)
    with torch.no_grad():
        print(f"positions: {rms(observed - clean):.4f} rad off as observed, {rms(motion - clean):.4f} as fitted")
        evaluate(L, unseen, options.plot)


if __name__ == "__main__":
    main()
