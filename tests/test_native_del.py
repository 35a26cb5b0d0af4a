"""The native discrete Euler-Lagrange rollouts against torch's: values, gradients, status, on every instruction set."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from helpers import on_threads
from motions import ACTIVATIONS, F64, bound_of_hessian, left_of, problem, roll, values_and_gradients

from hamiltorch_ext import DiscreteLagrangianMLP, MechanicalLagrangian, del_rollout
from hamiltorch_ext.lagrangians import D1, D2, ActionMLP, describe_action
from hamiltorch_ext.mlp import ScalarMLP
from hamiltorch_ext.variational import del_residual


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(L, arguments, steps, tolerance=1e-9, **options):
    got = values_and_gradients(L, arguments, steps, "native", tol=1e-13, **options)
    want = values_and_gradients(L, arguments, steps, "reference", tol=1e-13, **options)
    assert want[1].converged.all()
    assert got[1].converged.all()
    assert (got[0] - want[0]).abs().max() < tolerance * (1 + want[0].abs().max())
    for name, g in want[2].items():
        assert (got[2][name] - g).abs().max() < tolerance * (1 + g.abs().max()), name


@pytest.mark.parametrize("kind", ["discrete", "midpoint", "trapezoid"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_lagrangian(kind, activation):
    L, arguments = problem(3, kind=kind, activation=activation, condition_dim=2)
    assert_same(L, arguments, 4)


@pytest.mark.parametrize(
    ("d", "hidden", "batch"),
    [(1, (1,), 1), (2, (40,), 3), (5, (7, 65, 3), 61), (17, (33, 16), 29), (31, (8, 8, 8, 8), 2), (64, (20, 70), 4)],
)
def test_sizes(d, hidden, batch, instruction_set):
    L, arguments = problem(d, hidden, batch, 3)
    assert_same(L, arguments, 3)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    L, arguments = problem(6, (64, 64), 67, 5, condition_dim=3)
    with on_threads(threads):
        assert_same(L, arguments, 5)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("d", "hidden", "batch"), [(5, (700, 700), 1), (33, (400, 300, 350), 3), (40, (1500,), 2)], ids=str
)
def test_large_networks_are_shared_among_threads(d, hidden, batch, threads):
    """Samples fewer than threads, or so few that weights are read for each: one team, in step."""
    L, arguments = problem(d, hidden, batch, 3, condition_dim=1)
    with on_threads(threads):
        assert_same(L, arguments, 3)
        first, second = (values_and_gradients(L, arguments, 3, "native") for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, g in first[2].items():
        assert torch.equal(g, second[2][name]), name


@pytest.mark.parametrize("threads", [2, 3])
def test_matrices_of_shared_networks(threads):
    L, arguments = problem(40, (1200,), 3, 1, gain=3.0, activation="tanh", condition_dim=1)
    arguments["dt"] = torch.tensor(3.0, dtype=F64)
    with on_threads(1):
        want = values_and_gradients(L, arguments, 1, "native", tol=1e-12)
    assert want[1].converged.any()
    assert want[1].smallest_pivot.isfinite().any()
    with on_threads(threads):
        got = values_and_gradients(L, arguments, 1, "native", tol=1e-12)
    assert torch.equal(got[1].converged, want[1].converged)
    assert (got[0] - want[0])[want[1].converged[:, 0]].abs().max() < 1e-9 * (1 + want[0].abs().max())
    for name, g in want[2].items():
        assert (got[2][name] - g).abs().max() < 1e-8 * (1 + g.abs().max()), name


def test_the_matrix_is_used_and_right(instruction_set):
    """Where N outweighs the kinetic term, products with its Hessian do not suffice."""
    L, arguments = problem(40, (120,), 250, 1, gain=3.0, activation="tanh")
    arguments["dt"] = torch.tensor(3.0, dtype=F64)
    q, info = roll(L, arguments, 1, "native", tol=1e-11)
    used = info.smallest_pivot.isfinite()
    assert (info.smallest_pivot[used] < 1).all()
    assert (info.smallest_pivot[used] > 0).all()
    solved = (used & info.converged)[:, 0]
    assert solved.sum() > 3
    carried = D2(L, q[:, 0], q[:, 1], 3.0).abs().amax(-1)
    assert (left_of(L, q, arguments)[solved].abs().amax(-1) < 1e-10 * (1 + carried[solved])).all()


def test_gradients_of_long_steps():
    """The adjoint's own systems, where the kinetic term says little of them."""
    L, arguments = problem(24, (40,), 3, 2, gain=1.5, activation="tanh")
    arguments["dt"] = torch.tensor(1.5, dtype=F64)
    assert_same(L, arguments, 2, tolerance=1e-7)


