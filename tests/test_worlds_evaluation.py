import json
import math

import pytest
import torch
from hamiltorch_worlds.config import TrainConfig
from hamiltorch_worlds.evaluation import aggregate, evaluate, measure_cost, probe
from hamiltorch_worlds.models import MODELS, DynamicsModel, Persistence
from hamiltorch_worlds.windows import Windows

from hamiltorch_ext import diagnostics

CONFIG = TrainConfig(window=6, hidden=(8, 8), baseline_hidden=(8,))


class Shift(DynamicsModel):
    """Adds a constant at every step: its errors can be written down."""

    def __init__(self, change):
        super().__init__(change=change)
        self.change = change

    def rollout(self, z0, steps):
        return z0[:, None] + self.change * torch.arange(steps + 1.0)[:, None], None


@pytest.fixture(scope="module")
def windows():
    torch.manual_seed(0)
    drifting = [torch.randn(4) + 0.5 * torch.arange(9.0)[:, None] for _ in range(10)]
    return Windows.from_latents(drifting, CONFIG)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(1)
    built = {name: {seed: MODELS[name].build(4, CONFIG) for seed in (0, 3)} for name in ("hnn", "hnn_euler", "mlp")}
    # An untrained H is so nearly linear that its change along a rollout is lost in rounding; curve it.
    with torch.no_grad():
        for model in (*built["hnn"].values(), *built["hnn_euler"].values()):
            for layer in model.H.layers:
                layer.weight.mul_(4)
    return {**built, "persistence": {0: Persistence(4), 3: Persistence(4)}}


@pytest.fixture(scope="module")
def evaluation(models, windows):
    return evaluate(models, windows, extended_steps=12)


def test_evaluations_are_json_without_nan(evaluation):
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_sizes(evaluation, windows):
    assert evaluation["test"] == {"windows": 8, "videos": windows.video[windows.test].unique().tolist(), "horizon": 5}
    assert evaluation["train"]["windows"] == 32
    assert evaluation["extended_steps"] == 12
    assert evaluation["latent"]["dim"] == 4
    assert evaluation["latent"]["step"] == pytest.approx(0.5 * 4**0.5, rel=1e-5)
    states = windows.data[windows.test].reshape(-1, 4)
    assert evaluation["latent"]["variance"] == pytest.approx(states.var(0, correction=0).mean().item(), rel=1e-5)


def test_persistence_has_no_skill_and_a_perfect_model_all(evaluation, windows):
    still = evaluation["models"]["persistence"]["seeds"]["3"]
    expected = [(0.5 * t) ** 2 for t in range(1, 6)]
    assert still["mse_per_horizon"]["mean"] == pytest.approx(expected, rel=1e-5)
    assert still["mse"]["mean"] == pytest.approx(sum(expected) / 5, rel=1e-5)
    assert still["mse"]["std"] == pytest.approx(0, abs=1e-5)
    assert still["normalised_mse"] == pytest.approx(sum(expected) / 5 / evaluation["latent"]["variance"], rel=1e-5)
    assert (still["skill"], still["skill_per_horizon"]) == (0, [0] * 5)
    assert still["latent_step"] == 0
    assert still["dt"] is None

    perfect = evaluate({"shift": {0: Shift(0.5)}}, windows)["models"]["shift"]["seeds"]["0"]
    assert perfect["mse"]["mean"] < 1e-12
    assert perfect["skill"] == pytest.approx(1)
    assert perfect["latent_step"] == pytest.approx(1.0, rel=1e-5)
    assert perfect["energy"] is None


