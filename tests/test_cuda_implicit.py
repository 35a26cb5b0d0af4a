"""The CUDA kernels of rollouts by implicit stages, on the emulator or a GPU: values, gradients and status against
torch's in float64 and the CPU's kernels, and the choice of a plan."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from emulation import NO_PLAN, ORDERS, SHARED, Emulator, Gpu, assert_same_bits, emulated_gpu, every_place
from helpers import on
from stages import ACTIVATIONS, F64, METHODS, everything, network, separable, states, values

from hamiltorch_ext import _cuda_implicit, reference, rollout
from hamiltorch_ext.activations import ACTIVATIONS as TABLE

on_gpu = on("emulated", "cuda")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_device(H, z0, device, dtype=F64, condition=None):
    there = None if condition is None else condition.to(device, dtype)
    return copy.deepcopy(H).to(device, dtype), z0.to(device, dtype), there


def run(H, z0, steps, method, device="cpu", dtype=F64, backend="native", condition=None, **options):
    """Values, gradients and status on the device, brought to the CPU."""
    H, z0, condition = on_device(H, z0, device, dtype, condition)
    found, info = everything(H, z0, steps, backend, method, condition=condition, **options)
    return {name: value.cpu() for name, value in found.items()}, type(info)(*(field.cpu() for field in info))


def assert_same(got, want, tolerance=1e-10):
    assert want[1].converged.all()
    assert got[1].converged.all()
    for name, value in want[0].items():
        assert (got[0][name] - value).abs().max() < tolerance * (1 + value.abs().max()), name


def check(H, z0, steps, method, device, **options):
    got = run(H, z0, steps, method, device, **options)
    assert_same(got, run(H, z0, steps, method, backend="reference", **options))


def equal(one, other):
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@on_gpu
@pytest.mark.parametrize(
    ("method", "activation"),
    [*((method, "tanh") for method in METHODS), *(("stormer_verlet", name) for name in ACTIVATIONS if name != "tanh")],
)
def test_every_method_and_activation(method, activation, device):
    H = network(2, (5,), activation, condition_dim=2)
    check(H, states(2, 4), 2, method, device, condition=states(2, 2))


@on_gpu
@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint"])
@pytest.mark.parametrize(
    ("d", "hidden", "batch", "steps"),
    [(1, (1,), 1, 3), (3, (7, 33, 5), 9, 1), (17, (3, 20), 2, 1), (20, (33,), 2, 2)],
)
def test_sizes(d, hidden, batch, steps, method, device):
    check(network(d, hidden), states(batch, 2 * d), steps, method, device, dt=0.2)


@on_gpu
def test_newtons_method_takes_over(device):
    """Where plain iteration multiplies the error."""
    H, z0 = network(6, (40,), gain=2.5), states(3, 12)
    got = run(H, z0, 1, "implicit_midpoint", device, dt=0.8)
    assert (got[1].iterations > 4).any()
    assert_same(got, run(H, z0, 1, "implicit_midpoint", backend="reference", dt=0.8))


@pytest.mark.parametrize("method", ["stormer_verlet", "implicit_midpoint"])
def test_the_same_steps_as_on_the_cpu(method):
    """The kernels' own iteration, extrapolation included, also where Newton's method takes over or nothing helps."""
    H, z0 = network(2, (16,), gain=3.0), states(16, 4)
    want, expected = values(H, z0, 3, "native", method, dt=0.7, max_iterations=20)
    with emulated_gpu():
        got, info = values(H, z0, 3, "native", method, dt=0.7, max_iterations=20)
    assert 4 < expected.converged.all(1).sum() < 16
    # Rounding may turn a comparison, and where a step has failed, what follows is anybody's.
    both = info.converged & expected.converged
    assert (info.converged == expected.converged)[:, 0].sum() >= 15
    assert (got - want).abs()[:, 1:][both].quantile(0.9) < 1e-11
    # Where Newton's method begins, the CPU evaluates once more.
    more = (expected.iterations - info.iterations)[both]
    assert ((more >= 0) & (more <= 2)).double().mean() > 0.9
    assert (more == 0).double().mean() > 0.3


@on_gpu
def test_float32(device):
    """Twice as far from the float64 rollout as torch's own float32 at most, the tolerance being too fine for either."""
    H, z0, condition = network(5, (20, 9), condition_dim=1), states(4, 10), states(4, 1)
    # Numbers that float32 has, so that all solve the same equations.
    H, z0, condition = on_device(*on_device(H, z0, "cpu", torch.float32, condition)[:2], "cpu", F64, condition.float())
    want = run(H, z0, 2, "stormer_verlet", backend="reference", condition=condition)[0]
    torchs = run(H, z0, 2, "stormer_verlet", "cpu", torch.float32, "reference", condition, tol=1e-7)[0]
    got = run(H, z0, 2, "stormer_verlet", device, torch.float32, condition=condition, tol=1e-7)[0]
    assert got["trajectory"].dtype == torch.float32
    gradients = [name for name in want if name not in ("trajectory", "energies") and want[name].any()]

    def errors(found):
        off = {name: (found[name] - want[name]).norm() / want[name].norm() for name in want if want[name].any()}
        return off["trajectory"], max(off[name] for name in gradients)

    for mine, theirs in zip(errors(got), errors(torchs), strict=True):
        assert mine <= 2 * theirs


