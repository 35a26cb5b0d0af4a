"""What only a CUDA device can show: streams, graphs, several devices, memory, and every plan on the hardware."""

from __future__ import annotations

import threading

import pytest
import torch
import workers
from helpers import assert_exact, assert_within, exact, float32_allowance, library, make_problem, sequential

import hamiltorch_ext
from hamiltorch_ext import HamiltonianMLP, cuda_plans, leapfrog_rollout

pytestmark = pytest.mark.cuda
DTYPES = [torch.float32, torch.float64]
NETWORKS = {"paper": (512, 512, 256), "small": (64, 33), "odd": (17, 40, 1, 7), "one layer": (33,)}


@pytest.fixture
def device():
    return "cuda"


@pytest.fixture
def model(device):
    return workers.Model().to(device)


@pytest.fixture
def z0(device):
    return workers.data().to(device)


def test_the_report_names_the_device(device):
    info = hamiltorch_ext.build_info()
    assert torch.cuda.get_device_name(device) in str(info)


@pytest.mark.parametrize("batch", [1, 33, 1000])
@pytest.mark.parametrize("hidden", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_plan(dtype, hidden, batch, device):
    problem = make_problem(d=5, hidden=hidden, batch=(batch,), steps=2, condition_dim=2, activation="silu")
    want = exact(problem)
    allowance = None if dtype == torch.float64 else float32_allowance(problem, want, neighbours=1)
    precision = "float64" if dtype == torch.float64 else "float32"
    for adjoint in (False, True):
        for plan in cuda_plans.candidate_plans(hidden, batch, precision=precision, adjoint=adjoint):
            with cuda_plans.use_plan(plan):
                got = library(problem, dtype, device=device)
            if allowance is None:
                assert_exact(got, want)
            else:
                assert_within(got, want, allowance)


@pytest.mark.parametrize("batch", [1, 33, 1000])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_every_plan_in_reduced_precision(precision, batch, device):
    """Plans differ in the order of summation only, and from float64 by the roundoff of the operands."""
    hidden = NETWORKS["paper"]
    problem = make_problem(d=64, hidden=hidden, batch=(batch,), steps=2)
    want = exact(problem)
    roundoff = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}[precision]
    moved = (want["trajectory"] - problem.z0[:, None]).norm()
    for adjoint in (False, True):
        for plan in cuda_plans.candidate_plans(hidden, batch, precision=precision, adjoint=adjoint):
            if plan.precision != precision:  # there are float32 plans among them
                continue
            with cuda_plans.use_plan(plan):
                got = library(problem, torch.float32, precision=precision, device=device)
            for name in ("gradient of weight 1", "gradient of weight 2") if adjoint else ("trajectory",):
                scale = want[name].norm() if adjoint else moved
                error = (got[name].double() - want[name]).norm() / scale
                assert roundoff / 50 < error < 8 * roundoff, f"{plan}: {name}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 33, 1000])
def test_same_bits_by_every_plan_every_time(batch, dtype, device):
    problem = make_problem(d=17, hidden=(64, 33), batch=(batch,), steps=3, seed=1)
    precision = "float64" if dtype == torch.float64 else "float32"
    for adjoint in (False, True):
        for plan in cuda_plans.candidate_plans((64, 33), batch, precision=precision, adjoint=adjoint):
            with cuda_plans.use_plan(plan):
                first = library(problem, dtype, device=device)
                for _ in range(3):
                    again = library(problem, dtype, device=device)
                    assert all(torch.equal(first[name], again[name]) for name in first), plan


def test_the_current_stream_is_respected(model, z0):
    """On a side stream the rollout must wait for its input, which comes late, and the caller for neither."""

    def step(start):
        trajectory, energies = model(start)
        return trajectory, energies, *torch.autograd.grad(trajectory.sum(), list(model.H.parameters())[:-1])

    expected = step(z0)  # what is done once per process is done here
    late = torch.full_like(z0, torch.nan)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(500_000_000)  # cycles, about a quarter of a second
        late.copy_(z0)
        results = step(late)
        assert not side.query()
    torch.cuda.current_stream().wait_stream(side)
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_rollouts_on_many_streams_from_many_threads(device):
    problems = [make_problem(d=5, hidden=(33, 17), batch=(9 + n,), steps=5, seed=n) for n in range(8)]
    alone = [library(problem, torch.float32, device=device) for problem in problems]
    got = [None] * len(problems)

    def work(n):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                got[n] = library(problems[n], torch.float32, device=device)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, want in zip(got, alone, strict=True):
        assert all(torch.equal(mine[name], want[name]) for name in want)


