"""Rollouts by the discrete Euler-Lagrange equations: exact systems, structure, gradients, failures."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from hamiltorch_ext import DiscreteLagrangianMLP, MechanicalLagrangian, del_rollout
from hamiltorch_ext.lagrangians import D1, D1D2, D2, discrete_lagrangian, momenta
from hamiltorch_ext.variational import del_residual, initialize_from_state, regularity_penalty

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tensor(*values, **options):
    return torch.tensor(values, dtype=F64, **options)


def oscillator(q0, q1, dt, omega=1.3):
    """The exact discrete Lagrangian of q'' = -omega^2 q: its solutions are samples of the motion itself."""
    phase = torch.as_tensor(omega * dt, dtype=F64)
    squares = (q0.square() + q1.square()).sum(-1)
    return omega / (2 * torch.sin(phase)) * (squares * torch.cos(phase) - 2 * (q0 * q1).sum(-1))


def pendulum(q, v):
    return 0.5 * v[..., 0].square() + torch.cos(q[..., 0])


def kepler(q, v):
    return 0.5 * v.square().sum(-1) + 1 / q.norm(dim=-1)


def double_pendulum(q, v):
    (a, b), (va, vb) = q.unbind(-1), v.unbind(-1)
    kinetic = va.square() + 0.5 * vb.square() + va * vb * torch.cos(a - b)
    return kinetic + 2 * torch.cos(a) + torch.cos(b)


SYSTEMS = {
    "pendulum": (pendulum, tensor(1.2), tensor(0.3)),
    "kepler": (kepler, tensor(1.0, 0.0), tensor(0.0, 1.1)),
    "double pendulum": (double_pendulum, tensor(1.0, -0.5), tensor(0.1, 0.4)),
}


def start(name, rule="midpoint", dt=0.05):
    """A system's discrete Lagrangian and its first two points."""
    L, q0, v0 = SYSTEMS[name]
    action = discrete_lagrangian(L, rule)
    v = v0.clone().requires_grad_()
    (p0,) = torch.autograd.grad(L(q0, v), v)
    return action, q0, initialize_from_state(action, q0, p0, dt=dt, tol=1e-14)


def energies(L, q, dt):
    """Of the motion between neighbouring points, (..., n): velocity times momentum less the Lagrangian."""
    v = ((q[..., 1:, :] - q[..., :-1, :]) / dt).requires_grad_()
    value = L((q[..., 1:, :] + q[..., :-1, :]) / 2, v)
    (p,) = torch.autograd.grad(value.sum(), v)
    return (p * v).sum(-1) - value


@pytest.mark.parametrize("dt", [0.1, 0.9, -0.1])
def test_oscillator_is_exact(dt):
    times = dt * torch.arange(202, dtype=F64)
    amplitude = torch.randn(3, 2, dtype=F64)
    phase = torch.randn(3, 2, dtype=F64)
    truth = amplitude.unsqueeze(1) * torch.cos(1.3 * times.unsqueeze(-1) + phase.unsqueeze(1))
    got = del_rollout(oscillator, truth[:, 0], truth[:, 1], 200, dt=dt, tol=1e-14)
    assert (got - truth).abs().max() < 1e-10


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_equations_are_solved_to_rounding(name, rule):
    action, q0, q1 = start(name, rule)
    q, info = del_rollout(action, q0, q1, 100, dt=0.05, tol=1e-13, return_info=True)
    assert info.converged.all()
    assert del_residual(action, q, dt=0.05).abs().max() < 1e-11
    assert (info.smallest_pivot[1:] > 0.01).all()


@pytest.mark.parametrize("name", SYSTEMS)
def test_energy_stays(name):
    action, q0, q1 = start(name)
    q = del_rollout(action, q0, q1, 600, dt=0.05, tol=1e-12)
    energy = energies(SYSTEMS[name][0], q, 0.05)
    early, late = energy[:300], energy[-300:]
    assert (energy - energy[0]).abs().max() < 0.02
    assert abs(late.mean() - early.mean()) < 0.2 * (early.max() - early.min())


