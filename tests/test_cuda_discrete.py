"""The CUDA kernels of rollouts by the discrete gradient, on the emulator or a GPU: values, gradients and status against
torch's in float64 and the CPU's kernels, of systems with and without ports, and the choice of a plan."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from emulation import NO_PLAN, ORDERS, SHARED, Emulator, Gpu, assert_same_bits, emulated_gpu, every_place
from helpers import on
from stages import ACTIVATIONS, F64, everything, everything_ported, network, states, system, values

from hamiltorch_ext import port_rollout, reference, rollout

METHOD = "discrete_gradient"
on_gpu = on("emulated", "cuda")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_device(H, z0, device, dtype=F64, condition=None):
    there = None if condition is None else condition.to(device, dtype)
    return copy.deepcopy(H).to(device, dtype), z0.to(device, dtype), there


def run(H, z0, steps, device="cpu", dtype=F64, backend="native", condition=None, **options):
    """Values, gradients and status on the device, brought to the CPU."""
    H, z0, condition = on_device(H, z0, device, dtype, condition)
    found, info = everything(H, z0, steps, backend, METHOD, condition=condition, **options)
    return {name: value.cpu() for name, value in found.items()}, type(info)(*(field.cpu() for field in info))


def assert_close(got, want, tolerance=1e-10):
    for name, value in want.items():
        most = value.abs().max().item() if value.numel() else 0
        torch.testing.assert_close(got[name].cpu(), value, rtol=0, atol=tolerance * (1 + most), msg=name)


def assert_same(got, want, tolerance=1e-10):
    assert want[1].converged.all()
    assert got[1].converged.all()
    assert_close(got[0], want[0], tolerance)


def check(H, z0, steps, device, **options):
    assert_same(run(H, z0, steps, device, **options), run(H, z0, steps, backend="reference", **options))


@on_gpu
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, device):
    check(network(2, (5,), activation, condition_dim=2), states(2, 4), 3, device, condition=states(2, 2))


@on_gpu
@pytest.mark.parametrize(
    ("d", "hidden", "batch", "steps"),
    [(1, (1,), 1, 4), (3, (7, 33, 5), 9, 1), (17, (3, 20), 2, 2), (33, (20,), 17, 1)],
)
def test_sizes(d, hidden, batch, steps, device):
    check(network(d, hidden), states(batch, 2 * d), steps, device, dt=0.2)


@on_gpu
def test_newtons_method_takes_over(device):
    """Where plain iteration multiplies the error."""
    H, z0 = network(3, (20,), gain=3.0), states(4, 6)
    got = run(H, z0, 1, device, dt=0.9)
    assert (got[1].iterations > 6).any()
    assert_same(got, run(H, z0, 1, backend="reference", dt=0.9))


def test_the_same_steps_as_on_the_cpu():
    """The kernels' own iteration, extrapolation included, also where Newton's method takes over or nothing helps."""
    H, z0 = network(2, (16,), gain=3.0), states(16, 4)
    want, expected = values(H, z0, 3, "native", METHOD, dt=0.7, max_iterations=20)
    with emulated_gpu():
        got, info = values(H, z0, 3, "native", METHOD, dt=0.7, max_iterations=20)
    # Rounding may turn a comparison, and where a step has failed, what follows is anybody's.
    both = info.converged & expected.converged
    assert both.all(1).sum() > 4
    assert (info.converged == expected.converged)[:, 0].sum() >= 15
    assert (got - want).abs()[:, 1:][both].quantile(0.9) < 1e-11
    # Where Newton's method begins, the CPU evaluates once more.
    more = (expected.iterations - info.iterations)[both]
    assert ((more >= 0) & (more <= 2)).double().mean() > 0.9
    assert (more == 0).double().mean() > 0.2


def test_as_few_iterations_as_on_the_cpu():
    H, z0 = network(4, (30, 20)), states(5, 8)
    for dt in (0.01, 0.1):
        _, expected = values(H, z0, 8, "native", METHOD, dt=dt, tol=1e-7)
        with emulated_gpu():
            _, info = values(H, z0, 8, "native", METHOD, dt=dt, tol=1e-7)
        assert torch.equal(info.iterations, expected.iterations)


@on_gpu
def test_energy_is_kept(device):
    H, z0, _ = on_device(network(3, (12,)), states(4, 6), device)
    path, info = values(H, z0, 6, "native", METHOD, dt=0.3)
    assert info.converged.all()
    with torch.no_grad():
        energies = reference.field(H).energy(path)
    assert (energies - energies[:, :1]).abs().max() < 1e-11 * (1 + energies.abs().max())


@on_gpu
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": None},
        {"r": 3, "damped": False},
        {"r": 0},
        {"m": 0},
        {"r": 0, "m": 0},
    ],
    ids=str,
)
def test_ports(options, device):
    port = system(condition_dim=1, **options)
    z0, u, condition = states(9, 6), states(9, 4, options.get("m", 2)), states(9, 1)
    want = everything_ported(port, z0, u, 0.3, "reference", condition)
    there = (port.to(device), z0.to(device), u.to(device))
    assert_close(everything_ported(*there, 0.3, "native", condition.to(device)), want)


@on_gpu
def test_no_step_gains_more_than_the_controls_supply(device):
    for r in (None, 2):
        port = system(2, r, 2, damped=False)
        z0, u, dt = states(16, 4), 5 * states(16, 3, 2), 0.3
        u[8:] = 0
        with torch.no_grad():
            there = (copy.deepcopy(port).to(device), z0.to(device), u.to(device))
            trajectory, info = port_rollout(*there, dt, backend="native", return_info=True)
            trajectory, converged = trajectory.cpu(), info.converged.cpu()
            z, y = trajectory[:, :-1], trajectory[:, 1:]
            field = reference.field(port.H)
            D = reference.discrete_gradient(field, z, y)
            supplied = dt * (port.output((z + y) / 2, D) * u).sum(-1)
        assert converged.double().mean() > 0.9
        excess = field.energy(y) - field.energy(z) - supplied
        assert (excess <= 1e-12 * (1 + y.abs().amax(-1)) * (1 + D.abs().sum(-1)))[converged].all()


@on_gpu
def test_float32(device):
    """Twice as far from the float64 rollout as torch's own float32 at most, the tolerance being too fine for either."""
    H, z0 = network(5, (20, 9)).float().double(), states(4, 10).float().double()
    want = run(H, z0, 2, backend="reference")[0]
    theirs = run(H, z0, 2, "cpu", torch.float32, "reference", tol=1e-7)[0]
    mine = run(H, z0, 2, device, torch.float32, tol=1e-7)[0]
    assert mine["trajectory"].dtype == torch.float32

    def errors(found):
        off = {name: (found[name] - want[name]).norm() / want[name].norm() for name in want if want[name].any()}
        return off["trajectory"], max(off.values())

    for own, torchs in zip(errors(mine), errors(theirs), strict=True):
        assert own <= 2 * torchs


