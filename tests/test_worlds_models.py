from typing import get_args

import pytest
import torch
from hamiltorch_worlds.config import ModelName, TrainConfig
from hamiltorch_worlds.files import DamagedFile
from hamiltorch_worlds.models import MODELS, DynamicsModel, LinearDynamics, Persistence
from hamiltorch_worlds.ridge import Ridge
from hamiltorch_worlds.windows import Windows, make_windows, split
from torch import nn

from hamiltorch_ext import reference

SMALL = TrainConfig(hidden=(8, 6), baseline_hidden=(7,), window=5)


def build(name, dim=6, config=SMALL):
    torch.manual_seed(0)
    return MODELS[name].build(dim, config)


def test_the_table_holds_every_name():
    assert tuple(MODELS) == get_args(ModelName)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("hnn", 919_041),
        ("hnn_no_energy", 919_041),
        ("hnn_euler", 919_041),
        ("hnn_stormer_verlet", 919_041),
        ("hnn_midpoint", 919_041),
        ("hnn_separable", 2 * (512 * 512 + 512 + 512 * 512 + 512 + 512 * 256 + 256 + 257)),
        ("hnn_phase_space", 919_041 + 1024**2),
        ("mlp", 1_312_768),
        ("residual_mlp", 1_312_768),
        ("persistence", 0),
        ("linear", 1024 * 1025),
    ],
)
def test_parameter_counts_of_the_paper(name, count):
    model = build(name, 1024, TrainConfig())
    assert model.parameter_count == count
    if name.startswith("hnn"):
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained == count + 1  # the time step is learned too
        assert model.dt.item() == 1.0


def test_hamiltonian_initialisation_is_xavier_normal_of_gain_one_half():
    model = build("hnn", 256, TrainConfig(hidden=(256, 256)))
    for layer in (module for module in model.H.modules() if isinstance(module, nn.Linear)):
        fan_in, fan_out = layer.in_features, layer.out_features
        assert layer.bias.abs().max() == 0
        assert layer.weight.std().item() == pytest.approx(0.5 * (2 / (fan_in + fan_out)) ** 0.5, rel=0.15)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("hnn", "leapfrog"),
        ("hnn_euler", "euler"),
        ("hnn_stormer_verlet", "stormer_verlet"),
        ("hnn_midpoint", "implicit_midpoint"),
        ("hnn_separable", "leapfrog"),
    ],
)
def test_hamiltonian_rollouts_are_those_of_the_oracle(name, method):
    model, z0 = build(name), torch.randn(3, 6)
    trajectory, energies = model.rollout(z0, 4)
    wanted, wanted_energies = reference.rollout(model.H, z0, model.dt, 4, method=method, return_energy=True)
    torch.testing.assert_close(trajectory, wanted)
    torch.testing.assert_close(energies, wanted_energies)


def test_a_learned_phase_space_is_gone_through_both_ways():
    model, z0 = build("hnn_phase_space"), torch.randn(3, 6)
    with torch.no_grad():
        model.phase_space.maps[0].raw.normal_()
    Q = model.phase_space(torch.eye(6)).T
    torch.testing.assert_close(Q @ Q.T, torch.eye(6))
    trajectory, energies = model.rollout(z0, 4)
    points, wanted = reference.rollout(model.H, z0 @ Q.T, model.dt, 4, method="leapfrog", return_energy=True)
    torch.testing.assert_close(trajectory, points @ Q, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(energies, wanted)
    torch.testing.assert_close(model.energy(trajectory), energies, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_rollouts_have_one_shape_and_begin_with_z0(name):
    z0 = torch.randn(3, 6)
    for steps in (0, 4):
        trajectory, energies = build(name).rollout(z0, steps)
        assert trajectory.shape == (3, steps + 1, 6)
        assert torch.equal(trajectory[:, 0], z0)
        assert (energies is not None) == name.startswith("hnn")


def test_mlp_steps():
    mlp, residual = build("mlp"), build("residual_mlp")
    z0 = torch.randn(3, 6)
    torch.testing.assert_close(mlp.rollout(z0, 2)[0][:, 2], mlp.f(mlp.f(z0)))
    # The residual form starts from persistence, and leaves it once it has learned something.
    assert torch.equal(residual.rollout(z0, 2)[0], Persistence(6).rollout(z0, 2)[0])
    nn.init.ones_(residual.f[-1].bias)
    torch.testing.assert_close(residual.rollout(z0, 2)[0][:, 2], z0 + 2)


def test_linear_model_finds_a_linear_law_and_ignores_noise():
    torch.manual_seed(1)
    angle = torch.tensor(0.3)
    law = torch.block_diag(*[torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos())).view(2, 2)] * 3)
    states = [torch.randn(40, 6)]
    for _ in range(4):
        states.append(states[-1] @ law + 0.1)
    windows = torch.stack(states, 1)
    model = LinearDynamics(6)
    model.fit(windows)
    torch.testing.assert_close(model.A + torch.eye(6), law, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.rollout(windows[:, 0], 4)[0], windows, atol=1e-2, rtol=0)

    # Walks whose steps depend on nothing: only a strong ridge does not predict worse than persistence.
    walks = torch.randn(12, 5, 30).cumsum(1)
    model = LinearDynamics(30)
    model.fit(walks[:10])
    predicted, still = model.rollout(walks[10:, 0], 4)[0], walks[10:, :1]
    assert (predicted - walks[10:]).square().mean() < 1.2 * (still - walks[10:]).square().mean()

    with pytest.raises(ValueError, match="two or more"):
        model.fit(walks[:1])


