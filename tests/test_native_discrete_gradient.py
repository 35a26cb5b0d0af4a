"""The native rollouts by the discrete gradient, of Hamiltonian and port-Hamiltonian systems: against the torch
reference, energy kept or lost as it should be, solves that fail, odd inputs."""

from __future__ import annotations

import pytest
import torch
from helpers import on_threads
from stages import ACTIVATIONS, F64, everything, everything_ported, network, states, system
from torch.autograd import gradcheck

from hamiltorch_ext import PortHamiltonian, diagnostics, port_rollout, reference, rollout
from hamiltorch_ext._discrete_gradient_ops import Ports, discrete_rollout
from hamiltorch_ext.port import MatrixMLP

METHOD = "discrete_gradient"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def roll(H, z0, dt=0.3, steps=4, backend="native", **options):
    return rollout(H, z0, dt, steps, method=METHOD, backend=backend, **options)


def assert_close(got, want):
    for name, value in want.items():
        most = value.abs().max().item() if value.numel() else 0
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-10 * (1 + most), msg=name)


def assert_same(H, z0, steps, **options):
    got, info = everything(H, z0, steps, "native", METHOD, **options)
    want, expected = everything(H, z0, steps, "reference", METHOD, **options)
    assert info.converged.all()
    assert expected.converged.all()
    assert_close(got, want)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    assert_same(network(3, activation=activation, condition_dim=2), states(5, 6), 4, condition=states(5, 2))


@pytest.mark.parametrize(
    ("d", "hidden", "batch"),
    [(1, (1,), 1), (3, (7,), 5), (17, (33, 7), 33), (40, (33, 40, 5), 31), (2, (64, 64), 1), (5, (3, 130), 2)],
)
def test_sizes(d, hidden, batch, instruction_set):
    assert_same(network(d, hidden), states(batch, 2 * d), 6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("d", "hidden", "batch"), [(20, (520, 420), 2), (20, (520, 420), 40), (65, (1600,), 3)])
def test_threads(d, hidden, batch, threads):
    """Few samples of a large network are shared by a team, which reads two in torch's layout; more are dealt out."""
    with on_threads(threads):
        assert_same(network(d, hidden, condition_dim=3), states(batch, 2 * d), 3, dt=0.1, condition=states(batch, 3))


@pytest.mark.parametrize("dt", [-0.2, 0.0])
def test_any_time_step(dt):
    assert_same(network(3), states(4, 6), 5, dt=dt)


def test_gradcheck():
    H = network(2, (4,), condition_dim=1)
    leaves = (states(2, 4).requires_grad_(), torch.tensor(0.3, dtype=F64).requires_grad_(), states(2, 1))
    leaves[2].requires_grad_()

    def through(z0, dt, condition, *_):
        return roll(H, z0, dt, 3, condition=condition)

    assert gradcheck(through, (*leaves, *H.parameters()), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "allowed"), [(F64, 1e-12), (torch.float32, 3e-5)])
def test_the_energy_is_kept(dtype, allowed):
    """By steps that are far from small; and the midpoint rule's, which are of the same order, change it."""
    H, z0 = network(3, (24, 16), gain=2.0, dtype=dtype), states(30, 6, dtype=dtype)
    spread = {}
    for method in (METHOD, "implicit_midpoint"):
        _, energies, info = rollout(H, z0, 0.3, 100, method=method, return_energy=True, return_info=True)
        kept = info.converged.all(-1)
        assert kept.double().mean() > 0.9
        spread[method] = (energies - energies[:, :1]).abs().amax(-1)[kept].max()
    assert spread[METHOD] < allowed
    assert spread["implicit_midpoint"] > 100 * allowed