@pytest.mark.parametrize("name", SYSTEMS)
def test_newton_converges_quadratically(name):
    action, q0, q1 = start(name, dt=0.3)
    q1 = q1 + 0.2
    errors = []
    for most in range(1, 8):
        _, info = del_rollout(action, q0, q1, 1, dt=0.3, tol=1e-15, max_iterations=most, return_info=True)
        errors.append(info.residual.item())
    falling = [(a, b) for a, b in pairwise(errors) if 1e-7 < a < 1e-1]
    assert falling
    for before, after in falling:
        assert after < 20 * before**2 + 1e-14


def test_momenta_match():
    action, q0, q1 = start("double pendulum")
    q = del_rollout(action, q0, q1, 50, dt=0.05, tol=1e-14)
    leaving, arriving = momenta(action, q[:-1], q[1:], 0.05)
    assert (arriving[:-1] - leaving[1:]).abs().max() < 1e-12


def test_symmetry_keeps_its_momentum():
    action, q0, q1 = start("kepler")
    q = del_rollout(action, q0, q1, 500, dt=0.05, tol=1e-14)
    _, p = momenta(action, q[:-1], q[1:], 0.05)
    angular = q[1:, 0] * p[:, 1] - q[1:, 1] * p[:, 0]
    assert (angular - angular[0]).abs().max() < 1e-11


def test_trapezoid_rule_is_stormer_verlet():
    L = MechanicalLagrangian(3, (16,), "tanh", rule="trapezoid", dtype=F64)
    q0 = torch.randn(5, 3, dtype=F64)
    q1 = q0 + 0.1 * torch.randn(5, 3, dtype=F64)
    got = del_rollout(L, q0, q1, 20, dt=0.1, tol=1e-14)
    points = [q0, q1]
    with torch.no_grad():
        for _ in range(20):
            force = -L.potential.gradient(points[-1])
            points.append(2 * points[-1] - points[-2] + 0.01 * force / L.mass(points[-1]))
    assert (got - torch.stack(points, 1)).abs().max() < 1e-12