@on_gpu
def test_autocast_does_not_reach_inside(device):
    H, z0, condition = on_device(network(2, (5,), condition_dim=1), states(2, 4), device, torch.float32, states(2, 1))
    weights = torch.randn(2, 3, 4, device=device)

    def gradients():
        trajectory = rollout(H, z0, 0.3, 2, method="stormer_verlet", condition=condition, backend="native")
        return trajectory, *torch.autograd.grad((trajectory * weights).sum(), list(H.parameters()))[:-1]

    want = gradients()
    with torch.autocast(device, torch.bfloat16):
        got = gradients()
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


# --- Where things are. A device with less shared memory keeps more of them in global memory.

PLACES = {
    "many weights": {"d": 2, "hidden": (5, 50, 50), "batch": 9},
    "many vectors": {"d": 17, "hidden": (5,), "batch": 2},
}


def plan(d: int, hidden: tuple[int, ...], batch: int = 1, is_double: bool = True, gpu: Gpu = (90, 8, SHARED)):
    emulator = Emulator(gpu)
    return emulator.cuda_implicit_plan(d, hidden, batch, 2, is_double, emulator.gpu_description(0))


def plans(d: int, hidden: tuple[int, ...], batch: int, is_double: bool) -> list[tuple[Gpu, tuple[int, bool]]]:
    return every_place(lambda gpu: plan(d, hidden, batch, is_double, gpu))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", PLACES)
def test_every_place(name, dtype):
    """Where things are changes no bit. The blocks are too few: one takes all samples, eight at a time."""
    size = PLACES[name]
    H, z0 = network(size["d"], size["hidden"]), states(size["batch"], 2 * size["d"])
    emulators = [Emulator(gpu) for gpu, _ in plans(**size, is_double=dtype == F64)]
    assert_same_bits(emulators, lambda: run(H, z0, 1, "stormer_verlet", dtype=dtype)[0])


def test_the_places_above_are_all():
    for is_double in (True, False):
        found = {place for size in PLACES.values() for _, place in plans(**size, is_double=is_double)}
        assert found == {(weights, vectors) for weights in (1, 2) for vectors in (False, True)}


def test_no_order_of_threads_changes_a_bit():
    H, z0, condition = network(3, (17, 5), condition_dim=1), states(2, 6), states(2, 1)
    assert_same_bits(ORDERS, lambda: run(H, z0, 1, "implicit_midpoint", condition=condition)[0])


def test_gradients_in_parts(monkeypatch):
    H, z0, condition = network(2, (5, 3), condition_dim=1), states(3, 4), states(3, 1)
    want = run(H, z0, 3, "stormer_verlet", backend="reference", condition=condition)
    monkeypatch.setattr(_cuda_implicit, "GRADIENT_BYTES", 4 * 8 * 8 * 12)  # four stages of eighteen
    with emulated_gpu():
        assert_same(run(H, z0, 3, "stormer_verlet", condition=condition), want)


@pytest.mark.parametrize(("hidden", "gpu", "reason"), NO_PLAN)
def test_reasons(hidden, gpu, reason):
    with pytest.raises(ValueError, match=reason):
        plan(2, hidden, gpu=gpu)
    with emulated_gpu(Emulator(gpu)), pytest.raises(ValueError, match=reason):
        rollout(network(2, hidden), states(3, 4), 0.1, 2, method="stormer_verlet")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives(name):
    a = torch.linspace(-30, 30, 241, dtype=F64).requires_grad_()
    (want,) = torch.autograd.grad(TABLE[name].derivative(a).sum(), a)
    torch.testing.assert_close(TABLE[name].second(a.detach()), want, rtol=1e-12, atol=1e-14)


# --- What does not go well.