def test_latents():
    """As many coordinates as H-JEPA has, without a matrix: the equations by autograd, a gradient by differences."""
    L, arguments = problem(512, (300, 100), 3, 2, gain=1.5)
    q, info, gradients = values_and_gradients(L, arguments, 2, "native", tol=1e-13)
    assert info.converged.all()
    assert left_of(L, q, arguments).abs().max() < 1e-11
    directions = {name: torch.randn_like(p) / 100 for name, p in L.named_parameters()}
    slope = sum((gradients[name] * direction).sum() for name, direction in directions.items())
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, p in L.named_parameters():
                p += sign * 1e-4 * directions[name] * (1 if sign == 1 else 2)
        moved, _, _ = values_and_gradients(L, arguments, 2, "native", tol=1e-13)
        losses.append((moved * torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=F64)).sum())
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-4, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["discrete", "midpoint"])
def test_gradcheck(kind):
    L, arguments = problem(2, (4,), 2, 2, kind=kind, condition_dim=1)
    inputs = {name: value.requires_grad_() for name, value in arguments.items()}

    def rolled(q0, q1, dt, forces, damping, condition, *_):
        return del_rollout(
            L, q0, q1, 2, dt=dt, tol=1e-13, forces=forces, damping=damping, condition=condition, backend="native"
        )

    assert torch.autograd.gradcheck(rolled, [*inputs.values(), *L.parameters()], atol=1e-7)


def test_float32():
    """Both backends lie within what the tolerance and rounding allow of the float64 motion."""
    L, arguments = problem(8, (32, 32), 20, 10, condition_dim=1)
    truth, _, exact = values_and_gradients(L, arguments, 10, "reference", tol=1e-13)
    L.float()
    single = {name: value.float() for name, value in arguments.items()}
    q, info, gradients = values_and_gradients(L, single, 10, "native")
    assert q.dtype == torch.float32
    assert info.converged.all()
    momentum = 1 + ((truth[:, 1:] - truth[:, :-1]) / 0.1 * L.mass).abs().max()
    # An error tol (1 + p) of a step's equations moves its end by dt / m times that, and what follows with it.
    assert (q - truth).abs().max() < 0.1 * 10 * 11 / 2 * 2e-6 * momentum / L.mass.min()
    for name, g in exact.items():
        assert (gradients[name] - g).abs().max() < 1e-4 * (1 + g.abs().max()), name


@pytest.mark.parametrize("most", [1, 2, 20])
def test_reported_residuals(most):
    """What the status says is what autograd finds at the returned points, also after steps that failed: nothing is
    carried over from a point that was tried and left."""
    L, arguments = problem(3, (16,), 300, 3, gain=4.0, activation="sin")
    arguments["q1"] = arguments["q0"] + 2 * torch.randn(300, 3, dtype=F64)
    arguments["dt"] = torch.tensor(0.9, dtype=F64)
    q, info = roll(L, arguments, 3, "native", tol=1e-9, max_iterations=most)
    assert (~info.converged[:, 0]).sum() > 30
    points, h, friction = q.detach(), arguments["dt"], arguments["damping"]
    for k in range(3):
        carried = D2(L, points[:, k], points[:, k + 1], h) - friction * (points[:, k + 1] - points[:, k]) / 2
        carried = carried + arguments["forces"][:, k]
        left = carried + D1(L, points[:, k + 1], points[:, k + 2], h)
        left = left - friction * (points[:, k + 2] - points[:, k + 1]) / 2
        error = left.abs().amax(-1) / (1 + carried.abs().amax(-1))
        torch.testing.assert_close(info.residual[:, k], error, rtol=1e-6, atol=1e-12)


