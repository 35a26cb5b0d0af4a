"""The package as installed: what it links, what it says of itself, and where it may be run from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch

import hamiltorch_ext
from hamiltorch_ext import _C
from hamiltorch_ext.activations import ACTIVATIONS

ROOT = Path(__file__).resolve().parent.parent


def run_python(*arguments: str, cwd: Path) -> str:
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_native_module_links_neither_torch_nor_cuda():
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    dynamic = subprocess.run([readelf, "-d", _C.__file__], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line]
    assert needed
    assert not [name for name in needed if any(word in name for word in ("torch", "c10", "cuda", "omp"))], needed


def test_source_folder_does_not_shadow_the_installed_package(tmp_path):
    ask = "import hamiltorch_ext, hamiltorch_ext._C; print(hamiltorch_ext.__file__)"
    elsewhere, at_root = run_python("-c", ask, cwd=tmp_path), run_python("-c", ask, cwd=ROOT)
    assert at_root == elsewhere
    assert Path(at_root.strip()).parent == Path(hamiltorch_ext.__file__).parent


@pytest.mark.parametrize("where", ["elsewhere", "root"])
def test_report(where, tmp_path):
    report = run_python("-m", "hamiltorch_ext", cwd=ROOT if where == "root" else tmp_path)
    lines = dict(line.split(maxsplit=1) for line in report.splitlines())
    assert lines["hamiltorch_ext"] == hamiltorch_ext.__version__
    assert lines["torch"] == torch.__version__
    assert lines["instruction_set"] == _C.instruction_set()
    assert "cuda_architectures" in lines
    assert "cuda_device" in lines


def test_instruction_set_can_be_capped(tmp_path):
    ask = "from hamiltorch_ext import _C; print(_C.instruction_set())"
    environment = {"HAMILTORCH_MAX_ISA": "baseline"}
    capped = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert capped.stdout.strip() == "baseline", capped.stderr
    with pytest.raises(ValueError, match=r"instruction set must be one of .*baseline.* got sse9"):
        _C.use_instruction_set("sse9")


def test_versions_agree():
    assert _C.__version__ == hamiltorch_ext.__version__


def test_typed_with_current_stubs(tmp_path):
    package = resources.files(hamiltorch_ext)
    assert package.joinpath("py.typed").is_file()
    run_python("-m", "pybind11_stubgen", "hamiltorch_ext._C", "-o", str(tmp_path), "--exit-code", cwd=tmp_path)
    generated = (tmp_path / "hamiltorch_ext" / "_C.pyi").read_text()
    assert generated == (ROOT / "hamiltorch_ext" / "_C.pyi").read_text(), "regenerate hamiltorch_ext/_C.pyi"


def test_activation_codes_match_the_native_header():
    header = (ROOT / "csrc" / "include" / "hamiltorch" / "mlp.h").read_text()
    for name, activation in ACTIVATIONS.items():
        assert f"k{name.capitalize()} = {activation.code}" in header


def test_cuda_part_is_built_where_a_compiler_is_and_explains_a_missing_device():
    cuda = _C.cuda()
    if shutil.which("nvcc"):
        assert "90-real" in cuda["architectures"]
    if not cuda["available"]:
        assert cuda["message"]
