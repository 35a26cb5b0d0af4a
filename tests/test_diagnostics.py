"""Claims about structure, measured: what is symplectic and reversible, what is not, and the order of each method."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from helpers import make_problem, sequential

from hamiltorch_ext import HamiltonianMLP, diagnostics, integrators, leapfrog_rollout, reference, rollout


def separable(z):
    """T(p) + V(q), neither of them quadratic."""
    q, p = z.chunk(2, dim=-1)
    return torch.cosh(p).sum(-1) + (q.square() / 2 + torch.cos(q.roll(1, -1))).sum(-1)


def quadratic(z):
    return z.square().sum(-1) / 2


def mlp(d=4):
    """A smooth, non-separable energy whose curvature matters at a step of one half: the negative control."""
    return HamiltonianMLP.from_sequential(sequential(make_problem(d=d, hidden=(32, 16), activation="tanh", gain=1.5)))


def states(n=6, d=4):
    return torch.randn(n, 2 * d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_leapfrog_is_symplectic_on_a_separable_energy():
    assert diagnostics.symplectic_defect(separable, states(), 0.3).max() < 1e-13


def test_leapfrog_is_not_symplectic_on_an_mlp():
    assert diagnostics.symplectic_defect(mlp(), states(), 0.5).min() > 1e-3


def test_euler_is_not_symplectic_even_on_a_separable_energy():
    # Explicit Euler on the harmonic oscillator has determinant 1 + dt^2 per degree of freedom.
    z, dt = states(2, 1), 0.1
    defect = diagnostics.symplectic_defect(quadratic, z, dt, method="euler")
    torch.testing.assert_close(defect, torch.full((2,), math.sqrt(2) * dt**2, dtype=torch.float64))


def test_defect_of_an_mlp_falls_as_the_square_of_the_step():
    H, z = mlp(), states()
    coarse, fine = (diagnostics.symplectic_defect(H, z, dt).norm() for dt in (0.02, 0.01))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)


def test_step_jacobian_of_the_oscillator_by_hand():
    dt = 0.2
    jacobian = diagnostics.step_jacobian(quadratic, torch.zeros(2, dtype=torch.float64), dt)
    a = 1 - dt**2 / 2
    expected = torch.tensor([[a, dt], [-dt * (1 - dt**2 / 4), a]], dtype=torch.float64)
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_shapes(batch):
    z = torch.randn(*batch, 8, dtype=torch.float64)
    assert diagnostics.step_jacobian(mlp(), z, 0.1).shape == (*batch, 8, 8)
    assert diagnostics.symplectic_defect(mlp(), z, 0.1).shape == batch
    assert diagnostics.reversibility_error(mlp(), z, 0.1, 3).shape == batch
    drift = diagnostics.energy_drift(torch.randn(*batch, 5), scale=1.0)
    assert drift.absolute.shape == drift.relative.shape == batch


def test_jacobian_matches_finite_differences():
    H, z = mlp(d=1), states(1, 1)[0]
    jacobian = diagnostics.step_jacobian(H, z, 0.5)
    for i in range(2):
        e = torch.eye(2, dtype=torch.float64)[i] * 1e-6
        ahead, behind = (leapfrog_rollout(H, z + s * e, 0.5, 1)[1] for s in (1, -1))
        torch.testing.assert_close(jacobian[:, i], (ahead - behind) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.filterwarnings("ignore:running on the torch reference path")
def test_leapfrog_is_reversible_on_a_separable_energy():
    assert diagnostics.reversibility_error(separable, states(), 0.1, 20).max() < 1e-12


def test_leapfrog_is_not_reversible_on_an_mlp():
    assert diagnostics.reversibility_error(mlp(), states(), 0.5, 4).min() > 1e-3


def test_leapfrog_is_reversible_on_a_separable_mlp():
    """The same through the native kernels: an MLP is separable where no hidden unit sees both halves."""
    H, z = separable_mlp(), states()
    assert diagnostics.symplectic_defect(H, z, 0.3).max() < 1e-13
    assert diagnostics.reversibility_error(H, z, 0.3, 20).max() < 1e-12


def test_euler_is_not_reversible():
    assert diagnostics.reversibility_error(mlp(), states(), 0.5, 4, method="euler").min() > 1e-3


def separable_mlp(d=4):
    """No hidden unit sees both halves of the state, so H = T(p) + V(q)."""
    problem = make_problem(d=d, hidden=(32,), activation="tanh", gain=1.5)
    problem.weights[0][:16, d:] = 0
    problem.weights[0][16:, :d] = 0
    return sequential(problem)


@pytest.mark.filterwarnings("ignore:running on the torch reference path")
@pytest.mark.parametrize("energy", ["separable", "general"])
@pytest.mark.parametrize("method", integrators.INTEGRATORS.values(), ids=lambda method: method.name)
def test_order(method, energy):
    """The error after a fixed time falls with the order that the table states.

    Explicit leapfrog's kicks lack the half of the mixed derivative's term that an implicit kick would have: for a
    general H it is of first order.
    """
    H, z, time = {"separable": separable_mlp, "general": mlp}[energy](), states(), 1.0
    order = method.order if energy == "general" else method.order_if_separable
    numbers = (64, 128) if order < 4 else (16, 32)
    with torch.no_grad():
        exact = classical_runge_kutta(H, z, time / 1024, 1024)
        errors = [(rollout(H, z, time / n, n, method=method.name)[:, -1] - exact).norm() for n in numbers]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def classical_runge_kutta(H, z, dt, steps):
    """Fourth order, for an exact solution that none of the library's methods has a part in."""

    def field(z):
        dq, dp = reference.gradient(H, z).chunk(2, -1)
        return torch.cat((dp, -dq), -1)

    for _ in range(steps):
        k1 = field(z)
        k2 = field(z + dt / 2 * k1)
        k3 = field(z + dt / 2 * k2)
        z = z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + field(z + dt * k3))
    return z


