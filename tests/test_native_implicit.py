"""The native rollouts by implicit stages: against the torch reference, the equations themselves, and hostile inputs."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers import on_threads
from stages import ACTIVATIONS, F64, METHODS, everything, network, states, values
from torch.autograd import gradcheck

from hamiltorch_ext import HamiltonianMLP, diagnostics, reference, rollout
from hamiltorch_ext._implicit_ops import implicit_rollout
from hamiltorch_ext.integrators import INTEGRATORS


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(H, z0, steps, method, tolerance=1e-10, **options):
    got, info = everything(H, z0, steps, "native", method, **options)
    want, expected = everything(H, z0, steps, "reference", method, **options)
    assert expected.converged.all()
    assert info.converged.all()
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name] - value).abs().max() < tolerance * (1 + value.abs().max()), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_activation(method, activation):
    assert_same(network(3, activation=activation, condition_dim=2), states(5, 6), 2, method, condition=states(5, 2))


@pytest.mark.parametrize(
    ("d", "hidden", "batch"),
    [(1, (1,), 1), (2, (40,), 3), (5, (7, 65, 3), 61), (17, (33, 16), 29), (31, (8, 8, 8, 8), 2), (64, (20, 70), 4)],
)
@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint"])
def test_sizes(method, d, hidden, batch, instruction_set):
    assert_same(network(d, hidden), states(batch, 2 * d), 3, method, dt=0.2)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("method", "batch", "steps"),
    [
        ("symplectic_euler", 20, 3), ("stormer_verlet", 1, 30), ("stormer_verlet", 20, 3), ("implicit_midpoint", 2, 17),
        ("implicit_midpoint", 70, 3), ("yoshida4", 20, 2),
    ],
)  # fmt: skip
def test_layer_1_space(method, batch, steps, threads):
    """More states than the first layer is wide: without gradients the products with W_1 become one with G."""
    H, z0 = network(90, (64, 48), "softplus"), states(batch, 180)
    with on_threads(threads):
        (got, info), (want, _) = (values(H, z0, steps, backend, method) for backend in ("native", "reference"))
        assert info.converged.all()
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        again = values(H, z0, steps, "native", method)[0]
    assert torch.equal(got, again)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("d", "hidden", "batch"), [(300, (520, 420), 1), (40, (700, 400), 3), (30, (500, 300), 20)])
def test_threads_share_large_networks(d, hidden, batch, threads):
    with on_threads(threads):
        for method in ("stormer_verlet", "implicit_midpoint"):
            assert_same(network(d, hidden, "softplus"), states(batch, 2 * d), 2, method, condition=None)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method):
    H = network(2, (6, 5), condition_dim=2)
    names = [name for name, _ in H.named_parameters()]

    def run(z0, dt, condition, *parameters):
        replaced = HamiltonianMLP(4, (6, 5), "tanh", condition_dim=2, dtype=F64)
        for name, parameter in zip(names, parameters, strict=True):
            layer, kind = name.removeprefix("layers.").split(".")
            module = replaced.layers[int(layer)]
            del module._parameters[kind]
            module._parameters[kind] = parameter
        return rollout(replaced, z0, dt, 3, method=method, condition=condition, return_energy=True, backend="native")

    inputs = (states(3, 4), torch.tensor(0.4, dtype=F64), states(3, 2), *H.parameters())
    assert gradcheck(run, [x.detach().clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_as_good_as_the_reference(method):
    """Both are a tolerance of 1e-6 away at every step; the native one at most twice as far as torch's float32."""
    H, z0 = network(8, (40, 24), "softplus", gain=1.2), states(50, 16)
    exact = values(H, z0, 10, "reference", method)[0]
    H, z0 = H.float(), z0.float()
    errors = [
        (values(H, z0, 10, backend, method, tol=1e-6)[0] - exact).abs().max() for backend in ("native", "reference")
    ]
    allowed = 10 * len(INTEGRATORS[method].stages) * 1e-6 * (1 + exact.abs().max())
    assert errors[0] < 2 * errors[1] + allowed