@on_gpu
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(batch, steps, device):
    H = network(2, (5,)).to(device)
    z0 = states(batch, 4).to(device).requires_grad_()
    trajectory, info = rollout(H, z0, 0.1, steps, method="implicit_midpoint", return_info=True, backend="native")
    assert trajectory.shape == (batch, steps + 1, 4)
    assert torch.equal(trajectory[:, 0], z0)
    assert info.converged.shape == (batch, steps)
    weights = torch.randn_like(trajectory)
    gradients = torch.autograd.grad((trajectory * weights).sum(), [z0, *H.parameters()], allow_unused=True)
    assert torch.equal(gradients[0], weights[:, 0])
    assert all(g is None or (g == 0).all() for g in gradients[1:])


@on_gpu
def test_failures_leave_others_alone(device):
    """Of the same block; they are constants, whatever their points."""
    H, z0, condition = network(3, (9,), condition_dim=1), states(6, 6), states(6, 1)
    alone = run(H, z0, 2, "stormer_verlet", device, condition=condition)
    z0[1, 2], z0[3, 5], condition[4] = math.nan, math.inf, math.nan
    there = on_device(H, z0, device, F64, condition)
    trajectory, info = values(*there[:2], 2, "native", "stormer_verlet", condition=there[2])
    assert info.converged.all(1).tolist() == [True, False, True, False, False, True]
    others = [0, 2, 5]
    assert torch.equal(trajectory[others].cpu(), alone[0]["trajectory"][others])
    leaves = [there[1].requires_grad_(), there[2].requires_grad_(), *there[0].parameters()]
    trajectory, _ = rollout(
        there[0], leaves[0], 0.3, 2, method="stormer_verlet", condition=leaves[1], return_info=True, backend="native"
    )
    got = torch.autograd.grad(trajectory[:, 1:].nan_to_num(0, 0, 0).sum(), leaves, allow_unused=True)[:-1]
    z0, condition = z0[others].requires_grad_(), condition[others].requires_grad_()
    trajectory = rollout(H, z0, 0.3, 2, method="stormer_verlet", condition=condition, backend="reference")
    want = torch.autograd.grad(trajectory[:, 1:].sum(), [z0, condition, *H.parameters()], allow_unused=True)[:-1]
    names = ["z0", "condition", *dict(H.named_parameters())][:-1]  # nothing has the last bias
    for name, g, w in zip(names, got, want, strict=True):
        if name in ("z0", "condition"):
            assert (g[[1, 3, 4]] == 0).all()
            g = g[others]
        torch.testing.assert_close(g.cpu(), w, rtol=1e-10, atol=1e-10, msg=name)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_hostile_solves(dtype, device):
    """Far too long steps, huge and broken states: solved, as autograd confirms, or flagged. Nothing hangs."""
    for d, dt, size in [(1, 1e-4, 1.0), (3, 5.0, 30.0), (6, 1e4, 1.0), (5, 2.0, 1e30)]:
        H = network(d, (24,), "silu", gain=2.0, dtype=dtype)
        z0 = size * states(8, 2 * d, dtype=dtype)
        z0[5, 0], z0[6, 1] = math.nan, math.inf
        there = on_device(H, z0, device, dtype)[:2]
        trajectory, info = values(*there, 2, "native", "implicit_midpoint", dt=dt, max_iterations=15)
        solved, trajectory = info.converged.cpu(), trajectory.cpu().double()
        assert not solved[5:7].any()
        assert (solved.int().diff(dim=1) <= 0).all()  # a failure is for good
        assert solved[:5].any() or dt > 1
        before, after, exact = trajectory[:, :-1], trajectory[:, 1:], H.double()
        dq, dp = reference.gradient(exact, (before + after) / 2).detach().chunk(2, -1)
        change = dt * torch.cat((dp, -dq), -1)
        left = (after - before - change).abs().amax(-1) / (1 + before.abs().amax(-1) + change.abs().amax(-1))
        # A residual of tol in the argument of layer 1 is dt |H''| tol at most in the step.
        curvature = dt * torch.linalg.matrix_norm(exact.layers[0].weight, 2) * 40
        assert (left[solved] < (1e-6 if dtype == torch.float32 else 1e-12) * (20 + curvature)).all()


@on_gpu
def test_iterations_run_out(device):
    H, z0 = on_device(network(2, (16,), gain=3.0), states(16, 4), device)[:2]
    z0.requires_grad_()
    with pytest.warns(RuntimeWarning, match="of 16 trajectories were not solved to tol"):
        rollout(H, z0, 3.0, 2, method="implicit_midpoint", max_iterations=3, backend="native")
    trajectory, info = rollout(
        H, z0, 3.0, 2, method="implicit_midpoint", max_iterations=3, return_info=True, backend="native"
    )
    failed = ~info.converged[:, 0]
    (grad,) = torch.autograd.grad(trajectory[:, 1:].sum(), z0)
    assert (grad[failed] == 0).all()
    assert torch.isfinite(grad).all()


