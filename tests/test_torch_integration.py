"""The rollouts as part of torch: operators, compile, grad modes, DDP, pickling, processes and threads."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
import workers
from helpers import make_problem, on, sequential
from torch import nn
from torch._subclasses import FakeTensorMode

import hamiltorch_ext
from hamiltorch_ext import (
    _C,
    HamiltonianMLP,
    SeparableHamiltonian,
    _ops,
    _separable_ops,
    euler_rollout,
    leapfrog_rollout,
    rollout,
)

DTYPES = [torch.float32, torch.float64]
METHODS = ["leapfrog", "euler"]


@pytest.fixture
def model(device):
    return workers.Model().to(device)


@pytest.fixture
def z0(device):
    return workers.data().to(device)


def grads(model, z0):
    return torch.autograd.grad(workers.loss(model, z0), list(model.parameters()))


def operator_arguments(device, dtype, method, condition, energies, requires_grad):
    problem = make_problem(batch=(4,), steps=2, method=method, condition_dim=2 if condition else 0)

    def leaf(x):
        return x.to(device, dtype).requires_grad_(requires_grad)

    return (
        leaf(problem.z0), leaf(problem.dt), [leaf(w) for w in problem.weights], [leaf(b) for b in problem.biases],
        leaf(problem.condition) if condition else None, "softplus", method, 2, energies, "float32",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("energies", [False, True])
def test_opcheck_rollout(dtype, method, condition, energies, device):
    arguments = operator_arguments(device, dtype, method, condition, energies, requires_grad=True)
    torch.library.opcheck(torch.ops.hamiltorch.rollout.default, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_rollout_on_strided_inputs(dtype, device):
    z0, *rest = operator_arguments(device, dtype, "leapfrog", True, True, requires_grad=False)
    z0 = z0.mT.contiguous().mT.requires_grad_()
    assert not z0.is_contiguous()
    torch.library.opcheck(torch.ops.hamiltorch.rollout.default, (z0, *rest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["both", "trajectory", "energies"])
@pytest.mark.parametrize("condition", [False, True])
def test_opcheck_rollout_backward(dtype, given, condition, device):
    z0, dt, weights, biases, context, activation, method, steps, _, precision = operator_arguments(
        device, dtype, "leapfrog", condition, True, requires_grad=False
    )
    trajectory, energies = torch.ops.hamiltorch.rollout(
        z0, dt, weights, biases, context, activation, method, steps, True, precision
    )
    on_trajectory = torch.ones_like(trajectory) if given != "energies" else None
    on_energies = torch.ones_like(energies) if given != "trajectory" else None
    arguments = (on_trajectory, on_energies, trajectory, dt, weights, biases, context, activation, method, precision)
    torch.library.opcheck(torch.ops.hamiltorch.rollout_backward.default, arguments)


@on("cpu", "cuda")
@pytest.mark.parametrize("energies", [False, True])
def test_compiled_forward(model, z0, energies):
    def run(z0):
        result = leapfrog_rollout(model.H, z0, 0.1, 3, return_energy=energies)
        return (2 * result[0], result[1] + 1) if energies else (2 * result,)

    for expected, got in zip(run(z0), torch.compile(run, fullgraph=True, backend="aot_eager")(z0), strict=True):
        torch.testing.assert_close(got, expected)


@on("cpu", "cuda")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_step(model, z0, backend):
    """Rollout, energies and H.gradient in one graph, with gradients of everything."""

    def loss(z0):
        trajectory, energies = model(z0)
        slope = model.H.gradient(trajectory[:, -1])
        field = model.H.vector_field(trajectory[:, 0])
        return trajectory.square().mean() + energies.std() + slope.square().mean() + field.abs().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, inside inductor
        compiled = torch.compile(loss, fullgraph=True, backend=backend)(z0)
    expected = loss(z0)
    torch.testing.assert_close(compiled, expected)
    parameters = list(model.parameters())
    for got, want in zip(
        torch.autograd.grad(compiled, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(got, want)


@on("cpu", "cuda")
def test_compiled_with_another_batch_and_number_of_steps(model, z0):
    def run(z0, steps):
        return leapfrog_rollout(model.H, z0, 0.1, steps)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows, steps in ((8, 3), (5, 3), (7, 4), (3, 6)):
        torch.testing.assert_close(compiled(z0[:rows], steps), run(z0[:rows], steps))


@on("cpu", "cuda")
def test_compiled_with_condition(z0, device):
    H = HamiltonianMLP(6, (8,), condition_dim=2, device=device)
    context = torch.randn(8, 2, device=device)

    def run(z0, context):
        return leapfrog_rollout(H, z0, torch.tensor(0.1), 2, condition=context)

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(z0, context), run(z0, context))


def test_what_tracing_leaves_to_the_operators():
    """Which say when they run what a GPU cannot do."""
    network, separable = HamiltonianMLP(4, (5,)).description, SeparableHamiltonian(4, (5,))
    with FakeTensorMode():
        z0 = torch.empty(3, 4, device="cuda")
    questions = {
        _ops.why_not_native: (network, z0, "leapfrog", "float32"),
        _separable_ops.why_not_native: (separable, z0, "leapfrog", "float32"),
    }
    with mock.patch.object(_ops, "_no_cuda", return_value="no driver"):
        for why_not, question in questions.items():
            assert why_not(*question) == "no driver"
            with mock.patch.object(_ops, "is_compiling", return_value=True):
                assert why_not(*question) is None
    with mock.patch.object(_ops, "is_compiling", return_value=True):
        assert _ops.why_not_native(network, z0, "extended", "bfloat16") is not None  # of which the operator is not told
        assert "not on meta" in _ops.why_not_native(network, z0.to("meta"), "leapfrog", "float32")


def test_what_a_gpu_has_no_plan_for():
    too_deep = (3,) * 40
    network, separable = HamiltonianMLP(4, too_deep).description, SeparableHamiltonian(4, too_deep)
    with FakeTensorMode():
        z0 = torch.empty(3, 4, device="cuda")
    gpu = mock.patch.object(_C, "gpu_description", return_value=[90, 132, 232448, 0, 0, 0, 0])
    with mock.patch.object(_ops, "_no_cuda", return_value=""), gpu:
        for method in ("leapfrog", "stormer_verlet", "extended", "discrete_gradient"):
            assert "got 40" in _ops.why_not_native(network, z0, method, "float32")
        assert "got 40" in _separable_ops.why_not_native(separable, z0, "leapfrog", "float32")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode(model, z0, mode, backend):
    expected = leapfrog_rollout(model.H, z0, model.dt, 3, return_energy=True, backend=backend)
    with mode():
        for start in (z0, z0.clone()):  # a clone made in inference mode is an inference tensor
            results = leapfrog_rollout(model.H, start, model.dt, 3, return_energy=True, backend=backend)
            for got, want in zip(results, expected, strict=True):
                assert not got.requires_grad
                assert got.is_inference() == (mode is torch.inference_mode)
                torch.testing.assert_close(got, want.detach())


def test_rollout_in_grad_mode_of_states_from_inference_mode(model, z0):
    with torch.inference_mode():
        start = z0.clone()
    trajectory = leapfrog_rollout(model.H, start.clone(), model.dt, 3)
    trajectory.sum().backward()
    assert model.dt.grad is not None


def test_autograd_only_where_asked(z0, device):
    H = HamiltonianMLP(6, (5, 4), condition_dim=1, device=device)
    context = torch.randn(8, 1, device=device)
    inputs = {"z0": z0, "dt": torch.tensor(0.1, device=device), "condition": context, **dict(H.named_parameters())}

    def run():
        return leapfrog_rollout(H, z0, inputs["dt"], 2, condition=context, return_energy=True)

    for tensor in inputs.values():
        tensor.requires_grad_(False)
    assert not any(result.requires_grad for result in run())
    reference = {}
    for name, tensor in inputs.items():
        tensor.requires_grad_()
        trajectory, energies = run()
        assert trajectory.requires_grad
        assert energies.requires_grad
        (trajectory.square().sum() + energies.sum()).backward()
        assert [other for other, t in inputs.items() if t.grad is not None] == [name]
        reference[name], tensor.grad = tensor.grad, None
        tensor.requires_grad_(False)
    for tensor in inputs.values():
        tensor.requires_grad_()
    trajectory, energies = run()
    (trajectory.square().sum() + energies.sum()).backward()
    for name, tensor in inputs.items():
        torch.testing.assert_close(tensor.grad, reference[name], msg=name)


def test_float_time_step_and_detached_outputs(model, z0):
    assert not leapfrog_rollout(model.H.requires_grad_(False), z0, 0.1, 3).requires_grad


def test_gradients_accumulate_and_graph_can_be_kept(model, z0):
    loss = workers.loss(model, z0)
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    for parameter, once in zip(model.parameters(), first, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * once)


@pytest.mark.parametrize("function", [leapfrog_rollout, euler_rollout])
def test_double_backward_says_what_to_do(model, z0, function):
    z0.requires_grad_()
    (gradient,) = torch.autograd.grad(function(model.H, z0, 0.1, 2).sum(), z0, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"differentiable once.*backend='reference'"):
        gradient.sum().backward()


def test_reference_allows_double_backward():
    problem = make_problem(batch=(2,), steps=2)
    H = HamiltonianMLP.from_sequential(sequential(problem))
    z0 = problem.z0.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: leapfrog_rollout(H, z, 0.1, 2, backend="reference"), z0)


def test_parameters_changed_in_place_after_the_rollout_are_noticed(model, z0):
    loss = workers.loss(model, z0)
    with torch.no_grad():
        model.H.layers[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_optimiser_step_changes_the_next_rollout(model, z0):
    before = model(z0)[0].detach()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    first = workers.loss(model, z0)
    first.backward()
    optimiser.step()
    assert not torch.equal(model(z0)[0], before)
    assert workers.loss(model, z0) < first


def test_functional_call(model, z0):
    doubled = {name: 2 * value.detach() for name, value in model.named_parameters()}
    got = torch.func.functional_call(model, doubled, (z0,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    for a, b in zip(got, model(z0), strict=True):
        assert torch.equal(a, b)


@on("cpu")
def test_distributed_data_parallel(model, z0, tmp_path):
    torch.multiprocessing.spawn(workers.train_in_parallel, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    # The mean over ranks of mean losses over equal halves is the loss over the whole batch.
    for (name, _), want in zip(model.named_parameters(), grads(model, z0), strict=True):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], want)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(model, z0, copied):
    model(z0)  # a use before copying leaves nothing behind that cannot be copied
    twin = copied(model)
    assert torch.equal(twin(z0)[0], model(z0)[0])
    assert repr(twin) == repr(model)
    with torch.no_grad():
        twin.H.layers[0].weight.zero_()
    assert not torch.equal(twin(z0)[0], model(z0)[0])


def test_state_dict_round_trip(model, z0, device):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = workers.Model().to(device)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(z0)[0], model(z0)[0])
    assert list(model.H.state_dict()) == [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_change_of_dtype(model, z0):
    single = model(z0)[0].detach()
    double = model.double()(z0.double())[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float().detach(), single)
    assert model.to(torch.float32)(z0)[0].dtype == torch.float32


def test_many_threads_at_once():
    """Calls from Python threads share the native thread pool; every one must get its own results."""
    torch.set_num_threads(2)
    problems = [make_problem(d=5, hidden=(33, 17), batch=(9 + n,), steps=5, seed=n) for n in range(16)]

    def work(problem):
        H = sequential(problem, torch.float32)
        z0 = problem.z0.float().requires_grad_()
        trajectory = leapfrog_rollout(H, z0, 0.1, 5)
        loss = (trajectory * problem.on_trajectory.float()).sum()
        return [trajectory, *torch.autograd.grad(loss, [z0, H[0].weight, H[2].weight])]

    # torch's thread count belongs to the calling thread, and the bits to the thread count.
    with ThreadPoolExecutor(8, initializer=torch.set_num_threads, initargs=(2,)) as pool:
        alone = [pool.submit(work, problem).result() for problem in problems]
        for _ in range(5):
            for got, want in zip(pool.map(work, problems), alone, strict=True):
                assert all(map(torch.equal, got, want))


def test_the_interpreter_runs_on_during_a_rollout():
    torch.set_num_threads(1)
    H = HamiltonianMLP(128, (256, 256))
    z0 = torch.randn(64, 128)
    stop, ticks = threading.Event(), 0

    def tick():
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    counter = threading.Thread(target=tick)
    counter.start()
    try:
        with torch.no_grad():
            steps = 10
            while True:  # long enough to see, on any machine
                begin, before = time.perf_counter(), ticks
                leapfrog_rollout(H, z0, 0.001, steps)
                elapsed, during = time.perf_counter() - begin, ticks - before
                if elapsed > 0.2:
                    break
                steps *= 3
    finally:
        stop.set()
        counter.join()
    assert during > 20  # with the lock held it would be none or one


@on("cpu")
def test_fork_after_use(model, z0):
    """A forked child has none of the parent's threads: the pool must notice."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    torch.set_num_threads(2)
    z0 = torch.randn(64, 6)
    with torch.no_grad():
        expected = model(z0)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forking with threads
            child = os.fork()
        if child == 0:
            same = torch.equal(leapfrog_rollout(model.H, z0, model.dt, 3), expected)
            same = same and torch.equal(leapfrog_rollout(model.H, z0, model.dt, 3), expected)
            os._exit(0 if same else 1)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the rollout in the forked child did not return")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0
    assert torch.equal(model(z0)[0], expected)