@pytest.mark.parametrize("method", METHODS)
def test_the_equations_hold(method):
    """The points that the rollout leaves satisfy w = z + Theta c dt J H_z(w), as autograd says, and make the steps."""
    H, z0, dt = network(4, (20, 12), "silu", gain=2.0), states(9, 8), 0.6
    mlp = H.description
    z = rollout(H, z0, dt, 5, method=method, backend="native").detach()
    biases = [b.detach() for b in mlp.biases]
    _, points, converged, iterations, residual = torch.ops.hamiltorch.implicit_rollout(
        z0, torch.tensor(dt, dtype=F64), list(mlp.weights), biases, None, "silu", method, 5, 1e-14, 50, True
    )
    assert converged.all()
    assert (iterations > 0).all()
    assert (residual <= 1e-14).all()
    for n in range(5):
        state = z[:, n]
        for k, stage in enumerate(INTEGRATORS[method].stages):
            w = points[:, n, k]
            dq, dp = reference.gradient(H, w).detach().chunk(2, -1)
            change = stage.coefficient * dt * torch.cat((dp, -dq), -1)
            way = torch.cat((torch.full((4,), stage.at_q), torch.full((4,), stage.at_p))).to(F64)
            torch.testing.assert_close(w, state + way * change, rtol=0, atol=1e-11)
            state = state + change
        torch.testing.assert_close(z[:, n + 1], state, rtol=0, atol=1e-11)


@pytest.mark.parametrize("d", [2, 12])
@pytest.mark.parametrize("method", ["implicit_midpoint", "discrete_gradient"])
def test_what_nothing_has_measured_is_within_the_tolerance(method, d):
    """A solve ends with an image, whose own residual is known from how iterations contract: autograd measures it."""
    H = network(d, (24, 16), "tanh", gain=1.0)
    W1, b1 = H.layers[0].weight.detach(), H.layers[0].bias.detach()
    left = []
    for tol, dt in [(tol, dt) for tol in (1e-4, 1e-7) for dt in (0.03, 0.1, 0.3, 1.0)]:
        path, info = values(H, states(300, 2 * d), 6, "native", method, dt=dt, tol=tol)
        assert info.converged.all()
        assert (info.residual <= tol).all()
        z, y = path[:, :-1], path[:, 1:]
        w = (z + y) / 2
        if method == "discrete_gradient":
            slope = reference.discrete_gradient(reference.field(H), z, y).detach()
            rest, solution = y - z - dt * reference.rotate(slope), y
        else:
            slope = reference.gradient(H, w).detach()
            rest, solution = (w - z - dt / 2 * reference.rotate(slope)) @ W1.T, w @ W1.T + b1
        left.append(rest.abs().amax(-1) / (1 + solution.abs().amax(-1)) / tol)
    of_tolerance = torch.cat(left)
    assert of_tolerance.max() < 4
    assert (of_tolerance > 1).double().mean() < 1e-3
    assert (of_tolerance > 0.1).any()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "implicit_midpoint"])
@pytest.mark.parametrize("stiff", ["q", "p"])
@pytest.mark.parametrize(("d", "width"), [(2, 24), (30, 12)])  # on the states, and in layer-1 space
def test_the_half_that_is_not_implicit(d, width, method, stiff):
    """Of H = T(p) + V(q) an iteration leaves nothing of the half that is implicit. The other moves with the gradient
    where the residual was measured, by which a step of two stages is no further off than the tolerance."""
    H, middle = network(d, (width,), "softplus", gain=3.0), width // 2
    with torch.no_grad():
        H.layers[0].weight[:middle, d:] = 0  # half of the units see q, the others p
        H.layers[0].weight[middle:, :d] = 0
        H.layers[-1].weight[:, slice(middle) if stiff == "q" else slice(middle, width)] *= 10
    path, info = values(H, states(200, 2 * d), 6, "native", method, dt=0.05, tol=1e-5)
    assert info.converged.all()
    start, end = path[:, :-1].reshape(-1, 2 * d), path[:, 1:].reshape(-1, 2 * d)
    exact, _ = values(H, start, 1, "reference", method, dt=0.05, tol=1e-14)
    W1, b1 = H.layers[0].weight.detach(), H.layers[0].bias.detach()
    off = ((end - exact[:, 1]) @ W1.T).abs().amax(-1) / (1 + (start @ W1.T + b1).abs().amax(-1))
    assert off.max() < 1e-5 * max(1, len(INTEGRATORS[method].stages) / 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [(), (0,), (2, 3), (2, 0)], ids=str)
