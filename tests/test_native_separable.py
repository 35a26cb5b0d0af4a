"""The native rollouts of H = T(p) + V(q): against the torch reference, the structure that they keep, odd inputs."""

from __future__ import annotations

import pytest
import torch
from helpers import on_threads
from stages import ACTIVATIONS, F64, everything, separable, states
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck

from hamiltorch_ext import diagnostics, rollout
from hamiltorch_ext._separable_ops import METHODS, separable_rollout, system_of
from hamiltorch_ext.integrators import INTEGRATORS
from hamiltorch_ext.mlp import ScalarMLP

METHODS = sorted(METHODS)
KINETIC = ["mass", "identity", "mlp"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(H, z0, steps, method, tolerance=1e-11, **options):
    got, _ = everything(H, z0, steps, "native", method, **options)
    want, _ = everything(H, z0, steps, "reference", method, **options)
    for name, value in want.items():
        assert (got[name] - value).abs().max() < tolerance * (1 + value.abs().max()), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kinetic", KINETIC)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_activation(method, kinetic, activation):
    H = separable(3, activation=activation, kinetic=kinetic, condition_dim=2)
    assert_same(H, states(5, 6), 4, method, condition=states(5, 2))


@pytest.mark.parametrize(
    ("d", "hidden", "batch"),
    [(1, (1,), 1), (3, (7,), 5), (17, (33, 7), 33), (40, (33, 40, 5), 31), (2, (64, 64), 1), (5, (3, 130), 2)],
)
@pytest.mark.parametrize("kinetic", ["mass", "mlp"])
def test_sizes(kinetic, d, hidden, batch, instruction_set):
    assert_same(separable(d, hidden, kinetic=kinetic), states(batch, 2 * d), 3, "leapfrog")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("d", "hidden", "batch"), [(20, (520, 420), 2), (20, (520, 420), 20), (64, (1600,), 3)])
@pytest.mark.parametrize("kinetic", ["mass", "mlp"])
def test_threads(kinetic, d, hidden, batch, threads):
    """Few samples of a large network are shared by a team, which reads two in torch's layout; more are dealt out."""
    with on_threads(threads):
        assert_same(
            separable(d, hidden, kinetic=kinetic, condition_dim=3), states(batch, 2 * d), 3, "yoshida4", dt=0.1,
            condition=states(batch, 3),
        )  # fmt: skip


@pytest.mark.parametrize("threads", [2, 4])
def test_many_samples_are_dealt_out(threads):
    """To two teams, of one thread or of two."""
    with on_threads(threads):
        assert_same(separable(20, (520, 420), kinetic="mlp"), states(40, 40), 2, "leapfrog", dt=0.1)


def test_networks_of_different_sizes():
    """T's weights are told from those of another T with which V was rolled out before, whatever their sizes."""
    H, z0 = separable(32, (64, 48), kinetic="mlp", dtype=torch.float32), states(5, 64, dtype=torch.float32)
    for hidden in ((32, 64, 32, 32), (32, 32, 64, 32), (700, 500), (3,)):
        torch.manual_seed(0)
        H.kinetic_network = ScalarMLP(32, hidden, "tanh")
        got, want = (rollout(H, z0, 0.3, 4, method="leapfrog", backend=x) for x in ("native", "reference"))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kinetic", KINETIC)