def test_energy_drift_is_what_it_says():
    energies = torch.tensor([[1.0, 1.5, 0.0], [3.0, 3.0, 3.0]])
    drift = diagnostics.energy_drift(energies)
    assert drift.absolute.tolist() == [1.0, 0.0]
    torch.testing.assert_close(drift.relative, drift.absolute / math.sqrt(2))
    assert diagnostics.energy_drift(energies, scale=4.0).relative.tolist() == [0.25, 0.0]


@pytest.mark.parametrize("c", [1e-3, 7.0])
def test_relative_drift_does_not_change_with_the_scale_of_the_energy(c):
    """(c H, dt / c) is the same map: the absolute drift can be made small by shrinking H, the relative one cannot."""
    H, scaled = mlp(), mlp()
    with torch.no_grad():
        scaled.layers[-1].weight.mul_(c)
        scaled.layers[-1].bias.mul_(c)
    z = states()
    trajectory, energies = leapfrog_rollout(H, z, 0.5, 20, return_energy=True)
    same, scaled_energies = leapfrog_rollout(scaled, z, 0.5 / c, 20, return_energy=True)
    torch.testing.assert_close(same, trajectory, rtol=1e-9, atol=1e-11)
    drift, scaled_drift = map(diagnostics.energy_drift, (energies, scaled_energies))
    torch.testing.assert_close(scaled_drift.absolute, c * drift.absolute, rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(scaled_drift.relative, drift.relative, rtol=1e-7, atol=1e-11)


def test_energy_of_a_separable_system_stays_bounded():
    """Over 10^4 steps leapfrog's energy error does not grow; Euler's does."""
    problem = make_problem(d=1, hidden=(8,), activation="softplus")
    problem.weights[0][:4, 1:] = 0
    problem.weights[0][4:, :1] = 0
    problem.weights[1].abs_()  # convex: every orbit is bounded
    problem.weights[0][::2] = -problem.weights[0][1::2]
    H, z = sequential(problem), states(4, 1)
    _, energies = leapfrog_rollout(H, z, 0.1, 10_000, return_energy=True)
    early, late = ((energies[:, s] - energies[:, :1]).abs().amax() for s in (slice(0, 2000), slice(8000, None)))
    assert late < 1.5 * early
    _, energies = rollout(H, z, 0.1, 10_000, method="euler", return_energy=True)
    early, late = ((energies[:, s] - energies[:, :1]).abs().amax() for s in (slice(0, 2000), slice(8000, None)))
    assert late > 2 * early


def test_tao_example_loses_its_energy():
    """The standing example of a non-separable energy: explicit leapfrog drifts, and says so."""

    def tao(z):
        q, p = z.chunk(2, dim=-1)
        return ((q.square() + 1) * (p.square() + 1)).squeeze(-1) / 2

    z = torch.tensor([-3.0, 0.0], dtype=torch.float64)
    assert diagnostics.symplectic_defect(tao, z, 0.1) > 1e-3
    assert diagnostics.symplectic_defect(separable, z, 0.1) < 1e-13


def test_extended_is_symplectic_in_the_doubled_space_alone():
    """Where the copies agree, and where they do not; and what moves there is not the phase space of z."""
    H, z = mlp(d=2), states(3, 2)
    for binding in (0.0, 1.0, 30.0):
        assert diagnostics.symplectic_defect(H, z, 0.5, "extended", doubled=True, binding=binding).max() < 1e-12
        doubled = diagnostics.determinant(H, z, 0.5, "extended", doubled=True, binding=binding)
        torch.testing.assert_close(doubled, torch.ones_like(doubled), rtol=0, atol=1e-12)
    assert diagnostics.symplectic_defect(H, z, 0.5, "extended").min() > 1e-3
    field, settings = reference.field(H), reference.Settings()
    apart = torch.cat((z, z.flip(0)), dim=-1)
    A = diagnostics.jacobian(lambda both: reference.extended_step(field, both, 0.5, settings), apart)
    assert diagnostics.form_defect(A, copies=2).max() < 1e-12


def test_extended_in_the_doubled_space_is_the_rollouts():
    H, z = mlp(d=2), states(3, 2)
    both = reference.extended_step(reference.field(H), torch.cat((z, z), -1), 0.5, reference.Settings(binding=3.0))
    want = rollout(H, z, 0.5, 1, method="extended", binding=3.0, backend="reference")[:, 1]
    torch.testing.assert_close(both[:, :4], want, rtol=0, atol=0)


def test_determinant():
    z = states(2, 1)
    # Explicit Euler on the harmonic oscillator: 1 + dt^2.
    euler = diagnostics.determinant(quadratic, z, 0.1, "euler")
    torch.testing.assert_close(euler, torch.full((2,), 1.01, dtype=torch.float64))
    assert (diagnostics.determinant(mlp(), states(), 0.5, "stormer_verlet") - 1).abs().max() < 1e-12
    assert (diagnostics.determinant(mlp(), states(), 0.5, "leapfrog") - 1).abs().min() > 1e-4
    assert diagnostics.determinant(mlp(), states()[0], 0.1).shape == ()


def test_jacobian_of_any_map():
    z = states(3, 2)
    f = lambda z: torch.stack((z[..., 0] * z[..., 1], z[..., 2].sin()), dim=-1)  # noqa: E731
    A = diagnostics.jacobian(f, z)
    assert A.shape == (3, 2, 4)
    torch.testing.assert_close(A[:, 0], torch.stack((z[:, 1], z[:, 0], 0 * z[:, 0], 0 * z[:, 0]), dim=-1))
    torch.testing.assert_close(A[1], diagnostics.jacobian(f, z[1]))


def test_settings_are_passed_through():
    """A loose tolerance shows as an error, one iteration as a warning, another binding as another map."""
    H, z = mlp(d=2), states(3, 2)
    exact = diagnostics.reversibility_error(H, z, 0.3, 3, "implicit_midpoint", backend="reference")
    loose = diagnostics.reversibility_error(H, z, 0.3, 3, "implicit_midpoint", tol=1e-3, backend="reference")
    assert exact.max() < 1e-11
    assert loose.max() > 1e-6
    with pytest.warns(RuntimeWarning, match="were not solved"):
        diagnostics.symplectic_defect(H, z, 0.5, "implicit_midpoint", max_iterations=1)
    with pytest.raises(ValueError, match="tol must be"):
        diagnostics.determinant(H, z, 0.5, "implicit_midpoint", tol=-1)
    with pytest.raises(ValueError, match="binding must be"):
        diagnostics.determinant(H, z, 0.5, "extended", doubled=True, binding=math.nan)
    one, other = (diagnostics.step_jacobian(H, z, 0.5, "extended", binding=binding) for binding in (1.0, 5.0))
    assert (one - other).abs().max() > 1e-3


def test_a_condition_is_passed_through():
    problem = make_problem(d=2, hidden=(9,), activation="tanh", condition_dim=2, batch=(3,))
    H = HamiltonianMLP.from_sequential(sequential(problem), condition_dim=2)
    z, condition = problem.z0, problem.condition
    defect = diagnostics.symplectic_defect(H, z, 0.5, condition=condition)
    alone = diagnostics.symplectic_defect(lambda z: H(z, condition[1]), z[1], 0.5)
    torch.testing.assert_close(defect[1], alone)
    doubled = diagnostics.determinant(H, z, 0.5, "extended", doubled=True, condition=condition)
    torch.testing.assert_close(doubled, torch.ones_like(doubled))


@pytest.mark.filterwarnings("ignore:running on the torch reference path")
@pytest.mark.parametrize("method", integrators.INTEGRATORS.values(), ids=lambda method: method.name)
def test_order_slope_is_the_tables(method):
    steps = (64, 128, 256) if method.order < 4 else (16, 32, 64)
    found = diagnostics.order_slope(quadratic, states(3, 2), 1.0, method.name, steps)
    assert found.slope.item() == pytest.approx(method.order_if_separable, abs=0.05)
    assert found.dt.tolist() == [1 / n for n in steps]
    assert found.error.shape == (3,)
    assert (found.error[:-1] > found.error[1:]).all()


def test_long_run_drift_tells_swing_from_trend():
    time = torch.arange(1000, dtype=torch.float64)
    swing, trend = torch.sin(time), -3e-3 * time
    drift = diagnostics.long_run_drift(torch.stack((swing, trend, swing + trend)), scale=2.0)
    assert drift.mean.shape == (3, 10)
    assert drift.amplitude[0].item() == pytest.approx(0.5, rel=0.01)
    assert drift.amplitude[1].item() == pytest.approx(3e-3 * 99 / 4)
    assert drift.trend[0].abs().item() < 0.01
    torch.testing.assert_close(drift.trend[1:], torch.tensor([-1.5, -1.5]).double(), rtol=0.01, atol=0)
    short = diagnostics.long_run_drift(trend[:7], blocks=3, scale=2.0)  # two states a block, the last one left out
    assert short.mean.tolist() == pytest.approx([-0.00075, -0.00375, -0.00675])
    assert short.trend.item() == pytest.approx(-3e-3 * 7 / 2)


def test_long_run_drift_of_rollouts():
    """A symplectic method's energy swings and stays; explicit leapfrog's goes."""

    def tao(z):
        q, p = z.chunk(2, dim=-1)
        return ((q.square() + 1) * (p.square() + 1)).sum(-1) / 2

    z = torch.tensor([[0.0, -3.0], [0.5, 2.0]], dtype=torch.float64)
    with torch.no_grad():
        kept, lost = (
            diagnostics.long_run_drift(
                rollout(tao, z, 0.05, 400, method=method, return_energy=True, backend="reference")[1]
            )
            for method in ("implicit_midpoint", "leapfrog")
        )
    assert lost.trend.abs().min() > 20 * kept.trend.abs().max()


PLOTS = {
    "defect": lambda H, z, methods: diagnostics.plot_defect(H, z, (0.1, 0.5), methods),
    "determinant": lambda H, z, methods: diagnostics.plot_determinant(H, z, (0.1, 0.5), methods),
    "reversibility": lambda H, z, methods: diagnostics.plot_reversibility(H, z, 0.2, (1, 3), methods),
    "order": lambda H, z, methods: diagnostics.plot_order(H, z, 1.0, methods, (8, 16)),
    "energy": lambda H, z, methods: diagnostics.plot_energy_drift(H, z, 0.2, 20, methods, blocks=4),
}


@pytest.mark.filterwarnings("ignore:running on the torch reference path")
@pytest.mark.parametrize("plot", PLOTS)
def test_plots(plot, tmp_path):
    pytest.importorskip("matplotlib")
    methods = ["leapfrog", "stormer_verlet", "extended"]
    figure = PLOTS[plot](mlp(d=1), states(3, 1), methods)
    (axes,) = figure.axes
    lines = {line.get_label().split(",")[0]: line for line in axes.get_lines()}
    assert list(lines) == methods
    finite = all(math.isfinite(y) for line in lines.values() for y in line.get_ydata())
    assert finite
    ours, explicit = (max(lines[name].get_ydata()) for name in ("stormer_verlet", "leapfrog"))
    assert explicit > 1.5 * ours
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    figure.savefig(tmp_path / "plot.png")


def test_plots_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'hamiltorch_ext\[plots\]'"):
        diagnostics.plot_defect(quadratic, states(2, 1), (0.1,), ["leapfrog"])


def test_the_library_does_not_import_matplotlib():
    code = "import sys, hamiltorch_ext; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"doubled is for method='extended'.*got method='leapfrog'"):
        diagnostics.symplectic_defect(quadratic, states(), 0.1, doubled=True)
    for steps in ((4,), (4, 4), (0, 4)):
        with pytest.raises(ValueError, match="steps must be two or more different positive numbers"):
            diagnostics.order_slope(quadratic, states(), 1.0, steps=steps)
    for blocks in (1, 0, 6):
        with pytest.raises(ValueError, match=rf"blocks must be two or more, at most one a state \(5\), got {blocks}"):
            diagnostics.long_run_drift(torch.zeros(2, 5), blocks)
    with pytest.raises(ValueError, match="scale must be given"):
        diagnostics.long_run_drift(torch.zeros(1, 50))
    with pytest.raises(ValueError, match="energies must have shape"):
        diagnostics.energy_drift(torch.tensor(1.0))
    with pytest.raises(ValueError, match="energies must have shape"):
        diagnostics.energy_drift(torch.zeros(3, 0))
    with pytest.raises(ValueError, match="scale must be given"):
        diagnostics.energy_drift(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="method must be one of"):
        diagnostics.symplectic_defect(separable, states(), 0.1, method="verlet")
