"""The CUDA kernels without a GPU: every plan on the emulator against the oracle, the choice of plans, the emulator."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

import emulation
import pytest
import torch
from emulation import Emulator, Gpu, emulated_gpu
from helpers import (
    MODULE,
    Problem,
    assert_exact,
    assert_within,
    exact,
    float32_allowance,
    library,
    make_problem,
    norm,
    sequential,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hamiltorch_ext import _C, _layer1, cuda_plans, leapfrog_rollout
from hamiltorch_ext.cuda_plans import Plan

PAPER = (512, 512, 256)
H100, A100, RTX_2080 = (90, 132, 232448), (80, 108, 166912), (75, 68, 65536)
FEW, MORE = (90, 4, 232448), (90, 16, 232448)
# Few multiprocessors, so that small batches already give a team several passes, the last one incomplete.
PROBLEMS = {
    "passes of blocks": ((90, 2, 232448), {"hidden": (33, 20), "batch": (19,), "steps": 1, "activation": "silu"}),
    "passes of teams": (FEW, {"hidden": (40, 7), "batch": (9,), "steps": 1, "activation": "sin", "seed": 1}),
    "one layer": (FEW, {"d": 1, "hidden": (7,), "batch": (5,), "steps": 3, "method": "euler", "activation": "tanh"}),
    # From 16 rows to 128 no warps share a sum: the only products whose results replace what other warps still read.
    "five layers": (FEW, {"d": 2, "hidden": (1, 16, 128, 33, 7), "batch": (2,), "steps": 1, "method": "euler"}),
    "more rows than warps": (FEW, {"d": 17, "hidden": (272,), "batch": (2,), "steps": 1, "method": "euler"}),
    "members without rows": (MORE, {"d": 1, "hidden": (17, 7), "batch": (2,), "steps": 1, "activation": "gelu"}),
}
# Half a unit in the last place of an operand's mantissa, relative to the operand.
ROUNDOFF = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Variant:
    """A plan, and the device on which it is one: with less shared memory, more of the plan is in global memory."""

    gpu: Gpu
    plan: Plan

    def __str__(self) -> str:
        places = [name for name in ("in_place", "vectors_global") if getattr(self.plan, name)]
        return ", ".join((str(self.plan), *places))


def plans(gpu: Gpu, hidden: tuple[int, ...], batch: int = 1, precision: str = "float32", **options: Any) -> list[Plan]:
    """``cuda_plans.candidate_plans`` on a device so described."""
    with mock.patch.object(cuda_plans, "_C", Emulator(gpu)):
        return cuda_plans.candidate_plans(hidden, batch, precision=precision, **options)


@lru_cache
def variants(gpu: Gpu, hidden: tuple[int, ...], batch: int, **options: Any) -> list[Variant]:
    """Every variant of every plan, found by taking shared memory away until no plan is left."""
    found: dict[str, Variant] = {}
    while True:
        try:
            candidates = [Variant(gpu, plan) for plan in plans(gpu, hidden, batch, **options)]
        except ValueError:
            return list(found.values())
        for variant in candidates:
            found.setdefault(str(variant), variant)
        gpu = (*gpu[:2], max(variant.plan.shared_bytes for variant in candidates) - 1)


def variants_of(gpu: Gpu, problem: Problem, precision: str) -> tuple[list[Variant], list[Variant]]:
    """Those of the forward and of the backward pass."""
    batch = math.prod(problem.z0.shape[:-1])
    forward, adjoint = (
        variants(gpu, hidden(problem), batch, precision=precision, method=problem.method, adjoint=adjoint)
        for adjoint in (False, True)
    )
    return forward, adjoint


def pairs(forward: list[Variant], adjoint: list[Variant]) -> list[tuple[Variant, Variant]]:
    """Pairs in which every variant is at least once."""
    count = max(len(forward), len(adjoint))
    return list(islice(zip(cycle(forward), cycle(adjoint), strict=False), count))


def hidden(problem: Problem) -> tuple[int, ...]:
    return tuple(weight.shape[0] for weight in problem.weights[:-1])


def run(problem: Problem, precision: str, pair: tuple[Variant, Variant], *, seed: int = 1, energies: bool = True):
    """Values and gradients by a pair of variants."""
    forward, adjoint = pair
    double = precision == "float64"
    with (
        emulated_gpu(Emulator(forward.gpu, adjoint.gpu, seed)),
        cuda_plans.use_plan(forward.plan),
        cuda_plans.use_plan(adjoint.plan),
    ):
        return library(
            problem,
            torch.float64 if double else torch.float32,
            precision="float32" if double else precision,
            energies=energies,
        )


@contextmanager
def naming(pair: tuple[Variant, Variant]) -> Iterator[None]:
    """Failures say which plans have run."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        raise AssertionError(f"{pair[0]}; {pair[1]}: {error}") from error


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_plan_in_float64(name):
    gpu, options = PROBLEMS[name]
    problem = make_problem(condition_dim=2, **options)
    want = exact(problem)
    for pair in pairs(*variants_of(gpu, problem, "float64")):
        with naming(pair):
            assert_exact(run(problem, "float64", pair), want)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_plan_in_float32(name):
    gpu, options = PROBLEMS[name]
    problem = make_problem(condition_dim=2, **options)
    want = exact(problem)
    allowance = float32_allowance(problem, want)
    for pair in pairs(*variants_of(gpu, problem, "float32")):
        with naming(pair):
            assert_within(run(problem, "float32", pair), want, allowance)


