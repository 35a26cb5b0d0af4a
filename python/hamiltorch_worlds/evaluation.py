"""Measures of trained models on the test windows, as plain JSON data: a number that is not finite is None.

Errors are squared and averaged over the D dimensions of a latent; "mean" and "std" are over test windows, "mean" and
"sd" over seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hamiltorch_ext
from hamiltorch_ext import diagnostics, reference, rollout

from .config import TrainConfig
from .device import describe_device, synchronize
from .models import MODELS, DynamicsModel, HamiltonianDynamics
from .ridge import STRENGTHS, Ridge
from .windows import SPLIT_SEED, Windows, split

__all__ = ["aggregate", "evaluate", "measure_cost", "probe"]

BATCH = 64
PROBED = ("positions", "velocities", "energy")


def evaluate(
    models: Mapping[str, Mapping[int, DynamicsModel]], windows: Windows, *, extended_steps: int = 50
) -> dict[str, Any]:
    """Evaluate every model and seed on the test windows.

    Args:
        models: models by name, then by seed.
        windows: the data and its split, on the models' device; the horizon is window - 1 steps.
        extended_steps: how far energies are followed, beyond the horizon and without ground truth (Figure 3).

    Returns:
        JSON data with the keys ``device``, ``test``, ``train`` (sizes), ``latent`` (dimension, variance per dimension,
        mean step), ``extended_steps`` and ``models``. For each model: ``parameters``, ``seeds`` (by seed, as text) and
        ``over_seeds``. For each seed:

        * ``mse`` (Table 2), ``mse_per_horizon`` (Figure 4): mean and std over windows;
        * ``normalised_mse``: MSE / Var(z), 1 for predicting the mean; ``skill``, ``skill_per_horizon``:
          1 - MSE / MSE of persistence;
        * ``latent_step``: mean distance between neighbours in predictions; ``dt``: the learned time step or None;
        * ``energy``: None without an H, else ``of`` ("own", or "hnn": measured with the energy of the same seed's HNN,
          as in the paper's Table 3, which says little about the model), ``spread`` (standard deviation of H over the
          test latents), ``drift`` (max over steps of |H(z_t) - H(z_0)|) and ``relative_drift`` (divided by the spread:
          scaling H cannot lower it), both over the horizon, and ``extended``: the same over ``extended_steps``,
          ``change_per_step`` (|H(z_t) - H(z_0)| for each step) and ``example`` (H along the first test window's
          rollout).
    """
    truth = windows.data[windows.test]
    horizon = truth.shape[1] - 1
    steps = max(horizon, extended_steps)
    persistence = (truth[:, 1:] - truth[:, :1]).square().mean(dim=2)
    variance = truth.flatten(0, 1).var(dim=0, correction=0).mean()
    result: dict[str, Any] = {
        "device": describe_device(truth.device),
        "test": {"windows": len(truth), "videos": windows.video[windows.test].unique(), "horizon": horizon},
        "train": {"windows": len(windows.train), "videos": windows.video[windows.train].unique()},
        "latent": {"dim": windows.dim, "variance": variance, "step": _mean_step(truth)},
        "extended_steps": steps,
        "models": {},
    }
    for name, by_seed in models.items():
        seeds: dict[str, Any] = {}
        for seed, model in by_seed.items():
            predicted = _rollout(model, truth[:, 0], steps)
            errors = (predicted[:, 1 : horizon + 1] - truth[:, 1:]).square().mean(dim=2)
            seeds[str(seed)] = {
                "mse": _over_windows(errors.mean(dim=1)),
                "mse_per_horizon": _over_windows(errors),
                "normalised_mse": errors.mean() / variance,
                "skill": 1 - errors.mean() / persistence.mean(),
                "skill_per_horizon": 1 - errors.mean(dim=0) / persistence.mean(dim=0),
                "latent_step": _mean_step(predicted[:, : horizon + 1]),
                "dt": model.dt.detach() if isinstance(model, HamiltonianDynamics) else None,
                "energy": _energy(model, models.get("hnn", {}).get(seed), truth, predicted, horizon),
            }
        seeds = _plain(seeds)
        result["models"][name] = {
            "parameters": next(iter(by_seed.values())).parameter_count,
            "seeds": seeds,
            "over_seeds": _over_seeds(list(seeds.values())),
        }
    plain: dict[str, Any] = _plain(result)
    return plain


def aggregate(values: Sequence[Any]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds, ``{"mean", "sd", "n"}``, of numbers or, by element, of lists.

    The deviation of one seed is None, and so is whatever a None enters.
    """
    if isinstance(values[0], list):
        columns = [aggregate(column) for column in zip(*values, strict=True)]
        return {"mean": [c["mean"] for c in columns], "sd": [c["sd"] for c in columns], "n": len(values)}
    if any(value is None for value in values):
        return {"mean": None, "sd": None, "n": len(values)}
    numbers = torch.tensor(values, dtype=torch.float64)
    deviation = numbers.std().item() if len(values) > 1 else None
    return {"mean": numbers.mean().item(), "sd": deviation, "n": len(values)}


