"""Bad input to a rollout: an exception that names the argument, what it must be and what it was. Never a crash."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import on
from torch import nn

from hamiltorch_ext import HamiltonianMLP, euler_rollout, leapfrog_rollout, rollout

H = HamiltonianMLP(4, (5, 3))
K = HamiltonianMLP(4, (5,), condition_dim=2)
Z = torch.zeros(3, 4)
BACKENDS = ["auto", "native", "reference"]
FUNCTIONS = [leapfrog_rollout, euler_rollout]


@pytest.fixture(autouse=True, params=[True, False], ids=["grad", "no_grad"])
def _grad_mode(request):
    """Without gradients, calls take another way to the kernels: the errors must be the same."""
    with torch.set_grad_enabled(request.param):
        yield


def network(*modules):
    return nn.Sequential(*modules)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("z0", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"z0 must have shape \(\.\.\., 2d\) with an even last dimension, got \(3, 5\)"),
        (torch.zeros(3, 0), ValueError, r"z0 must have shape.*got \(3, 0\)"),
        (torch.zeros(()), ValueError, r"z0 must have shape.*got \(\)"),
        (torch.zeros(3, 6), ValueError, r"z0 must have shape \(\.\.\., 4\) for this H, got \(3, 6\)"),
        (torch.zeros(3, 4, dtype=torch.float16), TypeError, "z0 must be float32 or float64, got torch.float16"),
        (torch.zeros(3, 4, dtype=torch.bfloat16), TypeError, "z0 must be float32 or float64, got torch.bfloat16"),
        (torch.zeros(3, 4, dtype=torch.int64), TypeError, "z0 must be float32 or float64, got torch.int64"),
        (torch.zeros(3, 4, dtype=torch.complex64), TypeError, "z0 must be float32 or float64, got torch.complex64"),
        (
            torch.zeros(3, 4, dtype=torch.float64),
            TypeError,
            "z0 must have the dtype of H's.*float32, got torch.float64",
        ),
        (torch.zeros(3, 4, device="meta"), ValueError, "z0 must be on the device of H's parameters, cpu, got meta"),
        (np.zeros((3, 4), dtype=np.float32), TypeError, r"z0 must be a torch\.Tensor, got ndarray"),
        ([0.0, 0.0, 0.0, 0.0], TypeError, r"z0 must be a torch\.Tensor, got list"),
        (None, TypeError, r"z0 must be a torch\.Tensor, got NoneType"),
    ],
    ids=str,
)
def test_state(function, z0, error, message, backend):
    with pytest.raises(error, match=message):
        function(H, z0, 0.1, 2, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("dt", "error", "message"),
    [
        (math.nan, ValueError, "dt must be finite, got nan"),
        (math.inf, ValueError, "dt must be finite, got inf"),
        (-math.inf, ValueError, "dt must be finite, got -inf"),
        (torch.tensor(math.nan), ValueError, "dt must be finite, got nan"),
        (torch.tensor(math.inf), ValueError, "dt must be finite, got inf"),
        (torch.tensor(math.nan, requires_grad=True), ValueError, "dt must be finite, got nan"),
        (torch.tensor([0.1]), ValueError, r"dt must be a float or a 0-d tensor, got shape \(1,\)"),
        (torch.tensor(1), TypeError, "dt must be a floating-point tensor, got torch.int64"),
        (torch.tensor(1j), TypeError, "dt must be a floating-point tensor, got torch.complex64"),
        ("0.1", TypeError, "dt must be a float or a 0-d tensor, got str"),
        (None, TypeError, "dt must be a float or a 0-d tensor, got NoneType"),
        (1j, TypeError, "dt must be a float or a 0-d tensor, got complex"),
        (True, TypeError, "dt must be a float or a 0-d tensor, got bool"),
    ],
    ids=str,
)
def test_time_step(function, dt, error, message, backend):
    with pytest.raises(error, match=message):
        function(H, Z, dt, 2, backend=backend)


def test_time_step_that_overflows_float32():
    with pytest.raises(ValueError, match=r"dt must be within the range of torch\.float32, got 1e\+300"):
        leapfrog_rollout(H, Z, 1e300, 2)


@pytest.mark.parametrize("dt", [1, np.float32(0.5), np.float64(0.5), np.int64(1)], ids=repr)
def test_time_steps_that_are_numbers(dt):
    assert leapfrog_rollout(H, Z, dt, 2).shape == (3, 3, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (-1, ValueError, "steps must be zero or positive, got -1"),
        (2.0, TypeError, "steps must be an integer, got float"),
        (True, TypeError, "steps must be an integer, got bool"),
        ("2", TypeError, "steps must be an integer, got str"),
        (None, TypeError, "steps must be an integer, got NoneType"),
        (torch.tensor(2.0), TypeError, "steps must be an integer, got Tensor"),
    ],
    ids=str,
)
def test_steps(function, steps, error, message, backend):
    with pytest.raises(error, match=message):
        function(H, Z, 0.1, steps, backend=backend)


def test_steps_may_be_a_numpy_integer():
    assert leapfrog_rollout(H, Z, 0.1, np.int64(2)).shape == (3, 3, 4)


@pytest.mark.parametrize("steps", [2**40, 2**62])
def test_too_many_steps_to_hold(steps):
    with pytest.raises((RuntimeError, MemoryError)):
        leapfrog_rollout(H, Z, 0.1, steps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (None, ValueError, r"condition must have shape \(\.\.\., 2\) for this network, got None"),
        (torch.zeros(3, 3), ValueError, r"condition must have shape \(\.\.\., 2\), got \(3, 3\)"),
        (torch.zeros(()), ValueError, r"condition must have shape \(\.\.\., 2\), got \(\)"),
        (torch.zeros(5, 2), ValueError, r"condition must have shape \(3, 2\) \(z0's batch\), got \(5, 2\)"),
        (torch.zeros(1, 3, 2), ValueError, r"condition must have shape \(3, 2\) \(z0's batch\), got \(1, 3, 2\)"),
        (torch.zeros(3, 2, dtype=torch.float64), TypeError, "condition must have z0's dtype, torch.float32, got"),
        (torch.zeros(3, 2, device="meta"), ValueError, "condition must be on z0's device, cpu, got meta"),
    ],
    ids=str,
)
def test_condition(function, condition, error, message, backend):
    with pytest.raises(error, match=message):
        function(K, Z, 0.1, 2, condition=condition, backend=backend)


@pytest.mark.parametrize("condition", [[0.0, 0.0], np.zeros((3, 2), dtype=np.float32)], ids=["list", "ndarray"])
def test_condition_that_is_no_tensor(condition):
    with pytest.raises(TypeError, match=r"condition must be a torch\.Tensor"):
        leapfrog_rollout(K, Z, 0.1, 2, condition=condition)


@pytest.mark.parametrize("network_", [H, H.to_sequential()], ids=["module", "sequential"])
def test_condition_that_the_network_does_not_take(network_):
    with pytest.raises(ValueError, match="condition must be None"):
        leapfrog_rollout(network_, Z, 0.1, 2, condition=torch.zeros(3, 2))


@pytest.mark.parametrize("method", ["midpoint", "Leapfrog", "", None, 3, ["leapfrog"]], ids=repr)
def test_method(method):
    with pytest.raises(ValueError, match=r"method must be one of 'euler', .*'leapfrog', .*, got"):
        rollout(H, Z, 0.1, 2, method=method)


def test_backend_and_precision():
    with pytest.raises(ValueError, match="backend must be one of auto, native, reference, got 'cuda'"):
        leapfrog_rollout(H, Z, 0.1, 2, backend="cuda")
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16 on cpu, got 'tf32'"):
        leapfrog_rollout(H, Z, 0.1, 2, precision="tf32")
    with pytest.raises(TypeError, match="presision"):
        leapfrog_rollout(H, Z, 0.1, 2, presision="float32")


@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        (network(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), "activation must be one of softplus.*got ReLU"),
        (network(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.SiLU(), nn.Linear(3, 1)), "the same in every layer"),
        (network(nn.Linear(4, 3), nn.GELU(approximate="tanh"), nn.Linear(3, 1)), "activation must be one of.*GELU"),
        (network(nn.Linear(4, 3), nn.Softplus(beta=2), nn.Linear(3, 1)), "activation must be one of.*Softplus"),
        (network(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 1)), "alternate"),
        (lambda z: 0.5 * z.square().sum(-1), "H is a function, not a HamiltonianMLP or an nn.Sequential"),
    ],
    ids=["relu", "mixed", "gelu-tanh", "softplus-beta", "layernorm", "function"],
)
@pytest.mark.parametrize("energies", [False, True])
def test_what_the_kernels_do_not_know(energy, reason, energies):
    z0 = torch.randn(3, 4)
    with pytest.warns(UserWarning, match=rf"reference path.*{reason}") as record:
        fallen_back = leapfrog_rollout(energy, z0, 0.1, 2, return_energy=energies)
    assert len(record) == 1
    assert record[0].filename == __file__  # the warning points at the caller
    asked_for = leapfrog_rollout(energy, z0, 0.1, 2, return_energy=energies, backend="reference")  # and no warning
    for a, b in zip(*((r if energies else (r,)) for r in (fallen_back, asked_for)), strict=True):
        assert torch.equal(a, b)
    if energies:
        assert asked_for[1].shape == (3, 3)
    with pytest.raises(ValueError, match=f"backend='native' cannot run this rollout: .*{reason}"):
        leapfrog_rollout(energy, z0, 0.1, 2, backend="native")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_device_without_kernels(function):
    there = HamiltonianMLP(4, (3,), device="meta")
    z0 = torch.zeros(3, 4, device="meta")
    with pytest.raises(ValueError, match=r"backend='native' cannot run.*meta"):
        function(there, z0, 0.1, 2, backend="native")
    with pytest.raises(ValueError, match=r"z0 must be on the device of H's parameters, meta, got cpu"):
        function(there, Z, 0.1, 2)


def test_network_that_is_half_double():
    mixed = network(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1).double())
    with pytest.raises(TypeError, match="float64"):
        leapfrog_rollout(mixed, Z, 0.1, 2)


@pytest.mark.parametrize(
    "modules",
    [
        (nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)),
        (nn.Linear(4, 3), nn.Tanh(), nn.Linear(5, 1)),
        (nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
    ],
    ids=["odd", "misfit", "two outputs"],
)
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_networks_that_are_no_energy(modules, backend):
    with pytest.raises(ValueError, match=r"z0|network|backend='native'|H must"):
        leapfrog_rollout(network(*modules), Z, 0.1, 2, backend=backend)


@pytest.mark.parametrize("energy", [None, 3, "H"], ids=repr)
def test_energy_that_cannot_be_called(energy):
    with pytest.raises(TypeError, match="H must be"):
        leapfrog_rollout(energy, Z, 0.1, 2)


def test_energy_of_the_wrong_shape():
    """Summing over an axis too many would give a gradient all the same, and a wrong one."""
    with pytest.raises(ValueError, match=r"H must return.*shape \(3,\)"):
        leapfrog_rollout(lambda z: z.square(), Z, 0.1, 2, backend="reference")


BAD_OPERANDS = [
    "z0=torch.zeros(3, 6)",
    "z0=torch.zeros(4)",
    "z0=torch.zeros(3, 4).double()",
    "weights=[torch.zeros(3, 4), torch.zeros(1, 5)]",
    "weights=[torch.zeros(3, 4), torch.zeros(2, 3)]",
    "weights=[torch.zeros(3, 4)]",
    "weights=[]",
    "weights=[torch.zeros(3, 4), torch.zeros(1, 3).double()]",
    "biases=[torch.zeros(2), torch.zeros(1)]",
    "biases=[torch.zeros(3)]",
    "biases=[torch.zeros(3).double(), torch.zeros(1)]",
    "condition=torch.zeros(2, 1)",
    "condition=torch.zeros(3, 1)",
    "activation='relu'",
    "precision='tf32'",
    "precision='float64'",
    "dt=torch.zeros(0)",
    "weights=(torch.zeros(0, 4), torch.zeros(1, 0)), biases=(torch.zeros(0), torch.zeros(1))",
    "method='verlet'",
    "steps=-1",
    "dt=torch.zeros(2)",
    "dt=torch.tensor(float('nan'))",
]

# One child per case, forked after the slow imports: what is not refused may crash the interpreter.
CALL_EACH = """
import os, sys, torch, hamiltorch_ext

