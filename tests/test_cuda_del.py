"""The CUDA kernels of discrete Euler-Lagrange rollouts, on the emulator or a GPU: values, gradients and status against
torch's in float64, and the choice of a plan."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from emulation import NO_PLAN, ORDERS, SHARED, Emulator, Gpu, assert_same_bits, emulated_gpu, every_place
from helpers import on
from hypothesis import given, settings
from hypothesis import strategies as st
from motions import ACTIVATIONS, F64, bound_of_hessian, problem, roll, values_and_gradients

from hamiltorch_ext import DiscreteLagrangianMLP, MechanicalLagrangian, _cuda_del, del_rollout
from hamiltorch_ext.lagrangians import D2
from hamiltorch_ext.variational import del_residual

on_gpu = on("emulated", "cuda")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_device(L, arguments, device, dtype=F64):
    moved = {name: None if value is None else value.to(device, dtype) for name, value in arguments.items()}
    return copy.deepcopy(L).to(device, dtype), moved


def run(L, arguments, steps, device="cpu", dtype=F64, backend="native", **options):
    """Values, status and gradients on the device, brought to the CPU."""
    q, info, gradients = values_and_gradients(*on_device(L, arguments, device, dtype), steps, backend, **options)
    info = type(info)(*(field.cpu() for field in info))
    return q.cpu(), info, {name: g.cpu() for name, g in gradients.items()}


def tensors(found):
    """The trajectory and the gradients of what ``run`` found."""
    return {"q": found[0], **found[2]}


def assert_same(got, want, tolerance=1e-9):
    assert want[1].converged.all()
    assert got[1].converged.all()
    assert (got[1].smallest_pivot == math.inf).all()
    assert (got[0] - want[0]).abs().max() < tolerance * (1 + want[0].abs().max())
    for name, g in want[2].items():
        assert (got[2][name] - g).abs().max() < tolerance * (1 + g.abs().max()), name


@on_gpu
@pytest.mark.parametrize("kind", ["discrete", "midpoint", "trapezoid"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_lagrangian(kind, activation, device):
    L, arguments = problem(2, (5,), 2, 2, kind=kind, activation=activation, condition_dim=2)
    assert_same(run(L, arguments, 2, device, tol=1e-13), run(L, arguments, 2, backend="reference", tol=1e-13))


@on_gpu
@pytest.mark.parametrize(
    ("d", "hidden", "batch", "steps"),
    [(1, (1,), 1, 3), (3, (7, 33, 5), 9, 1), (8, (20, 9), 3, 2), (17, (3, 20), 2, 1), (64, (17, 20), 2, 1)],
)
def test_sizes(d, hidden, batch, steps, device):
    L, arguments = problem(d, hidden, batch, steps)
    assert_same(run(L, arguments, steps, device, tol=1e-13), run(L, arguments, steps, backend="reference", tol=1e-13))


@on_gpu
@pytest.mark.parametrize(("d", "hidden", "dt"), [(6, (30,), 2.0), (64, (64,), 1.0)])
def test_long_steps(d, hidden, dt, device):
    """Where the kinetic term says little of the systems GMRES has to solve them; with more coordinates than it has
    directions it has to begin anew."""
    L, arguments = problem(d, hidden, 2, 1, gain=2.0, activation="tanh")
    arguments["dt"] = torch.tensor(dt, dtype=F64)
    got = run(L, arguments, 1, device, tol=1e-12)
    assert (got[1].iterations > 4).any()
    assert_same(got, run(L, arguments, 1, backend="reference", tol=1e-12), tolerance=1e-7)


@on_gpu
def test_float32(device):
    """Twice as far from the float64 motion as torch's own float32 at most, the tolerance being too fine for either."""
    L, arguments = problem(5, (20, 9), 4, 2, condition_dim=1)
    # Numbers that float32 has, so that all solve the same equations.
    L, arguments = on_device(*on_device(L, arguments, "cpu", torch.float32), "cpu")
    want = run(L, arguments, 2, backend="reference", tol=1e-13)
    torchs = run(L, arguments, 2, dtype=torch.float32, backend="reference", tol=1e-8)
    got = run(L, arguments, 2, device, torch.float32, tol=1e-8)
    assert got[0].dtype == torch.float32

    def errors(found):
        pairs = [(found[2][name], g) for name, g in want[2].items() if g.any()]
        return (found[0] - want[0]).norm(), max((g - exact).norm() / exact.norm() for g, exact in pairs)

    for mine, theirs in zip(errors(got), errors(torchs), strict=True):
        assert mine <= 2 * theirs


