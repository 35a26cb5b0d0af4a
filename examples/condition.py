"""One energy for a family of springs: the stiffness is a condition, one number per trajectory.

    python examples/condition.py --plot condition.png

A spring of stiffness k has H = p²/2 + k q²/2. One network H(q, p; k) learns from springs of many k, and is then asked
for frequencies of others. Last, it is used the other way round: k of an unseen spring is found from one noisy
trajectory by descent on the condition, whose gradient comes back from ``leapfrog_rollout``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DT = 0.15
SPAN = 20  # steps of a trajectory
SEEN = ((0.5, 1.6), (2.4, 4.0))  # stiffnesses to learn from, with a gap to fill
TRUE, LEARNED = "#9ca3af", "#c2410c"


def spring(z0: Tensor, k: Tensor, steps: int) -> Tensor:
    """The exact motion: z0 (N, 2), k (N, 1) -> (N, steps + 1, 2)."""
    rate = k.sqrt()
    phase = rate * DT * torch.arange(steps + 1)
    q, p = z0[:, :1], z0[:, 1:]
    return torch.stack(
        (q * torch.cos(phase) + p / rate * torch.sin(phase), p * torch.cos(phase) - q * rate * torch.sin(phase)), dim=-1
    )


def seen_stiffness(count: int) -> Tensor:
    low, high = (begin + (end - begin) * torch.rand(count) for begin, end in SEEN)
    return torch.where(torch.rand(count) < 0.4, low, high)[:, None]


def train(H: HamiltonianMLP, data: Tensor, k: Tensor, updates: int) -> None:
    optimizer = torch.optim.Adam(H.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    begin = time.perf_counter()
    for update in range(updates):
        horizon = min(SPAN, 3 + 2 * SPAN * update // updates)
        path = leapfrog_rollout(H, data[:, 0], DT, horizon, condition=k)
        loss = (path - data[:, : horizon + 1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"{updates} updates in {time.perf_counter() - begin:.1f} s, loss {loss.item():.2e}")


def frequency(path: Tensor) -> Tensor:
    """Angular frequency from the times at which q changes sign, (N, steps + 1, 2) -> (N,)."""
    rates = []
    for q in path[..., 0]:
        before = ((q[:-1] * q[1:]) < 0).nonzero()[:, 0]
        times = before + q[before] / (q[before] - q[before + 1])
        half_periods = max(len(times) - 1, 1)
        rates.append(torch.pi * half_periods / ((times[-1] - times[0]) * DT) if len(times) > 1 else torch.tensor(0.0))
    return torch.stack(rates)


def identify(H: HamiltonianMLP, observed: Tensor, updates: int) -> Tensor:
    """The stiffness of each observed trajectory, (N, SPAN + 1, 2) -> (N,), from a guess in the middle."""
    k = torch.full((len(observed), 1), 2.0, requires_grad=True)
    optimizer = torch.optim.Adam([k], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        loss = (leapfrog_rollout(H, observed[:, 0], DT, SPAN, condition=k) - observed).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return k.detach()[:, 0]


def draw(H: HamiltonianMLP, truth: Tensor, found: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (orbits, rates, inverse) = plt.subplots(1, 3, figsize=(11.5, 4), layout="constrained")
    some = torch.tensor([[0.6], [1.3], [2.0], [3.6]])
    start = torch.tensor([[1.0, 0.0]]).expand(len(some), 2)
    learned = leapfrog_rollout(H, start, DT, 60, condition=some)
    for index, k in enumerate(some[:, 0].tolist()):
        colour = plt.colormaps["viridis"](0.85 - 0.25 * index)
        turn = torch.linspace(0, 2 * torch.pi, 200)
        orbits.plot(torch.cos(turn), -(k**0.5) * torch.sin(turn), color=TRUE, linewidth=3)
        orbits.plot(*learned[index].T, ".", color=colour, markersize=5, label=f"k = {k:g}")
    orbits.set(xlabel="q", ylabel="p", title="Orbits from (1, 0): true (grey), learned", ylim=(-2.1, 2.9))
    orbits.legend(ncols=2, frameon=False, loc="upper center")

    k = torch.linspace(0.25, 5.5, 64)[:, None]
    measured = frequency(leapfrog_rollout(H, torch.tensor([[1.0, 0.0]]).expand(len(k), 2), DT, 200, condition=k))
    for begin, end in SEEN:
        rates.axvspan(begin, end, color="#fde68a", alpha=0.6, linewidth=0, label="seen" if begin < 1 else None)
    rates.plot(k, k.sqrt(), color=TRUE, linewidth=3, label="√k")
    rates.plot(k, measured, ".", color=LEARNED, label="learned, 200 steps")
    rates.set(xlabel="stiffness k", ylabel="frequency ω", title="Frequency: between and beyond what was seen")
    rates.legend(frameon=False, loc="lower right")

    inverse.plot([0, 4.5], [0, 4.5], color=TRUE, linewidth=3)
    inverse.plot(truth, found, ".", color=LEARNED, markersize=8)
    inverse.set(xlabel="true k", ylabel="k found by descent", title="k from one noisy trajectory each")
    figure.savefig(path, dpi=150)
    return k[:, 0], measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("condition.png"), help="where the picture goes (%(default)s)")
    parser.add_argument("--updates", type=int, default=1000, help="of Adam, on the network (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=128, help="to learn from (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.03, help="of the trajectories to identify (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, noise and network (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing on networks this small
    torch.manual_seed(options.seed)
    k = seen_stiffness(options.trajectories)
    H = HamiltonianMLP(dim=2, hidden=(64, 64), activation="silu", condition_dim=1)
    train(H, spring(torch.randn(len(k), 2), k, SPAN), k, options.updates)

    truth = torch.linspace(0.6, 3.9, 24)[:, None]
    observed = spring(torch.randn(len(truth), 2), truth, SPAN)
    found = identify(H, observed + options.noise * torch.randn_like(observed), max(options.updates // 5, 1))
    with torch.no_grad():
        asked, measured = draw(H, truth[:, 0], found, options.plot)
    error = (measured - asked.sqrt()).abs() / asked.sqrt()
    inside, gap = (asked >= SEEN[0][0]) & (asked <= SEEN[1][1]), (asked > SEEN[0][1]) & (asked < SEEN[1][0])
    print(f"relative error of the frequency: {error[inside & ~gap].max():.1%} at most where k was seen, "
          f"{error[gap].max():.1%} in the gap, {error[~inside].max():.1%} outside")  # fmt: skip
    print(f"k from one noisy trajectory: median error {(found - truth[:, 0]).abs().median():.3f}, "
          f"largest {(found - truth[:, 0]).abs().max():.3f}")  # fmt: skip
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
