"""The benchmark driver runs, writes what it says, and never times a wrong result.

What needs a GPU is tested as far as it goes without one: cases, tables, choices, and the order of things.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import hamiltorch_ext

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = ["rollout/small/b1", "training/small/b32"]
PEERS = ["ours", "torch eager", "torch analytic"]

BREAK_ONE_PEER = """
import dataclasses, sys
sys.path.insert(0, {folder!r})
import run
from peers import analytic
def wrong(problem):
    return analytic.rollout(problem, lambda *a: (1.001 * analytic.leapfrog(*a)[0], None))
def raises(problem):
    raise MemoryError("none left")
peers = run.PEERS["cpu"]
peers["torch analytic"] = dataclasses.replace(peers["torch analytic"], rollout={broken})
sys.exit(run.main(sys.argv[1:]))
"""


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Threads that sleep while they wait: on a busy machine, spinning ones multiply the time of tiny operators.
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    done = python(
        BENCHMARKS / "run.py", "--quick", "--cases", *CASES, "--peers", *PEERS, "--output", "results.json", cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def modules():
    """The driver's modules, which import one another by short names that mean nothing outside its folder."""
    names = [path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "plot"]
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in [*names, "peers"]})
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in list(sys.modules):
            if name.split(".")[0] in [*names, "peers"]:
                del sys.modules[name]


@pytest.fixture
def tiny(modules):
    """A case that stands in for one of the GPU's: its name, kind and model, at a size of nothing."""

    def stand_in(name: str):
        case = modules.cases.CASES["cuda"][name]
        return dataclasses.replace(case, widths=(2, 3, 2) if case.model == "baseline" else (2, 3, 1), batch=3, steps=2)

    return stand_in


def test_layout(run):
    _, _, report = run
    assert report["layout"] == 1
    assert report["device"] == "cpu"
    assert [case["name"] for case in report["cases"]] == CASES
    assert {"python", "torch", "numpy"} <= report["versions"].keys()
    assert report["machine"]["device"]
    assert report["machine"]["threads"]["torch"] == len(os.sched_getaffinity(0))
    assert report["limits"]["gflops"] > 0
    assert report["limits"]["gflops_by_precision"]["float32"] == report["limits"]["gflops"]
    assert report["limits"]["bandwidth_gbs"] > 0
    assert report["commit"]
    assert report["command"].startswith("python benchmarks/run.py --quick")
    assert report["skipped"] == {}
    assert report["failed"] == {}
    assert report["not_begun"] == []
    for case in report["cases"]:
        assert list(case["peers"]) == PEERS
        assert case["flop"] > 0
        assert case["refused"] == {}
        assert case["peers"]["ours"]["ratio_to_ours"] == 1
        for peer in case["peers"].values():
            assert 0 < peer["min_s"] <= peer["q1_s"] <= peer["median_s"] <= peer["q3_s"]
            assert peer["precision"] == "float32"
            assert peer["error"] <= peer["allowed_error"] == case["allowed_error"]
            assert peer["fraction_of_peak"] == pytest.approx(peer["gflops"] / report["limits"]["gflops"])
            assert peer["samples"] >= 3


def test_terminal_shows_every_peer(run):
    _, printed, report = run
    for case in report["cases"]:
        for name, peer in case["peers"].items():
            (line,) = (line for line in printed.splitlines() if line.startswith(f"{case['name']:<22} {name} "))
            assert f" {1e6 * peer['median_s'] / case['steps']:.2f} " in line
    assert "best other" in printed


def test_table_goes_into_a_page_and_is_checked(run):
    folder, _, _ = run
    page = folder / "page.md"
    page.write_text("before\n<!-- benchmarks -->\noutdated\n<!-- /benchmarks -->\nafter\n")
    table = BENCHMARKS / "table.py"
    assert python(table, "results.json", "--check", page, cwd=folder).returncode == 1
    assert python(table, "results.json", "--update", page, cwd=folder).returncode == 0
    assert python(table, "results.json", "--check", page, cwd=folder).returncode == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "outdated" not in text
    assert all(case in text for case in CASES)


def test_euler_lagrange_cases_have_a_table_of_their_own(run):
    folder, _, report = run
    alone = {**report, "cases": [{**case, "model": "lagrangian"} for case in report["cases"]]}
    (folder / "alone.json").write_text(json.dumps(alone))
    page = folder / "two.md"
    page.write_text(
        "<!-- benchmarks -->\nkept\n<!-- /benchmarks -->\n<!-- benchmarks del -->\n<!-- /benchmarks del -->\n"
    )
    assert python(BENCHMARKS / "table.py", "alone.json", "--update", page, cwd=folder).returncode == 0
    before, after = page.read_text().split("<!-- benchmarks del -->")
    assert "kept" in before
    assert all(case in after for case in CASES)