@on_gpu
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_cotangents_of_any_size(size, device):
    """Their squares leave the range of float32; one that is no number stays with its sample."""
    H, z0 = on_device(network(3, (9,)), states(2, 6), device, torch.float32)[:2]
    z0.requires_grad_()
    trajectory = rollout(H, z0, 0.3, 2, method="stormer_verlet", backend="native")
    weights = torch.randn_like(trajectory)
    (want,) = torch.autograd.grad((trajectory * weights).sum(), z0, retain_graph=True)
    (got,) = torch.autograd.grad(trajectory, z0, size * weights, retain_graph=True)
    torch.testing.assert_close(got / size, want, rtol=1e-4, atol=1e-4)
    weights[1, 2, 0] = math.nan
    (got,) = torch.autograd.grad(trajectory, z0, weights)
    assert torch.equal(got[0], want[0])
    assert torch.isnan(got[1]).any()


@on_gpu
def test_a_singular_stage_is_a_constant(device):
    """H = cos(q - p) - cos(q + p), near rest 2 q p: with dt = 1 the midpoint's matrix is singular there."""
    H = network(1, (2,), "sin")
    with torch.no_grad():
        inner, outer = H.to(device).layers
        inner.weight.copy_(torch.tensor([[1.0, 1], [1, -1]]))
        inner.bias.fill_(math.pi / 2)
        outer.weight.copy_(torch.tensor([[-1.0, 1]]))
    z0 = torch.zeros(1, 2, dtype=F64, device=device, requires_grad=True)
    trajectory, info = rollout(H, z0, 1.0, 1, method="implicit_midpoint", return_info=True, backend="native")
    assert info.converged.all()
    gradients = torch.autograd.grad(trajectory[:, 1].sum(), [z0, inner.weight, inner.bias, outer.weight])
    assert all((g == 0).all() for g in gradients)


# --- What only a GPU can show.


EIGHT_ON_A_BLOCK = pytest.mark.parametrize(
    ("energy", "method"),
    [
        (network, "stormer_verlet"),
        (network, "extended"),
        (network, "discrete_gradient"),
        (separable, "stormer_verlet"),
        (partial(separable, kinetic="mlp"), "stormer_verlet"),
    ],
)


@pytest.mark.cuda
@EIGHT_ON_A_BLOCK
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize(("d", "hidden"), [(2, (64, 64)), (64, (512, 256))])
def test_large_batches(d, hidden, batch, dtype, energy, method):
    H, z0 = energy(d, hidden), states(batch, 2 * d)
    want = run(H, z0, 4, method, dt=0.1)
    got = run(H, z0, 4, method, "cuda", dtype, dt=0.1)
    assert got[1].converged.all()
    tolerance = 1e-10 if dtype == F64 else 1e-3
    for name, value in want[0].items():
        assert (got[0][name] - value).norm() <= tolerance * (1 + value.norm()), name


@pytest.mark.cuda
@EIGHT_ON_A_BLOCK
def test_the_same_bits_every_time(energy, method):
    H, z0 = energy(8, (64, 64)), states(1000, 16)
    first, second = (run(H, z0, 4, method, "cuda", torch.float32) for _ in range(2))
    assert equal(first, second)


def step_of_training(method, H, z0, dt, condition):
    trajectory, _ = rollout(H, z0, dt, 3, method=method, condition=condition, return_info=True, backend="native")
    return torch.autograd.grad(trajectory.square().sum(), [dt, *H.parameters()], materialize_grads=True)


@pytest.fixture
def training(energy):
    H, z0, condition = on_device(energy(4, condition_dim=2), states(50, 8), "cuda", torch.float32, states(50, 2))
    return H, z0, torch.tensor(0.2, device="cuda", requires_grad=True), condition


@pytest.mark.cuda
@EIGHT_ON_A_BLOCK
def test_nothing_waits_for_the_device(method, training):
    step_of_training(method, *training)  # what is done once per process is done
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_of_training(method, *training)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@EIGHT_ON_A_BLOCK
def test_graph_of_a_training_step(method, training):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step_of_training(method, *training)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step_of_training(method, *training)
    for _ in range(2):
        with torch.no_grad():
            training[1].add_(0.01)
            for parameter in training[0].parameters():
                parameter.mul_(1.01)
        graph.replay()
        for got, want in zip(captured, step_of_training(method, *training), strict=True):
            torch.testing.assert_close(got, want)