def test_std_is_over_windows(windows):
    class ByWindow(Shift):
        def rollout(self, z0, steps):
            error = torch.arange(1.0, len(z0) + 1).sqrt()
            return super().rollout(z0, steps)[0] + error[:, None, None], None

    mse = evaluate({"shift": {0: ByWindow(0.5)}}, windows)["models"]["shift"]["seeds"]["0"]["mse"]
    squares = torch.arange(1.0, 9)
    assert mse["mean"] == pytest.approx(squares.mean().item(), rel=1e-5)
    assert mse["std"] == pytest.approx(squares.std(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["hnn", "hnn_euler"])
def test_energy_of_hamiltonian_models_is_their_own(name, evaluation, models, windows):
    model, truth = models[name][3], windows.data[windows.test]
    energy = evaluation["models"][name]["seeds"]["3"]["energy"]
    with torch.no_grad():
        along = model.rollout(truth[:, 0], 12)[1]
        spread = model.H(truth).std(correction=0)
    drift = diagnostics.energy_drift(along[:, :6], spread)
    assert energy["of"] == "own"
    assert energy["spread"] == pytest.approx(spread.item(), rel=1e-5)
    assert energy["drift"]["mean"] == pytest.approx(drift.absolute.mean().item(), rel=1e-3)
    assert energy["relative_drift"]["mean"] == pytest.approx(drift.relative.mean().item(), rel=1e-3)
    assert energy["extended"]["drift"]["mean"] >= energy["drift"]["mean"]
    assert energy["extended"]["example"] == pytest.approx(along[0].tolist(), rel=1e-5)
    assert len(energy["extended"]["change_per_step"]["mean"]) == 13
    assert evaluation["models"][name]["seeds"]["3"]["dt"] == 1.0


def test_energy_of_other_models_is_measured_with_the_same_seed_s_hnn(evaluation, models, windows):
    truth = windows.data[windows.test]
    energy = evaluation["models"]["mlp"]["seeds"]["3"]["energy"]
    with torch.no_grad():
        along = models["hnn"][3].H(models["mlp"][3].rollout(truth[:, 0], 5)[0])
    assert energy["of"] == "hnn"
    assert energy["drift"]["mean"] == pytest.approx((along - along[:, :1]).abs().amax(1).mean().item(), rel=1e-3)
    assert evaluation["models"]["persistence"]["seeds"]["0"]["energy"]["drift"]["mean"] == 0
    alone = evaluate({"mlp": models["mlp"]}, windows)["models"]["mlp"]
    assert alone["seeds"]["0"]["energy"] is None
    assert alone["over_seeds"]["drift"] == {"mean": None, "sd": None, "n": 2}


def test_rollouts_that_overflow_become_none(models, windows):
    result = evaluate({"hnn": models["hnn"], "shift": {0: Shift(1e38)}}, windows)
    json.dumps(result, allow_nan=False)
    assert result["models"]["shift"]["seeds"]["0"]["mse"]["mean"] is None


def test_over_seeds(evaluation):
    model = evaluation["models"]["hnn"]
    one, other = (model["seeds"][seed]["mse"]["mean"] for seed in ("0", "3"))
    assert model["over_seeds"]["mse"]["mean"] == pytest.approx((one + other) / 2)
    assert model["over_seeds"]["mse"]["sd"] == pytest.approx(abs(one - other) / 2**0.5)
    assert len(model["over_seeds"]["skill_per_horizon"]["mean"]) == 5
    assert model["parameters"] == 4 * 8 + 8 + 8 * 8 + 8 + 8 + 1


def test_aggregate():
    assert aggregate([1.0, 3.0]) == {"mean": 2, "sd": pytest.approx(math.sqrt(2)), "n": 2}
    assert aggregate([4.0]) == {"mean": 4, "sd": None, "n": 1}
    assert aggregate([1.0, None]) == {"mean": None, "sd": None, "n": 2}
    assert aggregate([[1.0, None], [1.0, 2.0]]) == {"mean": [1, None], "sd": [0, None], "n": 2}


def test_cost_table():
    cost = measure_cost(CONFIG, 4, warm_up=1, runs=3)
    json.dumps(cost, allow_nan=False)
    assert list(cost["milliseconds_per_step"]) == ["fused_leapfrog", "fused_euler", "autograd_leapfrog", "mlp"]
    assert all(entry["median"] > 0 for entry in cost["milliseconds_per_step"].values())
    assert (cost["batch"], cost["steps"], cost["runs"]) == (1, 5, 3)
    assert cost["threads"] == torch.get_num_threads()


def test_probe_reads_what_is_there_and_nothing_else():
    torch.manual_seed(0)
    labels = [
        {"positions": torch.rand(30, 2, 2), "velocities": torch.randn(30, 2, 2), "energy": torch.rand(30)}
        for _ in range(10)
    ]
    frames = [torch.arange(5, 30, 2)] * 10
    mixing = torch.randn(4, 12)
    # Positions at the latents' own frames are in there, linearly; velocities and energy are not.
    latents = [label["positions"][frame].flatten(1) @ mixing for label, frame in zip(labels, frames, strict=True)]
    scores = probe(latents, frames, labels, 0.2)
    assert scores["positions"] > 0.99
    assert scores["velocities"] < 0.2
    assert scores["energy"] < 0.3
    assert scores["test_videos"] == 2
    json.dumps(scores, allow_nan=False)

    assert probe(latents, frames, [None] * 10, 0.2) is None
    assert probe(latents[:1], frames[:1], labels[:1], 0.2) is None
