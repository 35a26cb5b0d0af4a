"""HamiltonianMLP, its conversions, its analytic gradient, and the Sin layer."""

from __future__ import annotations

import oracle
import pytest
import torch
from helpers import MODULE, make_problem, sequential
from torch import nn

from hamiltorch_ext import HamiltonianMLP, Sin, leapfrog_rollout, reference

HIDDEN = [(1,), (7,), (33, 7), (5, 4, 3, 2, 1)]


def make(hidden=(33, 7), activation="softplus", batch=(5,), condition_dim=0, bias=True):
    problem = make_problem(hidden=hidden, activation=activation, batch=batch, condition_dim=condition_dim, bias=bias)
    return problem, HamiltonianMLP.from_sequential(sequential(problem), condition_dim=condition_dim)


@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("activation", MODULE)
def test_energy_and_gradient_against_autograd(activation, hidden, condition_dim):
    problem, H = make(hidden, activation, (2, 3), condition_dim)
    arguments = (problem.z0,) if condition_dim == 0 else (problem.z0, problem.condition)
    z = problem.z0.clone().requires_grad_()
    expected = oracle.energy(problem.weights, problem.biases, activation, z, problem.condition)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    tight = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(H(*arguments), expected.detach(), **tight)
    torch.testing.assert_close(H.gradient(*arguments), gradient, **tight)
    torch.testing.assert_close(
        H.vector_field(*arguments), torch.cat((gradient[..., 3:], -gradient[..., :3]), -1), **tight
    )
    assert H(*arguments).shape == (2, 3)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3)], ids=str)
def test_batch_shapes(batch):
    problem, H = make(batch=batch)
    assert H(problem.z0).shape == batch
    assert H.gradient(problem.z0).shape == problem.z0.shape
    assert H.vector_field(problem.z0).shape == problem.z0.shape


@pytest.mark.parametrize("activation", MODULE)
def test_gradient_is_differentiable_twice(activation):
    problem, H = make((4, 3), activation, (2,), condition_dim=1)
    names = [name for name, _ in H.named_parameters()]

    def gradient(z, condition, *parameters):
        named = {f"H.{name}": p for name, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Gradient(H), named, (z, condition))

    inputs = [x.detach().clone().requires_grad_() for x in (problem.z0, problem.condition, *H.parameters())]
    assert torch.autograd.gradcheck(gradient, inputs)
    assert torch.autograd.gradgradcheck(gradient, inputs)


class Gradient(nn.Module):
    def __init__(self, H):
        super().__init__()
        self.H = H

    def forward(self, z, condition):
        return self.H.gradient(z, condition)


@pytest.mark.parametrize("activation", ["softplus", "silu", "gelu"])
def test_gradient_at_large_pre_activations(activation):
    """Above softplus's threshold of 20 and where exponentials overflow in float32."""
    H = HamiltonianMLP(2, (4,), activation)
    with torch.no_grad():
        H.layers[0].weight.fill_(1)
        H.layers[1].weight.fill_(1)
    for size in (19.9, 20.1, 100.0, 1e4, -20.0, -100.0, -1e4):
        z = torch.tensor([size, 0.0], requires_grad=True)
        (expected,) = torch.autograd.grad(H(z), z)
        torch.testing.assert_close(H.gradient(z.detach()), expected, rtol=1e-5, atol=1e-7)


def test_gradient_by_vmap_and_jacobian_is_the_hessian():
    problem, H = make((8,), "tanh", (3,))
    hessian = torch.func.vmap(torch.func.jacrev(H.gradient))(problem.z0)
    torch.testing.assert_close(hessian, hessian.mT, rtol=1e-12, atol=1e-14)


def test_defaults_are_the_paper_network():
    H = HamiltonianMLP(1024)
    assert sum(p.numel() for p in H.parameters()) == 919_041
    assert H.activation == "softplus"


@pytest.mark.parametrize("activation", MODULE)
def test_from_and_to_sequential_share_layers_in_order(activation):
    network = sequential(make_problem(hidden=(5, 4), activation=activation), torch.float32)
    H = HamiltonianMLP.from_sequential(network)
    assert (H.dim, H.hidden, H.activation, H.condition_dim) == (6, (5, 4), activation, 0)
    back = H.to_sequential()
    assert [type(module) for module in back] == [type(module) for module in network]
    for a, b, c in zip(network.parameters(), H.parameters(), back.parameters(), strict=True):
        assert a is b
        assert b is c
    z = torch.randn(3, 6)
    torch.testing.assert_close(H(z), network(z)[..., 0])
    torch.testing.assert_close(back(z), network(z))


def test_to_sequential_with_condition_takes_both_joined():
    H = HamiltonianMLP(4, (5,), condition_dim=3)
    z, condition = torch.randn(2, 4), torch.randn(2, 3)
    torch.testing.assert_close(H.to_sequential()(torch.cat((z, condition), -1))[..., 0], H(z, condition))