def test_plot(run):
    pytest.importorskip("matplotlib")
    folder, _, _ = run
    done = python(BENCHMARKS / "plot.py", "results.json", "picture.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "picture.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("wrong", "not timed, wrong result: rollout/small/b1: torch analytic"),
        ("raises", "failed: rollout/small/b1: torch analytic: MemoryError: none left"),
    ],
)
def test_a_peer_that_is_wrong_or_fails_is_not_timed_and_the_others_are(broken, says, tmp_path):
    done = python(
        "-c", BREAK_ONE_PEER.format(folder=str(BENCHMARKS), broken=broken), "--quick", "--cases", CASES[0],
        "--peers", "torch eager", "torch analytic", "--output", "results.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((tmp_path / "results.json").read_text())
    (case,) = report["cases"]
    assert list(case["refused"]) == (["torch analytic"] if broken == "wrong" else [])
    assert list(report["failed"]) == (["rollout/small/b1: torch analytic"] if broken == "raises" else [])
    assert list(case["peers"]) == ["torch eager"]
    assert says in done.stdout


def test_help_and_bad_names(tmp_path):
    helped = python(BENCHMARKS / "run.py", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    words = ("--cases", "--peers", "--quick", "--output", "rollout/paper/b2048", "rollout/paper/b65536")
    assert all(word in helped.stdout for word in words)
    unknown = python(BENCHMARKS / "run.py", "--cases", "nothing*", cwd=tmp_path)
    assert unknown.returncode != 0
    assert "rollout/small/b1" in unknown.stderr
    elsewhere = python(BENCHMARKS / "run.py", "--peers", "ours graph", cwd=tmp_path)
    assert elsewhere.returncode != 0
    assert "not among those on cpu: ours, ours bf16, torch eager" in elsewhere.stderr


def test_a_budget_that_is_spent_is_reported(modules, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modules.run.machine, "restrict", lambda threads: None)
    arguments = ["--quick", "--budget", "0", "--cases", CASES[0], "--output", str(tmp_path / "results.json")]
    assert modules.run.main([*arguments, "--peers", "ours"]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["cases"] == []
    assert report["not_begun"] == [CASES[0]]
    assert f"out of time: {CASES[0]}" in capsys.readouterr().out


def test_json_is_whole_or_absent(modules, tmp_path):
    target = tmp_path / "new" / "results.json"
    modules.output.write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        modules.output.write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}


def test_cuda_cases_stand_beside_their_baselines(modules):
    cases = modules.cases.CASES["cuda"]
    for network in ("paper", "small"):
        assert [case.batch for name, case in cases.items() if name.startswith(f"rollout/{network}/")] == [
            1, 32, 1024, 65536,
        ]  # fmt: skip
    for case in cases.values():
        if case.model == "hamiltonian" and case.kind not in modules.cases.IMPLICIT:
            beside = cases[case.baseline]
            assert (beside.model, beside.kind, beside.batch) == ("baseline", case.kind, case.batch)
            assert beside.widths[0] == case.widths[0]
    for name, peer in modules.peers.PEERS["cuda"].items():
        assert any(peer.takes(case) for case in cases.values()), name
        assert peer.precision == {"ours tf32": "tf32", "ours bf16": "bfloat16"}.get(name, "float32")


@pytest.mark.parametrize(
    "name",
    [
        "rollout/paper/b65536",
        "training/paper/b1024",
        "rollout/baseline/b32",
        "del-gradient/d8/b8192",
        "stormer_verlet/paper/b32",
    ],
)
def test_cuda_cases_run_with_the_peers_that_need_no_gpu(name, modules, tiny):
    needs_gpu = ("graph", "tf32", "bf16", "torch.compile", "jax")
    peers = {
        peer: value
        for peer, value in modules.peers.PEERS["cuda"].items()
        if not any(word in peer for word in needs_gpu)
    }
    failed = {}
    case = modules.run._run(tiny(name), peers, "cpu", modules.timing.Effort.quick(), failed)
    assert failed == {}
    assert case["refused"] == {}
    expected = {"rollout": ["ours", "torch eager", "torch analytic"], "del-gradient": ["ours", "torch.func"]}
    expected |= {"training": expected["rollout"], "stormer_verlet": ["ours", "torch analytic"]}
    assert list(case["peers"]) == (["plain MLP"] if "/baseline/" in name else expected[name.split("/")[0]])


def test_a_replayed_peer_replays(modules, tiny, monkeypatch):
    graphs = []

    class Graph:
        def __init__(self):
            self.replays = 0
            graphs.append(self)

        def replay(self):
            self.replays += 1

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "CUDAGraph": Graph, "Stream": lambda: stream, "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(), "graph": lambda graph: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    problem = modules.cases.make_problem(tiny("rollout/paper/b1"), "cpu")
    checker = modules.check.Checker(problem)
    call = modules.peers.graph.replayed(modules.peers.analytic.rollout)(problem)
    results = call()
    assert call() is results
    assert [graph.replays for graph in graphs] == [2]
    assert checker.error(results) <= checker.allowed["float32"]


def test_coarser_arithmetic_has_a_wider_bound_and_nothing_passes_without_a_result(modules, tiny):
    problem = modules.cases.make_problem(tiny("rollout/paper/b32"), "cpu")
    checker = modules.check.Checker(problem)
    trajectory = modules.peers.eager.rollout(problem)()["trajectory"]
    assert checker.error({"trajectory": trajectory}) <= checker.allowed["float32"]
    assert checker.allowed["float32"] < checker.error({"trajectory": 1.002 * trajectory}) < checker.allowed["tf32"]
    assert checker.allowed["tf32"] < checker.allowed["bfloat16"] < checker.error({"trajectory": 0 * trajectory})


@pytest.fixture
def tiny_del(modules):
    """A discrete Euler-Lagrange case at a size of nothing."""

    def stand_in(name: str, **fields: int):
        case = modules.cases.CASES["cpu"][name]
        return dataclasses.replace(case, widths=(4, 6, 5, 1), **{"batch": 3, "steps": 3, **fields})

    return stand_in


def test_euler_lagrange_cases_need_several_iterations(modules):
    cases = {name: case for name, case in modules.cases.CASES["cpu"].items() if name.startswith("del")}
    assert list(cases) == [
        f"{kind}/{network}/b{batch}"
        for kind in ("del", "del-gradient") for network in ("d8", "d32", "d64") for batch in (1, 64, 512)
    ]  # fmt: skip
    assert {(case.model, case.steps, case.flop) for case in cases.values()} == {
        ("lagrangian", 10, None),
        ("lagrangian", 50, None),
    }
    problem = modules.cases.make_problem(cases["del/d8/b64"], "cpu")
    L = modules.peers.del_ours.network(problem)
    _, info = hamiltorch_ext.del_rollout(
        L, *problem.points, 10, dt=modules.cases.DEL_DT, tol=modules.cases.TOLERANCE, return_info=True
    )
    assert info.converged.all()
    assert info.iterations.float().mean() > 1.5


@pytest.mark.parametrize("name", ["del/d8/b64", "del-gradient/d8/b64"])
@pytest.mark.parametrize("batch", [1, 3])
def test_euler_lagrange_peers_agree(name, batch, modules, tiny_del):
    peers = {
        peer: value
        for peer, value in modules.peers.PEERS["cpu"].items()
        if peer != "torch.compile" and value.unavailable("cpu") is None
    }
    failed = {}
    case = modules.run._run(tiny_del(name, batch=batch), peers, "cpu", modules.timing.Effort.quick(), failed)
    assert failed == {}
    assert case["refused"] == {}
    assert case["flop"] is None
    assert [peer for peer in case["peers"] if not peer.startswith("jax")] == ["ours", "torch.func"]
    assert ("jax jit" in case["peers"]) == ("jax jit" in peers)
    assert ("jax chord" in case["peers"]) == ("jax chord" in peers and name == "del/d8/b64")
    assert all("gflops" not in peer for peer in case["peers"].values())


def test_compiled_euler_lagrange_steps_are_those_of_torch_func(modules, tiny_del, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function.__name__) or function)
    problem = modules.cases.make_problem(tiny_del("del-gradient/d8/b64"), "cpu")
    results = modules.peers.del_compiled.del_gradient(problem)()
    assert compiled == ["_begin", "_iterate", "_correct"]
    for name, value in modules.peers.del_func.del_gradient(problem)().items():
        assert torch.equal(results[name], value), name


def test_euler_lagrange_oracle_is_del_rollout_in_float64(modules, tiny_del):
    problem = modules.cases.make_problem(tiny_del("del-gradient/d8/b64"), "cpu").to(torch.float64)
    L = modules.peers.del_ours.network(problem)
    leaves = dict(
        zip(("q0", "q1"), (q.requires_grad_() for q in problem.points), strict=True), **dict(L.named_parameters())
    )
    trajectory = hamiltorch_ext.del_rollout(L, leaves["q0"], leaves["q1"], 3, dt=float(problem.dt), tol=1e-14)
    loss = (trajectory * problem.targets).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    expected = {"trajectory": trajectory.detach(), **dict(zip(leaves, grads, strict=True))}
    found = modules.del_oracle.solution(problem)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", ["del/d8/b64", "del-gradient/d8/b64"])
def test_euler_lagrange_rollouts_may_be_off_by_what_the_tolerance_allows_and_no_more(
    name, modules, tiny_del, monkeypatch
):
    problem = modules.cases.make_problem(tiny_del(name, steps=10), "cpu")
    checker = modules.check.Checker(problem)
    assert checker.allowed["float32"] < 1e-4
    exact = problem.to(torch.float64)
    tolerance = modules.cases.TOLERANCE
    assert checker.error(modules.del_oracle.solution(exact, push=tolerance)) <= checker.allowed["float32"]
    assert checker.error(modules.del_oracle.solution(exact, push=4 * tolerance)) > checker.allowed["float32"]
    monkeypatch.setattr(modules.peers.del_func, "MOST_ITERATIONS", 1)
    hasty = getattr(modules.peers.del_func, modules.cases.KINDS[name.split("/")[0]])(problem)
    assert checker.error(hasty()) > checker.allowed["float32"]


def test_free_motion_is_off_by_as_much_as_the_checker_says(modules, tiny_del):
    problem = modules.cases.make_problem(tiny_del("del/d8/b64", steps=10), "cpu").to(torch.float64)
    free = dataclasses.replace(problem, weights=tuple(0 * weight for weight in problem.weights))
    tolerance, dt = modules.cases.TOLERANCE, modules.cases.DEL_DT
    exact, pushed = (modules.del_oracle.solution(free, push=push)["trajectory"][:, -1] for push in (0.0, tolerance))
    mass = torch.nn.functional.softplus(free.raw_mass) + modules.cases.LEAST_MASS
    q0, q1 = free.points
    bound = tolerance * (1 + (mass * (q1 - q0) / dt).abs().amax(-1, keepdim=True))
    torch.testing.assert_close((pushed - exact).abs(), bound * dt / mass * 55, rtol=1e-3, atol=0)


@pytest.fixture
def tiny_implicit(modules):
    """A case of an implicit method at a size of nothing."""

    def stand_in(kind: str, **fields: int):
        case = modules.cases.CASES["cpu"][f"{kind}/paper/b32"]
        return dataclasses.replace(case, widths=(6, 12, 9, 1), **{"batch": 3, "steps": 4, **fields})

    return stand_in


IMPLICIT = ("stormer_verlet", "implicit_midpoint", "discrete_gradient")


@pytest.mark.parametrize("kind", IMPLICIT)
def test_implicit_cases_stand_beside_leapfrog_and_are_solved_by_ours(kind, modules):
    cases = modules.cases.CASES["cpu"]
    assert [case.batch for case in cases.values() if case.kind == kind] == [1, 32, 256]
    for batch in (1, 32, 256):
        case, leapfrog = cases[f"{kind}/paper/b{batch}"], cases[f"rollout/paper/b{batch}"]
        assert (case.widths, case.steps, case.flop) == (leapfrog.widths, leapfrog.steps, None)
        assert not case.gradient
    problem = modules.cases.make_problem(cases[f"{kind}/paper/b1"], "cpu")
    assert problem.dt == 1
    H = modules.peers.eager.network(problem)
    with torch.no_grad():
        _, info = hamiltorch_ext.rollout(H, problem.z0, problem.dt, 15, method=kind, tol=1e-6, return_info=True)
    assert info.converged.all()
    solves = 2 if kind == "stormer_verlet" else 1
    assert (info.iterations[:, 4:] == solves).all()


@pytest.mark.parametrize("kind", IMPLICIT)
@pytest.mark.parametrize("batch", [1, 3])
def test_implicit_peers_agree(kind, batch, modules, tiny_implicit):
    peers = {
        peer: value
        for peer, value in modules.peers.PEERS["cpu"].items()
        if peer != "torch.compile" and value.unavailable("cpu") is None
    }
    failed = {}
    case = modules.run._run(tiny_implicit(kind, batch=batch), peers, "cpu", modules.timing.Effort.quick(), failed)
    assert failed == {}
    assert case["refused"] == {}
    assert case["flop"] is None
    assert [peer for peer in case["peers"] if peer != "jax jit"] == ["ours", "torch analytic"]
    assert ("jax jit" in case["peers"]) == ("jax jit" in peers)
    assert all("gflops" not in peer for peer in case["peers"].values())


def test_a_wrong_peer_of_implicit_stages_is_refused(modules, tiny_implicit, monkeypatch):
    case = tiny_implicit("stormer_verlet")
    peers = {name: modules.peers.PEERS["cpu"][name] for name in ("ours", "torch analytic")}
    monkeypatch.setattr(modules.peers.implicit_analytic, "MOST_STAGE_ITERATIONS", 1)
    found = modules.run._run(case, peers, "cpu", modules.timing.Effort.quick(), {})
    assert (list(found["peers"]), list(found["refused"])) == (["ours"], ["torch analytic"])


@pytest.mark.parametrize("kind", IMPLICIT)
def test_compiled_implicit_stages_are_those_of_torch_analytic(kind, modules, tiny_implicit, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function.__name__) or function)
    problem = modules.cases.make_problem(tiny_implicit(kind), "cpu")
    found, expected = (
        getattr(getattr(modules.peers, f"implicit_{peer}"), kind)(problem)() for peer in ("compiled", "analytic")
    )
    assert [name.strip("_") for name in compiled] == ["iterate"]
    assert torch.equal(found["trajectory"], expected["trajectory"])