def test_batch_shapes(method, batch):
    H, z0 = network(3, condition_dim=1), states(*batch, 6)
    trajectory, energies, info = rollout(
        H, z0, 0.2, 3, method=method, condition=states(1), return_energy=True, return_info=True, backend="native"
    )
    assert trajectory.shape == (*batch, 4, 6)
    assert energies.shape == (*batch, 4)
    assert all(field.shape == (*batch, 3) for field in info)
    (trajectory.sum() + energies.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in H.parameters() if p.grad is not None)


def test_no_steps():
    H, z0 = network(3), states(2, 6).requires_grad_()
    trajectory = rollout(H, z0, 0.2, 0, method="implicit_midpoint", backend="native")
    assert torch.equal(trajectory[:, 0], z0)
    trajectory.sum().backward()
    assert torch.equal(z0.grad, torch.ones_like(z0))


@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint", "yoshida4"])
def test_there_and_back(method):
    H, z0 = network(5, (24,), gain=2.0), states(7, 10)
    assert diagnostics.reversibility_error(H, z0, 0.3, 20, method).max() < 1e-11


def test_layout_of_inputs_does_not_matter():
    H = network(4)
    wide = states(5, 16)
    z0 = wide[:, ::2]
    want = rollout(H, z0.contiguous(), 0.3, 4, method="stormer_verlet", backend="native")
    assert torch.equal(rollout(H, z0, 0.3, 4, method="stormer_verlet", backend="native"), want)
    expanded = states(1, 8).expand(3, 8)
    got = rollout(H, expanded, 0.3, 4, method="stormer_verlet", backend="native")
    assert torch.equal(got[0], got[2])


@pytest.mark.parametrize(("method", "d"), [("implicit_midpoint", 3), ("stormer_verlet", 3), ("stormer_verlet", 30)])
def test_a_sample_does_not_depend_on_its_neighbours_convergence(method, d):
    """One that needs many iterations, one that is not a number, and one far off leave the others as they are. Of thirty
    coordinates in layer-1 space."""
    H, z0 = network(d, (20,), gain=2.0), states(30, 2 * d)
    alone, _ = values(H, z0, 4, "native", method)
    z0[3], z0[7] = float("nan"), 1e6
    z0[11, 2] = float("inf")
    got, info = values(H, z0, 4, "native", method)
    others = [i for i in range(30) if i not in (3, 7, 11)]
    torch.testing.assert_close(got[others], alone[others], rtol=0, atol=1e-12)
    assert info.converged[others].all()
    assert not info.converged[[3, 11]].any()


@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint"])
def test_what_does_not_contract_is_solved_by_newton(method):
    """Where plain iteration multiplies the error, Newton's method still finds the solution."""
    H, z0 = network(2, (16,), gain=3.0), states(200, 4)
    trajectory, info = values(H, z0, 1, "native", method, dt=0.8)
    J = torch.tensor([[0.0, 1], [-1, 0]], dtype=F64).kron(torch.eye(2, dtype=F64))
    middle = ((trajectory[:, 0] + trajectory[:, 1]) / 2).requires_grad_()
    gradient = H.gradient(middle)
    rows = [torch.autograd.grad(gradient[:, i].sum(), middle, retain_graph=True)[0] for i in range(4)]
    hessian = torch.stack(rows, dim=1)
    radius = torch.linalg.eigvals(0.4 * J @ hessian).abs().amax(-1)
    solved = info.converged[:, 0]
    assert (radius > 1).sum() > 20
    assert solved[radius > 1].float().mean() > 0.5
    if method == "implicit_midpoint":
        dq, dp = reference.gradient(H, middle).detach().chunk(2, -1)
        left = trajectory[:, 1] - trajectory[:, 0] - 0.8 * torch.cat((dp, -dq), -1)
        assert left[solved].abs().max() < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_newton_in_both_spaces(method):
    """Over several steps, in layer-1 space, where solves take moves along, as on the states."""
    H, z0 = network(30, (12,), gain=2.5), states(100, 60)
    got, info = values(H, z0, 5, "native", method, dt=0.8)
    want, on_states = rollout(H, z0.requires_grad_(), 0.8, 5, method=method, backend="native", return_info=True)
    both = info.converged & on_states.converged
    assert both.float().mean() > 0.8
    assert info.iterations[both].float().mean() > 8 * len(INTEGRATORS[method].stages)  # plain iteration's are fewer
    assert not torch.equal(got, want)  # rounding tells which of them is in layer-1 space
    same = (got - want).abs().amax(-1)[:, 1:] < 1e-8
    assert same[both].float().mean() > 0.95  # equations have other solutions, too


