"""The way past torch's dispatcher: the operator's bits, never an old network, and not taken where it would show."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hamiltorch_ext import _C, HamiltonianMLP, _ops, leapfrog_rollout, rollout

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no DLPack exchange table"
)


@pytest.fixture(name="H")
def network():
    torch.manual_seed(0)
    return HamiltonianMLP(4, (5, 3))


@pytest.fixture
def z0():
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def by_operator():
    """Nothing is taken past the dispatcher."""
    return mock.patch.object(_ops, "_direct", _ops.direct_calls(None))


def without_operator():
    """Nothing is done by the operators."""
    never = mock.Mock(side_effect=AssertionError("the operator was called"))
    return mock.patch.multiple(_ops, _rollout=never, _rollout_backward=never)


def assert_same(got, want):
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["leapfrog", "euler"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (33,), (2, 3), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("energies", [False, True])
def test_bits_of_the_operator(method, dtype, batch, condition_dim, energies):
    H = HamiltonianMLP(6, (9, 4), "tanh", condition_dim=condition_dim, dtype=dtype)
    z0 = torch.randn(*batch, 6, dtype=dtype)
    options = {"method": method, "return_energy": energies}
    if condition_dim:
        options["condition"] = torch.randn(*batch, condition_dim, dtype=dtype)
    for dt in (0.1, torch.tensor(-0.1, dtype=dtype), nn.Parameter(torch.tensor(0.2, dtype=dtype))):
        for steps in (0, 1, 5):
            with torch.no_grad():
                with by_operator():
                    want = rollout(H, z0, dt, steps, **options)
                with without_operator():
                    assert_same(rollout(H, z0, dt, steps, **options), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (33,), (2, 3)], ids=str)
@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("use", ["trajectory", "energies", "both"])
def test_the_operators_gradients(dtype, batch, condition_dim, use):
    """To rounding: the operator leaves no tape, and one sample is rolled out in another form where there is none."""
    H = HamiltonianMLP(6, (9, 4), "tanh", condition_dim=condition_dim, dtype=dtype)
    leaves = {"z0": torch.randn(*batch, 6, dtype=dtype), "dt": torch.tensor(0.1, dtype=dtype)}
    if condition_dim:
        leaves["condition"] = torch.randn(*batch, condition_dim, dtype=dtype)
    for leaf in leaves.values():
        leaf.requires_grad_()

    def gradients():
        trajectory, energies = leapfrog_rollout(H, leaves["z0"], leaves["dt"], 3, condition=leaves.get("condition"),
                                                return_energy=True)  # fmt: skip
        loss = (use != "energies") * trajectory.square().sum() + (use != "trajectory") * energies.square().sum()
        return torch.autograd.grad(loss, [*leaves.values(), *H.parameters()])

    with by_operator():
        want = gradients()
    with without_operator():
        torch.testing.assert_close(
            gradients(), want, rtol=1e3 * torch.finfo(dtype).eps, atol=1e2 * torch.finfo(dtype).eps
        )


def test_no_operator_where_no_gradient_is_recorded(H, z0):
    with without_operator():
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                leapfrog_rollout(H, z0, 0.1, 2, return_energy=True)
                leapfrog_rollout(H.to_sequential(), z0, 0.1, 2)
        assert not leapfrog_rollout(H.requires_grad_(False), z0, 0.1, 2).requires_grad


@pytest.mark.parametrize("name", ["z0", "dt", "condition", "layers.0.weight", "layers.1.bias"])
def test_every_gradient_is_recorded(name):
    H = HamiltonianMLP(4, (5,), condition_dim=1).requires_grad_(False)
    inputs = {"z0": torch.randn(2, 4), "dt": torch.tensor(0.1), "condition": torch.randn(2, 1)}
    (inputs | dict(H.named_parameters()))[name].requires_grad_()
    assert leapfrog_rollout(H, inputs["z0"], inputs["dt"], 2, condition=inputs["condition"]).requires_grad


def in_place(H):
    H.layers[0].weight.mul_(2)
    return H


def data(H):
    H.layers[0].weight.data = 2 * H.layers[0].weight.data
    return H


def transposed_data(H):
    H.layers[1].weight.data = H.layers[1].weight.data.mT  # (3, 3): the same address and shape
    return H


def data_of_another_width(H):
    H.layers[0].weight.data, H.layers[0].bias.data = torch.randn(2, 4), torch.randn(2)
    H.layers[1].weight.data = torch.randn(3, 2)
    return H


def parameter(H):
    H.layers[1].weight = nn.Parameter(torch.randn(3, 3))
    return H


def parameter_registered_last(H):
    weight = H.layers[1].weight
    del H.layers[1].weight
    H.layers[1].weight = weight
    return H


def no_bias(H):
    H.layers[1].bias = None
    return H


def parameter_made_a_plain_tensor(H):
    weight = H.layers[1].weight
    del H.layers[1].weight
    H.layers[1].weight = 2 * weight.detach()
    return H


def layer(H):
    H.layers[1] = nn.Linear(3, 3)
    return H


def all_layers(H):
    H.layers = nn.ModuleList([nn.Linear(4, 2), nn.Linear(2, 1)])
    return H


def activation(H):
    H.activation = "sin"
    return H


def parametrization(H):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    parametrize.register_parametrization(H.layers[0], "weight", Doubled())
    return H


def state_dict(H):
    H.load_state_dict(HamiltonianMLP(4, (3, 3)).state_dict())
    return H


def assigned_state_dict(H):
    H.load_state_dict(HamiltonianMLP(4, (3, 3)).state_dict(), assign=True)
    return H


def swapped(H):
    torch.utils.swap_tensors(H.layers[1].weight, nn.Parameter(torch.randn(3, 3)))
    return H


def deep_copy(H):
    return in_place(copy.deepcopy(H))


def shallow_copy(H):
    return layer(copy.copy(H))


def unpickled(H):
    return in_place(pickle.loads(pickle.dumps(H)))


def double(H):
    return H.double()


def negated_bias(H):
    H.layers[2].bias = nn.Parameter(torch.tensor([3j]).conj().imag)
    assert H.layers[2].bias.is_neg()
    return H


@pytest.mark.parametrize(
    "change",
    [
        in_place, data, transposed_data, data_of_another_width, parameter, parameter_registered_last, no_bias,
        parameter_made_a_plain_tensor, layer, all_layers, activation, parametrization, state_dict, assigned_state_dict,
        swapped, deep_copy, shallow_copy, unpickled, double, negated_bias,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_a_changed_network_is_noticed(change, z0):
    H = HamiltonianMLP(4, (3, 3))
    with torch.no_grad():
        before = leapfrog_rollout(H, z0, 0.1, 3, return_energy=True)
        H = change(H)
        z0 = z0.to(H.layers[0].weight.dtype)
        after = leapfrog_rollout(H, z0, 0.1, 3, return_energy=True)
        assert parameter_registered_last is change or not torch.equal(after[1], before[1])
        reference = leapfrog_rollout(H, z0, 0.1, 3, return_energy=True, backend="reference")
        for got, want in zip(after, reference, strict=True):
            torch.testing.assert_close(got, want)


def test_a_network_that_no_longer_fits_is_refused(H, z0):
    with torch.no_grad():
        leapfrog_rollout(H, z0, 0.1, 2)
        H.layers[1].weight.data = torch.randn(3, 7)
        with pytest.raises(ValueError, match=r"weights\[1\] must have shape \(3, 5\), got \(3, 7\)"):
            leapfrog_rollout(H, z0, 0.1, 2)
        H.layers[1].double()
        with pytest.raises(TypeError, match="z0 must have the dtype of H's parameters"):
            leapfrog_rollout(H, z0, 0.1, 2)


def test_hooks_are_noticed(H, z0):
    with torch.no_grad():
        leapfrog_rollout(H, z0, 0.1, 2, backend="native")
        for module in (H, H.layers, H.layers[1]):
            for register in (module.register_forward_hook, module.register_forward_pre_hook):
                handle = register(lambda *_: None)
                with pytest.raises(ValueError, match=f"{type(module).__name__} has forward hooks"):
                    leapfrog_rollout(H, z0, 0.1, 2, backend="native")
                handle.remove()


@pytest.mark.parametrize(
    "z0",
    [
        torch.randn(4, 2).mT,
        torch.randn(1, 4).expand(3, 4),
        torch.randn(2, 8)[:, ::2],
        torch.randn(2, 4, dtype=torch.complex64).conj().imag,
        nn.Parameter(torch.randn(2, 4)),
    ],
    ids=["transposed", "expanded", "strided", "negated", "parameter"],
)
def test_states_of_any_layout(H, z0):
    with torch.no_grad():
        assert_same(leapfrog_rollout(H, z0, 0.1, 3), leapfrog_rollout(H, z0.clone(), 0.1, 3))


def test_time_steps_of_any_layout(H, z0):
    with torch.no_grad():
        want = leapfrog_rollout(H, z0, -0.25, 3)
        for dt in (torch.tensor(0.25j).conj().imag, torch.tensor(-0.25, dtype=torch.float64)):
            assert_same(leapfrog_rollout(H, z0, dt, 3), want)


def test_condition_is_not_taken_for_a_part_of_the_state():
    """Six columns are six columns: only the sizes apart tell that these do not belong together."""
    H = HamiltonianMLP(4, (5,), condition_dim=2)
    for z0, condition in ((torch.zeros(3, 2), torch.zeros(3, 4)), (torch.zeros(3, 6), None)):
        with torch.no_grad(), pytest.raises(ValueError, match=r"z0 must have shape \(\.\.\., 4\)"):
            leapfrog_rollout(H, z0, 0.1, 2, condition=condition)


def test_modes_see_the_operator(H, z0):
    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    class Called(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    for mode in (Dispatched, Called):
        for requires_grad in (False, True):
            H.requires_grad_(requires_grad)
            seen = []
            with mode():
                leapfrog_rollout(H, z0, 0.1, 2)
            assert "hamiltorch.rollout.default" in seen


def test_the_profiler_sees_the_operator(H, z0):
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        leapfrog_rollout(H, z0, 0.1, 2)
    assert "hamiltorch::rollout" in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_hold_the_operator(H, z0):
    H.requires_grad_(False)  # or they could not be constants of the trace
    with torch.no_grad():
        traced = torch.jit.trace(lambda z: leapfrog_rollout(H, z, 0.1, 2), z0, check_trace=False)
        assert "hamiltorch::rollout" in str(traced.inlined_graph)
        torch.testing.assert_close(traced(2 * z0), leapfrog_rollout(H, 2 * z0, 0.1, 2))


def test_subclasses_see_the_operator(H, z0):
    class Seeing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

    seen = []
    leapfrog_rollout(H, z0.as_subclass(Seeing), 0.1, 2)
    assert "hamiltorch.rollout.default" in seen


class TestLargeResults:
    """Their memory is kept for the next, and is nobody's while a tensor or a view of one is alive."""

    @pytest.fixture
    def roll(self):
        torch.manual_seed(0)
        H = HamiltonianMLP(2, (3,))

        def roll(seed, batch=8192):
            z0 = torch.randn(batch, 2, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                return leapfrog_rollout(H, z0, 0.01, 1023)  # 64 MB

        return roll

    def test_values(self, roll):
        whole = roll(0)
        with by_operator():
            assert torch.equal(whole, roll(0))
        assert whole.is_contiguous()
        assert type(whole) is torch.Tensor

    def test_memory_is_used_again(self, roll):
        first = roll(0)
        address = first.data_ptr()
        del first
        assert roll(1).data_ptr() == address

    @pytest.mark.parametrize("view", [torch.detach, lambda x: x[7]])
    def test_memory_in_use_is_left_alone(self, roll, view):
        held = view(roll(0))
        before = held.clone()
        others = [roll(seed) for seed in (1, 2)]
        assert others[0].data_ptr() != others[1].data_ptr()
        assert torch.equal(held, before)

    def test_several_threads(self, roll):
        def work(seed):
            return [roll(seed, batch)[-1].sum().item() for batch in (8192, 5000, 8192)]

        seeds = [3, 4, 5, 6]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, seeds)) == [work(seed) for seed in seeds]


