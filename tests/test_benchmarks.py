"""The benchmark driver runs, writes what it says, and never times a wrong result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = ["rollout/small/b1", "training/small/b32"]
PEERS = ["ours", "torch eager", "torch analytic"]

BREAK_ONE_PEER = """
import sys
sys.path.insert(0, {folder!r})
import run
from peers import analytic
right = analytic.rollout
analytic.rollout = lambda problem: right(problem, lambda *a: (1.001 * analytic.leapfrog(*a)[0], None))
sys.exit(run.main(sys.argv[1:]))
"""


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    done = python(
        BENCHMARKS / "run.py", "--quick", "--cases", *CASES, "--peers", *PEERS, "--output", "results.json", cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "results.json").read_text())


def test_layout(run):
    _, _, report = run
    assert report["layout"] == 1
    assert [case["name"] for case in report["cases"]] == CASES
    assert {"python", "torch", "numpy"} <= report["versions"].keys()
    assert report["machine"]["device"]
    assert report["machine"]["threads"]["torch"] == len(os.sched_getaffinity(0))
    assert report["limits"]["gflops"] > 0
    assert report["limits"]["bandwidth_gbs"] > 0
    assert report["commit"]
    assert report["command"].startswith("python benchmarks/run.py --quick")
    assert report["skipped"] == {}
    for case in report["cases"]:
        assert list(case["peers"]) == PEERS
        assert case["flop"] > 0
        assert case["refused"] == {}
        assert case["peers"]["ours"]["ratio_to_ours"] == 1
        for peer in case["peers"].values():
            assert 0 < peer["min_s"] <= peer["q1_s"] <= peer["median_s"] <= peer["q3_s"]
            assert peer["error"] <= case["allowed_error"]
            assert peer["fraction_of_peak"] == pytest.approx(peer["gflops"] / report["limits"]["gflops"])
            assert peer["samples"] >= 3


def test_terminal_shows_every_peer(run):
    _, printed, report = run
    for case in report["cases"]:
        for peer in case["peers"]:
            assert any(line.startswith(f"{case['name']:<22} {peer}") for line in printed.splitlines())
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


def test_plot(run):
    pytest.importorskip("matplotlib")
    folder, _, _ = run
    done = python(BENCHMARKS / "plot.py", "results.json", "picture.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "picture.png").stat().st_size > 5000


def test_a_wrong_result_is_not_timed(tmp_path):
    done = python(
        "-c", BREAK_ONE_PEER.format(folder=str(BENCHMARKS)), "--quick", "--cases", CASES[0],
        "--peers", "torch eager", "torch analytic", "--output", "results.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert list(case["refused"]) == ["torch analytic"]
    assert list(case["peers"]) == ["torch eager"]
    assert "not timed, wrong result" in done.stdout


def test_help_and_bad_names(tmp_path):
    helped = python(BENCHMARKS / "run.py", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert all(word in helped.stdout for word in ("--cases", "--peers", "--quick", "--output", "rollout/paper/b2048"))
    unknown = python(BENCHMARKS / "run.py", "--cases", "nothing*", cwd=tmp_path)
    assert unknown.returncode != 0
    assert "rollout/small/b1" in unknown.stderr