@pytest.mark.parametrize("precision", ROUNDOFF)
def test_every_plan_in_reduced_precision(precision):
    """Rounding both operands changes a product by up to twice the roundoff. Of L matrices an evaluation passes
    2 (L - 1) products and its impulse two more, the adjoint as many again: 4 L changes of either sign, which add up as
    squares do. And far below the roundoff something finer must have run."""
    problem = make_problem(d=5, hidden=(33, 50, 20), batch=(11,), steps=2, condition_dim=2, activation="tanh", seed=4)
    want = exact(problem)
    scale = {name: norm(value) for name, value in want.items()}
    scale["trajectory"] = norm(want["trajectory"] - problem.z0[:, None])  # z0 itself is not rounded
    scale["gradient of z0"] = norm(want["gradient of z0"] - problem.on_trajectory.sum(1))
    largest = 2 * ROUNDOFF[precision] * math.sqrt(4 * len(problem.weights))
    del want["gradient of bias 4"]  # a sum of cotangents: no product
    reduced = [
        [variant for variant in each if variant.plan.precision == precision]  # there are float32 plans among them
        for each in variants_of(FEW, problem, precision)
    ]
    for pair in pairs(*reduced):
        got = run(problem, precision, pair)
        with naming(pair):
            for name, value in want.items():
                error = norm(got[name].double() - value) / scale[name]
                smallest = ROUNDOFF[precision] / 50 if value.numel() > 1 else 0  # a single number may be lucky
                assert smallest <= error < largest, f"{name}: error {error:.1e}, not {smallest:.1e} to {largest:.1e}"