def test_a_singular_newton_matrix_is_not_a_solution():
    """H = -4 softplus(q + p): p' = p + 4 s(q + p'), s the logistic function, whose slope is 1/4 at rest. Of these
    starts plain iteration leads some to rest to the last bit, where Newton's matrix is zero and its step none."""
    H = HamiltonianMLP(2, (1,), dtype=F64)
    with torch.no_grad():
        for parameter, value in zip(H.parameters(), (1.0, 0.0, -4.0, 0.0), strict=True):
            parameter.fill_(value)
    q = torch.tensor(-1.0, dtype=F64)
    for _ in range(60):
        q = q - (q + 4 * torch.sigmoid(q)) / (1 + 4 * torch.sigmoid(q) * torch.sigmoid(-q))
    z0 = torch.stack((q + 2.0**-52 * torch.arange(-50, 51, dtype=F64), torch.zeros(101, dtype=F64)), -1)
    trajectory, info = values(H, z0, 1, "native", "symplectic_euler", dt=1.0)
    (q, p), new_p, solved = z0.T, trajectory[:, 1, 1], info.converged[:, 0]
    left = (new_p - p - 4 * torch.sigmoid(q + new_p)).abs()
    assert not solved.all()
    assert (left[solved] < 1e-10).all()


@pytest.mark.parametrize("d", [4, 90])
@pytest.mark.parametrize("method", METHODS)
def test_solves_start_from_what_the_last_steps_found(method, d):
    """Along a smooth motion one iteration a solve is enough once four steps are known. Of 90 coordinates in layer-1
    space."""
    H, z0 = network(d, (40,), dtype=torch.float32), states(6, 2 * d, dtype=torch.float32)
    _, info = values(H, z0, 20, "native", method, dt=0.02, tol=4e-6)
    assert info.converged.all()
    assert (info.iterations[:, 0] > len(INTEGRATORS[method].stages)).all()
    assert (info.iterations[:, 4:] == len(INTEGRATORS[method].stages)).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_hostile_solves(method, dtype):
    """Far too long steps, huge and broken states: solved, as autograd confirms, or flagged. Nothing hangs."""
    for d, dt, size in [(1, 1e-4, 1.0), (1, 50.0, 1.0), (3, 5.0, 30.0), (6, 1e4, 1.0), (20, 2.0, 100.0)]:
        H = network(d, (24, 16), "silu", gain=2.0, dtype=dtype)
        z0 = size * states(100, 2 * d, dtype=dtype)
        z0[5, 0] = float("nan")
        trajectory, info = values(H, z0, 3, "native", method, dt=dt, max_iterations=30)
        assert not info.converged[5].any()
        assert (info.converged.int().diff(dim=1) <= 0).all()  # a failure is for good
        if method != "implicit_midpoint":
            continue
        before, after = trajectory[:, :-1].double(), trajectory[:, 1:].double()
        exact = H.double()
        dq, dp = reference.gradient(exact, (before + after) / 2).detach().chunk(2, -1)
        change = dt * torch.cat((dp, -dq), -1)
        left = ((after - before - change).abs().amax(-1)) / (1 + before.abs().amax(-1) + change.abs().amax(-1))
        # A residual of tol in the argument of layer 1 is dt |H''| tol at most in the step.
        curvature = dt * torch.linalg.matrix_norm(exact.layers[0].weight, 2) * 40
        assert (left[info.converged] < (1e-6 if dtype == torch.float32 else 1e-12) * (20 + curvature)).all()