# --- Where things are. A device with less shared memory keeps more of them in global memory.

PLACES = {
    "many weights": {"d": 2, "hidden": (5, 50, 50), "batch": 9},
    "many vectors": {"d": 17, "hidden": (5,), "batch": 2},
}


def plan(d: int, hidden: tuple[int, ...], batch: int = 1, is_double: bool = True, gpu: Gpu = (90, 8, SHARED)):
    emulator = Emulator(gpu)
    return emulator.cuda_discrete_plan(d, hidden, batch, is_double, emulator.gpu_description(0))


def plans(d: int, hidden: tuple[int, ...], batch: int, is_double: bool) -> list[tuple[Gpu, tuple[int, bool]]]:
    return every_place(lambda gpu: plan(d, hidden, batch, is_double, gpu))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", PLACES)
def test_every_place(name, dtype):
    """Where things are changes no bit of what the kernels make; gradients by parameters are also of energies, which
    other kernels differentiate. The blocks are too few: one takes all samples, eight at a time."""
    size = PLACES[name]
    H, z0 = network(size["d"], size["hidden"]), states(size["batch"], 2 * size["d"])
    emulators = [Emulator(gpu) for gpu, _ in plans(**size, is_double=dtype == F64)]

    def rolled():
        found, _ = run(H, z0, 1, dtype=dtype)
        return {name: found[name] for name in ("trajectory", "z0")}

    assert_same_bits(emulators, rolled)


def test_the_places_above_are_all():
    for is_double in (True, False):
        found = {place for size in PLACES.values() for _, place in plans(**size, is_double=is_double)}
        assert found == {(weights, vectors) for weights in (1, 2) for vectors in (False, True)}


def test_no_order_of_threads_changes_a_bit():
    port, z0, u = system(2), states(3, 4), states(3, 2, 2)
    assert_same_bits(ORDERS, lambda: everything_ported(port, z0, u, 0.3, "native"))


@pytest.mark.parametrize(("hidden", "gpu", "reason"), NO_PLAN)
def test_reasons(hidden, gpu, reason):
    with pytest.raises(ValueError, match=reason):
        plan(2, hidden, gpu=gpu)
    with emulated_gpu(Emulator(gpu)), pytest.raises(ValueError, match=reason):
        rollout(network(2, hidden), states(3, 4), 0.1, 2, method=METHOD)