def test_memory_of_earlier_steps_helps():
    """Broyden's method converges faster than linearly, and faster yet with what it knows from the step before."""
    L, arguments = problem(6, (40,), 20, 6, gain=1.5, activation="tanh")
    arguments["dt"], arguments["forces"] = torch.tensor(0.4, dtype=F64), None
    _, info = roll(L, arguments, 6, "native", tol=1e-10)
    assert info.converged.all()
    assert info.smallest_pivot.isinf().all()
    assert (info.iterations[:, 0] <= 9).all()
    assert info.iterations[:, -1].double().mean() < info.iterations[:, 0].double().mean() - 1


@pytest.mark.parametrize(("q1", "dt"), [(2e38, 10.0), (1.0, 1e20)])
def test_overflow_is_no_solution(q1, dt):
    L = DiscreteLagrangianMLP(1, (8,))
    q0, q1 = torch.tensor([[0.0], [0.1]]), torch.tensor([[q1], [0.2]])
    q, info = del_rollout(L, q0, q1.requires_grad_(), 1, dt=dt, return_info=True)
    assert not info.converged[0, 0] or info.residual[0, 0] <= 1e-6
    if info.converged[1, 0]:
        gradients = torch.autograd.grad(q[1].sum(), list(L.parameters()))
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_cotangents_of_any_size(size):
    """Their squares leave the range of float32."""
    L, arguments = problem(3, (16,), 2, 2)
    L.float()
    arguments = {name: value.float() for name, value in arguments.items() if value is not None}
    q0 = arguments["q0"].requires_grad_()
    q, _ = roll(L, arguments, 2, "native")
    (want,) = torch.autograd.grad(q[:, -1].sum(), q0, retain_graph=True)
    (got,) = torch.autograd.grad(q[:, -1].sum(), q0, torch.tensor(size), retain_graph=True)
    torch.testing.assert_close(got / size, want, rtol=1e-4, atol=1e-4)
    (infinite,) = torch.autograd.grad(q[:, -1].sum(), q0, torch.tensor(math.inf))
    assert not torch.isfinite(infinite).any()


@pytest.mark.parametrize("batch", [0, 3])
def test_gradients_of_no_steps(batch):
    L = DiscreteLagrangianMLP(2, (5,))
    q0, q1 = torch.randn(batch, 2, requires_grad=True), torch.randn(batch, 2, requires_grad=True)
    q = del_rollout(L, q0, q1, 0, dt=0.1, backend="native")
    weights = torch.randn_like(q)
    gradients = torch.autograd.grad((q * weights).sum(), [q0, q1, *L.parameters()])
    assert torch.equal(torch.stack(gradients[:2], 1), weights)
    assert all((g == 0).all() for g in gradients[2:])


def test_same_bits():
    L, arguments = problem(6, (64, 64), 67, 5)
    first = values_and_gradients(L, arguments, 5, "native")
    second = values_and_gradients(L, arguments, 5, "native")
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[2][name], second[2][name]) for name in first[2])


def test_from_several_threads():
    L, arguments = problem(6, (64, 64), 67, 5)
    want = values_and_gradients(L, arguments, 5, "native")
    results = [None] * 4

    def work(i):
        results[i] = values_and_gradients(L, arguments, 5, "native")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for got in results:
        assert torch.equal(got[0], want[0])
        assert all(torch.equal(got[2][name], want[2][name]) for name in want[2])


def test_changed_weights_are_seen():
    L, arguments = problem(3)
    roll(L, arguments, 4, "native")
    with torch.no_grad():
        for p in L.parameters():
            p.add_(0.3)
    assert_same(L, arguments, 4)


