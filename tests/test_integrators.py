"""What every method of the table claims, on energies that do not separate: structure, solves, gradients, errors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers import make_problem, sequential

from hamiltorch_ext import HamiltonianMLP, diagnostics, integrators, leapfrog_rollout, reference, rollout

pytestmark = pytest.mark.filterwarnings("ignore:running on the torch reference path")

METHODS = list(integrators.INTEGRATORS)
IMPLICIT = [name for name, method in integrators.INTEGRATORS.items() if not method.explicit]
SYMPLECTIC = ["symplectic_euler", "stormer_verlet", "implicit_midpoint", "yoshida4"]
SYMMETRIC = ["stormer_verlet", "implicit_midpoint", "yoshida4", "discrete_gradient"]
NETWORKS = [
    pytest.param(d, activation, seed, id=f"d{d}-{activation}-seed{seed}")
    for d, activation, seed in [
        (1, "tanh", 0),
        (1, "silu", 1),
        (3, "softplus", 2),
        (3, "tanh", 3),
        (8, "silu", 4),
        (8, "softplus", 5),
    ]
]
DT = 0.5
BACKENDS = ["auto", "reference"]  # kernels where there are some, and torch


def network(d=3, activation="tanh", seed=0, *, hidden=(32, 16), gain=1.5, condition_dim=0):
    """A network in (q, p) whose curvature matters within a step of one half."""
    problem = make_problem(
        d=d, hidden=hidden, activation=activation, gain=gain, seed=seed, batch=(3,), condition_dim=condition_dim
    )
    H = HamiltonianMLP.from_sequential(sequential(problem), condition_dim=condition_dim)
    return H, problem.z0, problem.condition


def tao(z):
    """Not separable, and no network: Tao 2016, section III A."""
    q, p = z.chunk(2, dim=-1)
    return ((q.square() + 1) * (p.square() + 1)).sum(-1) / 2


# What is kept.


@pytest.mark.parametrize(("d", "activation", "seed"), NETWORKS)
@pytest.mark.parametrize("method", SYMPLECTIC)
def test_symplectic_for_any_energy(method, d, activation, seed):
    H, z, _ = network(d, activation, seed)
    assert diagnostics.symplectic_defect(H, z, DT, method).max() <= 1e-12
    determinant = torch.linalg.det(diagnostics.step_jacobian(H, z, DT, method))
    torch.testing.assert_close(determinant, torch.ones_like(determinant), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d", "activation", "seed"), NETWORKS)
@pytest.mark.parametrize("method", ["leapfrog", "euler"])
def test_the_same_measure_finds_what_is_not_symplectic(method, d, activation, seed):
    H, z, _ = network(d, activation, seed)
    assert diagnostics.symplectic_defect(H, z, DT, method).max() >= 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("d", "activation", "seed"), NETWORKS)
@pytest.mark.parametrize("method", SYMMETRIC)
def test_symmetric_methods_come_back(method, d, activation, seed, backend):
    H, z, _ = network(d, activation, seed)
    # A discrete gradient has differences of H over a step's length, and their rounding.
    allowed = 1e-10 if method == "discrete_gradient" else 1e-11
    assert diagnostics.reversibility_error(H, z, 0.2, 20, method, backend=backend).max() <= allowed


@pytest.mark.parametrize("method", ["leapfrog", "symplectic_euler", "euler"])
def test_the_others_do_not(method):
    H, z, _ = network()
    assert diagnostics.reversibility_error(H, z, 0.2, 20, method).max() >= 1e-3


def test_the_table_says_what_these_tests_show():
    methods = integrators.INTEGRATORS.values()
    assert [method.name for method in methods if method.symplectic == "always"] == SYMPLECTIC
    assert [method.name for method in methods if method.symmetric == "always"] == SYMMETRIC
    assert [method.name for method in methods if method.conserves_energy] == ["discrete_gradient"]


@pytest.mark.parametrize("H", [*(network(d, a, s)[0] for d, a, s in [(1, "silu", 2), (3, "tanh", 3)]), tao])
def test_discrete_gradient_keeps_the_energy(H):
    d = 1 if H is tao else H.dim // 2
    z = torch.randn(4, 2 * d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, energies = rollout(H, z, 0.2, 50, method="discrete_gradient", return_energy=True)
        _, others = rollout(H, z, 0.2, 50, method="stormer_verlet", return_energy=True)
    kept, lost = ((e - e[:, :1]).abs().amax() / e.abs().amax() for e in (energies, others))
    assert kept <= 1e-11
    assert lost >= 1e-4


# What is computed: the methods' equations again, solved by repetition.


def halves(H, q, p):
    return reference.gradient(H, torch.cat((q, p), dim=-1)).chunk(2, dim=-1)


def repeated(update, start):
    for _ in range(200):
        start = update(*start)
    return start


def stormer_verlet(H, q, p, h):
    """Hairer, Lubich, Wanner, Geometric Numerical Integration, eq. VI.3.4."""
    (middle,) = repeated(lambda m: (p - h / 2 * halves(H, q, m)[0],), (p,))
    velocity = halves(H, q, middle)[1]
    (end,) = repeated(lambda e: (q + h / 2 * (velocity + halves(H, e, middle)[1]),), (q,))
    return end, middle - h / 2 * halves(H, end, middle)[0]


def symplectic_euler(H, q, p, h):
    """The same, eq. VI.3.1 on the left."""
    (end,) = repeated(lambda e: (p - h * halves(H, q, e)[0],), (p,))
    return q + h * halves(H, q, end)[1], end


def implicit_midpoint(H, q, p, h):
    def update(x, y):
        dq, dp = halves(H, (q + x) / 2, (p + y) / 2)
        return q + h * dp, p - h * dq

    return repeated(update, (q, p))


def yoshida4(H, q, p, h):
    """Yoshida 1990, eq. 2.11."""
    outer, inner = 1 / (2 - 2 ** (1 / 3)), -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3))
    for part in (outer, inner, outer):
        q, p = stormer_verlet(H, q, p, part * h)
    return q, p


def discrete_gradient(H, q, p, h):
    """Gonzalez 1996, eq. 2 with the gradient halfway."""
    z = torch.cat((q, p), dim=-1)

    def update(x, y):
        end = torch.cat((x, y), dim=-1)
        change = end - z
        gradient = reference.gradient(H, (z + end) / 2)
        excess = H(end) - H(z) - (gradient * change).sum(-1)
        gradient = gradient + (excess / change.square().sum(-1)).unsqueeze(-1) * change
        dq, dp = gradient.chunk(2, dim=-1)
        return q + h * dp, p - h * dq

    return repeated(update, (q + h * halves(H, q, p)[1], p - h * halves(H, q, p)[0]))


BY_HAND = {f.__name__: f for f in (symplectic_euler, stormer_verlet, implicit_midpoint, yoshida4, discrete_gradient)}


@pytest.mark.parametrize("energy", ["network", "tao"])
@pytest.mark.parametrize("method", IMPLICIT)
def test_a_step_solves_the_methods_equations(method, energy):
    H, z = network()[:2] if energy == "network" else (tao, torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    with torch.no_grad():
        want = torch.cat(BY_HAND[method](H, *z.chunk(2, dim=-1), 0.1), dim=-1)
        got = rollout(H, z, 0.1, 1, method=method)[..., 1, :]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("binding", [0.0, 1.0, 20.0])
def test_an_extended_step_is_taos(binding):
    """Eqs. 1 and 2 of Tao 2016 written out, from equal copies."""
    H, z, _ = network(d=2)
    (q, p), h = z.chunk(2, dim=-1), 0.1
    x, y = q, p

    def first(q, p, x, y):
        dq, dy = halves(H, q, y)
        return q, p - h / 2 * dq, x + h / 2 * dy, y

    def second(q, p, x, y):
        dx, dp = halves(H, x, p)
        return q + h / 2 * dp, p, x, y - h / 2 * dx

    state = second(*first(q, p, x, y))
    angle = torch.tensor(2 * binding * h, dtype=torch.float64)
    c, s = torch.cos(angle), torch.sin(angle)
    both = torch.stack((state[0] - state[2], state[1] - state[3]))
    both = torch.stack((c * both[0] + s * both[1], -s * both[0] + c * both[1]))
    sums = torch.stack((state[0] + state[2], state[1] + state[3]))
    state = first(*second(*((sums + both) / 2), *((sums - both) / 2)))
    got = rollout(H, z, h, 1, method="extended", binding=binding)[:, 1]
    torch.testing.assert_close(got, torch.cat(state[:2], dim=-1), rtol=0, atol=1e-14)


# Steps that cannot be solved.


def walled(z):
    """No energy beyond |q| = 1: a state there has no motion."""
    q, p = z.chunk(2, dim=-1)
    return (p.square() / 2 - torch.log(1 - q.square()) * (1 + p.square())).sum(-1)


@pytest.mark.parametrize("method", IMPLICIT)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_failure_is_flagged_and_leaves_others_alone(method, grad):
    good = torch.tensor([[0.1, 0.2], [-0.3, 0.1]], dtype=torch.float64)
    bad = torch.tensor([[3.0, 0.0], [math.nan, 0.0], [0.0, math.inf]], dtype=torch.float64)
    z0 = torch.cat((good[:1], bad, good[1:]))
    with torch.set_grad_enabled(grad):
        want = rollout(walled, good, 0.05, 3, method=method)
        got, info = rollout(walled, z0, 0.05, 3, method=method, return_info=True)
    assert info.converged.shape == info.iterations.shape == info.residual.shape == (5, 3)
    assert info.converged.tolist() == [[True] * 3, *[[False] * 3] * 3, [True] * 3]
    assert (info.iterations[[0, 4]] > 0).all()
    assert (info.residual[[0, 4]] <= 1e-14).all()
    assert torch.equal(got[[0, 4]], want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", IMPLICIT)
def test_a_failed_sample_spoils_no_gradient(method, backend):
    """A NaN among the samples: the others' gradients, and those of the parameters, are those without it."""
    H, z0, _ = network(d=1, hidden=(5,))
    spoilt = torch.cat((z0, torch.full((1, 2), math.nan, dtype=torch.float64)))

    def gradients(z0):
        z0 = z0.clone().requires_grad_()
        dt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        trajectory, _ = rollout(H, z0, dt, 3, method=method, return_info=True, backend=backend)
        return torch.autograd.grad(trajectory[:3].square().sum(), (z0, dt, *H.layers.parameters()), allow_unused=True)

    for got, want in zip(gradients(spoilt), gradients(z0), strict=True):
        if want is None:  # the last layer's bias
            assert got is None or not got.any()
        else:
            torch.testing.assert_close(got[:3] if got.shape == spoilt.shape else got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", IMPLICIT)
def test_a_step_that_failed_is_constant(method, backend):
    H, z0, _ = network()
    z0.requires_grad_()
    trajectory, info = rollout(H, z0, 3.0, 1, method=method, max_iterations=1, return_info=True, backend=backend)
    assert not info.converged.any()
    (gradient,) = torch.autograd.grad(trajectory[:, 1].sum(), z0)
    assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", IMPLICIT)
def test_failures_are_told(method, backend):
    H, z0, _ = network()
    with pytest.warns(RuntimeWarning, match=r"3 of 3 trajectories were not solved to tol=1e-14 \(return_info=True"):
        rollout(H, z0, 3.0, 1, method=method, max_iterations=1, backend=backend)
    with pytest.warns(RuntimeWarning, match="1 of 1 trajectories"):
        rollout(H, z0[0], 3.0, 1, method=method, max_iterations=1, backend=backend)


@pytest.mark.parametrize("dt", [1.0, 10.0])
@pytest.mark.parametrize("method", ["implicit_midpoint", "discrete_gradient"])
def test_steps_beyond_contraction_are_solved(method, dt):
    """For H = z S z / 2 both are Cayley's map of J S, whatever dt; repetition diverges here."""
    S = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    S, one = S + S.T, torch.eye(6, dtype=torch.float64)
    z = network()[1]
    M = dt / 2 * reference.rotate(S).T  # J S, from the columns of a symmetric S
    assert torch.linalg.eigvals(M).abs().max() > 1
    got, info = rollout(lambda z: ((z @ S) * z).sum(-1) / 2, z, dt, 1, method=method, return_info=True)
    assert info.converged.all()
    want = torch.linalg.solve(one - M, (one + M) @ z.T).T
    torch.testing.assert_close(got[:, 1], want, rtol=0, atol=1e-10)


def test_explicit_methods_solve_nothing():
    H, z0, _ = network()
    for method in ("euler", "leapfrog", "extended"):
        _, info = rollout(H, z0, 0.1, 2, method=method, return_info=True)
        assert info.converged.all()
        assert not info.iterations.any()
        assert not info.residual.any()


@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_the_tolerance_is_met(tol):
    H, z0, _ = network()
    _, info = rollout(H, z0, DT, 5, method="implicit_midpoint", tol=tol, return_info=True)
    assert info.converged.all()
    assert info.residual.max() <= tol
    assert info.residual.max() > 1e-13  # and no more is done


@pytest.mark.parametrize("method", SYMPLECTIC)
def test_a_step_solved_roughly_is_as_symplectic(method):
    """Its Jacobian has exact Hessians at one point, wherever that is; the states are what the tolerance costs."""
    H, z, _ = network()
    assert diagnostics.symplectic_defect(H, z, DT, method, tol=1e-2).max() <= 1e-12
    rough, fine = (rollout(H, z, DT, 1, method=method, tol=tol) for tol in (1e-2, None))
    assert (rough - fine).abs().max() > 1e-6


# Gradients.


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_every_input(method):
    H, z0, condition = network(d=1, hidden=(3,), condition_dim=1)
    dt = torch.tensor(0.3, dtype=torch.float64)
    leaves = [x.detach().requires_grad_() for x in (z0[:1], dt, condition[:1])]

    def roll(z0, dt, condition, *_):
        return rollout(H, z0, dt, 2, method=method, condition=condition, return_energy=True, backend="reference")

    assert torch.autograd.gradcheck(roll, (*leaves, *H.parameters()), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("method", IMPLICIT)
def test_gradients_of_many_stiff_coordinates(method):
    """More unknowns than the solver keeps directions, and a step at which no plain iteration contracts."""
    H, z, _ = network(d=60, hidden=(128,), gain=2.0)
    z = z[:1].requires_grad_()
    weights = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def end(z):
        trajectory, info = rollout(H, z, 1.0, 1, method=method, return_info=True)
        assert info.converged.all()
        return (trajectory[:, 1] * weights).sum()

    (got,) = torch.autograd.grad(end(z), z)
    direction = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ahead, behind = (end(z + s * 1e-5 * direction) for s in (1, -1))
    assert ((got * direction).sum() - (ahead - behind) / 2e-5).abs() <= 1e-6 * got.norm() * direction.norm()


@pytest.mark.parametrize("method", IMPLICIT)
def test_a_second_derivative_is_refused(method):
    H, z0, _ = network()
    z0.requires_grad_()
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(rollout(H, z0, 0.1, 1, method=method, backend="reference").sum(), z0, create_graph=True)


# Every way to call.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dt", [0.1, 2.0])
def test_no_grad_and_inference_mode(method, dt, backend):
    """A large dt too: there Newton's method needs derivatives in inference mode."""
    H, z0, condition = network(condition_dim=2)
    call = {"method": method, "return_energy": True, "return_info": True, "backend": backend}
    want = rollout(H, z0, dt, 2, condition=condition, **call)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = rollout(H, z0.clone(), dt, 2, condition=condition.clone(), **call)
            assert not got[0].requires_grad
            assert torch.equal(got[2].converged, want[2].converged)
            torch.testing.assert_close(got[:2], want[:2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
def test_shapes(method, batch, steps):
    H, _, _ = network(condition_dim=2)
    generator = torch.Generator().manual_seed(4)
    z0, condition = (torch.randn(*batch, n, dtype=torch.float64, generator=generator) for n in (6, 2))
    trajectory, energies, info = rollout(
        H, z0, 0.1, steps, method=method, condition=condition, return_energy=True, return_info=True
    )
    assert trajectory.shape == (*batch, steps + 1, 6)
    assert energies.shape == (*batch, steps + 1)
    assert all(part.shape == (*batch, steps) for part in info)
    assert (info.converged.dtype, info.iterations.dtype) == (torch.bool, torch.int64)
    assert info.converged.all()
    assert torch.equal(trajectory[..., 0, :], z0)
    assert trajectory.data_ptr() != z0.data_ptr() or not z0.numel()
    for index in itertools.product(*map(range, batch)):
        alone = rollout(H, z0[index], 0.1, steps, method=method, condition=condition[index])
        torch.testing.assert_close(trajectory[index], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_float32(method, backend):
    H, z0, _ = network()
    want = rollout(H, z0, 0.1, 5, method=method)
    got, info = rollout(H.float(), z0.float(), 0.1, 5, method=method, return_info=True, backend=backend)
    assert got.dtype == torch.float32
    assert info.converged.all()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_backward_in_time(method):
    """A step of -dt is a step of dt for -H."""
    H, z0, _ = network()
    back = rollout(H, z0, -0.1, 2, method=method, backend="reference")
    mirrored = rollout(lambda z: -H(z), z0, 0.1, 2, method=method, binding=-1.0)
    torch.testing.assert_close(back, mirrored, rtol=0, atol=1e-12)


# What may be asked for.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("structure", ["symplectic", "symmetric", "energy"])
def test_required_structure(method, structure):
    H, z0, _ = network()
    keeps = {"symplectic": SYMPLECTIC, "symmetric": SYMMETRIC, "energy": ["discrete_gradient"]}[structure]
    if method in keeps:
        assert rollout(H, z0, 0.1, 1, method=method, require=structure).shape == (3, 2, 6)
        return
    with pytest.raises(ValueError, match=rf"method='{method}' does not keep '{structure}' structure") as caught:
        rollout(H, z0, 0.1, 1, method=method, require=structure)
    assert all(repr(name) in str(caught.value) for name in keeps)
    assert ("for separable H" in str(caught.value)) == (method == "leapfrog" and structure != "energy")


def test_required_structure_of_a_separable_energy():
    def oscillator(z):
        return (z.square() / 2).sum(-1)

    oscillator.separable = True
    z0 = torch.ones(2, dtype=torch.float64)
    assert rollout(oscillator, z0, 0.1, 1, method="leapfrog", require="symplectic").shape == (2, 2)
    with pytest.raises(ValueError, match="does not keep 'symplectic' structure for a separable H;"):
        rollout(oscillator, z0, 0.1, 1, method="euler", require="symplectic")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tol": 0.0}, ValueError, r"tol must be a positive number or None, got 0\.0"),
        ({"tol": math.nan}, ValueError, "tol must be a positive number or None, got nan"),
        ({"tol": math.inf}, ValueError, "tol must be a positive number or None, got inf"),
        ({"tol": "1e-6"}, ValueError, "tol must be a positive number or None, got '1e-6'"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be one or more, got 0"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations must be an integer, got float"),
        ({"max_iterations": True}, TypeError, "max_iterations must be an integer, got bool"),
        ({"binding": math.inf}, ValueError, "binding must be a finite number, got inf"),
        ({"binding": "1"}, ValueError, "binding must be a finite number, got '1'"),
        ({"require": "volume"}, ValueError, "require must be 'symplectic', 'symmetric' or 'energy', got 'volume'"),
    ],
    ids=str,
)
def test_bad_settings(method, options, error, message):
    H, z0, _ = network()
    with pytest.raises(error, match=message):
        rollout(H, z0, 0.1, 2, method=method, **options)


def test_the_documented_table_is_the_table():
    words = {"always": "every H", "separable": "separable H", "never": "no", "extended": "doubled space"}
    want = []
    for method in integrators.INTEGRATORS.values():
        solves = "no" if method.explicit else "not for separable H" if method.explicit_if_separable else "yes"
        same = method.order == method.order_if_separable
        want.append([
            f'`"{method.name}"`',
            str(method.gradient_evaluations),
            solves,
            str(method.order) if same else f"{method.order}, separable H {method.order_if_separable}",
            words[method.symplectic],
            words[method.symmetric],
            "every H" if method.conserves_energy else "no",
            method.source,
        ])  # fmt: skip
    page = (Path(__file__).parent.parent / "docs" / "api" / "integrators.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith('| `"')]
    assert rows == want


def test_unknown_method():
    H, z0, _ = network()
    with pytest.raises(ValueError, match=r"method must be one of 'euler', 'symplectic_euler', .*, got 'verlet'"):
        rollout(H, z0, 0.1, 2, method="verlet")


@pytest.mark.parametrize("method", IMPLICIT)
def test_what_implicit_methods_cannot_do_is_said(method):
    H, z0, _ = network()
    with pytest.raises(ValueError, match=f"method='{method}' solves equations"):
        torch.func.vmap(lambda z: rollout(H, z, 0.1, 1, method=method))(z0)


def test_leapfrog_under_its_own_name():
    H, z0, _ = network()
    assert torch.equal(leapfrog_rollout(H, z0, 0.1, 2), rollout(H, z0, 0.1, 2, method="leapfrog"))