@pytest.mark.parametrize("kind", IMPLICIT)
def test_implicit_oracle_is_the_reference_in_float64(kind, modules, tiny_implicit):
    problem = modules.cases.make_problem(tiny_implicit(kind), "cpu").to(torch.float64)
    H = modules.peers.eager.network(problem)
    expected = hamiltorch_ext.rollout(
        H, problem.z0, problem.dt, problem.case.steps, method=kind, tol=1e-14, backend="reference"
    )
    found = modules.implicit_oracle.solution(problem)["trajectory"]
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", IMPLICIT)
def test_implicit_rollouts_may_be_off_by_what_the_tolerance_allows_and_no_more(kind, modules, tiny_implicit):
    problem = modules.cases.make_problem(tiny_implicit(kind, steps=10), "cpu")
    checker = modules.check.Checker(problem)
    assert checker.allowed["float32"] < 2e-4
    exact, tolerance = problem.to(torch.float64), modules.cases.TOLERANCE
    assert checker.error(modules.implicit_oracle.solution(exact, push=tolerance)) <= checker.allowed["float32"]
    assert checker.error(modules.implicit_oracle.solution(exact, push=4 * tolerance)) > checker.allowed["float32"]


@pytest.mark.parametrize("kind", IMPLICIT)
def test_states_without_a_force_are_off_by_as_much_as_the_checker_says(kind, modules, tiny_implicit):
    problem = modules.cases.make_problem(tiny_implicit(kind), "cpu").to(torch.float64)
    still = dataclasses.replace(problem, weights=tuple(0 * weight for weight in problem.weights))
    tolerance, z0 = modules.cases.TOLERANCE, problem.z0
    pushed = modules.implicit_oracle.solution(still, push=tolerance)["trajectory"][:, -1]
    times = 2 if kind == "implicit_midpoint" else 1
    parts = z0.chunk(2, -1) if kind == "stormer_verlet" else (z0,)
    bound = torch.cat([(1 + part.abs().amax(-1, keepdim=True)).expand_as(part) for part in parts], -1)
    expected = times * problem.case.steps * tolerance * bound
    torch.testing.assert_close((pushed - z0).abs(), expected, rtol=1e-3, atol=0)


