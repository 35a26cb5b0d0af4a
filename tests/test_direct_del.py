"""Discrete Euler-Lagrange rollouts past torch's dispatcher: the bits of the calls by addresses, never an old network,
and not taken where it would show."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from motions import F64, problem, roll, values_and_gradients
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hamiltorch_ext import _C, DiscreteLagrangianMLP, _native_del, del_rollout
from hamiltorch_ext._del_function import Settings
from hamiltorch_ext._ops import direct_calls
from hamiltorch_ext.mlp import ScalarMLP
from hamiltorch_ext.variational import KERNELS

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no DLPack exchange table"
)
STEPS = 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_addresses():
    """Nothing is taken past the dispatcher."""
    return mock.patch.object(_native_del, "_direct", direct_calls(_C.DirectDel, ScalarMLP, None))


def without_addresses():
    """Everything is."""
    never = mock.Mock(side_effect=AssertionError("called by addresses"))
    return mock.patch.multiple(_C, del_forward=never, del_adjoint=never, del_gradient=never)


def at_once(L, q0, q1, dt=0.1, damping=None, condition=None, impulses=None, settings=(STEPS, 1e-6, 20)):
    return KERNELS["cpu"].at_once(L, q0, q1, dt, damping, condition, impulses, Settings(*settings))


@pytest.mark.parametrize("kind", ["discrete", "midpoint"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("batch", [1, 33])
@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("change", [{}, {"dt": 0.2, "damping": 0.3, "forces": None}, {"damping": None}], ids=str)
def test_bits_of_the_calls_by_addresses(kind, dtype, batch, condition_dim, change):
    L, arguments = problem(5, batch=batch, steps=STEPS, kind=kind, condition_dim=condition_dim)
    L.to(dtype)
    arguments = {name: value if value is None else value.to(dtype) for name, value in arguments.items()} | change
    numbers = {name: arguments.pop(name) for name, value in change.items() if isinstance(value, float)}
    with by_addresses():
        want = values_and_gradients(L, arguments, STEPS, "native", **numbers)
    with without_addresses():
        got = values_and_gradients(L, arguments, STEPS, "native", **numbers)
        with torch.no_grad():
            assert torch.equal(roll(L, arguments, STEPS, "native", **numbers)[0], want[0])
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(got[1], want[1], strict=True))
    assert [field.dtype for field in got[1]] == [field.dtype for field in want[1]]
    for name, g in want[2].items():  # by the condition they are sums in another order
        torch.testing.assert_close(got[2][name], g, rtol=0, atol=1e2 * torch.finfo(dtype).eps * (name == "condition"))


@pytest.mark.parametrize(
    "name", ["q0", "q1", "dt", "forces", "damping", "condition", "raw_mass", "network.layers.0.weight",
             "network.layers.1.bias"],
)  # fmt: skip
def test_every_gradient_is_recorded(name):
    L, arguments = problem(3, steps=STEPS, condition_dim=1)
    L.requires_grad_(False)
    leaf = (arguments | dict(L.named_parameters()))[name].requires_grad_()
    with without_addresses():
        q, _ = roll(L, arguments, STEPS, "native")
        (got,) = torch.autograd.grad(q.square().sum(), leaf)
    q, _ = roll(L, arguments, STEPS, "reference", tol=1e-13)
    torch.testing.assert_close(got, torch.autograd.grad(q.square().sum(), leaf)[0], rtol=1e-4, atol=1e-4)
    leaf.requires_grad_(False)
    assert not roll(L, arguments, STEPS, "native")[0].requires_grad


def test_no_step_and_no_sample():
    L = DiscreteLagrangianMLP(2, (5,))
    for batch in (0, 3):
        q = del_rollout(L, torch.ones(batch, 2), torch.zeros(batch, 2), 0, dt=0.1, backend="native")
        assert torch.equal(q, torch.tensor([[1.0, 1.0], [0.0, 0.0]]).expand(batch, 2, 2))


def test_failures_are_counted():
    L = DiscreteLagrangianMLP(2, (5,))
    q0 = torch.randn(5, 2)
    q0[1:3] = float("nan")
    outcome, failed = at_once(L, q0, torch.randn(5, 2))
    assert failed == (~outcome.converged[:, -1]).sum() == 2
    for backend in ("auto", "reference"):
        with pytest.warns(RuntimeWarning, match=r"2 of 5 trajectories were not solved to tol=1e-06") as told:
            del_rollout(L, q0, torch.randn(5, 2), STEPS, dt=0.1, backend=backend)
        assert told[0].filename == __file__


def no_bias(L):
    L.network.layers[0].bias = None


def data(L):
    L.network.layers[1].weight.data = 2 * L.network.layers[1].weight.data


def other_network(L):
    L.network = ScalarMLP(4, (3,), "sin")


def mass(L):
    L.raw_mass.data.add_(1)


def hidden_layer(L):
    L.network.layers[0] = nn.Linear(4, 3)


@pytest.mark.parametrize("change", [no_bias, data, other_network, mass, hidden_layer], ids=lambda f: f.__name__)
def test_a_changed_network_is_noticed(change):
    L = DiscreteLagrangianMLP(2, (3,), "tanh")
    q0, q1 = torch.randn(2, 4, 2)
    q1 = q0 + 0.1 * q1
    with torch.no_grad():
        before = del_rollout(L, q0, q1, STEPS, dt=0.5)
        change(L)
        with without_addresses():
            after = del_rollout(L, q0, q1, STEPS, dt=0.5)
        assert not torch.equal(after, before)
        want = del_rollout(L, q0, q1, STEPS, dt=0.5, backend="reference")
    torch.testing.assert_close(after, want, rtol=1e-3, atol=1e-4)


def test_no_gradient_by_what_is_not_there():
    L = DiscreteLagrangianMLP(2, (3,), "tanh")
    L.network.layers[0].bias = None
    q0, q1 = torch.randn(2, 4, 2)
    gradients = []
    for context in (without_addresses, by_addresses):
        with context():
            del_rollout(L, q0, q1, STEPS, dt=0.1).sum().backward()
        gradients.append([p.grad for p in L.parameters()])
        L.zero_grad()
    torch.testing.assert_close(*gradients)


class TestDeclined:
    """Left to the checks and the calls behind them."""

    @pytest.fixture(name="L")
    def lagrangian(self):
        return DiscreteLagrangianMLP(3, (5,), condition_dim=1)

    def arguments(self):
        q0 = torch.randn(2, 3)
        return {
            "q0": q0, "q1": q0 + 0.1, "dt": torch.tensor(0.1), "damping": torch.rand(3), "condition": torch.randn(2, 1),
            "impulses": torch.zeros(2, STEPS, 3), "settings": (STEPS, 1e-6, 20),
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("q0", torch.randn(3, 2).mT),
            ("q0", torch.randn(3)),
            ("q0", torch.randn(2, 3, dtype=F64)),
            ("q0", [[1.0]]),
            ("q0", torch.randn(0, 3)),
            ("q1", torch.randn(2, 4)),
            ("q1", None),
            ("dt", 0.0),
            ("dt", 1),
            ("dt", float("nan")),
            ("dt", torch.tensor(0.1, dtype=F64)),
            ("dt", torch.ones(1)),
            ("damping", float("inf")),
            ("damping", 1),
            ("damping", torch.tensor(0.5)),
            ("condition", None),
            ("condition", torch.randn(2, 2)),
            ("condition", torch.randn(1, 1).expand(2, 1)),
            ("impulses", torch.zeros(3)),
            ("impulses", torch.zeros(2, STEPS + 1, 3)),
            ("settings", (-1, 1e-6, 20)),
            ("settings", (True, 1e-6, 20)),
            ("settings", (STEPS, 0.0, 20)),
            ("settings", (STEPS, "small", 20)),
            ("settings", (STEPS, 1e-6, 0)),
            ("settings", (2**61, 1e-6, 20)),
            ("settings", (2**63 - 2, 1e-6, 20)),
        ],
        ids=str,
    )
    def test_arguments(self, L, name, value):
        arguments = self.arguments()
        assert at_once(L, **arguments) is not None
        arguments[name] = value
        assert at_once(L, **arguments) is None

    def test_lagrangians(self, L):
        class Other(DiscreteLagrangianMLP):
            pass

        arguments = self.arguments()
        assert at_once(Other(3, (5,), condition_dim=1), **arguments) is None
        for module in (L, L.network, L.network.layers, L.network.layers[0]):
            for register in (module.register_forward_hook, module.register_forward_pre_hook):
                handle = register(lambda *_: None)
                assert at_once(L, **arguments) is None
                handle.remove()
        assert at_once(L, **arguments) is not None
        L.network.layers[1].weight.data = torch.randn(1, 4)
        assert at_once(L, **arguments) is None

    def test_somebody_watches(self, L):
        class Seeing(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                seen.append(str(function))
                return function(*args, **(kwargs or {}))

        seen = []
        arguments = self.arguments()
        with Seeing():
            assert at_once(L, **arguments) is None
            q = del_rollout(L, arguments["q0"], arguments["q1"], 1, dt=0.1, condition=arguments["condition"])
            q.sum().backward()
        assert any("empty" in name for name in seen)
        assert L.raw_mass.grad is not None

    def test_a_subclass(self, L):
        class Seeing(torch.Tensor):
            pass

        arguments = self.arguments()
        arguments["q0"] = arguments["q0"].as_subclass(Seeing)
        assert at_once(L, **arguments) is None
        rest = {name: value for name, value in arguments.items() if name in ("q1", "dt", "damping", "condition")}
        assert del_rollout(L, arguments["q0"], steps=STEPS, **rest).shape == (2, STEPS + 2, 3)

    def test_inference_mode(self, L):
        arguments = self.arguments()
        with torch.inference_mode():
            assert at_once(L, **arguments) is None
            arguments["q1"] = arguments["q1"].clone()
        assert at_once(L, **arguments) is None  # autograd could not keep it
        with torch.no_grad():
            assert at_once(L, **arguments) is not None


class TestBackward:
    @pytest.fixture(name="L")
    def lagrangian(self):
        return DiscreteLagrangianMLP(3, (5,))

    @pytest.fixture
    def q(self):
        q0 = torch.randn(2, 3)
        return q0.requires_grad_(), (q0.detach() + 0.1).requires_grad_()

    def test_twice_is_refused(self, L, q):
        rolled = del_rollout(L, *q, STEPS, dt=0.1)
        (first,) = torch.autograd.grad(rolled.square().sum(), q[0], create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()

    def test_changed_weights_are_refused(self, L, q):
        rolled = del_rollout(L, *q, STEPS, dt=0.1)
        with torch.no_grad():
            L.network.layers[0].weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            rolled.sum().backward()

    def test_saved_tensors_pass_through_hooks(self, L, q):
        with torch.autograd.graph.save_on_cpu():
            rolled = del_rollout(L, *q, STEPS, dt=0.1)
        kept = torch.autograd.grad(rolled.sum(), [*q, L.raw_mass], retain_graph=True)
        want = torch.autograd.grad(del_rollout(L, *q, STEPS, dt=0.1).sum(), [*q, L.raw_mass])
        assert all(torch.equal(a, b) for a, b in zip(kept, want, strict=True))

    @pytest.mark.parametrize(
        "cotangent", [torch.ones(()).expand(2, STEPS + 2, 3), torch.randn(3, STEPS + 2, 2).permute(2, 1, 0)]
    )
    def test_cotangents_of_any_layout(self, L, q, cotangent):
        rolled = del_rollout(L, *q, STEPS, dt=0.1)
        got = torch.autograd.grad(rolled, q, cotangent, retain_graph=True)
        want = torch.autograd.grad(rolled, q, cotangent.contiguous())
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_torch_without_the_table():
    """An older torch: everything is declined, whatever it is."""
    L, arguments = problem(2, steps=STEPS)
    with by_addresses():
        assert at_once(L, arguments["q0"], arguments["q1"]) is None
        assert roll(L, arguments, STEPS, "native")[1].converged.all()