def test_the_plans_above_are_of_every_kind():
    """All that the kernels' users can meet: the kinds on large devices, and every place for vectors and buffers."""
    for precision in ("float64", "float32"):
        for direction in (0, 1):
            tested = [
                variant.plan
                for gpu, options in PROBLEMS.values()
                for variant in variants_of(gpu, make_problem(**options), precision)[direction]
            ]
            there = [
                plan
                for gpu in (H100, A100)
                for network in (PAPER, (64, 64))
                for plan in plans(gpu, network, 33, precision, adjoint=bool(direction))
            ]
            assert {(p.team, p.columns, p.weights) for p in there} <= {(p.team, p.columns, p.weights) for p in tested}
            for team in {plan.team for plan in there}:
                assert {p.vectors_global for p in tested if p.team == team} == {False, True}
            assert {p.in_place for p in tested if p.team == "solo"} == {False, True}
            largest = {p.team: p.members for p in sorted(there, key=lambda p: p.members)}
            assert max(p.members for p in tested if p.team == "grid") >= 16
            if "cluster" in largest:
                assert max(p.members for p in tested if p.team == "cluster") == largest["cluster"]


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_no_order_of_threads_changes_a_bit(precision):
    problem = make_problem(d=1, hidden=(20, 33), batch=(2,), steps=1, condition_dim=1, method="euler", seed=5)
    for pair in pairs(*variants_of((90, 2, 232448), problem, precision)):
        first = run(problem, precision, pair)
        for seed in (1, 2):
            again = run(problem, precision, pair, seed=seed)
            with naming(pair):
                for name in first:
                    assert torch.equal(first[name], again[name]), name


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_problems_and_plans(data):
    depth = data.draw(st.integers(1, 5), "depth")
    problem = make_problem(
        d=data.draw(st.integers(1, 20), "d"),
        hidden=tuple(data.draw(st.lists(st.integers(1, 40), min_size=depth, max_size=depth), "hidden")),
        activation=data.draw(st.sampled_from(list(MODULE)), "activation"),
        batch=(data.draw(st.integers(1, 20), "batch"),),
        dt=data.draw(st.floats(-0.5, 0.5, width=32), "dt"),
        steps=data.draw(st.integers(0, 2), "steps"),
        method=data.draw(st.sampled_from(["leapfrog", "euler"]), "method"),
        condition_dim=data.draw(st.integers(0, 3), "condition_dim"),
        seed=data.draw(st.integers(0, 1000), "seed"),
    )
    energies = data.draw(st.booleans(), "energies")
    gpu = (90, data.draw(st.sampled_from([1, 2, 4]), "multiprocessors"), 232448)
    pair = tuple(data.draw(st.sampled_from(each)) for each in variants_of(gpu, problem, "float64"))
    got = run(problem, "float64", pair, seed=data.draw(st.integers(0, 9), "order of threads"), energies=energies)
    with naming(pair):
        assert_exact(got, exact(problem, energies))


@pytest.mark.parametrize("energies", [True, False])
def test_rollout_in_parts(energies, monkeypatch):
    """Where the impulses would take too much memory, the rollout is cut by samples."""
    problem = make_problem(d=2, hidden=(5, 9), batch=(5,), steps=2, condition_dim=1)
    monkeypatch.setattr(_layer1, "IMPULSE_BYTES", 2 * 2 * 3 * 5 * 8)  # two samples
    original = Emulator.chain_forward
    with mock.patch.object(Emulator, "chain_forward", autospec=True, side_effect=original) as calls, emulated_gpu():
        assert_exact(library(problem, energies=energies), exact(problem, energies))
    assert calls.call_count == 3


@pytest.mark.parametrize("energies", [True, False])
@pytest.mark.parametrize("method", ["leapfrog", "euler"])
@pytest.mark.parametrize(
    ("limit", "parts"), [(1 << 30, 1), (8000, 6), (1, 12)], ids=["whole", "some parts", "single steps"]
)
def test_adjoint_in_parts(limit, parts, method, energies, monkeypatch):
    """Where the factors of the gradients would take too much memory, the walk back is cut by samples and steps."""
    problem = make_problem(d=1, hidden=(5, 9), batch=(3,), steps=4, condition_dim=1, method=method, seed=6)
    calls = []
    native_run = Emulator._run

    def counted(self, call, plan, *arguments):
        calls.append(call.__name__)
        native_run(self, call, plan, *arguments)

    monkeypatch.setattr(Emulator, "_run", counted)
    monkeypatch.setattr(_layer1, "FACTOR_BYTES", limit)
    with emulated_gpu():
        assert_exact(library(problem, energies=energies), exact(problem, energies))
    assert calls.count("chain_forward") == 1
    assert calls.count("chain_backward") == parts if parts in (1, 12) else 1 < calls.count("chain_backward") < 12


# --- Arithmetic of the layout and the choice, without running anything.


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_small_batch_is_shared_and_a_large_one_divided(adjoint):
    assert plans(H100, PAPER, 1, adjoint=adjoint)[0].team == "cluster"
    assert plans(H100, PAPER, 16384, adjoint=adjoint)[0].team == "solo"


