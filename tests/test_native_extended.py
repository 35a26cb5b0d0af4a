"""The native rollouts in Tao's extended phase space: against the torch reference, the structure kept, odd inputs."""

from __future__ import annotations

import pytest
import torch
from helpers import on_threads
from stages import ACTIVATIONS, F64, everything, network, states
from torch.autograd import gradcheck

from hamiltorch_ext import rollout
from hamiltorch_ext._extended_ops import extended_rollout


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def roll(H, z0, dt=0.3, steps=4, backend="native", **options):
    return rollout(H, z0, dt, steps, method="extended", backend=backend, **options)


def assert_same(H, z0, steps, tolerance=1e-11, **options):
    got, _ = everything(H, z0, steps, "native", "extended", **options)
    want, _ = everything(H, z0, steps, "reference", "extended", **options)
    for name, value in want.items():
        assert (got[name] - value).abs().max() < tolerance * (1 + value.abs().max()), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("binding", [0.0, 1.0, 7.3])
def test_every_activation_and_binding(activation, binding):
    H = network(3, activation=activation, condition_dim=2)
    assert_same(H, states(5, 6), 4, binding=binding, condition=states(5, 2))


@pytest.mark.parametrize(
    ("d", "hidden", "batch"),
    [(1, (1,), 1), (3, (7,), 5), (17, (33, 7), 33), (40, (33, 40, 5), 31), (2, (64, 64), 1), (5, (3, 130), 2)],
)
def test_sizes(d, hidden, batch, instruction_set):
    assert_same(network(d, hidden), states(batch, 2 * d), 3)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("d", "hidden", "batch"), [(20, (520, 420), 2), (20, (520, 420), 40), (65, (1600,), 3)])
def test_threads(d, hidden, batch, threads):
    """Few samples of a large network are shared by a team, which reads two in torch's layout; more are dealt out."""
    with on_threads(threads):
        assert_same(network(d, hidden, condition_dim=3), states(batch, 2 * d), 3, dt=0.1, condition=states(batch, 3))


@pytest.mark.parametrize("dt", [-0.2, 0.0])
def test_any_time_step(dt):
    assert_same(network(3), states(4, 6), 5, dt=dt)


@pytest.mark.parametrize("binding", [0.0, 3.0])
def test_gradcheck(binding):
    H = network(2, (4,), condition_dim=1)
    leaves = (states(2, 4).requires_grad_(), torch.tensor(0.3, dtype=F64).requires_grad_(), states(2, 1))
    leaves[2].requires_grad_()

    def through(z0, dt, condition, *_):
        return roll(H, z0, dt, 3, condition=condition, binding=binding)

    assert gradcheck(through, (*leaves, *H.parameters()), atol=1e-8, rtol=1e-6)


def test_the_energy_stays():
    """And that of the explicit method with which the same H is not symplectic does not."""
    H, z0 = network(2, (16,), gain=3.0), states(20, 4)
    spread = [
        (H(rollout(H, z0, 0.02, 3000, method=method, **options)) - H(z0)[:, None]).abs().amax(-1)
        for method, options in (("extended", {"binding": 20.0}), ("leapfrog", {}))
    ]
    assert spread[0].median() < spread[1].median() / 3


def test_float32_is_as_good_as_the_reference():
    H, z0 = network(20, (64, 48)), states(50, 40)
    want, _ = everything(H, z0, 10, "reference", "extended")
    H.float()
    results = [everything(H, z0.float(), 10, backend, "extended")[0] for backend in ("native", "reference")]
    for name, exact in want.items():
        errors = [(result[name].double() - exact).norm() / exact.norm() for result in results]
        assert errors[0] < 2 * errors[1] + 2e-7, name


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
def test_batch_shapes(batch):
    H, z0, condition = network(3, condition_dim=2), states(*batch, 6), states(*batch, 2)
    options = {"condition": condition, "return_energy": True}
    torch.testing.assert_close(roll(H, z0, **options), roll(H, z0, backend="reference", **options))