def test_ridge_is_the_minimiser():
    torch.manual_seed(0)
    x, y, strength = torch.randn(20, 4) + 1, torch.randn(20, 2), 0.3
    weight, bias = Ridge(x, y).solve(strength)
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    penalty = strength * x.double().var(0, correction=0).mean()
    loss = (x.double() @ weight + bias - y).square().sum() / 20 + penalty * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_saved_models_come_back_bit_for_bit(name, dtype, tmp_path):
    model, z0 = build(name).to(dtype), torch.randn(3, 6, dtype=dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.1)
    model.save_pretrained(tmp_path / "model", note="kept")
    loaded = DynamicsModel.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert torch.equal(loaded.rollout(z0, 3)[0], model.rollout(z0, 3)[0])
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]


def test_damaged_and_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        DynamicsModel.from_pretrained(tmp_path)
    build("hnn").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()

    for damaged in (whole[:-4], whole[:20], b"", b"\xff" * 64):
        weights.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=r"model\.safetensors"):
            DynamicsModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)

    for damaged in (text[:-9], "{}", "[]", text.replace("HamiltonianDynamics", "Oracle"), text.replace('"dim"', '"d"')):
        config.write_text(damaged)
        with pytest.raises(DamagedFile, match=r"config\.json"):
            DynamicsModel.from_pretrained(tmp_path)

    config.write_text(text.replace("8,", "9,"))
    with pytest.raises(DamagedFile, match=r"model\.safetensors .*does not fit config\.json"):
        DynamicsModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("by", ["video", "window"])
def test_fifty_videos_give_the_paper_s_windows(by):
    latents = [torch.full((34, 2), float(number)) for number in range(50)]
    windows = Windows.from_latents(latents, TrainConfig(split=by))
    assert windows.data.shape == (950, 16, 2)
    assert (len(windows.train), len(windows.test)) == (760, 190)
    assert torch.equal(torch.cat((windows.train, windows.test)).sort().values, torch.arange(950))
    shared = set(windows.video[windows.train].tolist()) & set(windows.video[windows.test].tolist())
    assert bool(shared) == (by == "window")


def test_windows_are_runs_of_one_video():
    latents = [torch.arange(n)[:, None] + 100.0 * number for number, n in enumerate((5, 2, 3))]
    data, video = make_windows(latents, 3)
    assert data[..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [200, 201, 202]]
    assert video.tolist() == [0, 0, 0, 2]
    windows = Windows(data, video, torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert windows.start.tolist() == [0, 1, 2, 0]
    assert windows.dim == 1


def test_splits_depend_on_the_seed_and_leave_both_sides_something():
    video = torch.arange(20).repeat_interleave(3)
    assert torch.equal(split(video, 0.3, by="video", seed=1)[1], split(video, 0.3, by="video", seed=1)[1])
    assert not torch.equal(split(video, 0.3, by="video", seed=1)[1], split(video, 0.3, by="video", seed=2)[1])
    for fraction in (0.001, 0.999):
        train, test = split(torch.tensor([4, 9]), fraction, by="video", seed=0)
        assert (len(train), len(test)) == (1, 1)


def test_a_fingerprint_tells_data_and_splits_apart():
    latents = [torch.randn(8, 2) for _ in range(4)]
    windows = Windows.from_latents(latents, SMALL)
    assert windows.fingerprint == Windows.from_latents(latents, SMALL).fingerprint
    other = Windows(windows.data, windows.video, windows.test, windows.train)
    changed = Windows(windows.data + 1, windows.video, windows.train, windows.test)
    assert len({windows.fingerprint, other.fingerprint, changed.fingerprint}) == 3


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([], "latents must be"),
        ([torch.zeros(20, 2), torch.zeros(20, 4)], "latents must be"),
        ([torch.zeros(15, 2), torch.zeros(3, 2)], "at least 16 latents .* longest has 15"),
        ([torch.zeros(20, 2)], "needs two videos or more, got 1"),
    ],
)
def test_latents_that_give_no_windows(latents, message):
    with pytest.raises(ValueError, match=message):
        Windows.from_latents(latents, TrainConfig())