def warm_up(function):
    """What a graph needs before its capture: a few calls on another stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)


@pytest.mark.parametrize("hidden", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("batch", [1, 100])
def test_graph_of_a_rollout(hidden, batch, device):
    H = HamiltonianMLP(6, hidden, device=device)
    z0, dt = torch.randn(batch, 6, device=device), torch.tensor(0.1, device=device)
    with torch.no_grad():
        warm_up(lambda: leapfrog_rollout(H, z0, dt, 3, return_energy=True))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = leapfrog_rollout(H, z0, dt, 3, return_energy=True)
        for step in (0.1, 0.2):
            z0.normal_()
            dt.fill_(step)
            H.layers[0].weight.mul_(1.1)
            graph.replay()
            for got, want in zip(captured, leapfrog_rollout(H, z0, dt, 3, return_energy=True), strict=True):
                torch.testing.assert_close(got, want)


def test_graph_of_a_training_step(model, z0):
    parameters = list(model.parameters())

    def step():
        return torch.autograd.grad(workers.loss(model, z0), parameters)

    warm_up(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        with torch.no_grad():
            z0.normal_()
            for parameter in parameters:
                parameter.mul_(1.1)
        graph.replay()
        for got, want in zip(captured, step(), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("learned", [False, True])
def test_nothing_waits_for_the_device(learned, model, z0):
    dt = model.dt if learned else model.dt.detach()
    leapfrog_rollout(model.H, z0, dt, 3)  # what is done once per process is done
    workers.loss(model, z0).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trajectory, energies = leapfrog_rollout(model.H, z0, dt, 3, return_energy=True)
        (trajectory.square().mean() + energies.mean()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_bad_time_step_shows_without_waiting(model, z0, device):
    trajectory = leapfrog_rollout(model.H, z0, torch.tensor(float("nan"), device=device), 2)
    assert trajectory[:, 1:].isnan().all()


def test_memory_does_not_grow(model, z0):
    def step():
        workers.loss(model, z0).backward()
        for parameter in model.parameters():
            parameter.grad = None

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    free_before, _ = torch.cuda.mem_get_info()
    for _ in range(200):
        step()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    free_after, _ = torch.cuda.mem_get_info()
    assert free_after >= free_before - (2 << 20)  # nor beside torch's allocator


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_torch_settings_stay(precision, model, z0):
    def read():
        matmul = torch.backends.cuda.matmul
        return (
            torch.get_float32_matmul_precision(), matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction,
            torch.are_deterministic_algorithms_enabled(), torch.cuda.current_device(), torch.cuda.current_stream(),
        )  # fmt: skip

    before = read()
    leapfrog_rollout(model.H, z0, model.dt, 3, precision=precision).sum().backward()
    assert read() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_device(dtype):
    problem = make_problem(d=5, hidden=(64, 33), batch=(40,), condition_dim=2)
    first, second = (library(problem, dtype, device=f"cuda:{index}") for index in (0, 1))
    assert torch.cuda.current_device() == 0
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_tensors_of_two_devices_are_refused():
    H = HamiltonianMLP(4, (5,), device="cuda:1")
    with pytest.raises(ValueError, match="z0 must be on the device of H's parameters, cuda:1, got cuda:0"):
        leapfrog_rollout(H, torch.zeros(3, 4, device="cuda:0"), 0.1, 2)


def test_tensors_of_cpu_and_gpu_are_refused(device):
    here, there = torch.zeros(3, 4), torch.zeros(3, 4, device=device)
    H = HamiltonianMLP(4, (5,), condition_dim=2)
    with pytest.raises(ValueError, match="z0 must be on the device of H's parameters, cpu, got cuda:0"):
        leapfrog_rollout(H, there, 0.1, 2, condition=torch.zeros(3, 2, device=device))
    H = H.to(device)
    with pytest.raises(ValueError, match="z0 must be on the device of H's parameters, cuda:0, got cpu"):
        leapfrog_rollout(H, here, 0.1, 2, condition=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="condition must be on z0's device, cuda:0, got cpu"):
        leapfrog_rollout(H, there, 0.1, 2, condition=torch.zeros(3, 2))


def test_a_network_that_no_plan_can_run_falls_back(device):
    H = sequential(make_problem(d=2, hidden=(3,) * 33), torch.float32, device)
    z0 = torch.randn(3, 4, device=device)
    with pytest.raises(ValueError, match=r"backend='native' cannot run.*at most 32 hidden layers"):
        leapfrog_rollout(H, z0, 0.1, 2, backend="native")
    with pytest.warns(UserWarning, match=r"reference path.*at most 32 hidden layers"):
        leapfrog_rollout(H, z0, 0.1, 2)