def test_failures_are_told_and_constant():
    H, z0 = network(2, (16,), gain=3.0), states(50, 4).requires_grad_()
    with pytest.warns(RuntimeWarning, match="of 50 trajectories were not solved to tol"):
        trajectory = rollout(H, z0, 3.0, 2, method="implicit_midpoint", max_iterations=3, backend="native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = rollout(
            H, z0, 3.0, 2, method="implicit_midpoint", max_iterations=3, return_info=True, backend="native"
        )
    failed = ~info.converged[:, 0]
    assert failed.any()
    trajectory[:, 1:].sum().backward()
    assert (z0.grad[failed] == 0).all()
    assert torch.isfinite(z0.grad).all()


def test_a_cotangent_that_is_no_number_stays_with_its_sample():
    H, z0 = network(3), states(6, 6).requires_grad_()
    trajectory = rollout(H, z0, 0.3, 3, method="stormer_verlet", backend="native")
    weights = torch.ones_like(trajectory)
    weights[2, 1, 0] = float("nan")
    (grad,) = torch.autograd.grad((trajectory * weights).sum(), z0)
    assert torch.isnan(grad[2]).any()
    assert torch.isfinite(grad[[0, 1, 3, 4, 5]]).all()


def test_operators_are_well_formed():
    H, z0 = network(2, (5,), condition_dim=1), states(3, 4)
    mlp = H.description
    arguments = (
        z0.requires_grad_(), torch.tensor(0.2, dtype=F64, requires_grad=True), list(mlp.weights), list(mlp.biases),
        states(3, 1).requires_grad_(), "tanh", "stormer_verlet", 2, 1e-13, 50, True,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.hamiltorch.implicit_rollout.default, arguments)


def test_compiled():
    H, z0 = network(3), states(4, 6)

    def loss(z0):
        return rollout(H, z0, 0.3, 3, method="implicit_midpoint", return_energy=True)[0].square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        leaf = z0.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_inference_mode():
    H, z0 = network(3), states(4, 6)
    want = rollout(H, z0, 0.3, 3, method="stormer_verlet", backend="native").detach()
    with torch.inference_mode():
        torch.testing.assert_close(rollout(H, z0.clone(), 0.3, 3, method="stormer_verlet", backend="native"), want)


def test_differentiable_once():
    H, z0 = network(3), states(4, 6).requires_grad_()
    trajectory = rollout(H, z0, 0.3, 3, method="stormer_verlet", backend="native")
    (grad,) = torch.autograd.grad(trajectory.sum(), z0, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"differentiable once|does not require grad"):
        grad.sum().backward()


def test_what_has_no_kernel_says_so():
    H, z0 = network(3, dtype=torch.float32), states(2, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match="precision"):
        rollout(H, z0, 0.1, 1, method="stormer_verlet", precision="bfloat16", backend="native")


def test_operators_check_their_arguments():
    H, z0 = network(2, (5,)), states(3, 4)
    mlp = H.description
    trajectory, _ = implicit_rollout(mlp, z0, torch.tensor(0.1, dtype=F64), 2, "stormer_verlet", None, 1e-13, 50)
    backward = torch.ops.hamiltorch.implicit_rollout_backward
    rest = (torch.tensor(0.1, dtype=F64), list(mlp.weights), list(mlp.biases), None, "tanh", "stormer_verlet")
    converged = torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="points must be"):
        backward(trajectory, states(3, 2, 1, 4), converged, *rest)
    with pytest.raises(ValueError, match=r"converged must be torch\.bool of shape"):
        backward(trajectory, states(3, 2, 2, 4), converged.int(), *rest)
    with pytest.raises(ValueError, match="grad_trajectory must have shape"):
        backward(states(3, 4), states(3, 2, 2, 4), converged, *rest)
    bad = mlp._replace(weights=mlp.weights[:1], biases=mlp.biases[:1])
    for other, limit, message in ((bad, 9, "weights"), (mlp, 0, "max_iterations must be one or more, got 0")):
        with pytest.raises(ValueError, match=message):
            implicit_rollout(other, z0, rest[0], 2, "stormer_verlet", None, 1e-13, limit)