def test_float32_is_as_good_as_the_reference():
    H, z0 = network(20, (64, 48)), states(50, 40)
    want, _ = everything(H, z0, 10, "reference", METHOD)
    H.float()
    results = [everything(H, z0.float(), 10, backend, METHOD)[0] for backend in ("native", "reference")]
    for name, exact in want.items():
        errors = [(result[name].double() - exact).norm() / exact.norm() for result in results]
        assert errors[0] < 2 * errors[1] + 1e-6, name


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
def test_batch_shapes(batch):
    H, z0, condition = network(3, condition_dim=2), states(*batch, 6), states(*batch, 2)
    options = {"condition": condition, "return_energy": True, "return_info": True}
    trajectory, energies, info = roll(H, z0, **options)
    want = roll(H, z0, backend="reference", **options)
    torch.testing.assert_close((trajectory, energies, info.converged), (*want[:2], want[2].converged))
    assert info.iterations.shape == info.residual.shape == (*batch, 4)


def test_no_steps():
    H, z0 = network(3), states(4, 6).requires_grad_()
    trajectory, info = roll(H, z0, 0.1, 0, return_info=True)
    assert torch.equal(trajectory, z0[:, None])
    assert info.converged.shape == (4, 0)
    grads = torch.autograd.grad(trajectory.sum(), (z0, *H.parameters()), allow_unused=True)
    assert torch.equal(grads[0], torch.ones_like(z0))
    assert not any(grad is not None and grad.any() for grad in grads[1:])


def test_failures_stay_with_their_samples():
    """What is no number, and steps that nothing solves: flagged, constant, and without a trace in the others."""
    H, z0 = network(3), states(30, 6)
    alone = roll(H, z0)
    z0[3], z0[7, 2] = float("nan"), float("inf")
    got, info = roll(H, z0.requires_grad_(), return_info=True)
    others = [i for i in range(30) if i not in (3, 7)]
    torch.testing.assert_close(got[others], alone[others])
    assert not info.converged[[3, 7]].any()
    assert info.converged[others].all()
    leaves = (z0, *H.parameters())
    grads = torch.autograd.grad(got[others].sum(), leaves, allow_unused=True)
    assert all(grad is None or torch.isfinite(grad).all() for grad in grads)

    got, info = roll(H, z0[others], 0.3, 3, max_iterations=1, return_info=True)
    assert not info.converged.any()
    grads = torch.autograd.grad(got[:, 1:].sum(), leaves, allow_unused=True)
    assert not any(grad is not None and grad.any() for grad in grads)
    with pytest.warns(RuntimeWarning, match="28 of 28 trajectories were not solved"):
        roll(H, z0[others], max_iterations=1)


def test_equations_that_hold():
    """Of random states, and steps up to ones that nothing solves: each is solved by the definition, or flagged.

    Plain iteration diverges from solutions of some, which Newton's method finds.
    """
    H = network(2, (24, 16))
    system = reference.field(H)
    solved, repelling = [], 0
    for dt in (0.1, 1.0, 3.0, 30.0):
        z0 = 2 * states(200, 4)
        with torch.no_grad():
            trajectory, info = roll(H, z0, dt, 1, return_info=True)
        z, y = trajectory.unbind(1)
        rest = y - z - dt * reference.rotate(reference.discrete_gradient(system, z, y))
        error = rest.abs().amax(-1) / (1 + y.abs().amax(-1))
        fine = info.converged[:, 0]
        bound = 1e-11 * (1 + dt)
        assert (error[fine] < bound).all()
        assert (error[~fine] > 1e-14).all()
        solved.append(fine.double().mean())
        for w in ((z + y) / 2)[fine][:20]:
            S = torch.autograd.functional.hessian(H, w)
            repelling += int(torch.linalg.eigvals(dt / 2 * reference.rotate(S)).abs().max() > 1)
    assert solved[0] == 1
    assert solved[1] > 0.9
    assert repelling > 10


def test_memory_layout_and_changed_weights():
    """Whatever the strides; and weights that change between calls are never served stale."""
    H, z0 = network(4), states(8, 6).T
    for _ in range(3):
        torch.testing.assert_close(roll(H, z0), roll(H, z0, backend="reference"))
        with torch.no_grad():
            H.layers[0].weight.mul_(1.1)
            H.layers[1].weight.mul_(0.9)