def test_memory_in_any_order():
    L, arguments = problem(3)
    want, _ = roll(L, arguments, 4, "native")
    arguments["q0"] = arguments["q0"].T.contiguous().T
    arguments["forces"] = arguments["forces"].transpose(0, 1).contiguous().transpose(0, 1)
    with torch.no_grad():
        L.network.layers[0].weight.data = L.network.layers[0].weight.T.contiguous().T
    got, _ = roll(L, arguments, 4, "native")
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler asks for it
def test_within_a_compiled_function():
    """A compiler breaks its graph there: the same bits, and gradients."""
    L, arguments = problem(3)

    def energy(q0, q1):
        return del_rollout(L, 2 * q0, 2 * q1, 4, dt=0.1, backend="native").square().sum()

    leaves = [arguments["q0"].requires_grad_(), arguments["q1"].requires_grad_()]
    want = energy(*leaves)
    got = torch.compile(energy, backend="eager")(*leaves)
    assert torch.equal(got, want)
    for g, w in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert torch.equal(g, w)


def test_failures_leave_gradients_of_others_alone():
    """A sample that fails midway is constant from there; one that begins with infinity has no gradient at all."""
    L, arguments = problem(3, batch=6, condition_dim=1)
    arguments["forces"][1, 2] = math.nan
    arguments["q0"][3, 0] = math.inf
    arguments["condition"][4] = math.nan
    got = values_and_gradients(L, arguments, 4, "native")
    assert got[1].converged.tolist() == [
        [True] * 4, [True, True, False, False], [True] * 4, [False] * 4, [False] * 4, [True] * 4
    ]  # fmt: skip
    others = torch.tensor([0, 1, 2, 5])
    assert all(torch.isfinite(g[others] if name in ("q0", "q1", "condition") else g).all()
               for name, g in got[2].items() if name != "forces")  # fmt: skip
    want = values_and_gradients(L, arguments, 4, "reference")
    for name in ("q0", "q1", "condition", "dt", *dict(L.named_parameters())):
        g, w = got[2][name], want[2][name]
        if name in ("q0", "q1", "condition"):
            g, w = g[others], w[others]
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6, msg=name)


def test_the_line_search_is_needed():
    """Full Newton steps from a far start diverge. As many are solved as by torch, if not the same: there are several
    solutions."""
    L, arguments = problem(2, (16,), 400, 1, gain=4.0, activation="sin")
    arguments["q1"] = arguments["q0"] + 2 * torch.randn(400, 2, dtype=F64)
    arguments["dt"] = torch.tensor(0.9, dtype=F64)
    _, info = roll(L, arguments, 1, "native", tol=1e-9)
    _, expected = roll(L, arguments, 1, "reference", tol=1e-9)
    assert (info.iterations > 4).any()
    assert 0.5 < expected.converged.float().mean() < 0.9
    assert info.converged.float().mean() > expected.converged.float().mean() - 0.02


