"""The CUDA kernels of rollouts in Tao's extended phase space, on the emulator or a GPU: values and gradients against
torch's in float64 and the CPU's kernels, and where things are."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from emulation import NO_PLAN, ORDERS, SHARED, Emulator, Gpu, assert_same_bits, emulated_gpu, every_place
from helpers import on
from stages import ACTIVATIONS, F64, everything, network, states, values

from hamiltorch_ext import _cuda_implicit, rollout

on_gpu = on("emulated", "cuda")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def run(H, z0, steps, device="cpu", dtype=F64, backend="native", condition=None, **options):
    """Values and gradients on the device, brought to the CPU."""
    there = None if condition is None else condition.to(device, dtype)
    H, z0 = copy.deepcopy(H).to(device, dtype), z0.to(device, dtype)
    found, _ = everything(H, z0, steps, backend, "extended", condition=there, **options)
    return {name: value.cpu() for name, value in found.items()}


def assert_same(got, want, tolerance=1e-11):
    for name, value in want.items():
        assert (got[name] - value).abs().max() < tolerance * (1 + value.abs().max()), name


def check(H, z0, steps, device, **options):
    assert_same(run(H, z0, steps, device, **options), run(H, z0, steps, backend="reference", **options))


@on_gpu
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, device):
    H = network(2, (5,), activation, condition_dim=2)
    check(H, states(2, 4), 3, device, condition=states(2, 2))


@on_gpu
@pytest.mark.parametrize(
    ("d", "hidden", "batch", "steps"),
    [(1, (1,), 1, 4), (3, (7, 33, 5), 9, 1), (17, (3, 20), 2, 2), (20, (33,), 17, 1)],
)
def test_sizes(d, hidden, batch, steps, device):
    check(network(d, hidden), states(batch, 2 * d), steps, device, dt=0.2)


@on_gpu
@pytest.mark.parametrize("binding", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("dt", [-0.2, 0.7])
def test_binding(binding, dt, device):
    check(network(2, (9, 4)), states(3, 4), 3, device, dt=dt, binding=binding)


def test_the_cpus_kernels_agree():
    H, z0, condition = network(5, (20, 9), condition_dim=3), states(11, 10), states(11, 3)
    want = run(H, z0, 6, condition=condition)
    with emulated_gpu():
        assert_same(run(H, z0, 6, condition=condition), want, 1e-12)


@on_gpu
def test_float32(device):
    """Twice as far from the float64 rollout as torch's own float32 at most."""
    H, z0 = network(5, (20, 9)).float().double(), states(4, 10).float().double()
    want = run(H, z0, 3, backend="reference")
    theirs, mine = run(H, z0, 3, "cpu", torch.float32, "reference"), run(H, z0, 3, device, torch.float32)
    assert mine["trajectory"].dtype == torch.float32

    def errors(found):
        off = {name: (found[name] - want[name]).norm() / want[name].norm() for name in want if want[name].any()}
        return off["trajectory"], max(off.values())

    for own, torchs in zip(errors(mine), errors(theirs), strict=True):
        assert own <= 2 * torchs


@on_gpu
def test_broken_samples_leave_others_alone(device):
    """Of the same block."""
    H, z0, condition = network(3, (9,), condition_dim=1), states(6, 6), states(6, 1)
    want, _ = values(H, z0, 2, "reference", "extended", condition=condition)
    z0[1, 2], z0[3, 5], condition[4] = math.nan, math.inf, math.nan
    there = copy.deepcopy(H).to(device), z0.to(device)
    got, _ = values(*there, 2, "native", "extended", condition=condition.to(device))
    others = [0, 2, 5]
    torch.testing.assert_close(got[others].cpu(), want[others], rtol=1e-11, atol=1e-11)
    assert not got[[1, 3, 4], 1:].isfinite().all(-1).any()


@on_gpu
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(batch, steps, device):
    H = network(2, (5,)).to(device)
    z0 = states(batch, 4).to(device).requires_grad_()
    trajectory = rollout(H, z0, 0.1, steps, method="extended", backend="native")
    assert trajectory.shape == (batch, steps + 1, 4)
    assert torch.equal(trajectory[:, 0], z0)
    weights = torch.randn_like(trajectory)
    gradients = torch.autograd.grad((trajectory * weights).sum(), [z0, *H.parameters()], allow_unused=True)
    assert torch.equal(gradients[0], weights[:, 0])
    assert all(g is None or (g == 0).all() for g in gradients[1:])


@on_gpu
def test_autocast_does_not_reach_inside(device):
    H = network(2, (5,)).to(device, torch.float32)
    z0 = states(2, 4).to(device, torch.float32)

    def gradients():
        trajectory = rollout(H, z0, 0.3, 2, method="extended", backend="native")
        return trajectory, *torch.autograd.grad(trajectory.square().sum(), list(H.parameters()))[:-1]

    want = gradients()
    with torch.autocast(device, torch.bfloat16):
        got = gradients()
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


def test_gradients_in_parts(monkeypatch):
    H, z0, condition = network(2, (5, 3), condition_dim=1), states(3, 4), states(3, 1)
    want = run(H, z0, 3, backend="reference", condition=condition)
    monkeypatch.setattr(_cuda_implicit, "GRADIENT_BYTES", 4 * 8 * 8 * 12)  # four points of thirty
    with emulated_gpu():
        assert_same(run(H, z0, 3, condition=condition), want)


# --- Where things are. A device with less shared memory keeps more of them in global memory.

PLACES = {
    "many weights": {"d": 2, "hidden": (5, 50, 50), "batch": 9},
    "many vectors": {"d": 33, "hidden": (5,), "batch": 2},
}


def plan(d: int, hidden: tuple[int, ...], batch: int = 1, is_double: bool = True, gpu: Gpu = (90, 8, SHARED)):
    emulator = Emulator(gpu)
    return emulator.cuda_extended_plan(d, hidden, batch, is_double, emulator.gpu_description(0))


def plans(d: int, hidden: tuple[int, ...], batch: int, is_double: bool) -> list[tuple[Gpu, tuple[int, bool]]]:
    return every_place(lambda gpu: plan(d, hidden, batch, is_double, gpu))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", PLACES)
def test_every_place(name, dtype):
    """Where things are changes no bit. The blocks are too few: one takes all samples, eight at a time."""
    size = PLACES[name]
    H, z0 = network(size["d"], size["hidden"]), states(size["batch"], 2 * size["d"])
    emulators = [Emulator(gpu) for gpu, _ in plans(**size, is_double=dtype == F64)]
    assert_same_bits(emulators, lambda: run(H, z0, 1, dtype=dtype))


def test_the_places_above_are_all():
    for is_double in (True, False):
        found = {place for size in PLACES.values() for _, place in plans(**size, is_double=is_double)}
        assert found == {(weights, vectors) for weights in (1, 2) for vectors in (False, True)}


def test_no_order_of_threads_changes_a_bit():
    H, z0, condition = network(3, (17, 5), condition_dim=1), states(2, 6), states(2, 1)
    assert_same_bits(ORDERS, lambda: run(H, z0, 2, condition=condition))


@pytest.mark.parametrize(("hidden", "gpu", "reason"), NO_PLAN)
def test_reasons(hidden, gpu, reason):
    with pytest.raises(ValueError, match=reason):
        plan(2, hidden, gpu=gpu)
    with emulated_gpu(Emulator(gpu)), pytest.raises(ValueError, match=reason):
        rollout(network(2, hidden), states(3, 4), 0.1, 2, method="extended")