def disturbed(L):
    """Off the masses of one that modules begin with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in L.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return L


def networks(d):
    yield disturbed(DiscreteLagrangianMLP(d, (2 * d + 3,), "tanh", dtype=F64))
    yield disturbed(MechanicalLagrangian(d, (9, 5), "silu", mass="network", dtype=F64))


@pytest.mark.parametrize("d", [1, 3, 17, 64])
@pytest.mark.parametrize("which", [0, 1])
def test_against_a_newton_of_its_own(d, which):
    """float64, one sample at a time, matrix by torch.func, no line search."""
    L = list(networks(d))[which]
    q0 = torch.randn(2, d, dtype=F64)
    q1 = q0 + 0.1 * torch.randn(2, d, dtype=F64)
    q, info = del_rollout(L, q0, q1, 3, dt=0.1, tol=1e-13, return_info=True)
    assert info.converged.all()

    def action(a, b):
        return torch.func.functional_call(L, dict(L.named_parameters()), (a, b, 0.1))

    with torch.no_grad():
        for sample in range(2):
            a, b = q0[sample], q1[sample]
            for k in range(3):
                carried = torch.func.grad(action, 1)(a, b)

                def equations(x, b=b, carried=carried):
                    return carried + torch.func.grad(action, 0)(b, x)

                x = 2 * b - a
                for _ in range(12):
                    x = x - torch.linalg.solve(torch.func.jacrev(equations)(x), equations(x))
                assert (x - q[sample, k + 2]).abs().max() < 1e-10
                a, b = b, x


def test_slots_and_mixed_hessian():
    for L in networks(4):
        q0, q1 = torch.randn(2, 5, 4, dtype=F64)
        for i in range(5):
            at = (q0[i], q1[i])
            first, second = torch.autograd.functional.jacobian(lambda a, b, L=L: L(a, b, 0.2), at)
            mixed = torch.autograd.functional.hessian(lambda a, b, L=L: L(a, b, 0.2), at)[0][1]
            torch.testing.assert_close(D1(L, q0, q1, 0.2)[i], first)
            torch.testing.assert_close(D2(L, q0, q1, 0.2)[i], second)
            torch.testing.assert_close(D1D2(L, q0, q1, 0.2)[i], mixed)


@pytest.mark.parametrize(
    "L",
    [
        disturbed(DiscreteLagrangianMLP(2, (4,), "tanh", condition_dim=1, dtype=F64)),
        disturbed(MechanicalLagrangian(2, (3,), "silu", mass="network", condition_dim=1, dtype=F64)),
    ],
    ids=["discrete", "mechanical"],
)
def test_gradients(L):
    inputs = {
        "q0": torch.randn(2, 2, dtype=F64),
        "q1": torch.randn(2, 2, dtype=F64),
        "dt": tensor(0.3)[0],
        "forces": 0.1 * torch.randn(2, 2, 2, dtype=F64),
        "damping": tensor(0.2, 0.1),
        "condition": torch.randn(2, 1, dtype=F64),
    }
    parameters = dict(L.named_parameters())
    names, leaves = [*inputs, *parameters], [*inputs.values(), *(p.detach().clone() for p in parameters.values())]
    for leaf in leaves:
        leaf.requires_grad_()

    def roll(*values):
        given = dict(zip(names, values, strict=True))
        options = {name: given.pop(name) for name in inputs}

        def action(q0, q1, dt, condition):
            return torch.func.functional_call(L, given, (q0, q1, dt, condition))

        return del_rollout(action, options.pop("q0"), options.pop("q1"), 2, tol=1e-13, **options)

    assert torch.autograd.gradcheck(roll, leaves, atol=1e-7)


def test_gradients_of_a_start():
    L = next(networks(2))
    q0, p0 = torch.randn(2, 3, 2, dtype=F64, requires_grad=True)

    def begin(q0, p0):
        return initialize_from_state(L, q0, p0, dt=0.2, tol=1e-13)

    assert torch.autograd.gradcheck(begin, [q0, p0])
    assert torch.allclose(-D1(L, q0, begin(q0, p0), 0.2), p0)


def test_friction_takes_energy():
    action, q0, q1 = start("pendulum")
    q = del_rollout(action, q0, q1, 400, dt=0.05, damping=0.3, tol=1e-12)
    energy = energies(pendulum, q, 0.05)
    assert (energy[1:] <= energy[:-1] + 1e-4).all()
    assert energy[-1] < -0.9  # near rest at -1


def test_friction_of_a_free_particle():
    def free(q, v):
        return 0.5 * v.square().sum(-1)

    # (1 + c h / 2) (q2 - q1) = (1 - c h / 2) (q1 - q0)
    q = del_rollout(discrete_lagrangian(free), tensor(0.0), tensor(1.0), 5, dt=0.1, damping=2.0, tol=1e-14)
    ratios = q.diff(dim=0)[1:] / q.diff(dim=0)[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 0.9 / 1.1))


def test_discrete_forces():
    """Linear friction as a function is friction; a function's own parameters are differentiated by as well."""
    action, q0, q1 = start("double pendulum")

    def friction(q0, q1, dt, coefficient=0.3):
        force = -coefficient * (q1 - q0) / 2
        return force, force

    want = del_rollout(action, q0, q1, 20, dt=0.05, damping=0.3, tol=1e-13)
    got = del_rollout(action, q0, q1, 20, dt=0.05, discrete_forces=friction, tol=1e-13)
    assert not got.requires_grad
    torch.testing.assert_close(got, want)
    assert del_residual(action, got, dt=0.05, discrete_forces=friction).abs().max() < 1e-11
    with pytest.raises(ValueError, match=r"discrete_forces must return two of \(1, 2\) here, got \(1, 1\)"):
        del_rollout(action, q0, q1, 1, dt=0.05, discrete_forces=lambda a, b, dt: (a[..., :1], b))

    def roll(q1, coefficient, condition):
        def drag(q0, q1, dt, condition):
            v = (q1 - q0) / dt
            force = -dt * coefficient * condition * v * v.norm(dim=-1, keepdim=True) / 2
            return force, 0.5 * force

        L = discrete_lagrangian(lambda q, v, condition: double_pendulum(q, v))
        return del_rollout(L, q0.expand(2, 2), q1, 3, dt=0.2, discrete_forces=drag, condition=condition, tol=1e-13)

    inputs = [q1.expand(2, 2).clone(), tensor(0.4)[0], tensor(1.0, 2.0)[:, None]]
    assert torch.autograd.gradcheck(roll, [x.requires_grad_() for x in inputs])


def test_impulses():
    def free(q, v):
        return 0.5 * v.square().sum(-1)

    impulses = torch.randn(4, 6, 2, dtype=F64)
    q0 = torch.randn(4, 2, dtype=F64)
    q = del_rollout(discrete_lagrangian(free), q0, q0, 6, dt=0.1, forces=impulses, tol=1e-14)
    torch.testing.assert_close(q.diff(dim=1)[:, 1:], 0.1 * impulses.cumsum(1))