@on_gpu
def test_autocast_does_not_reach_inside(device):
    L, arguments = problem(2, (5,), 2, 2, condition_dim=1)
    want = run(L, arguments, 2, device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        got = run(L, arguments, 2, device, torch.float32)
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(got[2][name], want[2][name]) for name in want[2])


# --- Where things are. A device with less shared memory keeps more of them in global memory.

PLACES = {
    "many weights": {"d": 2, "hidden": (40, 40), "batch": 9},
    "many vectors": {"d": 17, "hidden": (5,), "batch": 2},
}


def plan(d: int, hidden: tuple[int, ...], batch: int = 1, is_double: bool = True, gpu: Gpu = (90, 8, SHARED)):
    emulator = Emulator(gpu)
    return emulator.cuda_del_plan(d, hidden, batch, is_double, emulator.gpu_description(0))


def plans(d: int, hidden: tuple[int, ...], batch: int, is_double: bool) -> list[tuple[Gpu, tuple[int, bool]]]:
    return every_place(lambda gpu: plan(d, hidden, batch, is_double, gpu))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", PLACES)
def test_every_place(name, dtype):
    """Where things are changes no bit. The blocks are too few: one takes all samples, eight at a time."""
    size = PLACES[name]
    L, arguments = problem(**size, steps=2)
    emulators = [Emulator(gpu) for gpu, _ in plans(**size, is_double=dtype == F64)]
    assert_same_bits(emulators, lambda: tensors(run(L, arguments, 2, dtype=dtype)))


def test_the_places_above_are_all():
    for is_double in (True, False):
        found = {place for size in PLACES.values() for _, place in plans(**size, is_double=is_double)}
        assert found == {(weights, vectors) for weights in (1, 2) for vectors in (False, True)}


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_no_order_of_threads_changes_a_bit(dtype):
    L, arguments = problem(3, (17, 5), 2, 2, condition_dim=1)
    assert_same_bits(ORDERS, lambda: tensors(run(L, arguments, 2, dtype=dtype)))


