"""Hamiltonian world models on latent video embeddings, from videos to a report (H-JEPA).

Configuration: ExperimentConfig, preset, with_overrides. Data: generate, load_dataset, read_video, write_video.
Encoders: build_encoder, encode_dataset, load_latents. Models: MODELS, DynamicsModel, Windows, train, evaluate.
All together: Experiment, build_report, and the command line ``hamiltorch-worlds``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import ExperimentConfig as ExperimentConfig
    from .config import preset as preset
    from .config import with_overrides as with_overrides
    from .data import generate as generate
    from .data import load_dataset as load_dataset
    from .encoders import build_encoder as build_encoder
    from .evaluation import evaluate as evaluate
    from .experiment import Experiment as Experiment
    from .latents import encode_dataset as encode_dataset
    from .latents import load_latents as load_latents
    from .models import MODELS as MODELS
    from .models import DynamicsModel as DynamicsModel
    from .report import build_report as build_report
    from .training import train as train
    from .video import read_video as read_video
    from .video import write_video as write_video
    from .windows import Windows as Windows

# Loaded when first asked for: the command line's --help should not wait for torch.
_HOME = {
    "ExperimentConfig": "config",
    "preset": "config",
    "with_overrides": "config",
    "generate": "data",
    "load_dataset": "data",
    "read_video": "video",
    "write_video": "video",
    "build_encoder": "encoders",
    "encode_dataset": "latents",
    "load_latents": "latents",
    "MODELS": "models",
    "DynamicsModel": "models",
    "Windows": "windows",
    "train": "training",
    "evaluate": "evaluation",
    "Experiment": "experiment",
    "build_report": "report",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
