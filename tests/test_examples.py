"""Every example runs, at a size that shows nothing, and writes its picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TINY = {
    "pendulum": ["--updates", "3", "--trajectories", "4"],
    "condition": ["--updates", "3", "--trajectories", "4"],
    "lagrangian": ["--updates", "3", "--trajectories", "4"],
    "port": ["--updates", "3", "--trajectories", "4"],
    "rollout_speed": ["--batches", "1", "2", "--steps", "2", "--seconds", "0", "--threads", "1"],
    "tao": ["--steps", "20"],
    "compile_and_train": ["--updates", "3", "--backend", "aot_eager"],
}
PNG = b"\x89PNG\r\n\x1a\n"


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_no_example_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_runs(name, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    done = python(EXAMPLES / f"{name}.py", "--plot", plot, *TINY[name], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert plot.read_bytes().startswith(PNG)
    assert f"plot: {plot}" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("name", TINY)
def test_help(name, tmp_path):
    pytest.importorskip("matplotlib")
    done = python(EXAMPLES / f"{name}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = set(done.stdout.replace("[", " ").split())
    assert {"--plot", "--steps" if name == "tao" else "--seed"} <= told  # nothing is random in Tao's example


def test_taos_example_shows_what_is_kept(tmp_path):
    """The table's last column but one: explicit leapfrog loses its energy from the start, the others do not."""
    pytest.importorskip("matplotlib")
    done = python(EXAMPLES / "tao.py", "--plot", tmp_path / "plot.png", "--steps", "500", cwd=tmp_path)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    largest = {row[0]: float(row[2]) for row in rows}
    assert largest.pop("leapfrog") > 0.1
    assert set(largest) == {"extended", "implicit_midpoint", "stormer_verlet", "yoshida4", "discrete_gradient"}
    assert max(largest.values()) < 3e-4