def test_gradients_in_parts(monkeypatch):
    L, arguments = problem(2, (5,), 3, 4, condition_dim=1)
    want = run(L, arguments, 4, backend="reference", tol=1e-13)
    monkeypatch.setattr(_cuda_del, "GRADIENT_BYTES", 4 * 8 * 8 * 9)  # four intervals of fifteen
    with emulated_gpu():
        assert_same(run(L, arguments, 4, tol=1e-13), want)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_plans_fit_the_device(data):
    d, batch = data.draw(st.integers(1, 600), "d"), data.draw(st.integers(0, 5000), "batch")
    hidden = tuple(data.draw(st.lists(st.integers(1, 600), min_size=1, max_size=5), "hidden"))
    is_double = data.draw(st.booleans(), "double")
    gpu = (90, data.draw(st.integers(1, 200), "multiprocessors"), data.draw(st.integers(1000, SHARED), "shared memory"))
    element = 8 if is_double else 4
    tiles = [-(-width // 16) for width in (d, *hidden)]
    weights = 2 * 256 * element * (tiles[0] * tiles[1] + sum(a * b for a, b in pairwise(tiles)))
    vectors = 8 * element * (60 * d + 3 * sum(hidden))
    try:
        there = plan(d, hidden, batch, is_double, gpu)
    except ValueError as error:
        assert f"bytes of shared memory in a block, the device has {gpu[2]}" in str(error)  # noqa: PT017
        assert gpu[2] < 8 * element * (2 * 16 * max(tiles) + 8 * 16 * max(tiles) + 512)
        return
    assert there.shared_bytes <= gpu[2]
    assert 1 <= there.blocks <= min(gpu[1], max(1, -(-batch // 8)))
    assert there.workspace_bytes >= weights + (there.blocks * vectors if there.vectors_global else 0)
    in_shared = (weights if there.weights == 1 else 0) + (0 if there.vectors_global else vectors)
    assert there.shared_bytes >= in_shared


@pytest.mark.parametrize(("hidden", "gpu", "reason"), NO_PLAN)
def test_reasons(hidden, gpu, reason):
    L, q = DiscreteLagrangianMLP(2, hidden), torch.zeros(3, 2)
    with emulated_gpu(Emulator(gpu)):
        with pytest.raises(ValueError, match=f"backend='native' cannot run this rollout: .*{reason}"):
            del_rollout(L, q, q, 2, dt=0.1, backend="native")
        if len(hidden) == 1:
            assert del_rollout(L, q, q, 2, dt=0.1).shape == (3, 4, 2)


# --- What does not go well.


@on_gpu
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(batch, steps, device):
    L = DiscreteLagrangianMLP(2, (5,)).to(device)
    q0, q1 = torch.randn(2, batch, 2, device=device).requires_grad_()
    q, info = del_rollout(L, q0, q1, steps, dt=0.1, return_info=True, backend="native")
    assert q.shape == (batch, steps + 2, 2)
    assert info.converged.shape == (batch, steps)
    weights = torch.randn_like(q)
    gradients = torch.autograd.grad((q * weights).sum(), [q0, q1, *L.parameters()])
    assert torch.equal(torch.stack(gradients[:2], 1), weights[:, :2])
    assert all((g == 0).all() for g in gradients[2:])


@on_gpu
def test_failures_leave_others_alone(device):
    """Of the same block. A sample that fails midway is constant from there."""
    L, arguments = problem(3, (9,), 6, 4, condition_dim=1)
    alone = run(L, arguments, 4, device)
    arguments["forces"][1, 2] = math.nan
    arguments["q0"][3, 0] = math.inf
    arguments["condition"][4] = math.nan
    got = run(L, arguments, 4, device)
    assert got[1].converged.tolist() == [
        [True] * 4, [True, True, False, False], [True] * 4, [False] * 4, [False] * 4, [True] * 4
    ]  # fmt: skip
    for sample in (0, 2, 5):
        assert torch.equal(got[0][sample], alone[0][sample])
    others = torch.tensor([0, 1, 2, 5])
    want = run(L, arguments, 4, backend="reference")
    for name in ("q0", "q1", "condition", "dt", "damping", *dict(L.named_parameters())):
        g, w = got[2][name], want[2][name]
        if name in ("q0", "q1", "condition"):
            g, w = g[others], w[others]
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6, msg=name)


def test_the_same_steps_as_on_the_cpu():
    """The kernels' own iteration, also where full steps fail, where none is found, and where iterations run out."""
    L, arguments = problem(3, (16,), 40, 2, gain=4.0, activation="sin")
    arguments["q1"] = arguments["q0"] + 2 * torch.randn(40, 3, dtype=F64)
    arguments["dt"] = torch.tensor(0.9, dtype=F64)
    for most in (2, 20):
        _, want = roll(L, arguments, 2, "native", tol=1e-9, max_iterations=most)
        with emulated_gpu():
            q, info = roll(L, arguments, 2, "native", tol=1e-9, max_iterations=most)
        assert most == 2 or 4 < want.converged[:, 0].sum() < 36
        # Rounding may turn a comparison, and where a step has failed, what follows is anybody's.
        same = (info.iterations == want.iterations) & (info.converged == want.converged)
        assert same[:, 0].sum() >= 38
        assert same[want.converged[:, 0], 1].sum() >= 0.9 * want.converged[:, 0].sum()
        agrees(L, arguments, q.detach(), info)


def agrees(L, arguments, q, info):
    """What the status says is what autograd finds at the returned points."""
    h, friction, forces = (arguments[name] for name in ("dt", "damping", "forces"))
    left = del_residual(lambda a, b, dt: L(a, b, dt), q, dt=h, forces=forces, damping=friction)
    carried = D2(L, q[:, :-2], q[:, 1:-1], h) - friction * (q[:, 1:-1] - q[:, :-2]) / 2 + forces
    error = left.abs().amax(-1) / (1 + carried.abs().amax(-1))
    torch.testing.assert_close(info.residual, error, rtol=1e-6, atol=1e-12)


@on_gpu
@pytest.mark.parametrize("dt", [1e-4, 0.1, 10.0, 1e4])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (F64, 1e-8)])
def test_hostile_solves(dtype, tol, dt, device):
    """Far starts, near-singular systems, huge and tiny steps, infinities: every sample is solved, as an independent
    residual confirms, or flagged."""
    L, _ = problem(3, (24, 8), gain=5.0, activation="sin")
    L, _ = on_device(L, {}, "cpu", dtype)
    q0, q1 = 10 ** (4 * torch.rand(2, 16, 1) - 2) * torch.randn(2, 16, 3)
    q1[:8] = (q0 + dt * q1)[:8]
    q0[::5, 0], q1[1::5, -1] = math.nan, math.inf
    q0, q1 = q0.to(dtype), q1.to(dtype)
    there = copy.deepcopy(L).to(device)
    with torch.no_grad():
        q, info = del_rollout(
            there, q0.to(device), q1.to(device), 1, dt=dt, tol=tol, return_info=True, backend="native"
        )
        ok, q = info.converged[:, 0].cpu(), q.cpu()
        L, exact = L.double(), q[ok].double()
        r = del_residual(L, exact, dt=dt)[:, 0].abs().amax(-1)
        carried = D2(L, exact[:, 0], exact[:, 1], dt).abs().amax(-1)
        spacing = 16 * torch.finfo(dtype).eps * exact.abs().amax((-2, -1))
        slope = (L.mass / dt).max() + dt * bound_of_hessian(L)
    assert (r <= 1.01 * tol * (1 + carried) + spacing * slope * 3).all()
    assert not ok[::5].any()
    assert not ok[1::5].any()
    assert ok.any() or dt > 1


@on_gpu
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_cotangents_of_any_size(size, device):
    """Their squares leave the range of float32."""
    L, arguments = on_device(*problem(3, (9,), 2, 2), device, torch.float32)
    q0 = arguments["q0"].requires_grad_()
    q, _ = roll(L, arguments, 2, "native")
    (want,) = torch.autograd.grad(q[:, -1].sum(), q0, retain_graph=True)
    (got,) = torch.autograd.grad(q[:, -1].sum(), q0, torch.tensor(size, device=device), retain_graph=True)
    torch.testing.assert_close(got / size, want, rtol=1e-4, atol=1e-4)
    (infinite,) = torch.autograd.grad(q[:, -1].sum(), q0, torch.tensor(math.inf, device=device))
    assert not torch.isfinite(infinite).any()


@on_gpu
def test_a_singular_step_is_a_constant(device):
    """V = -4 cos q (mass one, dt = 1): at rest the matrix -m/h - h V''/4 is zero."""
    L = MechanicalLagrangian(1, (1,), "sin", dtype=F64)
    with torch.no_grad():
        inner, outer = L.potential.layers
        inner.weight.fill_(1.0)
        inner.bias.fill_(math.pi / 2)
        outer.weight.fill_(4.0)
        L.raw_mass.fill_(math.log(math.expm1(1 - 1e-3)))
    L.to(device)
    q0, q1 = torch.zeros(2, 1, 1, dtype=F64, device=device).requires_grad_()
    q, info = del_rollout(L, q0, q1, 1, dt=1.0, return_info=True, backend="native")
    assert info.converged.all()
    gradients = torch.autograd.grad(q[:, 2].sum(), [q0, q1, inner.weight, inner.bias, outer.weight, L.raw_mass])
    assert all((g == 0).all() for g in gradients)


# --- What only a GPU can show.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize(("d", "hidden"), [(2, (64, 64)), (8, (128, 128)), (64, (512, 256))])
def test_large_batches(d, hidden, batch, dtype):
    L, arguments = problem(d, hidden, batch, 4)
    want = run(L, arguments, 4, tol=1e-12)
    got = run(L, arguments, 4, "cuda", dtype, **({"tol": 1e-12} if dtype == F64 else {}))
    tolerance = 1e-8 if dtype == F64 else 1e-3
    assert got[1].converged.all()
    assert (got[0] - want[0]).norm() < tolerance * want[0].norm()
    for name, g in want[2].items():
        assert (got[2][name] - g).norm() < tolerance * (1 + g.norm()), name


@pytest.mark.cuda
def test_the_same_bits_every_time():
    L, arguments = problem(8, (64, 64), 1000, 4)
    first, second = (run(L, arguments, 4, "cuda", torch.float32) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[2][name], second[2][name]) for name in first[2])


def step_of_training(L, arguments):
    q, _ = roll(L, arguments, 3, "native")
    return torch.autograd.grad(q.square().sum(), [arguments["dt"], *L.parameters()], allow_unused=True)[:-1]


@pytest.mark.cuda
def test_nothing_waits_for_the_device():
    L, arguments = on_device(*problem(4, (33, 17), 50, 3, condition_dim=2), "cuda", torch.float32)
    arguments["dt"].requires_grad_()
    step_of_training(L, arguments)  # what is done once per process is done
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_of_training(L, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_graph_of_a_training_step():
    L, arguments = on_device(*problem(4, (33, 17), 50, 3, condition_dim=2), "cuda", torch.float32)
    arguments["dt"].requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step_of_training(L, arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step_of_training(L, arguments)
    for _ in range(2):
        with torch.no_grad():
            arguments["q1"].add_(0.01)
            for parameter in L.parameters():
                parameter.mul_(1.01)
        graph.replay()
        for got, want in zip(captured, step_of_training(L, arguments), strict=True):
            torch.testing.assert_close(got, want)