def test_constraint():
    """A pendulum as a point on a circle is the pendulum of its angle, to the rule's order."""

    def point(q, v):
        return 0.5 * v.square().sum(-1) - q[..., 1]

    def circle(q):
        return q.square().sum(-1, keepdim=True) - 1

    def place(angle):
        return torch.stack((torch.sin(angle), -torch.cos(angle)), dim=-1)

    errors = []
    for dt, steps in ((0.02, 100), (0.01, 200)):
        action, a0, a1 = start("pendulum", dt=dt)
        angle = del_rollout(action, a0, a1, steps, dt=dt, tol=1e-12)[..., 0]
        q, info = del_rollout(
            discrete_lagrangian(point), place(a0[0]), place(a1[0]), steps, dt=dt, tol=1e-13, constraint=circle,
            return_info=True,
        )  # fmt: skip
        assert info.converged.all()
        assert circle(q).abs().max() < 1e-11
        errors.append((q - place(angle)).abs().max().item())
    assert errors[0] < 1e-2
    assert errors[1] < 0.35 * errors[0]


def test_gradients_under_a_constraint():
    def action(q0, q1, dt, stiffness):
        middle = (q0 + q1) / 2
        return ((q1 - q0).square().sum(-1) / dt - dt * (stiffness * middle.square()).sum(-1)) / 2

    q0 = nn.functional.normalize(torch.randn(3, 2, dtype=F64), dim=-1).requires_grad_()
    q1 = nn.functional.normalize(q0.detach() + 0.1, dim=-1).requires_grad_()
    stiffness = tensor(1.0, 2.0, requires_grad=True)

    def roll(q0, q1, stiffness):
        return del_rollout(
            lambda a, b, dt: action(a, b, dt, stiffness), q0, q1, 3, dt=0.2, tol=1e-13,
            constraint=lambda q: q.square().sum(-1, keepdim=True) - 1,
        )  # fmt: skip

    assert torch.autograd.gradcheck(roll, [q0, q1, stiffness])