def test_implicit_cases_have_a_table_of_their_own_beside_leapfrog(run, modules):
    folder, _, report = run
    leapfrog = next(case for case in report["cases"] if case["kind"] == "rollout")
    ours = {**leapfrog["peers"]["ours"], "median_s": 3 * leapfrog["peers"]["ours"]["median_s"]}
    peers = {**leapfrog["peers"], "ours": ours}
    case = {**leapfrog, "name": "stormer_verlet/small/b1", "kind": "stormer_verlet", "flop": None, "peers": peers}
    (folder / "implicit.json").write_text(json.dumps({**report, "cases": [leapfrog, case]}))
    page = folder / "three.md"
    marks = "benchmarks", "benchmarks implicit xeon", "benchmarks implicit"
    page.write_text("".join(f"<!-- {mark} -->\nkept\n<!-- /{mark} -->\n" for mark in marks))
    assert modules.table.main([str(folder / "implicit.json"), "--update", str(page)]) == 0
    before, after = page.read_text().split("<!-- benchmarks implicit -->")
    assert before.count("kept") == 2
    assert modules.table.main([str(folder / "implicit.json"), "--update", str(page), "--machine", "xeon"]) == 0
    assert page.read_text().count("kept") == 1
    assert page.read_text().endswith(after)
    header, _, row, *_ = after.strip().splitlines()
    assert cells(header, row)["case"] == "stormer_verlet/small/b1"
    assert cells(header, row)["/ our leapfrog"] == "3.00x"
    assert leapfrog["name"] not in row


