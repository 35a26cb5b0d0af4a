import csv
import errno
import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from hamiltorch_worlds import training
from hamiltorch_worlds.config import ConfigError, TrainConfig
from hamiltorch_worlds.files import DamagedFile
from hamiltorch_worlds.models import MODELS, DynamicsModel
from hamiltorch_worlds.training import DivergenceError, energy_weight, learning_rate, objective, train
from hamiltorch_worlds.windows import Windows

from hamiltorch_ext import reference

CONFIG = TrainConfig(epochs=4, batch_size=8, window=6, hidden=(16, 8), baseline_hidden=(16,))
DESCENDED = [name for name, spec in MODELS.items() if spec.descent]


def orbits(videos=5, length=12):
    """Circles in two planes: a Hamiltonian system, so there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(videos, 1, 2, generator=generator) * 6 + 0.4 * torch.arange(length)[:, None]
    return list(torch.cat((phase.cos(), -phase.sin()), dim=2))


@pytest.fixture(scope="module")
def windows():
    return Windows.from_latents(orbits(), CONFIG)


def run(windows, folder, name="hnn", config=CONFIG, seed=0):
    return train(name, windows, config, seed, folder, progress=False)


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_seconds(folder):
    return [{**row, "seconds": None} for row in rows(folder)]


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """Make the objective fail in the middle of an epoch."""
    done = 0

    def failing(*arguments):
        nonlocal done
        done += 1
        if done > batches:
            raise error("interrupted by the test")
        return objective(*arguments)

    monkeypatch.setattr(training, "objective", failing)


def test_schedules_are_those_of_table_1():
    config = TrainConfig()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-5)
    for epoch in range(1, 51):
        assert learning_rate(config, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert energy_weight(config, epoch) == pytest.approx(0.1 + (epoch - 1) / 49 * 0.9, rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert energy_weight(replace(config, epochs=1), 1) == 0.1


@pytest.mark.parametrize("name", ["hnn", "mlp"])
def test_objective_is_equations_5_to_7(name, windows):
    torch.manual_seed(0)
    # In double: the energy of an untrained H changes by no more than float32 can tell.
    model, window = MODELS[name].build(4, CONFIG).double(), windows.data[:3].double()
    loss, prediction, energy = objective(model, window, 0.7)
    if name == "hnn":
        predicted = reference.leapfrog_rollout(model.H, window[:, 0], model.dt, 5)
        change = [(model.H(predicted[:, t]) - model.H(window[:, 0])).abs().mean().item() for t in range(6)]
        assert energy.item() == pytest.approx(sum(change) / 6, rel=1e-4)  # T = 6 terms, t = 0 included
        assert loss.item() == pytest.approx(prediction.item() + 0.7 * energy.item(), rel=1e-6)
    else:
        predicted = model.rollout(window[:, 0], 5)[0]
        assert energy is None
        assert loss is prediction
    wanted = sum((predicted[:, t] - window[:, t]).square().mean() for t in range(1, 6)) / 5
    assert prediction.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_energy_term_reaches_the_model_it_is_for(windows, tmp_path):
    for name in ("hnn", "hnn_no_energy"):
        run(windows, tmp_path / name, name)
    with_energy, without = rows(tmp_path / "hnn"), rows(tmp_path / "hnn_no_energy")
    assert [row["energy_weight"] for row in with_energy] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert [row["energy_weight"] for row in without] == [0, 0, 0, 0]
    for row in with_energy:
        assert row["loss"] == pytest.approx(row["prediction"] + row["energy_weight"] * row["energy"], rel=1e-5)
    for row in without:
        assert row["loss"] == row["prediction"]
        assert row["energy"] > 0  # watched all the same


def test_an_epoch_is_adamw_with_network_and_time_step_clipped_apart(windows, tmp_path):
    # With one batch per epoch the order of the data is of no consequence, and the training can be written down; in
    # float64, as Adam makes much of the rounding of small gradients.
    windows = replace(windows, data=windows.data.double())
    config = replace(CONFIG, batch_size=len(windows.train), clip_norm=1e-3)
    trained = run(windows, tmp_path, config=config)

    torch.manual_seed(0)
    model = MODELS["hnn"].build(4, config).double()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-5)
    for epoch in range(1, 5):
        optimizer.param_groups[0]["lr"] = learning_rate(config, epoch)
        optimizer.zero_grad()
        objective(model, windows.data[windows.train], energy_weight(config, epoch))[0].backward()
        for parameters in (list(model.H.parameters()), [model.dt]):
            assert torch.nn.utils.clip_grad_norm_(parameters, 1e-3) > 1e-3
        optimizer.step()
    # Adam forgets a constant scale; it is the ratio between epochs that tells how the time step was clipped.
    torch.testing.assert_close(trained.state_dict(), model.state_dict(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", DESCENDED)
def test_resuming_gives_the_bits_of_an_uninterrupted_training(name, windows, tmp_path, monkeypatch):
    straight = run(windows, tmp_path / "straight", name)
    per_epoch = len(windows.train) // 8 + math.ceil(len(windows.test) / 8)  # training and test batches
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * per_epoch + 1)
        with pytest.raises(KeyboardInterrupt):
            run(windows, tmp_path / "resumed", name)
    assert [row["epoch"] for row in rows(tmp_path / "resumed")] == [1, 2]

    torch.manual_seed(12345)  # the state of the global generator is of no consequence
    resumed = run(windows, tmp_path / "resumed", name)
    assert same_bits(straight, resumed)
    assert same_bits(straight, DynamicsModel.from_pretrained(tmp_path / "resumed"))
    assert without_seconds(tmp_path / "straight") == without_seconds(tmp_path / "resumed")


def test_a_process_killed_while_it_writes_a_checkpoint_loses_nothing(windows, tmp_path):
    straight = run(windows, tmp_path / "straight")
    script = """
        import os, sys
        from pathlib import Path
        from test_worlds_training import CONFIG, orbits, run
        from hamiltorch_worlds.windows import Windows

        writes, replace = 0, os.replace

        def die_in_the_third_epoch(source, target):
            global writes
            writes += str(target).endswith("resume.safetensors")
            if writes == 3:
                os.truncate(source, 100)
                os._exit(9)
            replace(source, target)

        os.replace = die_in_the_third_epoch
        run(Windows.from_latents(orbits(), CONFIG), Path(sys.argv[1]))
    """
    search = os.pathsep.join([os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])])
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": search},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 9, killed.stderr
    assert [row["epoch"] for row in rows(tmp_path / "killed")] == [1, 2]
    assert same_bits(straight, run(windows, tmp_path / "killed"))


def test_a_full_disk_leaves_the_state_before(windows, tmp_path, monkeypatch):
    straight = run(windows, tmp_path / "straight")
    with monkeypatch.context() as patch:
        fsync, calls = os.fsync, 0

        def full(descriptor):
            nonlocal calls
            calls += 1
            if calls == 7:  # an epoch writes the state and two logs: this is the third epoch's state
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(windows, tmp_path / "full")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "metrics.csv",
        "metrics.jsonl",
        "resume.safetensors",
    ]
    assert len(rows(tmp_path / "full")) == 2
    assert same_bits(straight, run(windows, tmp_path / "full"))


@pytest.mark.parametrize("name", MODELS)
def test_a_finished_training_is_loaded(name, windows, tmp_path, monkeypatch):
    trained = run(windows, tmp_path, name)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    logs = {"metrics.csv", "metrics.jsonl"} if MODELS[name].descent else set()
    assert set(before) == {"config.json", "model.safetensors"} | logs

    stop_after(monkeypatch, 0, AssertionError)
    assert same_bits(trained, run(windows, tmp_path, name))
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("finished", [True, False])
def test_another_training_is_not_taken_for_this_one(finished, windows, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        if not finished:
            stop_after(patch, 12)
        try:
            run(windows, tmp_path)
        except KeyboardInterrupt:
            assert (tmp_path / "resume.safetensors").exists()
    with pytest.raises(ConfigError, match=r"train\.epochs is 4 there, not 5"):
        run(windows, tmp_path, config=replace(CONFIG, epochs=5))
    with pytest.raises(ConfigError, match="seed is 0 there, not 1"):
        run(windows, tmp_path, seed=1)
    with pytest.raises(ConfigError, match="model is hnn there, not mlp"):
        run(windows, tmp_path, "mlp")
    with pytest.raises(ConfigError, match="other latents or another split"):
        run(replace(windows, data=windows.data * 2), tmp_path)
    run(windows, tmp_path)


def test_damaged_states_are_named(windows, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            run(windows, tmp_path)
    state = tmp_path / "resume.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"resume\.safetensors"):
        run(windows, tmp_path)
    state.unlink()
    run(windows, tmp_path)

    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        run(windows, tmp_path)
    weights.unlink()  # what the message says to do
    run(windows, tmp_path)
    assert weights.read_bytes() == whole


def test_a_loss_that_is_not_finite_says_what_to_try(windows, tmp_path, monkeypatch):
    broken = replace(windows, data=windows.data.clone())
    broken.data[broken.train] *= 1e30
    with pytest.raises(DivergenceError, match=r"loss is (inf|nan) .* epoch 1, step 1; .*train\.learning_rate"):
        run(broken, tmp_path / "broken")

    calls = 0

    def explode_in_the_second_epoch(*arguments):
        nonlocal calls
        calls += 1
        loss, *others = objective(*arguments)
        return loss * (math.nan if calls > 6 else 1), *others

    with monkeypatch.context() as patch:
        patch.setattr(training, "objective", explode_in_the_second_epoch)
        with pytest.raises(DivergenceError, match="epoch 2"):
            run(windows, tmp_path / "late")
    assert len(rows(tmp_path / "late")) == 1
    run(windows, tmp_path / "straight")
    assert same_bits(run(windows, tmp_path / "late"), run(windows, tmp_path / "straight"))


def test_seeds_decide_everything_and_the_global_generator_is_left_alone(windows, tmp_path, monkeypatch):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)  # a GPU's generators are left alone too
    one, again, other = (run(windows, tmp_path / str(n), seed=seed) for n, seed in enumerate((0, 0, 1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(one, again)
    assert not same_bits(one, other)

    batches = []

    def watch(model, window, weight):
        if torch.is_grad_enabled():
            batches.append(window)
        return objective(model, window, weight)

    monkeypatch.setattr(training, "objective", watch)
    for seed in (0, 1):
        run(windows, tmp_path / f"watched{seed}", seed=seed, config=replace(CONFIG, epochs=2))
    epochs = [tuple(batch.flatten().tolist()) for batch in batches[:: len(windows.train) // 8]]
    assert len(set(epochs)) == 4  # another order for each seed and epoch


def test_logs(windows, tmp_path):
    model = run(windows, tmp_path / "hnn")
    log = rows(tmp_path / "hnn")
    with open(tmp_path / "hnn" / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert list(table[0]) == list(log[0])
    assert [float(row["test_mse"]) for row in table] == [row["test_mse"] for row in log]
    assert log[-1]["dt"] == model.dt.item()
    with torch.no_grad():
        error = objective(model, windows.data[windows.test], 0)[1].item()
    assert log[-1]["test_mse"] == pytest.approx(error, rel=1e-5)

    run(windows, tmp_path / "mlp", "mlp")
    assert [rows(tmp_path / "mlp")[0][key] for key in ("energy", "energy_weight", "dt")] == [None, None, None]


def test_the_last_smaller_batch_is_dropped(windows, tmp_path, monkeypatch):
    sizes = []

    def watch(model, window, weight):
        if torch.is_grad_enabled():
            sizes.append(len(window))
        return objective(model, window, weight)

    monkeypatch.setattr(training, "objective", watch)
    assert len(windows.train) % 8
    run(windows, tmp_path / "dropped", config=replace(CONFIG, epochs=1))
    assert sizes == [8] * (len(windows.train) // 8)
    sizes.clear()
    run(windows, tmp_path / "small", config=replace(CONFIG, epochs=1, batch_size=1000))
    assert sizes == [len(windows.train)]


def test_progress_can_be_silenced(windows, tmp_path, capfd):
    config = replace(CONFIG, epochs=1)
    run(windows, tmp_path / "silent", config=config)
    assert capfd.readouterr() == ("", "")
    train("hnn", windows, config, 0, tmp_path / "shown", progress=True)
    assert "hnn, seed 0" in capfd.readouterr().err


def test_the_hamiltonian_model_learns_orbits_of_videos_it_has_not_seen(tmp_path):
    config = replace(CONFIG, epochs=60, hidden=(32, 32), learning_rate=1e-2, energy_weight_end=0.1)
    windows = Windows.from_latents(orbits(videos=10, length=16), config)
    run(windows, tmp_path, config=config)
    still = (windows.data[windows.test] - windows.data[windows.test][:, :1])[:, 1:].square().mean().item()
    assert rows(tmp_path)[-1]["test_mse"] < 0.1 * still