@pytest.mark.parametrize("precision", cuda_plans.PRECISIONS)
@pytest.mark.parametrize("batch", [1, 4096])
def test_clusters_are_of_capability_9(batch, precision):
    assert {plan.team for plan in plans(A100, PAPER, batch, precision)} <= {"solo", "grid"}
    assert ("cluster" in {plan.team for plan in plans(H100, PAPER, batch, precision)}) == (precision != "float64")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_plans_fit_the_device(data):
    widths = tuple(data.draw(st.lists(st.integers(1, 700), min_size=1, max_size=6), "hidden"))
    batch = data.draw(st.integers(0, 5000), "batch")
    precision = data.draw(st.sampled_from(list(cuda_plans.PRECISIONS)), "precision")
    adjoint = data.draw(st.booleans(), "adjoint")
    gpu = (
        data.draw(st.sampled_from([80, 86, 90, 120]), "capability"),
        data.draw(st.integers(1, 200), "multiprocessors"),
        data.draw(st.integers(10_000, 232_448), "shared memory"),
    )
    try:
        found = plans(gpu, widths, batch, precision, adjoint=adjoint)
    except ValueError as error:
        assert "shared memory" in str(error)  # noqa: PT017  both outcomes are right
        return
    assert [p.predicted_us for p in found] == sorted(p.predicted_us for p in found)
    assert len({p.kind for p in found}) == len(found)
    for plan in found:
        packed = packed_bytes(widths, plan.precision)
        samples = plan.columns // 2 if adjoint else plan.columns
        assert plan.shared_bytes <= gpu[2]
        assert plan.teams * plan.members <= gpu[1]
        assert 1 <= plan.teams <= max(1, -(-batch // samples))
        assert (plan.team == "solo") == (plan.members == 1)
        assert plan.team != "cluster" or gpu[0] >= 90
        assert plan.workspace_bytes >= (0 if plan.weights == "shared" else packed)
        if plan.team == "solo" and not plan.vectors_global:
            assert plan.workspace_bytes == packed
        if plan.weights != "packed in global":  # what the block has of the weights is in its shared memory
            assert plan.shared_bytes >= (packed if plan.team == "solo" else packed // 2 // plan.members)


def packed_bytes(widths: tuple[int, ...], precision: str) -> int:
    """All matrices in whole tiles of 16 x 16, in both directions, to the next multiple of 256 bytes."""
    tiles = [-(-width // 16) for width in widths]
    units = sum(after * before for before, after in zip((tiles[0], *tiles), tiles, strict=False))
    return 2 * units * 256 * {"float64": 8, "bfloat16": 2}.get(precision, 4)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("width", [20_000, 33_000, 50_000, 10**5, 10**6])
def test_sizes_of_wide_layers_do_not_overflow(width, adjoint):
    """A product of two widths has more than 31 bits; a plan that fits by a wrapped sum would fit any device."""
    try:
        found = plans(H100, (width,), adjoint=adjoint)
    except ValueError as error:
        assert "shared memory" in str(error)  # noqa: PT017  both outcomes are right
        return
    for plan in found:
        assert 0 < plan.shared_bytes <= H100[2]
        assert plan.weights == "packed in global"
        assert plan.workspace_bytes >= packed_bytes((width,), "float32")


@pytest.mark.parametrize("adjoint", [False, True])
def test_more_members_need_less_memory_each(adjoint):
    needs: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for plan in plans((90, 132, 10**7), PAPER, 4096, adjoint=adjoint):
        needs.setdefault((plan.team, plan.columns, plan.weights), []).append((plan.members, plan.shared_bytes))
    assert any(len(need) >= 4 for need in needs.values())
    for kind, need in needs.items():
        need = [shared_bytes for members, shared_bytes in sorted(need) if members <= 16]
        assert need == sorted(need, reverse=True), kind


def test_the_paper_network_fits_clusters_of_sixteen_only():
    """1.8 MB of weights in float32: sixteen blocks have that much shared memory, eight do not."""
    there = {plan.members for plan in plans(H100, PAPER, 1) if plan.team == "cluster" and plan.weights == "shared"}
    assert there == {16}


@pytest.mark.parametrize(
    ("gpu", "widths", "message"),
    [
        (H100, (4,) * 33, "at most 32 hidden layers and 8 stages, got 33 and 3"),
        (RTX_2080, (4,), "compute capability 8.0 or newer, the device has 7.5"),
        ((90, 132, 1000), (4,), r"at least \d+ bytes of shared memory in a block, the device has 1000"),
    ],
    ids=["layers", "capability", "memory"],
)
def test_what_no_plan_can_run(gpu, widths, message):
    for adjoint in (False, True):
        with pytest.raises(ValueError, match=message):
            plans(gpu, widths, adjoint=adjoint)
    problem = make_problem(d=1, hidden=(2,) * 33, batch=(1,), steps=1)
    with emulated_gpu(), pytest.raises(ValueError, match="at most 32 hidden layers"):
        library(problem, torch.float32)


def test_as_many_layers_as_there_can_be():
    problem = make_problem(d=1, hidden=(2,) * 32, batch=(1,), steps=1, activation="sin", method="euler")
    with emulated_gpu():
        assert_exact(library(problem), exact(problem))


def test_a_plan_that_cannot_run_is_refused():
    problem = make_problem()
    H, z0 = sequential(problem, torch.float32), problem.z0.float()
    plan = next(plan for plan in plans(H100, PAPER) if plan.members == 16)
    message = r"the plan in use, forward float32 cluster of 16 .*, cannot run hidden=\(33, 7\), batch=5"
    with emulated_gpu(Emulator(A100)):
        with cuda_plans.use_plan(plan), pytest.raises(ValueError, match=message):
            leapfrog_rollout(H, z0, 0.1, 1)
        leapfrog_rollout(H, z0, 0.1, 1)  # the plan is no longer in use


def test_names_of_plans():
    first = plans(H100, PAPER, 1)[0]
    assert str(first) == f"forward float32 cluster of {first.members} x{first.columns}, weights {first.weights}"
    assert first.as_dict()["members"] == first.members
    with mock.patch.object(cuda_plans, "_C", Emulator(H100)):
        assert cuda_plans.choose_plan(PAPER, 1) == first
        with pytest.raises(ValueError, match="precision must be one of float64, float32, tf32, bfloat16, got 'fp8'"):
            cuda_plans.choose_plan(PAPER, 1, precision="fp8")
        with pytest.raises(ValueError, match="method must be one of"):
            cuda_plans.choose_plan(PAPER, 1, method="verlet")


@pytest.mark.skipif(_C.cuda()["available"], reason="there is a CUDA device")
@pytest.mark.parametrize("ask", [cuda_plans.candidate_plans, cuda_plans.choose_plan])
def test_plans_without_a_device(ask):
    with pytest.raises(ValueError, match="CUDA"):
        ask(PAPER, 1)


# --- The emulator itself.


@pytest.mark.parametrize(
    ("kernel", "faults"),
    [
        ("block", set()),
        ("block, read too early", {"wrong"}),
        ("block, written too early", {"wrong"}),
        ("team", set()),
        ("team, read too early", {"wrong"}),
        ("team, written too early", {"wrong"}),
        ("all are there", set()),
        ("a lane is missing", {"deadlock at a warp's operation"}),
        ("a thread passes the barrier by", {"deadlock at a block's barrier"}),
        ("unwritten memory", {"wrong"}),
    ],
)
def test_the_emulator_finds_faults(kernel, faults):
    """Under one or another order of the threads: a race may well go unnoticed under some."""
    program = emulation.program(Path(__file__).with_name("emulator_faults.cpp"))
    found = set()
    for seed in range(10):
        said = subprocess.run([program, kernel, str(seed)], capture_output=True, text=True, check=True).stdout.strip()
        found.add(re.sub(r"deadlock: thread \d+ of member \d+ waits for ever", "deadlock", said))
    assert found - {"right"} == faults