class TestFailures:
    """A sample that cannot be solved is told of, and leaves the others alone."""

    @pytest.fixture(name="L")
    def lagrangian(self):
        return DiscreteLagrangianMLP(2, (8,), "tanh", dtype=F64)

    def problem(self):
        q0 = torch.randn(5, 2, dtype=F64)
        return q0, q0 + 0.1 * torch.randn(5, 2, dtype=F64)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", [0, 1])
    def test_not_finite(self, L, value, where):
        q = self.problem()
        want = del_rollout(L, *q, 4, dt=0.1)
        q[where][2, 0] = value
        for leaf in q:
            leaf.requires_grad_()
        got, info = del_rollout(L, *q, 4, dt=0.1, return_info=True)
        others = torch.tensor([0, 1, 3, 4])
        assert not info.converged[2].any()
        assert info.converged[others].all()
        torch.testing.assert_close(got[others], want[others])
        gradients = torch.autograd.grad(got[others].square().sum(), [*q, *L.parameters()], allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)
        assert (gradients[0][2] == 0).all()

    def test_singular(self):
        """A network narrower than d has a mixed Hessian of too small a rank."""
        network = nn.Sequential(nn.Linear(6, 2, dtype=F64), nn.Tanh(), nn.Linear(2, 1, dtype=F64))

        def action(q0, q1, dt):
            return network(torch.cat((q0, q1), dim=-1)).squeeze(-1)

        q0, q1 = torch.randn(2, 20, 3, dtype=F64)
        with pytest.warns(RuntimeWarning, match="of 20 trajectories were not solved"):
            del_rollout(action, q0, q1, 1, dt=0.1, tol=1e-10)
        _, info = del_rollout(action, q0, q1, 1, dt=0.1, tol=1e-10, return_info=True)
        assert not info.converged.any()
        assert (info.smallest_pivot < 1e-12).all()

    def test_a_solution_without_a_derivative(self):
        """The zero Lagrangian is solved by anything: the same points with gradients recorded as without."""
        scale = torch.ones((), dtype=F64, requires_grad=True)

        def nothing(q0, q1, dt):
            return 0 * scale * (q0 * q1).sum(-1)

        q0, q1 = self.problem()
        with torch.no_grad():
            want = del_rollout(nothing, q0, q1, 2, dt=0.1)
        got = del_rollout(nothing, q0, q1, 2, dt=0.1)
        assert torch.isfinite(want).all()
        assert torch.equal(got, want)

    def test_no_later_step_converges(self, L):
        q0, q1 = self.problem()
        _, whole = del_rollout(L, q0, q1, 4, dt=0.1, tol=1e-12, return_info=True)
        assert (whole.iterations > 1).all()
        _, info = del_rollout(L, q0, q1, 4, dt=0.1, tol=1e-12, max_iterations=1, return_info=True)
        assert not info.converged.any()
        assert torch.isfinite(info.residual).all()

    def test_a_failure_lasts(self, L):
        q0, q1 = self.problem()
        forces = torch.zeros(5, 3, 2, dtype=F64)
        forces[1, 0] = math.nan
        q, info = del_rollout(L, q0, q1, 3, dt=0.1, forces=forces, return_info=True)
        assert (info.residual[1, 1:] < 1e-6).all()  # they solve the equations, but from a wrong point
        assert info.converged.all(-1).tolist() == [True, False, True, True, True]
        assert not info.converged[1].any()
        assert torch.isfinite(q).all()

    def test_the_line_search_is_needed(self):
        """Newton's own steps diverge on the arctangent from beyond 1.39."""

        def action(q0, q1, dt):
            return -(q0 * torch.atan(q1)).sum(-1)

        q, info = del_rollout(action, tensor(0.0), tensor(2.0), 1, dt=0.1, tol=1e-12, return_info=True)
        assert info.converged.all()
        assert abs(q[2].item()) < 1e-11

    def test_hostile_starts(self):
        """Huge steps, far starts, near-singular systems: solved, as the residual confirms, or flagged."""
        for L in networks(3):
            with torch.no_grad():
                for p in L.parameters():
                    p.mul_(3)
            q0, q1 = 30 * torch.randn(2, 300, 3, dtype=F64)
            for dt in (0.01, 1.0, 30.0):
                q, info = del_rollout(L, q0, q1, 1, dt=dt, tol=1e-9, return_info=True)
                r = del_residual(L, q, dt=dt)
                scale = 1 + D2(L, q0, q1, dt).abs().amax(-1, keepdim=True)
                error = r.abs().amax(-1) / scale
                solved = info.converged
                assert (error[solved] < 1e-8).all()
                assert solved.any()


def test_residual_and_penalty_train():
    """Both losses reach every parameter, and the penalty sees a singular system."""
    L = DiscreteLagrangianMLP(2, (8,), "tanh", dtype=F64)
    q = torch.randn(4, 6, 2, dtype=F64)
    loss = del_residual(L, q, dt=0.1).square().mean()
    loss = loss + regularity_penalty(L, q[:, 0], q[:, 1], dt=0.1, least=5.0)
    gradients = torch.autograd.grad(loss, list(L.parameters()), allow_unused=True)
    assert [name for (name, _), g in zip(L.named_parameters(), gradients, strict=True) if g is None] == [
        "network.layers.1.bias"
    ]
    zero = regularity_penalty(lambda a, b, dt: 0 * (a * b).sum(-1), q[:, 0], q[:, 1], dt=0.1)
    assert zero.item() == pytest.approx(1.0)
    assert regularity_penalty(oscillator, q[:, 0], q[:, 1], dt=0.1).item() == 0


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_shapes(shape, steps):
    L = DiscreteLagrangianMLP(2, (5,), condition_dim=1)
    q0 = torch.randn(*shape, 2)
    q, info = del_rollout(L, q0, q0, steps, dt=0.1, forces=torch.zeros(2), condition=torch.ones(1), return_info=True)
    assert q.shape == (*shape, steps + 2, 2)
    assert all(field.shape == (*shape, steps) for field in info)
    assert info.converged.all()
    assert q.dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    L = DiscreteLagrangianMLP(2, (5,), condition_dim=1, dtype=F64)
    q0, q1 = torch.randn(2, 4, 2, dtype=F64)
    condition = torch.randn(4, 1, dtype=F64)
    want = del_rollout(L, q0, q1, 3, dt=0.1, condition=condition)
    with mode():
        got = del_rollout(L, q0.clone(), q1.clone(), 3, dt=0.1, condition=condition.clone())
    assert not got.requires_grad
    torch.testing.assert_close(got, want)


