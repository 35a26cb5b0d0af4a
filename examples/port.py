"""Learn the friction and the motor of a driven pendulum, and account for its energy.

    python examples/port.py --plot port.png

A pendulum turns in a bearing and is pushed by a motor: dq/dt = p, dp/dt = -sin q - c p + g u. Its energy is known;
where R = L Lᵀ takes energy away and where G lets the control u in is learned from noisy motions under random controls.
A learned R cannot feed the pendulum, whatever noise it was learned from, and the discrete gradient keeps that in every
step: the energy rises by no more than the motor's work. Last, the same system is pushed at random in steps so long that
other methods make energy from nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from hamiltorch_ext import PortHamiltonian, diagnostics, port_rollout

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DT = 0.1
SPAN = 30  # steps of a training motion
LONG = 0.5  # time step of the last comparison
FRICTION, MOTOR = 0.3, 0.8
COLOURS = {"discrete_gradient": "#15803d", "stormer_verlet": "#1d4ed8", "euler": "#c2410c"}


def pendulum(z: Tensor) -> Tensor:
    """Energy of unit mass, length and gravity, zero where it hangs: z = (q, p) of shape (..., 2) -> (...)."""
    q, p = z.unbind(-1)
    return p.square() / 2 + 1 - q.cos()


def true_system() -> PortHamiltonian:
    return PortHamiltonian(
        pendulum, dissipation=torch.tensor([0.0, FRICTION**0.5]), inputs=torch.tensor([[0.0], [MOTOR]])
    )


def learn(observed: Tensor, controls: Tensor, updates: int) -> PortHamiltonian:
    """R and G from motions (N, SPAN + 1, 2) under controls (N, SPAN, 1), by the error of every single step."""
    system = PortHamiltonian(
        pendulum, dissipation=nn.Parameter(0.3 * torch.randn(2, 2)), inputs=nn.Parameter(0.3 * torch.randn(2, 1))
    )
    optimizer = torch.optim.Adam(system.parameters(), lr=2e-2)
    start, end, u = observed[:, :-5:5], observed[:, 5::5], controls.unflatten(1, (-1, 5))
    for update in range(1, updates + 1):
        loss = (port_rollout(system, start, u, DT)[..., -1, :] - end).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % max(updates // 5, 1) == 0:
            print(f"update {update}: root of the mean square error {loss.item() ** 0.5:.4f}", flush=True)
    return system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("port.png"), help="the picture (%(default)s)")
    parser.add_argument("--updates", type=int, default=150, help="of Adam (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=32, help="to learn from (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of q and p (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, noise and parameters (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing on a system this small
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(options.seed)
    z0 = torch.randn(options.trajectories, 2)
    pushes = torch.randn(options.trajectories, SPAN // 5, 1).repeat_interleave(5, dim=1)  # half a second each
    with torch.no_grad():
        motions = port_rollout(true_system(), z0, pushes, DT)
    learned = learn(motions + options.noise * torch.randn_like(motions), pushes, options.updates)

    with torch.no_grad():
        R, G = learned.R(z0[0]), learned.G(z0[0])
        print(f"R: learned {[[round(x, 3) for x in row] for row in R.tolist()]}, true [[0, 0], [0, {FRICTION}]]")
        print(f"eigenvalues of R: {', '.join(f'{x:.4f}' for x in torch.linalg.eigvalsh(R).tolist())}")
        print(f"G: learned {[round(x, 3) for x in G[:, 0].tolist()]}, true [0, {MOTOR}]")

        # Pushed from rest in the rhythm of its swing, then left alone.
        steps = 400
        time = DT * torch.arange(steps + 1)
        u = torch.where(time[:-1] < 20, 0.7 * torch.cos(0.9 * time[:-1]), 0.0)[:, None]
        path, energies = port_rollout(learned, torch.zeros(2), u, DT, return_energy=True)
        work = diagnostics.supplied_energy(learned, path, u, DT).cumsum(0)
        truth, true_energies = port_rollout(true_system(), torch.zeros(2), u, DT, return_energy=True)
        lost = work[-1] - energies[-1] + energies[0]
        print(f"over {DT * steps:.0f} s the motor supplies {work[-1]:.3f}, friction takes {lost:.3f}")
        print(f"angle: at most {(path - truth)[:, 0].abs().max():.3f} rad from the true pendulum's")

        swings, pushes, gains = torch.randn(64, 2), torch.randn(64, 40, 1), {}
        for method in COLOURS:
            gains[method] = diagnostics.passivity_violation(learned, swings, pushes, LONG, method=method).relative
            share = (gains[method] > 1e-12).double().mean()
            print(f"steps of {LONG} s by {method}: {share:.1%} gain more than the motor's work")

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.0), layout="constrained")
    axes[0].plot(time, truth[:, 0], color="#9ca3af", linewidth=4, label="true system")
    axes[0].plot(time, path[:, 0], color="#15803d", linewidth=1.2, label="learned R and G")
    axes[0].set(xlabel="time, s", ylabel="angle, rad", title="Pushed for 20 s, then left alone")
    axes[0].legend(frameon=False)
    axes[1].plot(time, true_energies, color="#9ca3af", linewidth=4, label="energy, true")
    axes[1].plot(time, energies, color="#15803d", linewidth=1.2, label="energy, learned")
    axes[1].plot(time[1:], work, color="#c2410c", linewidth=1.2, linestyle="dashed", label="work of the motor")
    axes[1].set(xlabel="time, s", ylabel="energy", title="What lies between is lost in the bearing")
    axes[1].legend(frameon=False)
    for method, values in gains.items():
        axes[2].plot(values.clamp(min=1e-17).amax(0), ".-", color=COLOURS[method], markersize=4, label=method)
    axes[2].set(yscale="log", xlabel=f"step of {LONG} s", ylabel="energy over the spread of H",
                title="Largest gain beyond the motor's work, 1e-17 for none")  # fmt: skip
    axes[2].legend(frameon=False)
    figure.savefig(options.plot, dpi=150)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
