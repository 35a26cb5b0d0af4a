"""What the CPU kernels choose by themselves: the form of a step, prepared weights, the tape, bfloat16, threads."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import (
    assert_exact,
    assert_within,
    exact,
    float32_allowance,
    library,
    make_problem,
    norm,
    on_instruction_set,
    on_threads,
    values,
)

from hamiltorch_ext import _C, HamiltonianMLP, _ops, leapfrog_rollout, rollout

METHODS = ["leapfrog", "euler"]
# (d, hidden): first width below d, just below 4/3 d (leapfrog's break-even in layer-1 space), above.
FORMS = [(40, (33,)), (40, (33, 20)), (65, (64, 33, 7)), (27, (35, 64)), (20, (64, 33))]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 33])
@pytest.mark.parametrize(("d", "hidden"), FORMS, ids=str)
def test_values_in_every_form(d, hidden, batch, count, instruction_set):
    for method in METHODS:
        problem = make_problem(d=d, hidden=hidden, batch=(batch,), steps=9, method=method, condition_dim=2)
        want = {name: exact(problem)[name] for name in ("trajectory", "energies")}
        with on_threads(count):
            assert_exact(values(problem), want)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_large_network_that_is_read_in_place(batch, method, instruction_set):
    problem = make_problem(d=150, hidden=(170, 300, 65), batch=(batch,), steps=12, method=method)
    want = exact(problem)
    with on_threads(2):
        assert_exact(values(problem), {name: want[name] for name in ("trajectory", "energies")})
        assert_exact(library(problem), want)
        assert_exact(library(problem, recompute=True), want)


@pytest.mark.parametrize("d", [33, 100])
def test_layer1_space_over_many_steps(d):
    problem = make_problem(d=d, hidden=(d, 33), batch=(3,), steps=300, dt=0.1, gain=0.7)
    want = exact(problem)
    allowance = float32_allowance(problem, want)
    want = {name: want[name] for name in ("trajectory", "energies")}
    assert_exact(values(problem), want, rtol=1e-9)  # rounding of the oracle grows as well
    assert_within(values(problem, torch.float32), want, allowance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("dim", "hidden", "batch"), [(8, (16, 9), 5), (80, (40, 33), 6), (300, (200, 260), 1)], ids=str
)
def test_prepared_weights_are_never_stale(dim, hidden, batch, dtype):
    torch.manual_seed(0)
    H = HamiltonianMLP(dim, hidden).to(dtype)
    z0 = torch.randn(batch, dim, dtype=dtype)

    def run(network):
        with torch.no_grad():
            return leapfrog_rollout(network, z0, 0.1, 9, backend="native")

    def fresh():
        network = HamiltonianMLP(dim, hidden).to(dtype)  # other addresses: nothing is prepared for it
        network.load_state_dict(H.state_dict())
        return run(network)

    first = run(H)
    assert torch.equal(run(H), first)
    for layer, parameter in enumerate(H.parameters()):
        for change in (
            lambda p: p.data.view(-1)[-1:].add_(0.5),  # behind autograd's back
            lambda p: p.detach().numpy().reshape(-1).__setitem__(0, 0.75),  # behind torch's
        ):
            before = run(H)
            change(parameter)
            after = run(H)
            assert torch.equal(after, fresh()), f"parameter {layer}"
            last_bias = parameter.numel() == 1
            assert last_bias or not torch.equal(after, before), f"parameter {layer}: the change must show"


def test_prepared_weights_of_many_threads_at_once():
    """Calls of one network at the same time must not share what is being prepared."""
    torch.manual_seed(0)
    networks = [HamiltonianMLP(80, (40, 33)) for _ in range(2)]
    z0 = torch.randn(4, 80)
    wrong = []

    def work(network, want):
        with torch.no_grad():
            for _ in range(100):
                if not torch.equal(leapfrog_rollout(network, z0, 0.1, 9), want):
                    wrong.append(network)

    with torch.no_grad(), on_threads(1):
        wants = [leapfrog_rollout(network, z0, 0.1, 9) for network in networks]
        workers = [threading.Thread(target=work, args=pair) for pair in zip(networks * 2, wants * 2, strict=True)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


@pytest.mark.parametrize("energies", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("d", "hidden", "batch"), [(3, (33, 7), 5), (40, (33,), 33), (17, (9, 8, 7, 6), 1)], ids=str)
def test_tape_and_replay_agree(d, hidden, batch, method, energies, instruction_set):
    problem = make_problem(d=d, hidden=hidden, batch=(batch,), method=method, condition_dim=3, activation="gelu")
    want = exact(problem, energies)
    assert_exact(library(problem, energies=energies), want)
    assert_exact(library(problem, energies=energies, recompute=True), want)


def test_tape_is_left_out_where_it_is_too_large(monkeypatch):
    problem = make_problem(steps=6)
    kept = []
    record = _ops._save_for_backward

    def save(ctx, inputs, output, tape=None):
        kept.append(tape)
        record(ctx, inputs, output, tape)

    monkeypatch.setattr(_ops, "_save_for_backward", save)
    want = exact(problem)
    assert_exact(library(problem), want)
    assert_exact(library(problem, recompute=True), want)
    monkeypatch.setattr(_ops, "TAPE_BYTES", 100)
    assert_exact(library(problem), want)
    assert kept[0] is not None
    assert kept[1] is None
    assert kept[2] is None


def test_backward_twice_over_one_tape():
    problem = make_problem()
    H = HamiltonianMLP(6, (33, 7)).double()
    z0 = problem.z0.requires_grad_()
    total = rollout(H, z0, 0.1, 4, method="leapfrog").square().sum()
    first = torch.autograd.grad(total, [z0, *H.parameters()], retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(total, [z0, *H.parameters()], allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 33])
def test_same_bits_from_run_to_run(batch, count):
    problem = make_problem(d=40, hidden=(40, 300), batch=(batch,), steps=9)
    with on_threads(count):
        assert_same_bits([values(problem, torch.float32) for _ in range(3)])
        assert_same_bits([library(problem, torch.float32) for _ in range(3)])


def assert_same_bits(results):
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def multiplies_bfloat16(instruction_set):
    with on_instruction_set(instruction_set):
        return _C.supports_bfloat16()


BFLOAT16_SETS = [name for name in _C.instruction_sets() if multiplies_bfloat16(name)]
bfloat16 = pytest.mark.skipif(not BFLOAT16_SETS, reason="this processor has no AVX-512 BF16")
bfloat16_sets = pytest.mark.parametrize("bfloat16_set", BFLOAT16_SETS)


@bfloat16_sets
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 2, 17, 33])
@pytest.mark.parametrize(("d", "hidden"), [*FORMS, (1, (7,)), (17, (33, 1, 7)), (150, (170, 300, 65))], ids=str)
def test_bfloat16(d, hidden, batch, method, bfloat16_set):
    """Off by what rounding the operands to 8 bits makes, and not by much less: then it would not have been done."""
    problem = make_problem(d=d, hidden=hidden, batch=(batch,), steps=9, method=method, condition_dim=2)
    want = exact(problem)
    with on_instruction_set(bfloat16_set):
        coarse = values(problem, torch.float32, "bfloat16")
        fine = values(problem, torch.float32)
        gradients = library(problem, torch.float32, precision="bfloat16")
        replayed = library(problem, torch.float32, precision="bfloat16", recompute=True)
    for name in coarse:
        off = norm(coarse[name].double() - want[name]) / norm(want[name])
        assert off < 2**-6, name
        assert off > norm(fine[name].double() - want[name]) / norm(want[name]), name
    for got in (gradients, replayed):
        for name, value in want.items():
            if name == "gradient of dt":  # a sum of parts that cancel
                continue
            assert norm(got[name].double() - value) < 2**-4 * norm(value), name


@pytest.mark.skipif(len(BFLOAT16_SETS) < 2, reason="this processor multiplies bfloat16 in one way")
@pytest.mark.parametrize("batch", [1, 16, 31, 32, 64, 70])
@pytest.mark.parametrize(("d", "hidden"), [(17, (33, 1, 7)), (31, (64, 65)), (150, (170, 300, 65))], ids=str)
def test_bfloat16_is_the_same_in_every_way(d, hidden, batch):
    """Products of bfloat16 are exact: what differs is the order of the sums, and what a rounding makes of that."""
    problem = make_problem(d=d, hidden=hidden, batch=(batch,), steps=1)
    want = exact(problem)
    found = []
    for name in BFLOAT16_SETS:
        with on_instruction_set(name):
            found.append(library(problem, torch.float32, precision="bfloat16"))
    for name, value in want.items():
        off = norm(found[0][name].double() - value)
        for other in found[1:]:
            assert norm(other[name] - found[0][name]) <= off / 8, name


@bfloat16
def test_bfloat16_leaves_float64_alone():
    problem = make_problem()
    assert_same_bits([values(problem), values(problem, precision="bfloat16")])


def test_bfloat16_needs_the_processor():
    H, z0 = HamiltonianMLP(6, (7,)), torch.zeros(2, 6)
    for recorded in (False, True):
        with (
            on_instruction_set("baseline"),
            torch.set_grad_enabled(recorded),
            pytest.raises(ValueError, match="precision 'bfloat16' on a CPU needs AVX-512 BF16, got instruction"),
        ):
            leapfrog_rollout(H, z0, 0.1, 2, precision="bfloat16")