def test_fork_after_torch_alone():
    """The parent's OpenMP runtime has threads, of which the child knows nothing, before there was any rollout."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    script = """
import os, torch
from hamiltorch_ext import HamiltonianMLP, leapfrog_rollout
torch.set_num_threads(2)
H, z0 = HamiltonianMLP(64, (128, 128)), torch.randn(64, 64)
(torch.randn(2000, 2000) + 1).sum()
child = os.fork()
if child == 0:
    with torch.no_grad():
        leapfrog_rollout(H, z0, 0.1, 3)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


@on("cpu")
def test_data_loader_workers(model, z0):
    """The commonest fork of all: a rollout inside a worker of a DataLoader."""

    class Rolled(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            with torch.no_grad():
                return model(z0[index])[0]

    model(z0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        batches = torch.cat(list(torch.utils.data.DataLoader(Rolled(), batch_size=2, num_workers=1, timeout=60)))
    torch.testing.assert_close(batches, model(z0[:4])[0].detach())


def test_rollout_as_a_layer_of_a_larger_model(device):
    """Encoder, rollout, decoder: gradients pass through, for states that are not leaves."""
    encoder, decoder, H = (module.to(device) for module in (nn.Linear(3, 6), nn.Linear(6, 2), HamiltonianMLP(6, (8,))))
    x = torch.randn(4, 3, device=device)
    losses = {}
    for backend in ("native", "reference"):
        for module in (encoder, decoder, H):
            module.zero_grad()
        decoder(rollout(H, encoder(x), 0.1, 3, method="leapfrog", backend=backend)).square().mean().backward()
        losses[backend] = [p.grad.clone() for m in (encoder, decoder, H) for p in m.parameters() if p.grad is not None]
    hidden = len(losses["reference"])  # the reference has no gradient for the last bias: no state depends on it
    for a, b in zip(losses["native"][:hidden], losses["reference"], strict=True):
        torch.testing.assert_close(a, b)


def test_build_info_and_report(capsys):
    info = hamiltorch_ext.build_info()
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["threads"] == torch.get_num_threads()
    from hamiltorch_ext.__main__ import main

    main()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("instruction_set", "threads", "cuda_device", torch.__version__))


@pytest.mark.parametrize("command", [["-c", "import hamiltorch_ext as h; h.build_info()"], ["-m", "hamiltorch_ext"]])
def test_works_from_the_repository_root(command):
    """There the source folder stands first on the path, and must not hide the installed package's native module."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@on("cpu", "cuda")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch.func's own
def test_torch_func_transforms(device):
    H = HamiltonianMLP(4, (5,), "tanh").to(device).double()
    z, v = torch.randn(2, 3, 4, dtype=torch.float64, device=device)
    trajectory, tangent = torch.func.jvp(lambda q: leapfrog_rollout(H, q, 0.1, 3), (z,), (v,))
    with torch.no_grad():
        torch.testing.assert_close(trajectory, leapfrog_rollout(H, z, 0.1, 3))
        h = 1e-6
        difference = (leapfrog_rollout(H, z + h * v, 0.1, 3) - leapfrog_rollout(H, z - h * v, 0.1, 3)) / (2 * h)
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-8)
    energies = torch.func.vmap(lambda q: leapfrog_rollout(H, q, 0.1, 3, return_energy=True)[1])(z)
    torch.testing.assert_close(energies, leapfrog_rollout(H, z, 0.1, 3, return_energy=True)[1])
    with pytest.raises(ValueError, match=r"torch\.func transforms"):
        torch.func.vmap(lambda q: leapfrog_rollout(H, q, 0.1, 3, backend="native"))(z)