def test_float32_reaches_the_tolerance():
    L = MechanicalLagrangian(4, (32, 32))
    q0 = torch.randn(64, 4)
    with torch.no_grad():
        _, info = del_rollout(L, q0, q0 + 0.01 * torch.randn(64, 4), 40, dt=0.01, return_info=True)
    assert info.converged.all()


def test_gradient_by_a_constraints_parameter():
    """Of a free point on a circle of radius a: its angle grows evenly, wherever the radius puts it."""
    radius = tensor(1.0, requires_grad=True)[0]

    def free(q0, q1, dt):
        return (q1 - q0).square().sum(-1) / (2 * dt)

    angles = torch.tensor([0.0, 0.1], dtype=F64)
    q0, q1 = torch.stack((torch.cos(angles), torch.sin(angles)), dim=-1)
    q = del_rollout(
        free, q0, q1, 1, dt=0.1, tol=1e-13, constraint=lambda q: q.norm(dim=-1, keepdim=True) - radius
    )  # fmt: skip
    torch.testing.assert_close(q[2], torch.stack((torch.cos(2 * angles[1]), torch.sin(2 * angles[1]))))
    (gradient,) = torch.autograd.grad(q[2] @ q[2], radius)  # the square of the radius
    torch.testing.assert_close(gradient, tensor(2.0)[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q0": [1.0]}, TypeError, "q0 must be a torch.Tensor, got list"),
        ({"q0": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "q0 must be float32 or float64, got torch.int64"),
        ({"q0": torch.tensor(1.0)}, ValueError, r"q0 must have shape \(\.\.\., d\)"),
        ({"q0": torch.ones(3, 5), "q1": torch.ones(3, 5)}, ValueError, r"q0 must have shape \(\.\.\., 2\) for this L"),
        ({"q1": torch.ones(4, 2)}, ValueError, r"q1 must have q0's shape, \(3, 2\), got \(4, 2\)"),
        ({"q1": torch.ones(3, 2, dtype=F64)}, TypeError, "q1 must be torch.float32"),
        ({"steps": -1}, ValueError, "steps must be 0 or more, got -1"),
        ({"steps": 1.0}, TypeError, "steps must be an integer, got float"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be 1 or more, got 0"),
        ({"tol": 0.0}, ValueError, "tol must be a positive number, got 0.0"),
        ({"tol": math.nan}, ValueError, "tol must be a positive number"),
        ({"dt": math.nan}, ValueError, "dt must be finite and not zero, got nan"),
        ({"dt": 0.0}, ValueError, "dt must be finite and not zero, got 0.0"),
        ({"dt": torch.ones(2)}, ValueError, "dt must be a float or a 0-d"),
        ({"dt": "0.1"}, TypeError, "dt must be a float or a 0-d tensor, got str"),
        ({"forces": torch.ones(3, 4, 2)}, ValueError, r"forces must have shape \(3, 2, 2\), got \(3, 4, 2\)"),
        ({"damping": math.inf}, ValueError, "damping must be a finite number"),
        ({"condition": torch.ones(3, 1)}, ValueError, "condition must be None"),
        ({"constraint": lambda q: q.sum(-1)}, ValueError, r"constraint must return \(\.\.\., m\)"),
        ({"L": lambda a, b, dt: a}, ValueError, r"L must return actions of shape \(3,\) here, got \(3, 2\)"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    arguments = {
        "L": DiscreteLagrangianMLP(2, (5,)), "q0": torch.ones(3, 2), "q1": torch.ones(3, 2), "steps": 2, "dt": 0.1,
    }  # fmt: skip
    arguments.update(change)
    with pytest.raises(error, match=message):
        del_rollout(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MechanicalLagrangian(2, mass="heavy"), "mass must be 'constant' or 'network', got 'heavy'"),
        (lambda: MechanicalLagrangian(2, rule="simpson"), "rule must be one of midpoint, trapezoid, got 'simpson'"),
        (lambda: MechanicalLagrangian(0), "dim must be positive, got 0"),
        (lambda: DiscreteLagrangianMLP(-1), "dim must be positive, got -1"),
        (lambda: DiscreteLagrangianMLP(2, activation="relu"), "activation must be one of"),
    ],
)
def test_bad_modules(make, message):
    with pytest.raises(ValueError, match=message):
        make()