def peer(microseconds: float, ours: float | None = 15.0, **fields: object) -> dict:
    seconds = 1e-6 * microseconds
    times = {"median_s": seconds, "q1_s": 0.9 * seconds, "q3_s": 1.1 * seconds, "gflops": 1.0, "error": 1e-7}
    ratio = {} if ours is None else {"ratio_to_ours": microseconds / ours}
    return {**times, "fraction_of_peak": 0.25, "precision": "float32", **ratio, **fields}


def gpu_report() -> dict:
    common = {"kind": "rollout", "steps": 15, "baseline": None, "flop": 1}
    return {
        "device": "cuda",
        "command": "python benchmarks/run.py --device cuda",
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.11.0", "cuda": "13.0"},
        "machine": {"device": "A GPU", "threads": {"torch": 4}},
        "limits": {"gflops_by_precision": {"float32": 5e4, "tf32": 4e5, "bfloat16": 7e5}, "bandwidth_gbs": 3000.0},
        "skipped": {"jax jit": "jax is not installed"},
        "failed": {},
        "not_begun": ["training/paper/b32"],
        "cases": [
            {
                **common, "name": "rollout/baseline/b1", "model": "baseline", "refused": {},
                "peers": {"plain MLP": peer(300.0, None), "plain MLP graph": peer(60.0, None)},
            },
            {
                **common, "name": "rollout/paper/b1", "model": "hamiltonian", "refused": {},
                "baseline": "rollout/baseline/b1",
                "peers": {
                    "ours": peer(15.0), "ours graph": peer(12.0), "ours bf16": peer(7.5, error=2e-3),
                    "torch eager": peer(150.0), "torch analytic graph": peer(45.0),
                },
            },
        ],
    }  # fmt: skip


def cells(*lines: str) -> dict[str, str]:
    """A row of a Markdown table by its header."""
    return dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in lines), strict=True))


def test_gpu_table_gives_time_per_step_beside_the_plain_mlp(modules):
    header, _, row, _, caption = modules.table.markdown_table(gpu_report()).splitlines()
    assert cells(header, row) == {
        "case": "rollout/paper/b1",
        "ours, µs a step (quartiles)": "1 (0.9-1.1)",
        "of peak": "25%",
        "ours graph, µs (of peak)": "0.8 (25%)",
        "ours bf16, µs (of peak)": "0.5 (25%)",
        "torch eager": "10.00x",
        "torch analytic graph": "**3.00x**",
        "plain MLP, µs (graph)": "20 (4)",
    }
    for words in ("A GPU", "700 TFLOP/s bfloat16", "ours bf16 2e-03", "jax is not installed", "training/paper/b32"):
        assert words in caption
    assert "best other: torch analytic graph, 3.00 times" in modules.table.plain_table(gpu_report())


def test_cpu_table_holds_ours_in_bfloat16_apart_from_the_peers(modules):
    report = gpu_report()
    report["device"] = "cpu"
    report["limits"] = {
        "gflops": 500.0, "gflops_source": "registers", "gflops_by_precision": {"float32": 500.0, "bfloat16": 900.0},
        "bandwidth_gbs": 80.0,
    }  # fmt: skip
    case = {"kind": "rollout", "steps": 15, "baseline": None, "model": "hamiltonian", "refused": {}, "flop": 1}
    both = {"ours bf16": peer(7.5, precision="bfloat16", error=2e-3), "ours": peer(15.0), "torch eager": peer(150.0)}
    report["cases"] = [
        {**case, "name": "rollout/paper/b32", "peers": both},
        {**case, "name": "rollout/small/b1", "peers": {"ours": peer(15.0), "torch eager": peer(30.0)}},
    ]
    header, line, paper, small, _, caption = modules.table.markdown_table(report).splitlines()
    assert header.count("|") == line.count("|")
    assert cells(header, paper) == {
        "case": "rollout/paper/b32",
        "ours, ms (quartiles)": "0.015 (0.0135-0.0165)",
        "of peak": "25%",
        "ours bf16, ms (/ ours, of peak)": "0.0075 (0.50x, 25%)",
        "torch eager": "**10.00x**",
    }
    assert cells(header, small)["ours bf16, ms (/ ours, of peak)"] == "-"
    for words in ("float32 unless named", "ours bf16 2e-03, ours 1e-07", "900 GFLOP/s bfloat16"):
        assert words in caption


def test_tables_leave_the_rate_out_where_the_work_is_a_peers_choice(modules):
    report = gpu_report()
    report |= {"device": "cpu", "limits": {"gflops": 500.0, "gflops_source": "registers", "bandwidth_gbs": 80.0}}
    report["limits"]["gflops_by_precision"] = {"float32": 500.0, "bfloat16": 900.0}
    case = {"kind": "del_rollout", "steps": 10, "baseline": None, "model": "lagrangian", "refused": {}, "flop": None}
    peers = {"ours": peer(20.0, error=3e-6), "jax jit": peer(60.0)}
    for one in peers.values():
        del one["gflops"], one["fraction_of_peak"]
    report["cases"].append({**case, "name": "del/d8/b1", "peers": peers})
    header, _, _, row, _, caption = modules.table.markdown_table(report).splitlines()
    assert cells(header, row)["of peak"] == "-"
    assert cells(header, row)["jax jit"] == "**4.00x**"
    assert "ours 1e-07, ours graph 1e-07, ours bf16 2e-03; where steps are solved to a tolerance ours 3e-06." in caption
    (line,) = (line for line in modules.table.plain_table(report).splitlines() if "del/d8/b1" in line and "jax" in line)
    assert line.split()[7:] == ["6.00", "-", "-", "1.0e-07", "4.00"]
    modules.run._relate_to_limits(report)
    assert "fraction_of_peak" not in peers["ours"]