def test_autocast_does_not_reach_inside(kinetic):
    H, z0 = separable(8, kinetic=kinetic, dtype=torch.float32), states(4, 16, dtype=torch.float32).requires_grad_()
    dt = torch.tensor(0.1, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            trajectory = rollout(H, z0, dt, 4, method="leapfrog", backend="native")
            results.append(
                (trajectory, *torch.autograd.grad(trajectory.sum(), (z0, dt, *H.parameters()), allow_unused=True))
            )
    for plain, cast in zip(*results, strict=True):
        assert plain is cast is None or torch.equal(plain, cast)


@pytest.mark.parametrize("dt", [-0.2, 0.0])
def test_any_time_step(dt):
    assert_same(separable(3, kinetic="mlp"), states(4, 6), 5, "leapfrog", dt=dt)


@pytest.mark.parametrize("kinetic", KINETIC)
@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method, kinetic):
    H = separable(2, (4,), kinetic=kinetic, condition_dim=1)
    leaves = (states(2, 4).requires_grad_(), torch.tensor(0.3, dtype=F64).requires_grad_(), states(2, 1))
    leaves[2].requires_grad_()

    def roll(z0, dt, condition, *_):
        return rollout(H, z0, dt, 3, method=method, condition=condition, backend="native")

    assert gradcheck(roll, (*leaves, *H.parameters()), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kinetic", KINETIC)
@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_symplectic(method, kinetic):
    """Its Jacobian, a row from each of the native adjoint's calls, keeps J."""
    d = 3
    H, z0 = separable(d, kinetic=kinetic), states(2 * d).requires_grad_()
    end = rollout(H, z0, 0.5, 2, method=method, backend="native")[-1]
    jacobian = torch.stack([torch.autograd.grad(x, z0, retain_graph=True)[0] for x in end])
    J = torch.tensor([[0.0, 1], [-1, 0]], dtype=F64).kron(torch.eye(d, dtype=F64))
    assert (jacobian.T @ J @ jacobian - J).abs().max() < 1e-12
    assert diagnostics.symplectic_defect(H, z0.detach(), 0.5, method).max() < 1e-12


@pytest.mark.parametrize("kinetic", ["mass", "mlp"])
def test_float32_is_as_good_as_the_reference(kinetic):
    H, z0 = separable(20, (64, 48), kinetic=kinetic), states(50, 40)
    want, _ = everything(H, z0, 10, "reference", "leapfrog")
    single, z0 = H.float(), z0.float()
    errors = [
        {
            k: (v.double() - want[k]).norm() / want[k].norm()
            for k, v in everything(single, z0, 10, b, "leapfrog")[0].items()
        }
        for b in ("native", "reference")
    ]
    for name, error in errors[0].items():
        assert error < 2 * errors[1][name] + 2e-7, name


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
def test_batch_shapes(batch):
    H, z0, condition = separable(3, kinetic="mlp", condition_dim=2), states(*batch, 6), states(*batch, 2)
    got = rollout(H, z0, 0.1, 4, method="leapfrog", condition=condition, return_energy=True, backend="native")
    want = rollout(H, z0, 0.1, 4, method="leapfrog", condition=condition, return_energy=True, backend="reference")
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kinetic", KINETIC)
def test_no_steps(kinetic):
    H, z0 = separable(3, kinetic=kinetic), states(4, 6).requires_grad_()
    trajectory, info = rollout(H, z0, 0.1, 0, method="leapfrog", return_info=True, backend="native")
    assert torch.equal(trajectory, z0[:, None])
    assert info.converged.shape == (4, 0)
    grads = torch.autograd.grad(trajectory.sum(), (z0, *H.parameters()), allow_unused=True)
    assert torch.equal(grads[0], torch.ones_like(z0))
    assert all(grad is None or not grad.any() for grad in grads[1:])


def test_what_is_no_number_stays_with_its_sample():
    H, z0 = separable(3, kinetic="mlp"), states(30, 6)
    alone = rollout(H, z0, 0.3, 4, method="leapfrog", backend="native")
    z0[3], z0[7, 2] = float("nan"), float("inf")
    got = rollout(H, z0.requires_grad_(), 0.3, 4, method="leapfrog", backend="native")
    others = [i for i in range(30) if i not in (3, 7)]
    assert torch.equal(got[others], alone[others])
    assert got[3].isnan().all()
    (grad,) = torch.autograd.grad(got[others].sum(), z0)
    assert torch.isfinite(grad[others]).all()


def test_memory_layout_and_changed_weights():
    """Whatever the strides; and weights that change between calls are never served stale."""
    H, z0 = separable(4, kinetic="mlp"), states(8, 6).T
    for _ in range(3):
        got = rollout(H, z0, 0.3, 4, method="leapfrog", backend="native")
        torch.testing.assert_close(got, rollout(H, z0, 0.3, 4, method="leapfrog", backend="reference"))
        with torch.no_grad():
            H.kinetic_network.layers[0].weight.mul_(1.1)
            H.potential.layers[1].weight.mul_(0.9)


def test_operators_are_well_formed():
    for kinetic in KINETIC:
        H, z0 = separable(2, (5,), kinetic=kinetic, condition_dim=1), states(3, 4)
        potential, other = H.potential.description, H.kinetic_network and H.kinetic_network.description
        arguments = (
            z0.requires_grad_(), torch.tensor(0.2, dtype=F64, requires_grad=True), list(potential.weights),
            list(potential.biases), list(other.weights) if other else [], list(other.biases) if other else [],
            None if other else states(2).exp().requires_grad_(), states(3, 1).requires_grad_(), "tanh", "leapfrog", 2,
            True,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.hamiltorch.separable_rollout.default, arguments)


def test_compiled():
    H, z0 = separable(3, kinetic="mlp"), states(4, 6)

    def loss(z0):
        return rollout(H, z0, 0.3, 3, method="yoshida4", return_energy=True, backend="native")[0].square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        leaf = z0.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_compiled_once_for_any_number_of_steps():
    """Which are none of the other sizes: equal ones are taken for the same."""
    H, z0 = separable(3), states(11, 6)
    counter = CompileCounterWithBackend("aot_eager")

    def run(z0, steps):
        return rollout(H, z0, 0.3, steps, method="leapfrog", backend="native")

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for steps in (15, 16, 17, 18):
        torch.testing.assert_close(compiled(z0, steps), run(z0, steps))
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 4


def test_differentiable_once():
    H, z0 = separable(3), states(4, 6).requires_grad_()
    trajectory = rollout(H, z0, 0.3, 3, method="leapfrog", backend="native")
    (grad,) = torch.autograd.grad(trajectory.sum(), z0, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"differentiable once|does not require grad"):
        grad.sum().backward()


def test_what_has_no_kernel_says_so():
    H, z0 = separable(3, kinetic="mlp", dtype=torch.float32), states(2, 6, dtype=torch.float32)
    for method in set(INTEGRATORS) - set(METHODS):
        with pytest.raises(ValueError, match=f"'{method}' has no kernel for a SeparableHamiltonian"):
            rollout(H, z0, 0.1, 1, method=method, backend="native")
    H.kinetic_network.activation = "sin"
    with pytest.raises(ValueError, match="V and T have different activations"):
        rollout(H, z0, 0.1, 1, method="leapfrog", backend="native")
    H.potential = torch.nn.Identity()
    with pytest.raises(ValueError, match="V and T are Identity and ScalarMLP, not ScalarMLP"):
        rollout(H, z0, 0.1, 1, method="leapfrog", backend="native")


def test_operators_check_their_arguments():
    H, z0 = separable(2, (5,)), states(3, 4)
    potential, dt, mass = H.potential.description, torch.tensor(0.1, dtype=F64), torch.ones(2, dtype=F64)
    weights, biases = list(potential.weights), list(potential.biases)
    forward, backward = (
        torch.ops.hamiltorch.separable_rollout,
        torch.ops.hamiltorch.separable_rollout_backward,
    )
    trajectory = separable_rollout(system_of(H, dt, None, "leapfrog"), z0, 2)
    points = states(3, 3, 2), states(3, 2, 2)
    with pytest.raises(ValueError, match="kinetic_weights must be a network's, or inverse_mass"):
        forward(z0, dt, weights, biases, [], [], None, None, "tanh", "leapfrog", 2, False)
    with pytest.raises(ValueError, match=r"inverse_mass must be torch.float64 of shape \(2,\)"):
        forward(z0, dt, weights, biases, [], [], mass[:1], None, "tanh", "leapfrog", 2, False)
    with pytest.raises(ValueError, match="method must be one of"):
        forward(z0, dt, weights, biases, [], [], mass, None, "tanh", "euler", 2, False)
    with pytest.raises(ValueError, match=r"weights\[0\] must have shape"):
        forward(z0, dt, weights[::-1], biases, [], [], mass, None, "tanh", "leapfrog", 2, False)
    for wrong in ((points[0][:, :2], points[1]), (points[0], points[1][:2])):
        with pytest.raises(ValueError, match=r"points_[qp] must be"):
            backward(trajectory.detach(), *wrong, dt, weights, biases, [], [], mass, None, "tanh", "leapfrog")
    with pytest.raises(ValueError, match="grad_trajectory must have shape"):
        backward(z0, *points, dt, weights, biases, [], [], mass, None, "tanh", "leapfrog")