def test_bits_are_equal_from_run_to_run():
    H, z0 = network(20, (130, 70)), states(37, 40)
    with on_threads(2):
        first, second = (everything(H, z0, 4, "native", METHOD)[0] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# Port-Hamiltonian systems.


@pytest.mark.parametrize("batch", [(1,), (9,), (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": None},
        {"r": 7, "damped": False},
        {"r": 0, "m": 1},
        {"r": None, "m": 0, "damped": False},
        {"r": 0, "m": 0},
    ],
    ids=str,
)
def test_ports(options, batch):
    port = system(condition_dim=1, **options)
    u = states(*batch, 5, options.get("m", 2))
    arguments = (port, states(*batch, 6), u, 0.3)
    condition = states(*batch, 1)
    got, want = (everything_ported(*arguments, backend, condition) for backend in ("native", "reference"))
    assert_close(got, want)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [2, 20])
def test_ports_of_a_team(batch, threads):
    """A large network, whose team shares the products with L as well."""
    port = PortHamiltonian(network(20, (520, 420)), dissipation=0.2 * states(40, 30), inputs=states(40, 3))
    arguments = (port, states(batch, 40), states(batch, 2, 3), 0.1)
    with on_threads(threads):
        got, want = (everything_ported(*arguments, backend) for backend in ("native", "reference"))
    assert_close(got, want)


@pytest.mark.parametrize("r", [None, 2])
def test_ports_gradcheck(r):
    port = system(2, r, 1, condition_dim=1)
    inputs = [x.requires_grad_() for x in (states(2, 4), states(2, 3, 1), torch.tensor(0.3, dtype=F64), states(2, 1))]

    def through(z0, u, dt, condition, *_):
        return port_rollout(port, z0, u, dt, condition=condition, backend="native")

    assert gradcheck(through, (*inputs, *port.parameters()), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_no_step_gains_more_than_the_controls_supply(dtype):
    """1,000 random systems of each dtype, ten sequences of controls each, half of which are zero."""
    unsolved = count = 0
    for i in range(1000):
        port = system(1 + i % 4, (None, 1, 3)[i % 3], 2, damped=False, dtype=dtype)
        d2 = port.dim
        dt = (0.05, 0.2, 0.5)[i // 3 % 3]
        z0 = states(10, d2, dtype=dtype)
        u = 10 * torch.rand(10, 1, 1).to(dtype) * states(10, 2, 2, dtype=dtype)
        u[5:] = 0
        with torch.no_grad():
            trajectory, info = port_rollout(port, z0, u, dt, backend="native", return_info=True)
            # By the definition, in double: what float32 has rounded is not the system's doing.
            exact = port.double()
            z, y = trajectory[:, :-1].double(), trajectory[:, 1:].double()
            field = reference.field(exact.H)
            D, m = reference.discrete_gradient(field, z, y), (z + y) / 2
            supplied = dt * (exact.output(m, D) * u.double()).sum(-1)
            gained = field.energy(y) - field.energy(z)
        rounding = torch.finfo(dtype).eps * (1 + trajectory.abs().amax(-1).unfold(-1, 2, 1).amax(-1).double())
        slack = (info.residual.double() + 8 * rounding) * (1 + y.abs().amax(-1)) * (1 + D.abs().sum(-1))
        excess = gained - supplied
        assert (excess <= slack)[info.converged].all()
        unsolved, count = unsolved + int((~info.converged).sum()), count + info.converged.numel()
    assert unsolved < 0.02 * count


def test_failures_of_ports_stay_with_their_samples():
    port = system(condition_dim=1)
    z0, u, condition = states(6, 6), states(6, 4, 2), states(6, 1)
    dt = torch.tensor(0.3, dtype=F64, requires_grad=True)
    leaves = (dt, *port.parameters())
    # Nothing is solved: everything is constant.
    path, info = port_rollout(
        port, z0, u, dt, condition=condition, backend="native", max_iterations=1, return_info=True
    )
    assert not info.converged.any()
    grads = torch.autograd.grad(path.square().sum(), leaves, allow_unused=True)
    assert not any(grad is not None and grad.any() for grad in grads)
    # A state and a condition that are no numbers.
    others = [0, 1, 3, 5]
    want = port_rollout(port, z0[others], u[others], dt, condition=condition[others], backend="native")
    options = {"allow_unused": True, "materialize_grads": True}
    want = (want, *torch.autograd.grad(want.square().sum(), leaves, **options))
    z0[2], condition[4] = float("nan"), float("nan")
    path, info = port_rollout(port, z0, u, dt, condition=condition, backend="native", return_info=True)
    assert info.converged[:, 0].tolist() == [True, True, False, True, False, True]
    got = (path[others], *torch.autograd.grad(path[others].square().sum(), leaves, **options))
    torch.testing.assert_close(got, want)


def test_an_energy_that_is_no_number_is_flagged():
    """Though no gradient shows it."""
    H = network(2)
    with torch.no_grad():
        H.layers[-1].bias.fill_(float("nan"))
    for backend in ("native", "reference"):
        _, info = roll(H, states(3, 4), backend=backend, return_info=True)
        assert not info.converged.any()


def test_supplied_energy_is_what_was_gained_where_nothing_is_lost():
    port = system(r=0, damped=False)
    z0, u = states(8, 6), states(8, 10, 2)
    trajectory, energies = port_rollout(port, z0, u, 0.2, backend="native", return_energy=True)
    work = diagnostics.supplied_energy(port, trajectory, u, 0.2)
    torch.testing.assert_close(energies.diff(), work, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_conservative_limit_bit_for_bit(dtype):
    """Every part away, or there and zero."""
    z0 = states(5, 6, dtype=dtype)
    for r in (2, None, 0):
        port = system(r=r, dtype=dtype)
        u = torch.zeros(5, 6, 2, dtype=dtype)
        if port.dissipation is None:
            port, u = PortHamiltonian(port.H), u[..., :0]
        else:
            with torch.no_grad():
                port.dissipation.zero_()
                port.raw_damping.fill_(-1e4)
        assert torch.equal(port_rollout(port, z0, u, 0.4, backend="native"), roll(port.H, z0, 0.4, 6))


def test_what_has_no_kernel_says_so():
    energy, z0, u = network(3), states(2, 6), states(2, 4, 2)
    matrix = states(6, 2)
    cases = [
        (PortHamiltonian(energy, dissipation=MatrixMLP(6, 2).double(), inputs=matrix), "dissipation is a module"),
        (PortHamiltonian(energy, inputs=MatrixMLP(6, 2).double()), "inputs is a module"),
        (PortHamiltonian(energy, inputs=matrix, residual=torch.nn.Linear(6, 6).double()), "residual is a module"),
        (PortHamiltonian(lambda z: z.square().sum(-1), inputs=matrix), "function"),
    ]
    for port, reason in cases:
        with pytest.raises(ValueError, match=f"backend='native' cannot run this rollout: .*{reason}"):
            port_rollout(port, z0, u, 0.1, backend="native")
        assert torch.equal(port_rollout(port, z0, u, 0.1), port_rollout(port, z0, u, 0.1, backend="reference"))
    with pytest.raises(ValueError, match="'extended' of a port-Hamiltonian system has no kernel"):
        port_rollout(PortHamiltonian(energy, inputs=matrix), z0, u, 0.1, method="extended", backend="native")
    with pytest.raises(ValueError, match="backend must be one of auto, native, reference, got 'cuda'"):
        port_rollout(PortHamiltonian(energy, inputs=matrix), z0, u, 0.1, backend="cuda")
    with pytest.raises(ValueError, match="'discrete_gradient' runs natively with precision 'float32'"):
        roll(network(3, dtype=torch.float32), z0.float(), precision="bfloat16")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_changes_no_value(mode):
    port, z0, u = system(), states(4, 6), states(4, 5, 2)
    recorded = port_rollout(port, z0, u, 0.3, return_energy=True)
    with mode():
        for got, want in zip(port_rollout(port, z0, u, 0.3, return_energy=True), recorded, strict=True):
            assert torch.equal(got, want)


def test_autocast_does_not_reach_inside():
    port = system(8, dtype=torch.float32)
    z0, u = states(4, 16, dtype=torch.float32).requires_grad_(), states(4, 3, 2, dtype=torch.float32)
    dt = torch.tensor(0.1, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            trajectory = port_rollout(port, z0, u, dt, backend="native")
        grads = torch.autograd.grad(trajectory.sum(), (z0, dt, *port.parameters()), allow_unused=True)
        results.append((trajectory, *grads))
    for plain, cast in zip(*results, strict=True):
        assert plain is cast is None or torch.equal(plain, cast)


def test_operators_are_well_formed():
    H, z0 = network(2, (5,), condition_dim=1), states(3, 4).requires_grad_()
    dt, mlp = torch.tensor(0.2, dtype=F64, requires_grad=True), H.description
    ports = (states(4, 2).requires_grad_(), states(3, 2, 4).requires_grad_(), torch.rand(2, dtype=F64))
    arguments = (
        z0, dt, list(mlp.weights), list(mlp.biases), states(3, 1).requires_grad_(), *ports, "tanh", 2, 1e-13, 50, True
    )  # fmt: skip
    torch.library.opcheck(torch.ops.hamiltorch.discrete_rollout.default, arguments)


@pytest.mark.parametrize("ports", [False, True])
def test_compiled(ports):
    port, z0, u = system(), states(4, 6), states(4, 4, 2)

    def loss(z0):
        if ports:
            return port_rollout(port, z0, u, 0.3, backend="native").square().sum()
        return roll(port.H, z0, return_energy=True)[0].square().sum()

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


def test_operators_check_their_arguments():
    H, z0 = network(2, (5,)), states(3, 4)
    mlp, dt = H.description, torch.tensor(0.1, dtype=F64)
    weights, biases = list(mlp.weights), list(mlp.biases)
    operators = torch.ops.hamiltorch
    trajectory = discrete_rollout(mlp, z0, dt, 2, None, 1e-12, 50)[0].detach()
    changes, converged = states(3, 2, 4), torch.ones(3, 2, dtype=torch.bool)
    for ports, error, message in (
        (Ports(states(3)), ValueError, r"dissipation must have shape \(4,\) or \(4, r\)"),
        (Ports(states(4, 0)), ValueError, r"dissipation must have shape"),
        (Ports(None, states(3, 3, 4)), ValueError, r"forces must have shape \(3, 2, 4\)"),
        (Ports(None, None, states(4)), ValueError, r"decay must have shape \(2,\)"),
        (Ports(None, None, states(2).float()), TypeError, r"decay must be torch.float64"),
    ):
        with pytest.raises(error, match=message):
            discrete_rollout(mlp, z0, dt, 2, None, 1e-12, 50, ports)
    with pytest.raises(ValueError, match="max_iterations must be one or more"):
        discrete_rollout(mlp, z0, dt, 2, None, 1e-12, 0)
    rest = (dt, weights, biases, None, None, None, None, "tanh")
    for wrong, name in (
        ((trajectory[:, :2], changes, converged), "trajectory"),
        ((trajectory, changes.float(), converged), "changes"),
        ((trajectory, changes, converged.int()), "converged"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be torch"):
            operators.discrete_rollout_backward(trajectory, *wrong, *rest)
    with pytest.raises(ValueError, match="grad_trajectory must have shape"):
        operators.discrete_rollout_backward(z0, trajectory, changes, converged, *rest)
