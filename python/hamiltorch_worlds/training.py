"""The one training loop: the paper's objective, logs, and a state to resume from after every epoch."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .config import ConfigError, ModelName, TrainConfig, to_json
from .device import describe_device, peak_memory, reset_peak_memory
from .files import read_json, read_metadata, read_tensors, write_bytes, write_tensors
from .models import MODELS, DynamicsModel
from .windows import Windows

__all__ = ["DivergenceError", "energy_weight", "learning_rate", "objective", "train"]

RESUME = "resume.safetensors"


class DivergenceError(FloatingPointError):
    """The loss or its gradient is no longer finite; the message says where, what is kept and what to try."""


def train(
    model_name: ModelName,
    windows: Windows,
    config: TrainConfig,
    seed: int,
    folder: Path | str,
    progress: bool = True,
) -> DynamicsModel:
    """Train a model, go on with a training that was interrupted, or load one that is finished.

    The objective is the paper's (H-JEPA eq. 5 to 7, Table 1), for each model with or without its energy term; models
    that learn nothing by descent are fitted in closed form. Initialisation and the order of the data depend on
    ``seed`` alone, whatever the device. A training resumed on the CPU ends with the same bits as one that was never
    interrupted; one that used a GPU, or two devices, may differ by rounding.

    Args:
        model_name: a name in ``models.MODELS``.
        windows: the data and its split; the model is trained where ``windows.data`` is (device and dtype), and is
            returned there. What it leaves in ``folder`` loads on any device.
        config: the training's settings.
        seed: of the initialisation and of the order of the data.
        folder: where ``config.json``, ``model.safetensors``, ``metrics.jsonl`` and ``metrics.csv`` go and, until the
            training is finished, the state it resumes from.
        progress: show a progress bar over epochs.

    Raises:
        ConfigError: the folder holds a training with other settings, another seed or other data.
        DamagedFile: a file in the folder cannot be read; the message names it.
        DivergenceError: the loss is not finite; the state after the last whole epoch stays in the folder.
        OSError: the disk is full or cannot be written; the state before stays in the folder.
    """
    folder = Path(folder)
    identity = {"model": model_name, "seed": seed, "train": to_json(config), "data": windows.fingerprint}
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        model = DynamicsModel.from_pretrained(folder).to(windows.data.device)
        _check_identity(folder, read_json(folder / "config.json").get("training"), identity)
        return model

    spec = MODELS[model_name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: weights are drawn there for every device
        model = spec.build(windows.dim, config)
    # A fit in closed form is one float64 computation; on the CPU it has the same bits whatever device the run uses.
    device = windows.data.device if spec.descent else torch.device("cpu")
    model.to(device, windows.data.dtype)
    if spec.descent:
        if not spec.energy_loss:
            config = replace(config, energy_weight_start=0.0, energy_weight_end=0.0)
        _descend(model, windows, config, identity, folder, progress)
    else:
        model.fit(windows.data[windows.train].to(device))
    model.save_pretrained(folder, training=identity, device=describe_device(device))
    (folder / RESUME).unlink(missing_ok=True)
    return model.to(windows.data.device)


def objective(model: DynamicsModel, window: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """The paper's objective on a batch of windows.

    Args:
        model: predicts all latents of each window from its first.
        window: latents (B, window, D).
        weight: lambda, of the energy term.

    Returns:
        Loss, L_pred + lambda L_energy (eq. 5), prediction loss (eq. 6, as a mean over the D dimensions, which is the
        scale of the paper's tables) and energy loss (eq. 7, against the energy of the initial latent) or None for a
        model without energy; scalars.
    """
    predicted, energies = model.rollout(window[:, 0], window.shape[1] - 1)
    prediction = (predicted[:, 1:] - window[:, 1:]).square().mean()
    if energies is None:
        return prediction, prediction, None
    energy = (energies - energies[:, :1]).abs().mean()
    return (prediction + weight * energy if weight else prediction), prediction, energy


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Cosine annealing from the first rate to the last, per epoch, for epoch 1 to ``config.epochs`` (Table 1)."""
    share = (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * share


def energy_weight(config: TrainConfig, epoch: int) -> float:
    """The curriculum lambda(e), linear over epochs 1 to E (section 3.4)."""
    ramp = (epoch - 1) / max(config.epochs - 1, 1)
    return config.energy_weight_start + ramp * (config.energy_weight_end - config.energy_weight_start)


def _descend(
    model: DynamicsModel,
    windows: Windows,
    config: TrainConfig,
    identity: dict[str, Any],
    folder: Path,
    progress: bool,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    history = _resume(folder, identity, model, optimizer)
    epochs = tqdm(
        range(len(history) + 1, config.epochs + 1),
        desc=f"{identity['model']}, seed {identity['seed']}",
        unit="epoch",
        initial=len(history),
        total=config.epochs,
        disable=not progress,
    )
    device = windows.data.device
    reset_peak_memory(device)
    for epoch in epochs:
        began = time.perf_counter()
        row: dict[str, Any] = {"epoch": epoch, **_epoch(model, optimizer, windows, config, identity["seed"], epoch)}
        row["test_mse"] = _test_mse(model, windows, config.batch_size)
        row["seconds"] = time.perf_counter() - began
        # Row by row, as a training may be resumed on another device.
        row |= {"device": describe_device(device), "peak_memory_mib": peak_memory(device)}
        history.append(row)
        # The state first: it holds the history too, so that the logs can always be made again from it.
        _save_state(folder, identity, model, optimizer, history)
        _write_logs(folder, history)
        epochs.set_postfix(train=f"{row['prediction']:.4g}", test=f"{row['test_mse']:.4g}")


def _epoch(
    model: DynamicsModel,
    optimizer: torch.optim.Optimizer,
    windows: Windows,
    config: TrainConfig,
    seed: int,
    epoch: int,
) -> dict[str, float | None]:
    """One pass over the training windows; returns means over its batches, and the settings of the epoch."""
    rate, weight = learning_rate(config, epoch), energy_weight(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    time_step = [parameter for name, parameter in model.named_parameters() if name == "dt"]
    network = [parameter for name, parameter in model.named_parameters() if name != "dt"]

    # An order that depends on seed and epoch only needs no generator state to resume.
    order = windows.train[torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(windows.train)))]
    batch_size = min(config.batch_size, len(order))
    batches = order[: len(order) // batch_size * batch_size].split(batch_size)  # the last, smaller batch is dropped
    sums = dict.fromkeys(("loss", "prediction", "energy", "gradient_norm"), 0.0)
    for step, batch in enumerate(batches, 1):
        loss, prediction, energy = objective(model, windows.data[batch], weight)
        optimizer.zero_grad()
        loss.backward()
        # Clipped apart: a large gradient of H must not silence the time step's.
        norm = torch.nn.utils.clip_grad_norm_(network, config.clip_norm)
        if time_step:
            norm = norm + torch.nn.utils.clip_grad_norm_(time_step, config.clip_norm)
        # Read together: each read by itself would wait for the GPU once more.
        of_energy = torch.full_like(loss, math.nan) if energy is None else energy
        measured = torch.stack((loss, prediction, of_energy, norm)).tolist()
        _check_finite(measured[0], measured[-1], epoch, step)
        optimizer.step()
        sums = {name: total + value for (name, total), value in zip(sums.items(), measured, strict=True)}
    return {
        **{name: value / len(batches) if math.isfinite(value) else None for name, value in sums.items()},
        "energy_weight": None if energy is None else weight,
        "learning_rate": rate,
        "dt": time_step[0].item() if time_step else None,
    }


def _test_mse(model: DynamicsModel, windows: Windows, batch_size: int) -> float | None:
    """Mean squared error over the test windows; None where a rollout overflows."""
    total = 0.0
    with torch.no_grad():
        for batch in windows.test.split(batch_size):
            total += objective(model, windows.data[batch], 0.0)[1].item() * len(batch)
    return total / len(windows.test) if math.isfinite(total) else None


def _check_finite(loss: float, norm: float, epoch: int, step: int) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise DivergenceError(
        f"the loss is {loss} and its gradient's norm {norm} in epoch {epoch}, step {step}; the state after the last "
        "whole epoch is kept. To try: a smaller train.learning_rate, train.clip_norm or train.dt, and latents that are "
        "finite and of unit scale; other settings need a new run folder, or this model's folder deleted"
    )


def _check_identity(folder: Path, found: Any, wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    changed = _differences(found, wanted) if isinstance(found, dict) else "nothing is recorded there"
    raise ConfigError(
        f"{folder} holds a training that differs from the one asked for ({changed}); "
        "use another run folder, or delete this one to train anew"
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    def flat(identity: dict[str, Any]) -> dict[str, Any]:
        return {**identity, **{f"train.{key}": value for key, value in identity["train"].items()}, "train": None}

    before, after = flat({"train": {}, **found}), flat(wanted)
    return "; ".join(
        "other latents or another split" if key == "data" else f"{key} is {before.get(key)} there, not {after.get(key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    )


def _save_state(
    folder: Path,
    identity: dict[str, Any],
    model: DynamicsModel,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    write_tensors(folder / RESUME, tensors, {"training": json.dumps(identity), "history": json.dumps(history)})


def _resume(
    folder: Path, identity: dict[str, Any], model: DynamicsModel, optimizer: torch.optim.Optimizer
) -> list[dict[str, Any]]:
    """Load the state in ``folder``, if there is one; returns the log's rows, one per epoch done."""
    if not (folder / RESUME).exists():
        return []
    metadata = read_metadata(folder / RESUME)
    _check_identity(folder, json.loads(metadata.get("training", "null")), identity)
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder / RESUME).items():
        kind, _, name = key.partition(".")
        if kind == "model":
            weights[name] = tensor
        else:
            index, _, name = name.partition(".")
            moments.setdefault(int(index), {})[name] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    history: list[dict[str, Any]] = json.loads(metadata["history"])
    _write_logs(folder, history)
    return history


def _write_logs(folder: Path, history: list[dict[str, Any]]) -> None:
    write_bytes(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())
    table = io.StringIO()
    writer = csv.DictWriter(table, history[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_bytes(folder / "metrics.csv", table.getvalue().encode())