def measure_cost(
    config: TrainConfig, dim: int, device: torch.device | str = "cpu", *, warm_up: int = 10, runs: int = 100
) -> dict[str, Any]:
    """Time one rollout of the training horizon at batch 1 on ``device``, without gradients (H-JEPA section 5.6).

    The networks are the configuration's with fresh weights, float32. The methods take turns, so that a slow moment of
    the machine falls on all of them. A time is that of the finished rollout, from an idle device to an idle device.

    Returns:
        JSON data: ``milliseconds_per_step``, by method ("fused_leapfrog", "fused_euler", "autograd_leapfrog", "mlp"; a
        device without native rollouts has no fused ones), each with mean, std and median over ``runs``; beside
        ``batch``, ``steps``, ``warm_up``, ``runs``, ``device`` (with its name), ``threads`` and ``versions``.
    """
    device = torch.device(device)
    steps = config.window - 1
    leapfrog, euler, mlp = (MODELS[name].build(dim, config).to(device) for name in ("hnn", "hnn_euler", "mlp"))
    assert isinstance(leapfrog, HamiltonianDynamics)
    z0 = torch.randn(1, dim, generator=torch.Generator().manual_seed(0)).to(device)
    methods: dict[str, Callable[[], object]] = {}
    if _runs_natively(leapfrog, z0):
        methods["fused_leapfrog"] = partial(leapfrog.rollout, z0, steps)
        methods["fused_euler"] = partial(euler.rollout, z0, steps)
    methods["autograd_leapfrog"] = partial(
        reference.leapfrog_rollout, leapfrog.H, z0, leapfrog.dt.detach(), steps, return_energy=True
    )
    methods["mlp"] = partial(mlp.rollout, z0, steps)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    with torch.no_grad():
        for run in range(-warm_up, runs):
            for name, method in methods.items():
                synchronize(device)
                began = time.perf_counter()
                method()
                synchronize(device)
                if run >= 0:
                    seconds[name].append(time.perf_counter() - began)
    return {
        "milliseconds_per_step": {
            name: _plain({"mean": times.mean(), "std": times.std(correction=0), "median": times.median()})
            for name, times in ((name, torch.tensor(values) * 1e3 / steps) for name, values in seconds.items())
        },
        "batch": 1,
        "steps": steps,
        "warm_up": warm_up,
        "runs": runs,
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": {"torch": str(torch.__version__), "hamiltorch_ext": hamiltorch_ext.__version__},
    }