def test_from_sequential_leaves_the_network_alone():
    network = sequential(make_problem(), torch.float32).train()
    names = list(network.state_dict())
    HamiltonianMLP.from_sequential(network)
    assert list(network.state_dict()) == names


def test_repr_tells_what_it_is():
    text = repr(HamiltonianMLP(4, (5, 6), "gelu", condition_dim=2))
    assert "dim=4, hidden=(5, 6), activation='gelu', condition_dim=2" in text


def test_dtype_and_device_at_construction():
    assert all(p.dtype == torch.float64 for p in HamiltonianMLP(4, (3,), dtype=torch.float64).parameters())
    assert all(p.device.type == "meta" for p in HamiltonianMLP(4, (3,), device="meta").parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sin(dtype):
    a = torch.linspace(-10, 10, 41, dtype=dtype)
    torch.testing.assert_close(Sin()(a), torch.sin(a))
    assert list(Sin().parameters()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 3}, "dim must be even and positive.*got 3"),
        ({"dim": 0}, "dim must be even and positive.*got 0"),
        ({"dim": -2}, "dim must be even and positive.*got -2"),
        ({"dim": 4, "hidden": ()}, r"hidden must be one or more positive widths, got \(\)"),
        ({"dim": 4, "hidden": (3, 0)}, r"hidden must be one or more positive widths, got \(3, 0\)"),
        ({"dim": 4, "hidden": 5}, "hidden must be one or more positive widths, got 5"),
        ({"dim": 4, "activation": "relu"}, "activation must be one of softplus, tanh, silu, gelu, sin, got 'relu'"),
        ({"dim": 4, "condition_dim": -1}, "condition_dim must be zero or positive, got -1"),
    ],
)
def test_bad_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        HamiltonianMLP(**arguments)


L = nn.Linear


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([L(4, 1)], "alternate"),
        ([L(4, 3), nn.Tanh()], "alternate"),
        ([nn.Tanh(), L(4, 3), nn.Tanh()], "alternate"),
        ([L(4, 3), L(3, 1), nn.Tanh()], "alternate"),
        ([L(4, 3), nn.Tanh(), L(3, 3), nn.SiLU(), L(3, 1)], "the same in every layer"),
        ([L(4, 3), nn.ReLU(), L(3, 1)], "activation must be one of softplus.*got ReLU"),
        ([L(4, 3), nn.GELU(approximate="tanh"), L(3, 1)], "activation must be one of.*GELU"),
        ([L(4, 3), nn.Softplus(beta=2), L(3, 1)], "activation must be one of.*Softplus"),
        ([L(4, 3), nn.Softplus(threshold=10), L(3, 1)], "activation must be one of.*Softplus"),
        ([L(4, 3), nn.Tanh(), L(5, 1)], "fit together"),
        ([L(4, 3), nn.Tanh(), L(3, 2)], "one output.*got 2"),
        ([L(5, 3), nn.Tanh(), L(3, 1)], "dim must be even"),
        ([], "alternate"),
    ],
)
def test_from_sequential_says_what_does_not_fit(modules, message):
    with pytest.raises(ValueError, match=message):
        HamiltonianMLP.from_sequential(nn.Sequential(*modules))


@pytest.mark.parametrize("method", ["forward", "gradient", "vector_field"])
def test_bad_state_and_condition(method):
    H, K = HamiltonianMLP(4, (3,)), HamiltonianMLP(4, (3,), condition_dim=2)
    with pytest.raises(ValueError, match=r"z must have shape \(..., 4\), got \(2, 6\)"):
        getattr(H, method)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"z must have shape \(..., 4\), got \(\)"):
        getattr(H, method)(torch.zeros(()))
    with pytest.raises(ValueError, match="condition must be None"):
        getattr(H, method)(torch.zeros(2, 4), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"condition must have shape \(..., 2\).*got None"):
        getattr(K, method)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"condition must have shape \(..., 2\), got \(2, 3\)"):
        getattr(K, method)(torch.zeros(2, 4), torch.zeros(2, 3))


class Curved(HamiltonianMLP):
    def forward(self, z, condition=None):
        return super().forward(z, condition) + z.square().sum(-1)


class CurvedSequential(nn.Sequential):
    def forward(self, z):
        return super().forward(z) + z.square().sum(-1, keepdim=True)


@pytest.mark.parametrize("kind", ["subclass", "sequential", "hook"])
def test_a_network_that_computes_something_else_is_not_run_natively(kind):
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)]
    H = {"subclass": lambda: Curved(4, (5,)), "sequential": lambda: CurvedSequential(*layers)}.get(
        kind, lambda: nn.Sequential(*layers)
    )()
    if kind == "hook":
        H[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    z0 = torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"reference path.*(forward of its own|forward hooks)"):
        got = leapfrog_rollout(H, z0, 0.1, 3)
    torch.testing.assert_close(got, reference.leapfrog_rollout(H, z0, 0.1, 3))
    with pytest.raises(ValueError, match="backend='native' cannot run"):
        leapfrog_rollout(H, z0, 0.1, 3, backend="native")
