"""Learned phase spaces: what each kind of map keeps, that it can be undone, and rollouts in its coordinates."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from helpers import make_problem, sequential

from hamiltorch_ext import CanonicalTransform, HamiltonianMLP, diagnostics, rollout

KINDS = ["orthogonal", "symplectic", "shears", ("symplectic", "shears"), ("orthogonal", "shears", "orthogonal")]
SYMPLECTIC = [kind for kind in KINDS if "orthogonal" not in kind]


def transform(kind, dim=6, scale=0.5, **options):
    """With parameters far from the identity, and states."""
    torch.manual_seed(0)
    f = CanonicalTransform(dim, kind, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return f, torch.randn(4, dim, dtype=torch.float64)


def unlike_identity(f, z):
    return (f(z) - z).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_begins_as_the_identity(kind):
    f, z = CanonicalTransform(6, kind), torch.randn(4, 6)
    assert torch.equal(f(z), z)
    assert torch.equal(f.inverse(z), z)
    (f(z) * torch.randn(4, 6)).sum().backward()
    assert all(any(parameter.grad.any() for parameter in part.parameters()) for part in f.maps)  # and it learns


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
def test_inverse(kind, batch):
    f, _ = transform(kind)
    z = torch.randn(*batch, 6, dtype=torch.float64)
    assert f(z).shape == f.inverse(z).shape == z.shape
    if batch != (0,):
        assert unlike_identity(f, z)
    torch.testing.assert_close(f.inverse(f(z)), z, rtol=0, atol=1e-12)
    torch.testing.assert_close(f(f.inverse(z)), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SYMPLECTIC, ids=str)
@pytest.mark.parametrize("layers", [1, 4, 7])
def test_symplectic_kinds_keep_the_form(kind, layers):
    f, z = transform(kind, layers=layers, scale=0.3)
    assert f.symplectic
    assert diagnostics.form_defect(diagnostics.jacobian(f, z)).max() <= 1e-12


def test_orthogonal_maps_keep_lengths_and_not_the_form():
    f, z = transform("orthogonal")
    assert not f.symplectic
    Q = diagnostics.jacobian(f, z)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(6, dtype=torch.float64).expand(4, 6, 6), rtol=0, atol=1e-14)
    torch.testing.assert_close(f(z).norm(dim=-1), z.norm(dim=-1))
    assert diagnostics.form_defect(Q).min() > 1e-3


@pytest.mark.parametrize("kind", ["orthogonal", "symplectic", "shears"])
def test_at_the_size_of_a_latent(kind):
    """1024 numbers in float32: the map is undone to rounding."""
    torch.manual_seed(0)
    f, z = CanonicalTransform(1024, kind, layers=2), torch.randn(2, 1024)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.copy_(torch.randn_like(parameter) / (8 if kind == "shears" else 32))
        assert unlike_identity(f, z)
        assert (f.inverse(f(z)) - z).abs().max() <= 1e-4
        if kind == "orthogonal":
            Q = f(torch.eye(1024))
            assert (Q @ Q.mT - torch.eye(1024)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_gradients(kind, way):
    f, z = transform(kind, dim=2, layers=2, hidden=(3,))
    z = z[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda z, *_: getattr(f, way)(z), (z, *f.parameters()))


@pytest.mark.parametrize("kind", [*SYMPLECTIC, "orthogonal"], ids=str)
@pytest.mark.filterwarnings("ignore:running on the torch reference path")
def test_a_rollout_in_its_coordinates(kind):
    """There and back again: symplectic in z when the map is; an orthogonal one takes the form elsewhere."""
    f, z = transform(kind, scale=0.3)
    H = HamiltonianMLP.from_sequential(sequential(make_problem(d=3, activation="tanh", gain=1.5)))

    def step(z):
        return f.inverse(rollout(H, f(z), 0.5, 1, method="stormer_verlet")[..., 1, :])

    defect = diagnostics.form_defect(diagnostics.jacobian(step, z))
    assert defect.max() <= 1e-11 if f.symplectic else defect.min() > 1e-3


def test_several_are_applied_in_order():
    f, z = transform(("orthogonal", "shears"))
    first, second = f.maps
    assert torch.equal(f(z), second(first(z)))
    assert torch.equal(f.inverse(z), first.inverse(second.inverse(z)))


def test_copies_and_files(tmp_path):
    f, z = transform(KINDS[-1])
    torch.save(f.state_dict(), tmp_path / "f.pt")
    loaded = CanonicalTransform(6, KINDS[-1], dtype=torch.float64)
    loaded.load_state_dict(torch.load(tmp_path / "f.pt"))
    for copy in (deepcopy(f), pickle.loads(pickle.dumps(f)), loaded):
        assert torch.equal(copy(z), f(z))
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), f(z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 5}, "dim must be even and positive .*, got 5"),
        ({"kind": "rotation"}, "kind must be one or more of 'orthogonal', 'symplectic', 'shears', got 'rotation'"),
        ({"kind": ()}, r"kind must be one or more of .*, got \(\)"),
        ({"kind": ("shears", "x")}, r"kind must be one or more of .*, got \('shears', 'x'\)"),
        ({"layers": 0}, "layers must be one or more, got 0"),
        ({"activation": "relu"}, "activation must be one of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CanonicalTransform(**{"dim": 4, **arguments})


def test_bad_input():
    f, _ = transform("shears")
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 6\), got \(2, 4\)"):
        f(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\), got \(\)"):
        f.inverse(torch.zeros(()))