def test_no_steps():
    H, z0 = network(3), states(4, 6).requires_grad_()
    trajectory, info = roll(H, z0, 0.1, 0, return_info=True)
    assert torch.equal(trajectory, z0[:, None])
    assert info.converged.shape == (4, 0)
    grads = torch.autograd.grad(trajectory.sum(), (z0, *H.parameters()), allow_unused=True)
    assert torch.equal(grads[0], torch.ones_like(z0))
    assert not any(grad is not None and grad.any() for grad in grads[1:])


def test_what_is_no_number_stays_with_its_sample():
    H, z0 = network(3), states(30, 6)
    alone = roll(H, z0)
    z0[3], z0[7, 2] = float("nan"), float("inf")
    got = roll(H, z0.requires_grad_())
    others = [i for i in range(30) if i not in (3, 7)]
    assert torch.equal(got[others], alone[others])
    assert got[3].isnan().all()
    (grad,) = torch.autograd.grad(got[others].sum(), z0)
    assert torch.isfinite(grad[others]).all()


def test_memory_layout_and_changed_weights():
    """Whatever the strides; and weights that change between calls are never served stale."""
    H, z0 = network(4), states(8, 6).T
    for _ in range(3):
        torch.testing.assert_close(roll(H, z0), roll(H, z0, backend="reference"))
        with torch.no_grad():
            H.layers[0].weight.mul_(1.1)
            H.layers[1].weight.mul_(0.9)


def test_autocast_does_not_reach_inside():
    H, z0 = network(8, dtype=torch.float32), states(4, 16, dtype=torch.float32).requires_grad_()
    dt = torch.tensor(0.1, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            trajectory = roll(H, z0, dt)
            grads = torch.autograd.grad(trajectory.sum(), (z0, dt, *H.parameters()), allow_unused=True)
        results.append((trajectory, *grads))
    for plain, cast in zip(*results, strict=True):
        assert plain is cast is None or torch.equal(plain, cast)


def test_operators_are_well_formed():
    H, z0 = network(2, (5,), condition_dim=1), states(3, 4).requires_grad_()
    dt, mlp = torch.tensor(0.2, dtype=F64, requires_grad=True), H.description
    arguments = (z0, dt, list(mlp.weights), list(mlp.biases), states(3, 1).requires_grad_(), "tanh", 2, 1.5, True)
    torch.library.opcheck(torch.ops.hamiltorch.extended_rollout.default, arguments)


def test_compiled():
    H, z0 = network(3), states(4, 6)

    def loss(z0):
        return roll(H, z0, return_energy=True)[0].square().sum()

    torch.compiler.reset()
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = z0.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_differentiable_once():
    H, z0 = network(3), states(4, 6).requires_grad_()
    (grad,) = torch.autograd.grad(roll(H, z0).sum(), z0, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"differentiable once|does not require grad"):
        grad.sum().backward()


def test_other_precisions_go_by_torch():
    H, z0 = network(3, dtype=torch.float32), states(2, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match="'extended' runs natively with precision 'float32'"):
        roll(H, z0, precision="bfloat16")
    with pytest.warns(UserWarning, match="reference path"):
        got = rollout(H, z0, 0.3, 4, method="extended", precision="bfloat16")
    torch.testing.assert_close(got, roll(H, z0))


def test_operators_check_their_arguments():
    H, z0 = network(2, (5,)), states(3, 4)
    mlp, dt = H.description, torch.tensor(0.1, dtype=F64)
    weights, biases = list(mlp.weights), list(mlp.biases)
    operators = torch.ops.hamiltorch
    trajectory = extended_rollout(mlp, z0, dt, 2, None, 1.0).detach()
    points, turned = states(3, 7, 4), states(3, 2, 4)
    with pytest.raises(ValueError, match=r"weights\[0\] must have shape"):
        operators.extended_rollout(z0, dt, weights[::-1], biases, None, "tanh", 2, 1.0, False)
    rest = (dt, weights, biases, None, "tanh", 1.0)
    for wrong, name in (((points[:, :6], turned), "points"), ((points, turned.float()), "turned")):
        with pytest.raises(ValueError, match=f"{name} must be torch.float64 of shape"):
            operators.extended_rollout_backward(trajectory, *wrong, *rest)
    with pytest.raises(ValueError, match="grad_trajectory must have shape"):
        operators.extended_rollout_backward(z0, points, turned, *rest)