def test_bfloat16_is_a_part_of_its_own_peak(modules, monkeypatch):
    monkeypatch.setattr(modules.machine._C, "measure_peak_bfloat16", lambda threads, seconds: 7e12)
    monkeypatch.setattr(modules.machine, "_copy_bandwidth", lambda device, seconds: 80.0)
    limits = modules.machine.limits("cpu", 1, 0.001)
    assert limits["gflops_by_precision"] == {"float32": limits["gflops"], "bfloat16": 7000.0}
    ours = {"gflops": 1750.0, "precision": "bfloat16"}
    modules.run._relate_to_limits({"limits": limits, "cases": [{"peers": {"ours bf16": ours}}]})
    assert ours["fraction_of_peak"] == 0.25
    monkeypatch.setattr(modules.machine._C, "measure_peak_bfloat16", lambda threads, seconds: 0.0)
    assert modules.machine.peaks(1, 0.001).keys() == {"float32"}


def test_bfloat16_on_the_cpu_runs_or_says_why_not(modules):
    peers, cases = modules.peers.PEERS["cpu"], modules.cases.CASES["cpu"]
    ours = peers["ours bf16"]
    assert [name for name, case in cases.items() if ours.takes(case)] == [
        "rollout/paper/b1", "rollout/paper/b32", "rollout/paper/b256", "rollout/paper/b2048",
    ]  # fmt: skip
    reason = ours.unavailable("cpu")
    if reason is not None:
        assert "bfloat16" in reason
        return
    failed = {}
    case = dataclasses.replace(cases["rollout/paper/b32"], widths=(34, 40, 17, 1), batch=3, steps=2)
    names = ("ours", "ours bf16")
    found = modules.run._run(case, {name: peers[name] for name in names}, "cpu", modules.timing.Effort.quick(), failed)
    assert (list(found["peers"]), found["refused"], failed) == (list(names), {}, {})


def test_gpu_table_leaves_the_cpu_table_of_a_page_alone(modules, tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "gpu.json"
    results.write_text(json.dumps(gpu_report()))
    cpu = "<!-- benchmarks -->\ncpu\n<!-- /benchmarks -->\n"
    page.write_text(cpu + "<!-- benchmarks cuda -->\n<!-- /benchmarks cuda -->\n")
    assert modules.table.main([str(results), "--check", str(page)]) == 1
    assert modules.table.main([str(results), "--update", str(page)]) == 0
    assert modules.table.main([str(results), "--check", str(page)]) == 0
    assert page.read_text().startswith(cpu)
    assert "torch analytic graph" in page.read_text()


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    done = python(BENCHMARKS / "scaling.py", "--quick", "--output", "scaling.json", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "scaling.json").read_text())


def test_scaling_layout(scaling):
    _, printed, report = scaling
    assert report["layout"] == 1
    assert report["command"].startswith("python benchmarks/scaling.py --quick")
    assert report["commit"]
    assert report["refused"] == {}
    threads = len(os.sched_getaffinity(0))
    assert [peak["threads"] for peak in report["limits"]["peaks"]] == list(range(1, threads + 1))
    assert all(peak["gflops"]["float32"] > 0 for peak in report["limits"]["peaks"])
    assert all(read["gbs"] > 0 for read in report["limits"]["reads"])
    assert (threads, 256 << 20) in [(read["threads"], read["bytes"]) for read in report["limits"]["reads"]]
    found = {
        against: [
            (point["threads"], point["batch"], point["width"])
            for point in report["points"]
            if point["against"] == against and point["precision"] == "float32"
        ]
        for against in ("threads", "batch", "width")
    }
    assert found == {
        "threads": [(n, batch, 512) for batch in (1, 8) for n in range(1, threads + 1)],
        "batch": [(threads, batch, 512) for batch in (1, 2, 8)],
        "width": [(threads, batch, width) for batch in (1, 8) for width in (16, 50)],
    }
    for point in report["points"]:
        assert 0 < point["min_s"] <= point["q1_s"] <= point["median_s"] <= point["q3_s"]
        assert point["error"] <= point["allowed_error"]
        assert point["limit_s"] == max(point["arithmetic_s"], point["reading_s"])
        assert point["fraction_of_limit"] == pytest.approx(point["limit_s"] / point["median_s"])
    assert printed.count("us a step") == len(report["points"])


