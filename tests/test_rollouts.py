"""Rollouts against the float64 autograd oracle: values and every gradient, in both precisions, on every device."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    MODULE,
    Problem,
    assert_exact,
    assert_within,
    check,
    exact,
    float32_allowance,
    large,
    library,
    make_problem,
    norm,
    on,
    sequential,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hamiltorch_ext import HamiltonianMLP, euler_rollout, leapfrog_rollout, rollout

METHODS = ["leapfrog", "euler"]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", MODULE)
def test_activation(activation, method, device):
    check(make_problem(activation=activation, method=method, condition_dim=2, seed=1), device=device)


@pytest.mark.parametrize(
    ("d", "hidden"),
    [
        (1, (1,)),
        (1, (7,)),
        pytest.param(3, (512,), marks=large),
        (17, (33,)),
        (3, (1, 1, 1, 1, 1)),
        (17, (33, 1, 7)),
        (17, (64, 64, 64, 64)),
        (3, (7, 33, 64, 33, 7)),
        pytest.param(1, (64, 512, 1, 33), marks=large),
        (512, (7,)),
        (512, (64, 33)),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
def test_architecture(d, hidden, method, device):
    check(make_problem(d=d, hidden=hidden, method=method, activation="silu", condition_dim=3, seed=2), device=device)


@large
@pytest.mark.parametrize("method", METHODS)
def test_paper_network(method, device):
    check(make_problem(d=512, hidden=(512, 512, 256), batch=(3,), steps=2, dt=1.0, method=method), device=device)


@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize(
    "batch",
    [(), (0,), (1,), (2,), (31,), (33,), (2, 3), pytest.param((1000,), marks=large), (0, 4), (1, 1, 2)],
    ids=str,
)
def test_batch_shape(batch, condition_dim, device):
    check(make_problem(batch=batch, condition_dim=condition_dim, activation="tanh", steps=3, seed=3), device=device)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dt", [-0.3, 1e-6, -1e-12, 0.0, 0.7])
def test_time_step(dt, method, device):
    check(make_problem(dt=dt, method=method, activation="gelu", seed=4), device=device)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 1, 2, 15])
def test_steps(steps, method, device):
    check(make_problem(steps=steps, method=method, condition_dim=1, seed=5), device=device)


@large
@pytest.mark.parametrize("method", METHODS)
def test_a_thousand_steps(method, device):
    problem = make_problem(d=1, hidden=(7,), batch=(2,), steps=1000, dt=0.01, method=method, activation="sin", seed=6)
    check(problem, device=device)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 3])
def test_without_energies(steps, method, device):
    check(make_problem(steps=steps, method=method, condition_dim=1, seed=7), energies=False, device=device)


@pytest.mark.parametrize("energies", [True, False])
@pytest.mark.parametrize("hidden", [(9,), (9, 5)])
def test_sequential_without_biases(hidden, energies, device):
    check(make_problem(hidden=hidden, bias=False, seed=8), plain=True, energies=energies, device=device)


def test_sequential_with_some_biases(device):
    problem = make_problem(hidden=(9, 5, 6), seed=9)
    problem.biases[1] = None
    check(problem, plain=True, device=device)


@pytest.mark.parametrize("activation", MODULE)
@pytest.mark.parametrize("gain", [4.0, 30.0])
def test_large_pre_activations(activation, gain, device):
    # Layer 1 alone is scaled: softplus passes its threshold of 20, tanh saturates, sin wraps around many times.
    problem = make_problem(activation=activation, steps=2, dt=0.01, seed=10)
    problem.weights[0] = gain * problem.weights[0]
    check(problem, device=device)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_scales_of_the_state(scale, device):
    problem = make_problem(steps=3, seed=11)
    problem.z0 = (problem.z0 * scale).float().double()
    check(problem, device=device)


@pytest.mark.parametrize("seed", range(3))
def test_softplus_at_its_threshold(seed, device):
    """Pre-activations spread over 19 to 21, where torch's softplus turns into the identity."""
    problem = make_problem(d=1, hidden=(64,), batch=(9,), steps=1, dt=0.01, seed=seed)
    problem.biases[0] = torch.linspace(19, 21, 64).double()
    problem.weights[0] = 0.01 * problem.weights[0]
    problem.weights[0] = problem.weights[0].float().double()
    check(problem, device=device)


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "every second row": lambda x: torch.stack((x, torch.zeros_like(x)), 1).flatten(0, 1)[::2],
    "part of wider rows": lambda x: torch.cat((torch.zeros_like(x), x), -1)[..., x.shape[-1] :],
    "unaligned": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_of_inputs(layout, device):
    check(make_problem(condition_dim=2, seed=12), reshape=LAYOUTS[layout], device=device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expanded_inputs_sum_their_gradients(dtype, device):
    problem = make_problem(batch=(4,), condition_dim=2, seed=13)
    H = HamiltonianMLP.from_sequential(sequential(problem, dtype, device), condition_dim=2)
    row = problem.z0[0].to(device, dtype).requires_grad_()
    shared = problem.condition[0].to(device, dtype).requires_grad_()
    trajectory = leapfrog_rollout(H, row.expand(4, -1), 0.1, 4, condition=shared)
    trajectory.backward(problem.on_trajectory.to(device, dtype))
    single_row = problem.z0[0].to(device, dtype).requires_grad_()
    single_condition = problem.condition[0].to(device, dtype).requires_grad_()
    single = leapfrog_rollout(H, single_row, 0.1, 4, condition=single_condition)
    single.backward(problem.on_trajectory.sum(0).to(device, dtype))
    torch.testing.assert_close(trajectory[2], single)
    torch.testing.assert_close(row.grad, single_row.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.grad, single_condition.grad, rtol=1e-4, atol=1e-5)


def with_other_layouts(dtype, device):
    """Trajectory and gradients twice, the second time with weights, biases and cotangents in another layout."""
    problem = make_problem(seed=14)
    plain, strided = sequential(problem, dtype, device), sequential(problem, dtype, device)
    for module in strided:
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.mT.contiguous().mT
            module.bias.data = torch.stack((module.bias.data,) * 2, 1)[:, 0]
    cotangent = problem.on_trajectory.to(device, dtype)
    results = []
    for network, weight in ((plain, cotangent), (strided, cotangent.transpose(0, 1).contiguous().transpose(0, 1))):
        trajectory = leapfrog_rollout(network, problem.z0.to(device, dtype), 0.1, 4)
        hidden = list(network.parameters())[:-1]  # no state depends on the last bias
        results.append([trajectory, *torch.autograd.grad(trajectory, hidden, weight)])
    return zip(*results, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_of_weights_and_cotangents(dtype, device):
    for a, b in with_other_layouts(dtype, device):
        torch.testing.assert_close(a, b)


@on("cpu")  # on CUDA some products are torch's, whose order of summation depends on the layout
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_change_a_bit(dtype, device):
    for a, b in with_other_layouts(dtype, device):
        assert torch.equal(a, b)


@pytest.mark.parametrize("which", ["trajectory", "energies", "one energy", "last state"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_on_a_part_of_the_outputs(which, method, device):
    problem = make_problem(method=method, condition_dim=2, seed=15)
    if which in ("energies", "one energy"):
        problem.on_trajectory.zero_()
    if which in ("trajectory", "last state"):
        problem.on_energies.zero_()
    if which == "one energy":
        problem.on_energies[:, :2] = problem.on_energies[:, 3:] = 0
    if which == "last state":
        problem.on_trajectory[:, :-1] = 0
    check(problem, device=device)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", [0, 1])
def test_a_missing_cotangent_is_zero(output, method, device):
    """Autograd hands None, not zeros, for an output that the loss does not use."""
    problem = make_problem(method=method, seed=16)
    H = sequential(problem, device=device)
    z0 = problem.z0.clone().to(device).requires_grad_()
    results = rollout(H, z0, 0.1, 4, method=method, return_energy=True)
    (got,) = torch.autograd.grad(results[output].sum(), z0)
    results = rollout(H, z0, 0.1, 4, method=method, return_energy=True)
    (want,) = torch.autograd.grad(results[output].sum() + 0 * results[1 - output].sum(), z0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_state_is_the_input_and_nothing_aliases(dtype, device):
    problem = make_problem()
    z0 = problem.z0.to(device, dtype)
    for steps in (0, 2):
        trajectory = leapfrog_rollout(sequential(problem, dtype, device), z0, 0.1, steps)
        assert torch.equal(trajectory[:, 0], z0)
        assert trajectory.untyped_storage().data_ptr() != z0.untyped_storage().data_ptr()
        before = z0.clone()
        trajectory.detach().zero_()
        assert torch.equal(z0, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_named_functions_are_the_method(dtype, device):
    problem = make_problem()
    H, z0 = sequential(problem, dtype, device), problem.z0.to(device, dtype)
    assert torch.equal(leapfrog_rollout(H, z0, 0.1, 3), rollout(H, z0, 0.1, 3, method="leapfrog"))
    assert torch.equal(euler_rollout(H, z0, 0.1, 3), rollout(H, z0, 0.1, 3, method="euler"))


def test_autocast_changes_nothing(device):
    problem = make_problem(condition_dim=1)
    plain = library(problem, torch.float32, device=device)
    with torch.autocast("cuda" if device == "cuda" else "cpu", torch.bfloat16):
        under = library(problem, torch.float32, device=device)
    for name, value in plain.items():
        assert torch.equal(under[name], value), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_step_as_float_and_as_tensor(dtype, device):
    problem = make_problem()
    H, z0 = sequential(problem, dtype, device), problem.z0.to(device, dtype)
    expected = leapfrog_rollout(H, z0, 0.25, 3)
    for dt in (torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64), torch.tensor([1.0, 0.25])[1]):
        assert torch.equal(leapfrog_rollout(H, z0, dt, 3), expected)
    dt = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    leapfrog_rollout(H, z0, dt, 3).sum().backward()
    assert dt.grad.dtype == torch.float64  # the caller's dtype, whatever the states' is


def test_forward_and_back_in_time_on_a_separable_network(device):
    # Two blocks: the first hidden units see q alone, the others p alone. Then leapfrog is reversible exactly.
    problem = make_problem(d=2, hidden=(8,), seed=17)
    problem.weights[0][:4, 2:] = 0
    problem.weights[0][4:, :2] = 0
    H = sequential(problem, device=device)
    there = leapfrog_rollout(H, problem.z0.to(device), 0.1, 50)
    back = leapfrog_rollout(H, there[:, -1], -0.1, 50)
    torch.testing.assert_close(back.flip(1), there, rtol=1e-12, atol=1e-13)


@large
@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method, device):
    problem = make_problem(d=2, hidden=(5, 4), batch=(2,), steps=3, condition_dim=2, method=method, seed=18)

    def function(z0, dt, condition, *parameters):
        network = sequential(problem, device=device)
        H = HamiltonianMLP.from_sequential(network, condition_dim=2)
        arguments = (z0, dt, 3)
        options = {"method": method, "condition": condition, "return_energy": True}
        names = [name for name, _ in H.named_parameters()]
        return torch.func.functional_call(
            Caller(H), {f"H.{n}": p for n, p in zip(names, parameters, strict=True)}, arguments, options
        )

    H = HamiltonianMLP.from_sequential(sequential(problem), condition_dim=2)
    inputs = [problem.z0, problem.dt, problem.condition, *(p.detach() for p in H.parameters())]
    assert torch.autograd.gradcheck(function, [x.clone().to(device).requires_grad_() for x in inputs])


class Caller(torch.nn.Module):
    def __init__(self, H):
        super().__init__()
        self.H = H

    def forward(self, z0, dt, steps, **options):
        return rollout(self.H, z0, dt, steps, **options)


def everything(problem: Problem, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    return list(library(problem, dtype, device=device).values())


@on("cpu", "cuda")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(1,), (33,), (1000,)])
def test_same_bits_every_time(batch, dtype, threads, device):
    torch.set_num_threads(threads)
    problem = make_problem(d=17, hidden=(64, 33), batch=batch, steps=5, condition_dim=2, seed=19)
    first = everything(problem, dtype, device)
    for _ in range(4):
        assert all(map(torch.equal, everything(problem, dtype, device), first))


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_thread_counts(threads):
    problem = make_problem(d=17, hidden=(64, 33), batch=(67,), steps=3, condition_dim=2, seed=20)
    want = exact(problem)
    allowance = float32_allowance(problem, want)
    torch.set_num_threads(threads)
    assert_exact(library(problem, torch.float64), want)
    assert_within(library(problem, torch.float32), want, allowance)


@pytest.mark.parametrize("method", METHODS)
def test_instruction_set(instruction_set, method):
    for activation in MODULE:
        check(
            make_problem(d=17, hidden=(33, 65, 7), batch=(13,), method=method, activation=activation, condition_dim=3)
        )
    check(make_problem(d=1, hidden=(1,), batch=(1,), method=method))
    check(make_problem(d=512, hidden=(512, 33), batch=(3,), steps=1, method=method))


@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_set_same_bits_every_time(instruction_set, dtype):
    problem = make_problem(d=17, hidden=(33, 65, 7), batch=(37,), condition_dim=3)
    assert all(map(torch.equal, everything(problem, dtype), everything(problem, dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "bad", [float("nan"), *(pytest.param(bad, marks=large) for bad in (float("inf"), 1e38))], ids=str
)
@pytest.mark.parametrize("activation", MODULE)
@pytest.mark.parametrize("method", ["leapfrog", pytest.param("euler", marks=large)])
def test_one_bad_sample_leaves_the_others_alone(bad, activation, method, dtype, device):
    problem = make_problem(d=3, hidden=(9, 17), batch=(21,), activation=activation, method=method, seed=21)
    H = sequential(problem, dtype, device)
    good = torch.arange(21) != 4
    outcomes = []
    for value in (0.0, bad):
        z0 = problem.z0.to(device, dtype).clone()
        z0[4] = value
        z0.requires_grad_()
        trajectory, energies = rollout(H, z0, 0.1, 4, method=method, return_energy=True)
        loss = (trajectory * problem.on_trajectory.to(trajectory)).sum() + energies.sum()
        (gradient,) = torch.autograd.grad(loss, z0)
        outcomes.append([result.detach().cpu() for result in (trajectory, energies, gradient)])
    for clean, spoilt in zip(*outcomes, strict=True):
        assert torch.equal(clean[good], spoilt[good])
        assert spoilt[good].isfinite().all()
    if bad != bad:  # and what is not a number does not turn into one
        trajectory, energies, gradient = outcomes[1]
        assert trajectory[4].isnan().all()
        assert energies[4].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", MODULE)
def test_a_bad_weight_shows(activation, dtype, device):
    """A diverged network must give nan, not numbers: vectorised activations tend to clamp it away."""
    problem = make_problem(activation=activation, seed=22)
    for layer in range(3):
        H = sequential(problem, dtype, device)
        with torch.no_grad():
            H[2 * layer].bias[0] = float("nan")
        trajectory, energies = leapfrog_rollout(H, problem.z0.to(device, dtype), 0.1, 2, return_energy=True)
        assert energies.isnan().all()
        if layer < 2:
            assert trajectory[:, 1:].isnan().all()


@pytest.mark.parametrize("energies", [True, pytest.param(False, marks=large)])
def test_float32_over_a_long_time(energies, device):
    """Rounding must not pile up faster than in the reference: incremental forms of layer 1 would."""
    problem = make_problem(d=4, hidden=(16,), batch=(3,), steps=300, dt=0.02, activation="tanh", seed=23)
    check(problem, energies=energies, device=device)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [pytest.param(activation, gain, marks=large) for activation in MODULE for gain in (0.3, 1.0)],
)
def test_float32_error_on_average(activation, gain, device):
    """Twice the reference's error once more, with no floor and no luck: root mean square over many problems."""
    ours, reference = {}, {}
    for seed in range(30):
        problem = make_problem(
            d=5, hidden=(33, 17), activation=activation, batch=(16,), condition_dim=2, gain=gain, seed=seed
        )
        want = exact(problem)
        for errors, backend, where in ((ours, "native", device), (reference, "reference", "cpu")):
            got = library(problem, torch.float32, backend=backend, device=where)
            for name, value in want.items():
                errors.setdefault(name, []).append(norm(got[name].double() - value))
    for name in ours:
        ratio = torch.tensor(ours[name]).square().mean().sqrt() / torch.tensor(reference[name]).square().mean().sqrt()
        assert ratio <= 2, f"{name}: {ratio:.2f} times the error of the reference"


@large
@pytest.mark.parametrize("batch", [4000, 10_000])
def test_float32_sums_over_many_rows(batch, device):
    """Gradients of weights are sums over rows and evaluations: one long chain of additions would lose digits that
    torch's products keep. No floor here: these are norms over many entries, and not a matter of luck."""
    problem = make_problem(hidden=(33, 17), batch=(batch,), steps=5)
    problem.on_trajectory.fill_(1)
    problem.on_energies.fill_(1)
    want = exact(problem)
    got = library(problem, torch.float32, device=device)
    reference = library(problem, torch.float32, backend="reference")
    for name in ("gradient of weight 1", "gradient of weight 2", "gradient of z0"):
        error, allowed = (norm(results[name].double() - want[name]) / norm(want[name]) for results in (got, reference))
        assert error <= 2 * allowed, f"{name}: {error:.1e}, reference {allowed:.1e}"


@on("cpu", "cuda")
def test_reference_backend_is_exact_too(device):
    for method in METHODS:
        problem = make_problem(method=method, condition_dim=2, seed=24)
        got = library(problem, torch.float64, backend="reference", device=device)
        for name, want in exact(problem).items():
            torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-12, msg=name)


def test_reference_backend_takes_a_sequential():
    problem = make_problem(batch=(2, 3), seed=25)
    got = library(problem, torch.float64, backend="reference", plain=True)
    for name, want in exact(problem).items():
        torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-12, msg=name)


@large
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_problems(data, device):
    depth = data.draw(st.integers(1, 5), "depth")
    problem = make_problem(
        d=data.draw(st.integers(1, 20), "d"),
        hidden=tuple(data.draw(st.lists(st.integers(1, 40), min_size=depth, max_size=depth), "hidden")),
        activation=data.draw(st.sampled_from(list(MODULE)), "activation"),
        batch=data.draw(st.sampled_from([(), (0,), (1,), (2,), (7,), (2, 3), (37,)]), "batch"),
        dt=data.draw(st.floats(-0.5, 0.5, width=32), "dt"),
        steps=data.draw(st.integers(0, 6), "steps"),
        method=data.draw(st.sampled_from(METHODS), "method"),
        condition_dim=data.draw(st.integers(0, 3), "condition_dim"),
        # At a gain of 2 deep sine networks multiply an error of z0 by 1e12 in three steps: no bound holds there.
        gain=data.draw(st.sampled_from([0.3, 1.0]), "gain"),
        seed=data.draw(st.integers(0, 1000), "seed"),
    )
    check(problem, energies=data.draw(st.booleans(), "energies"), neighbours=8, device=device)