def call(z0=torch.zeros(3, 4), dt=torch.tensor(0.1), weights=(torch.zeros(3, 4), torch.zeros(1, 3)),
         biases=(torch.zeros(3), torch.zeros(1)), condition=None, activation="tanh", method="leapfrog", steps=1,
         precision="float32"):
    return torch.ops.hamiltorch.rollout(
        z0, dt, list(weights), list(biases), condition, activation, method, steps, True, precision)

assert call()[0].shape == (3, 2, 4)
for argument in sys.argv[1:]:
    if child := os.fork():
        print(f"{argument}: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)
        continue
    try:
        eval(f"call({argument})")
    except (ValueError, TypeError, RuntimeError, KeyError):
        os._exit(0)
    os._exit(1)
"""


@pytest.fixture(scope="module")
def direct_calls(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    done = subprocess.run(
        [sys.executable, "-c", CALL_EACH, *BAD_OPERANDS],
        cwd=tmp_path_factory.mktemp("calls"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())


@on("emulated", "cuda")
@pytest.mark.parametrize(
    "operands",
    [operands for operands in BAD_OPERANDS if operands not in ("precision='tf32'", "dt=torch.tensor(float('nan'))")],
)
def test_operators_called_directly_refuse_on_a_gpu(operands, device):
    """What only a value shows is not looked at there: it would be to wait for the device."""

    def call(**changed):
        given = {
            "z0": torch.zeros(3, 4), "dt": torch.tensor(0.1), "weights": [torch.zeros(3, 4), torch.zeros(1, 3)],
            "biases": [torch.zeros(3), torch.zeros(1)], "condition": None, "activation": "tanh", "method": "leapfrog",
            "steps": 1, "return_energy": True, "precision": "float32",
        }  # fmt: skip
        there = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), given | changed)
        return torch.ops.hamiltorch.rollout(**there)

    assert call()[0].shape == (3, 2, 4)
    with pytest.raises((ValueError, TypeError, RuntimeError, KeyError)):
        call(**eval(f"dict({operands})"))


@pytest.mark.parametrize("argument", BAD_OPERANDS)
def test_operators_called_directly_refuse(argument, direct_calls):
    """torch.ops is public too: exit code 0 is a refusal, 1 a result, anything else a crash."""
    assert direct_calls[argument] == "0"