def test_scaling_plot_is_made_and_the_same_again(scaling):
    pytest.importorskip("matplotlib")
    folder, _, _ = scaling
    for name in ("one.png", "two.png"):
        done = python(BENCHMARKS / "plot.py", "scaling.json", name, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert (folder / "one.png").stat().st_size > 5000
    assert (folder / "one.png").read_bytes() == (folder / "two.png").read_bytes()


def test_scaling_counts_work_as_the_cases_do(modules):
    paper = modules.cases.CASES["cpu"]["rollout/paper/b32"]
    point = modules.scaling.Point("batch", 2, 32, 512, "float32")
    assert (point.case.widths, point.case.flop) == (paper.widths, paper.flop)
    assert point.weight_bytes == 4 * (1024 * 512 + 512 * 512 + 512 * 256 + 256)
    assert point.bytes_read == 4 * paper.steps * 6 * (512 * 512 + 512 * 512 + 512 * 256 + 256)
    assert dataclasses.replace(point, precision="bfloat16").bytes_read == point.bytes_read / 2
    assert dataclasses.replace(point, batch=1).bytes_read == point.bytes_read


def test_a_limit_is_the_slower_of_arithmetic_and_reading_at_the_best_rates(modules, monkeypatch):
    rates = iter((2.0, 1.0))
    monkeypatch.setattr(modules.scaling.machine, "peaks", lambda threads, seconds: {"float32": next(rates)})
    monkeypatch.setattr(modules.scaling.machine, "read_bandwidth", lambda threads, size, seconds: 3.0)
    one, many = (modules.scaling.Point("batch", 2, batch, 512, "float32") for batch in (1, 256))
    limits = modules.scaling.Limits(0.0)
    for _ in range(2):
        limits.measure([one, many])
    for point in (one, many):
        found = limits.of(point)
        assert found["arithmetic_s"] == pytest.approx(point.case.flop / 2e9)
        assert found["reading_s"] == pytest.approx(point.bytes_read / 3e9)
    assert limits.of(one)["limit_s"] == limits.of(one)["reading_s"]
    assert limits.of(many)["limit_s"] == limits.of(many)["arithmetic_s"]


def test_scaling_times_no_wrong_result(modules, monkeypatch):
    monkeypatch.setattr(modules.scaling.Checker, "error", lambda self, results: float("nan"))
    refused = {}
    curve = [modules.scaling.Point("width", 1, 1, 16, "float32")]
    assert modules.scaling._timed(curve, modules.timing.Effort.quick(), refused) == {}
    assert list(refused) == ["width 16, batch 1, 1 threads, float32"]


def test_scaling_explains_itself(tmp_path):
    helped = python(BENCHMARKS / "scaling.py", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert all(word in helped.stdout for word in ("--quick", "--output", "--threads", "2w-w-w-w/2-1"))


def test_every_instruction_set_measures_reads_of_any_size(modules, instruction_set):
    assert modules.machine._C.instruction_set() == instruction_set
    assert all(modules.machine.read_bandwidth(2, size, 0.001) > 0 for size in (1, 1000, 4096, 3 << 20))


@dataclass(frozen=True)
class FakePlan:
    name: str
    seconds: float

    def __str__(self) -> str:
        return self.name

    def as_dict(self) -> dict:
        return asdict(self)


@pytest.fixture
def fake_plans(monkeypatch):
    """A library with three plans that are chosen badly: one is slow, one raises."""
    fast, slow, broken = FakePlan("fast", 0.0), FakePlan("slow", 0.02), FakePlan("broken", 0.0)
    asked = []

    def candidate_plans(hidden, batch, *, precision="float32", adjoint=False):
        asked.append((tuple(hidden), batch, precision, adjoint))
        return [slow, fast, broken]

    @contextmanager
    def use_plan(plan):
        if plan is broken:
            raise RuntimeError("does not fit")
        time.sleep(plan.seconds)
        yield

    fake = SimpleNamespace(candidate_plans=candidate_plans, choose_plan=lambda *a, **k: slow, use_plan=use_plan)
    monkeypatch.setitem(sys.modules, "hamiltorch_ext.cuda_plans", fake)
    return asked


@pytest.mark.parametrize("name", ["rollout/paper/b1", "training/paper/b32"])
def test_tuning_finds_the_best_plan(name, modules, tiny, fake_plans):
    found = modules.tune.tune(tiny(name), "float32", "cpu", modules.timing.Effort.quick())
    assert fake_plans == [((3,), 3, "float32", name.startswith("training"))]
    assert (found["chosen"], found["best"]) == ("slow", "fast")
    assert found["ratio"] > modules.tune.SLACK
    assert found["plans"]["slow"]["plan"] == {"name": "slow", "seconds": 0.02}
    assert found["plans"]["slow"]["median_s"] > 0.02
    assert found["failed"] == {"broken": "RuntimeError: does not fit"}
    assert found["wrong"] == {}
    assert "times the time of fast" in modules.tune._line(found)


def test_tuning_times_no_wrong_plan(modules, tiny, fake_plans, monkeypatch):
    monkeypatch.setattr(modules.tune.Checker, "error", lambda self, results: float("nan"))
    found = modules.tune.tune(tiny("rollout/paper/b1"), "float32", "cpu", modules.timing.Effort.quick())
    assert found["wrong"].keys() == {"slow", "fast"}
    assert (found["plans"], found["best"], found["ratio"]) == ({}, None, None)


def test_tuning_writes_what_it_found_within_its_budget(modules, tiny, fake_plans, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modules.tune.machine, "restrict", lambda threads: None)
    settings = [("paper", tiny("rollout/paper/b1"), "float32"), ("paper", tiny("training/paper/b32"), "float32")]
    monkeypatch.setattr(modules.tune, "_settings", lambda quick: settings)
    arguments = ["--quick", "--device", "cpu", "--output", str(tmp_path / "tune.json")]
    assert modules.tune.main(arguments) == 1  # a plan fails
    written = json.loads((tmp_path / "tune.json").read_text())
    assert [found["case"] for found in written["settings"]] == ["rollout/paper/b1", "training/paper/b32"]
    assert "not the best choice in 2" in capsys.readouterr().out
    assert modules.tune.main([*arguments, "--budget", "0"]) == 0
    assert json.loads((tmp_path / "tune.json").read_text())["not_begun"] == 2


def test_tuning_settings(modules):
    every, quick = (list(modules.tune._settings(quick)) for quick in (False, True))
    assert {(network, precision) for network, _, precision in quick} == {("paper", "float32"), ("small", "float32")}
    assert len({(case.name, precision) for _, case, precision in every}) == len(every)
    assert max(case.batch for _, case, _ in every if case.kind == "rollout") == 65536


def test_sanitized_runs_are_checked(modules, monkeypatch, capsys):
    monkeypatch.setattr(modules.sanitize_case.machine, "restrict", lambda threads: None)
    assert modules.sanitize_case.main(["--device", "cpu"]) == 0
    assert " 0 wrong; precisions: float32" in capsys.readouterr().out
    monkeypatch.setattr(modules.sanitize_case.Checker, "error", lambda self, results: 1.0)
    assert modules.sanitize_case.main(["--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "WRONG: training/10x33x17x1/b33 float32" in said
    assert "leapfrog" not in said


def test_sanitized_rollouts_of_eight_samples_are_checked(modules, monkeypatch, capsys):
    name, rollout = "leapfrog of masses", modules.sanitize_case.rollout

    def wrong(H, *arguments, backend, **options):
        trajectory = rollout(H, *arguments, backend=backend, **options)
        if backend == "native" and getattr(H, "kinetic", None) == "mass":
            H.potential.layers[0].bias.register_hook(lambda grad: grad * float("nan"))
        return trajectory

    assert modules.sanitize_case.energy_error(name, "cpu") < 1e-5
    monkeypatch.setattr(modules.sanitize_case, "rollout", wrong)
    assert math.isnan(modules.sanitize_case.energy_error(name, "cpu"))
    monkeypatch.setattr(modules.sanitize_case.machine, "restrict", lambda threads: None)
    monkeypatch.setattr(modules.sanitize_case, "WIDTHS", ())
    monkeypatch.setattr(modules.sanitize_case, "LAGRANGIAN_WIDTHS", ())
    assert modules.sanitize_case.main(["--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert f"WRONG: {name} float32: nan" in said
    assert "5 runs, 1 wrong" in said


def test_profiled_cases_run(modules, monkeypatch, capsys):
    monkeypatch.setattr(modules.profile_case.machine, "restrict", lambda threads: None)
    assert modules.profile_case.main(["--device", "cpu", "rollout/small/b1", "training/small/b32"]) == 0
    assert capsys.readouterr().out.split() == ["rollout/small/b1", "training/small/b32"]


def test_probe_compiles_without_a_warning(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 90)]
    done = subprocess.run(
        [nvcc, "-std=c++17", "-O3", "-Werror", "all-warnings", *targets, "-c", BENCHMARKS / "probe" / "costs.cu"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def gpu_script(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh"), *arguments],
        cwd=cwd, env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_gpu_script_explains_itself(tmp_path):
    helped = gpu_script("--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert all(word in helped.stdout for word in ("--only", "--budget", "sanitize", "probe", "bench.json"))
    unknown = gpu_script("--only", "tests,nonsense", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "no stage nonsense; there are: machine build tests" in unknown.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_script_says_that_there_is_no_gpu(tmp_path):
    done = gpu_script(str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"gpu.sh: nothing to run on: torch {torch.__version__} sees no CUDA device\n"
    assert not (tmp_path / "out").exists()


FAKE_PYTHON = """#!/bin/bash
case "$*" in
  *"is_available"*) echo "a warning" >&2; echo 90a ;;
  *"-m pytest"*) echo "what pytest said"; exit {tests} ;;
  *"run.py"*) while [ "$1" != --output ]; do shift; done; echo '{{}}' > "$2" ;;
  *"tune.py"*) exec sleep 30 ;;
  *) echo "$PYTHONPATH" "$@" ;;
esac
"""
FAKE_NVCC = """#!/bin/bash
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then printf '#!/bin/bash\\necho "{}"\\n' > "$2"; chmod +x "$2"; fi
  shift
done
"""


def with_fake_tools(folder: Path, pytest_status: int) -> dict[str, str]:
    folder.mkdir()
    for name, text in {"python3": FAKE_PYTHON.format(tests=pytest_status), "nvcc": FAKE_NVCC}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PYTHON": str(folder / "python3"), "PATH": f"{folder}:/usr/bin:/bin"}


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {line.split()[0]: line for line in done.stdout.splitlines() if line[:1].isalpha()}


def test_gpu_script_runs_what_is_asked_for_and_the_build(tmp_path):
    environment = with_fake_tools(tmp_path / "tools", 0)
    done = gpu_script("--only", "tests,bench", "out", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = states(done)
    assert found.keys() == {"build", "tests", "bench", "results"}
    assert all(" ok " in found[stage] for stage in ("build", "tests", "bench"))


def test_gpu_script_goes_on_after_a_failure_and_reports_it(tmp_path):
    environment = with_fake_tools(tmp_path / "tools", 1)
    done = gpu_script("--budget", "9", "out", cwd=tmp_path, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    found = states(done)
    assert " FAILED: status 1 " in found["tests"]
    assert all(" ok " in found[stage] for stage in ("build", "probe", "bench"))
    assert "out of time" in found["tune"]  # it would take longer than all are given
    if shutil.which("compute-sanitizer", path=environment["PATH"]) is None:
        assert "not run: no such tool" in found["sanitize"]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "costs.json", "log.txt"]
    assert json.loads((out / "bench.json").read_text()) == json.loads((out / "costs.json").read_text()) == {}
    log = (out / "log.txt").read_text()
    assert log.index("======== tests") < log.index("what pytest said") < log.index("======== probe")
    assert "HAMILTORCH_CUDA_ARCHITECTURES=90a-real" in log