def probe(
    latents: Sequence[Tensor],
    frames: Sequence[Tensor],
    labels: Sequence[Mapping[str, Tensor] | None],
    test_fraction: float,
) -> dict[str, Any] | None:
    """How much of the true state can be read off the latents linearly: R^2 of a ridge probe on test videos.

    Args:
        latents: one (n_i, D) tensor per video.
        frames: the frame at which each latent's labels are read, (n_i,); the last of its clip.
        labels: per video "positions" (T, 2, 2), "velocities" (T, 2, 2) and "energy" (T,).
        test_fraction: share of the videos kept for testing, always whole videos; the ridge's strength is chosen on a
            fifth of the others.

    Returns:
        JSON data: R^2, averaged over coordinates, for each of the three (1 is perfect, 0 the mean, None undefined), and
        ``test_videos``; or None where a video has no labels or there is only one video.
    """
    known = [label for label in labels if label is not None]
    if len(known) < max(len(latents), 2):
        return None
    targets = [
        torch.cat([label[name][frame].reshape(len(frame), -1) for label, frame in zip(known, frames, strict=True)])
        for name in PROBED
    ]
    x, y = torch.cat(list(latents)).double(), torch.cat(targets, dim=1).double()
    columns = torch.arange(y.shape[1]).split([target.shape[1] for target in targets])
    video = torch.repeat_interleave(torch.arange(len(latents)), torch.tensor([len(latent) for latent in latents]))
    train, test = split(video, test_fraction, by="video", seed=SPLIT_SEED)
    kept, held_out = train.tensor_split([-max(len(train) // 5, 1)])
    candidates, final = Ridge(x[kept], y[kept]), Ridge(x[train], y[train])
    errors = {strength: _residual(candidates, strength, x[held_out], y[held_out]) for strength in STRENGTHS}

    scores: dict[str, Any] = {}
    for name, part in zip(PROBED, columns, strict=True):
        strength = min(STRENGTHS, key=lambda strength: errors[strength][:, part].square().mean().item())
        residual = _residual(final, strength, x[test], y[test])[:, part]
        scores[name] = (1 - residual.square().mean(0) / y[test][:, part].var(0, correction=0)).mean()
    plain: dict[str, Any] = _plain({**scores, "test_videos": len(video[test].unique())})
    return plain


def _runs_natively(model: HamiltonianDynamics, z0: Tensor) -> bool:
    try:
        rollout(model.H, z0, 1.0, 1, method=model.integrator, backend="native")
    except ValueError:  # no kernels for this device, or none in this build
        return False
    return True


def _residual(ridge: Ridge, strength: float, x: Tensor, y: Tensor) -> Tensor:
    weight, bias = ridge.solve(strength)
    return x @ weight + bias - y


def _rollout(model: DynamicsModel, z0: Tensor, steps: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.rollout(part, steps)[0] for part in z0.split(BATCH)])


def _energy(
    model: DynamicsModel, hnn: DynamicsModel | None, truth: Tensor, predicted: Tensor, horizon: int
) -> dict[str, Any] | None:
    """The ``energy`` entry of one model and seed; ``truth`` (N, horizon + 1, D), ``predicted`` (N, steps + 1, D)."""
    own = isinstance(model, HamiltonianDynamics)
    energetic = model if own else hnn
    if not isinstance(energetic, HamiltonianDynamics):
        return None
    with torch.no_grad():
        # In parts, as the hidden layers of every state at once would fill the memory.
        spread = torch.cat([energetic.energy(part) for part in truth.split(BATCH)]).std(correction=0)
        energies = torch.cat([energetic.energy(part) for part in predicted.split(BATCH)])
    drift, extended = (diagnostics.energy_drift(part, spread) for part in (energies[:, : horizon + 1], energies))
    return {
        "of": "own" if own else "hnn",
        "spread": spread,
        "drift": _over_windows(drift.absolute),
        "relative_drift": _over_windows(drift.relative),
        "extended": {
            "drift": _over_windows(extended.absolute),
            "relative_drift": _over_windows(extended.relative),
            "change_per_step": _over_windows((energies - energies[:, :1]).abs()),
            "example": energies[0],
        },
    }


def _over_windows(values: Tensor) -> dict[str, Tensor]:
    return {"mean": values.mean(dim=0), "std": values.std(dim=0, correction=0)}


def _mean_step(trajectory: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(trajectory.diff(dim=1), dim=2)
    return lengths.mean()


def _over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        {
            "mse": seed["mse"]["mean"],
            "mse_per_horizon": seed["mse_per_horizon"]["mean"],
            **{key: seed[key] for key in ("normalised_mse", "skill", "skill_per_horizon", "latent_step", "dt")},
            "drift": seed["energy"] and seed["energy"]["drift"]["mean"],
            "relative_drift": seed["energy"] and seed["energy"]["relative_drift"]["mean"],
            "extended_drift": seed["energy"] and seed["energy"]["extended"]["drift"]["mean"],
            "extended_relative_drift": seed["energy"] and seed["energy"]["extended"]["relative_drift"]["mean"],
        }
        for seed in seeds
    ]
    return {key: aggregate([row[key] for row in rows]) for key in rows[0]}


def _plain(value: Any) -> Any:
    """Tensors as numbers and lists, and None for what is not finite, as JSON knows no NaN."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