# --- What does not go well.


@on_gpu
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(batch, steps, device):
    H = network(2, (5,)).to(device)
    z0 = states(batch, 4).to(device).requires_grad_()
    trajectory, info = rollout(H, z0, 0.1, steps, method=METHOD, return_info=True, backend="native")
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
    alone = run(H, z0, 2, device, condition=condition)
    z0[1, 2], z0[3, 5], condition[4] = math.nan, math.inf, math.nan
    H, z0, condition = on_device(H, z0, device, F64, condition)
    leaves = [z0.requires_grad_(), condition.requires_grad_(), *H.parameters()]
    trajectory, info = rollout(H, z0, 0.3, 2, method=METHOD, condition=condition, return_info=True, backend="native")
    assert info.converged.all(1).tolist() == [True, False, True, False, False, True]
    others = [0, 2, 5]
    assert torch.equal(trajectory[others].cpu(), alone[0]["trajectory"][others])
    got = torch.autograd.grad(trajectory[:, 1:].nan_to_num(0, 0, 0).sum(), leaves, allow_unused=True)[:-1]
    z0, condition = (x.detach()[others].requires_grad_() for x in (z0, condition))
    trajectory = rollout(H, z0, 0.3, 2, method=METHOD, condition=condition, backend="reference")
    want = torch.autograd.grad(trajectory[:, 1:].sum(), [z0, condition, *H.parameters()], allow_unused=True)[:-1]
    names = ["z0", "condition", *dict(H.named_parameters())][:-1]  # nothing has the last bias
    for name, g, w in zip(names, got, want, strict=True):
        if name in ("z0", "condition"):
            assert (g[[1, 3, 4]] == 0).all()
            g = g[others]
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9, msg=name)


@on_gpu
def test_failures_of_ports_are_constants(device):
    """The whole system's, where dt is no number; the samples' own else."""
    port, z0, u = system(2).to(device), states(4, 4).to(device), states(4, 3, 2).to(device)
    leaves = [u.requires_grad_(), *port.parameters()]

    def gradients(z0, dt, backend, rows=slice(None)):
        trajectory, info = port_rollout(port, z0, u[rows], dt, backend=backend, return_info=True)
        loss = trajectory[:, 1:].nan_to_num(0, 0, 0).sum()
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True), info

    broken = z0.clone()
    broken[1, 0] = math.nan
    got, info = gradients(broken, 0.3, "native")
    assert info.converged.all(1).tolist() == [True, False, True, True]
    others = [0, 2, 3]
    want, _ = gradients(z0[others], 0.3, "reference", others)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9)
    if device == "cuda":  # a CPU refuses it
        got, info = gradients(z0, torch.tensor(math.nan, device=device, dtype=F64), "native")
        assert not info.converged.any()
        assert all((g == 0).all() for g in got)


@on_gpu
def test_an_energy_that_is_no_number_is_flagged(device):
    """Though no gradient shows it."""
    H = network(2).to(device)
    with torch.no_grad():
        H.layers[-1].bias.fill_(math.nan)
    _, info = values(H, states(3, 4).to(device), 2, "native", METHOD)
    assert not info.converged.any()


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_hostile_solves(dtype, device):
    """Far too long steps, huge and broken states: solved, as the definition confirms, or flagged. Nothing hangs."""
    for d, dt, size in [(1, 1e-4, 1.0), (3, 0.7, 3.0), (3, 5.0, 3.0), (5, 1e4, 1.0)]:
        H = network(d, (16,), "silu", gain=2.0, dtype=dtype)
        z0 = size * states(8, 2 * d, dtype=dtype)
        z0[5, 0], z0[6, 1] = math.nan, math.inf
        there = on_device(H, z0, device, dtype)[:2]
        trajectory, info = values(*there, 2, "native", METHOD, dt=dt, max_iterations=15)
        solved, trajectory = info.converged.cpu(), trajectory.cpu().double()
        assert not solved[5:7].any()
        assert (solved.int().diff(dim=1) <= 0).all()  # a failure is for good
        assert solved[:5].any() or dt > 1
        z, y, field = trajectory[:, :-1], trajectory[:, 1:], reference.field(H.double())
        slope = reference.discrete_gradient(field, z, y).detach()
        left = (y - z - dt * reference.rotate(slope)).abs().amax(-1) / (1 + y.abs().amax(-1))
        # Rounding of H counts by dt and over the change's length; far beyond what any step is taken for, by all of it.
        bound = min((1e-6 if dtype == torch.float32 else 1e-13) * (20 + 100 * dt), 1e-2)
        assert (left[solved] < bound).all()