@pytest.mark.parametrize("steps", [2**61 - 2, 2**62, 2**40])
def test_results_beyond_memory(steps):
    """Declined, so that torch's own allocator says so; the first one's bytes are 2^64 - 8."""
    with pytest.raises(RuntimeError, match=r"memory|overflow|too large|[Ss]torage"), torch.no_grad():
        leapfrog_rollout(HamiltonianMLP(2, (3,)), torch.zeros(1, 2), 0.1, steps)


def set_entry(H, value):
    H.layers._modules["1"] = value


@pytest.mark.parametrize(
    "spoil",
    [
        lambda H: setattr(H, "activation", "cubic"),
        lambda H: setattr(H, "activation", None),
        lambda H: setattr(H, "condition_dim", None),
        lambda H: setattr(H, "condition_dim", 2**70),
        lambda H: setattr(H, "layers", None),
        lambda H: setattr(H, "layers", nn.ModuleList()),
        lambda H: set_entry(H, None),
        lambda H: set_entry(H, nn.Identity()),
        lambda H: delattr(H.layers[0], "weight"),
        lambda H: delattr(H, "layers"),
        lambda H: delattr(H, "activation"),
    ],
)
def test_broken_modules_are_declined(H, z0, spoil):
    method = _C.Method([(3, 1.0, 0.0, 0.0)])
    assert _ops._direct.rollout(H, method, 0.1, None, False, False, 1, z0, 2, False, 0) is not None
    spoil(H)
    assert _ops._direct.rollout(H, method, 0.1, None, False, False, 1, z0, 2, False, 0) is None


def test_torch_without_the_table():
    """An older torch: everything is declined, whatever it is."""
    direct = _ops.direct_calls(None)
    H, method = HamiltonianMLP(4, (5,)).description, _C.Method([(3, 1.0, 0.0, 0.0)])
    z0 = torch.zeros(2, 4)
    assert direct.rollout(H, method, 0.1, None, False, False, 1, z0, 2, False, 0) is None
    with pytest.raises(ValueError, match="PyCapsule"):
        _ops.direct_calls(3)