def test_hostile_solves():
    """10^5 of them: far starts, near-singular systems, huge and tiny dt, infinities. Every one is solved, as an
    independent residual confirms, or flagged; none is wrong in silence."""
    solved = flagged = 0
    for d in (1, 2, 3, 20):
        for activation in ("sin", "softplus"):
            L, _ = problem(d, (24, 8), gain=5.0, activation=activation)
            for dt in (1e-4, 0.1, 1.0, 10.0, 1e4):
                for dtype, tol in ((torch.float32, 1e-5), (F64, 1e-8)):
                    q0, q1 = 10 ** (4 * torch.rand(2, 1250, 1) - 2) * torch.randn(2, 1250, d)
                    q1[: 1250 // 2] = (q0 + dt * q1)[: 1250 // 2]
                    q0[::50, 0], q1[1::50, -1] = math.nan, math.inf
                    q0, q1 = q0.to(dtype), q1.to(dtype)
                    with torch.no_grad():
                        q, info = del_rollout(L.to(dtype), q0, q1, 1, dt=dt, tol=tol, return_info=True)
                        ok = info.converged[:, 0]
                        exact = q[ok].double()
                        r = del_residual(L.double(), exact, dt=dt)[:, 0].abs().amax(-1)
                        carried = D2(L, exact[:, 0], exact[:, 1], dt).abs().amax(-1)
                        # To the tolerance, or as near as a neighbouring number of this precision comes.
                        spacing = 16 * torch.finfo(dtype).eps * exact.abs().amax((-2, -1))
                        slope = (L.mass / dt).max() + dt * bound_of_hessian(L)
                    assert (r <= 1.01 * tol * (1 + carried) + spacing * slope * d).all()
                    assert not ok[::50].any()
                    assert not ok[1::50].any()
                    solved, flagged = solved + int(ok.sum()), flagged + int((~ok).sum())
    assert solved + flagged == 100_000
    assert solved > 30_000
    assert flagged > 5_000


def test_energy_stays_over_1e5_steps():
    """The pendulum, exactly: its potential is a network of one sine."""
    L = MechanicalLagrangian(1, (1,), "sin", dtype=F64)
    with torch.no_grad():
        (inner, outer) = L.potential.layers
        inner.weight.fill_(1.0)
        inner.bias.fill_(math.pi / 2)
        outer.weight.fill_(-1.0)
        outer.bias.fill_(0.0)
        L.raw_mass.fill_(math.log(math.expm1(1 - 1e-3)))
    q0 = torch.tensor([[0.5], [1.2], [2.5]], dtype=F64)
    q, info = del_rollout(L, q0, q0 + 0.01, 100_000, dt=0.05, tol=1e-12, return_info=True, backend="native")
    assert info.converged.all()
    v, middle = q.diff(dim=1)[..., 0] / 0.05, (q[:, 1:] + q[:, :-1])[..., 0] / 2
    energy = 0.5 * v**2 - torch.cos(middle)
    spread = energy.amax(1) - energy.amin(1)
    assert (spread < 2e-3).all()
    assert ((energy[:, -10_000:].mean(1) - energy[:, :10_000].mean(1)).abs() < 0.02 * spread).all()


class TestWhatIsNotNative:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"L": lambda q0, q1, dt: (q0 * q1).sum(-1)}, "L is a function"),
            ({"L": MechanicalLagrangian(2, (4,), mass="network")}, "its mass is a network"),
            ({"constraint": lambda q: q[..., :1]}, "constraints are kept by torch"),
            ({"discrete_forces": lambda q0, q1, dt: (q0, q1)}, "forces that are functions"),
        ],
        ids=["callable", "mass", "constraint", "forces"],
    )
    def test_reasons(self, change, reason):
        L, options = change.get("L", DiscreteLagrangianMLP(2, (4,))), {k: v for k, v in change.items() if k != "L"}
        q = torch.zeros(3, 2)
        with pytest.raises(ValueError, match=f"backend='native' cannot run this rollout: .*{reason}"):
            del_rollout(L, q, q, 2, dt=0.1, backend="native", **options)

    def test_hooks(self):
        L = DiscreteLagrangianMLP(2, (4,))
        L.network.layers[0].register_forward_hook(lambda *_: None)
        assert describe_action(L) == "Linear has forward hooks"

    def test_subclass(self):
        class Other(DiscreteLagrangianMLP):
            def forward(self, q0, q1, dt, condition=None):
                return -super().forward(q0, q1, dt, condition)

        assert "L is a Other" in describe_action(Other(2, (4,)))

    def test_inner_subclass(self):
        class Spring(ScalarMLP):
            def forward(self, z, condition=None):
                return super().forward(z, condition) + z.square().sum(-1)

        L = MechanicalLagrangian(2, (4,))
        L.potential = Spring(2, (4,))
        assert describe_action(L) == "its network is a Spring, not a ScalarMLP"

    def test_forward_mode(self):
        L, arguments = problem(2)
        q0 = arguments["q0"]
        with pytest.raises(ValueError, match="forward-mode"):
            torch.func.vmap(lambda q: del_rollout(L, q, q, 2, dt=0.1, backend="native"))(q0)


@pytest.mark.parametrize("kind", ["discrete", "midpoint", "trapezoid"])
def test_description_is_the_lagrangian(kind):
    """Its derivatives are those of the module's own forward pass."""
    L, arguments = problem(3, kind=kind, condition_dim=2)
    action = describe_action(L)
    assert isinstance(action, ActionMLP)
    q0, q1 = arguments["q0"].requires_grad_(), arguments["q1"].requires_grad_()
    want = torch.autograd.grad(L(q0, q1, 0.1, arguments["condition"]).sum(), (q0, q1))
    got = action.slot_derivatives(q0, q1, 0.1, arguments["condition"])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
