"""A run folder that has been evaluated, opened for its report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import ConfigError, ExperimentConfig, from_json, to_json
from .data import Dataset, load_dataset
from .figures import Band
from .files import read_json
from .latents import LatentStore, load_latents
from .models import MODELS, DynamicsModel
from .windows import Windows

__all__ = ["FinishedRun", "array", "model_folder"]


def model_folder(run: Path, name: str, seed: int) -> Path:
    """Where a run keeps one model."""
    return run / "models" / f"{name}-seed{seed}"


def array(values: Any) -> NDArray[np.float64]:
    """JSON numbers as an array; None, which stands for what is not finite, as NaN."""
    return np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder holds, opened."""

    folder: Path
    config: ExperimentConfig
    evaluation: dict[str, Any]
    dataset: Dataset
    latents: LatentStore

    @classmethod
    def open(cls, folder: Path) -> FinishedRun:
        """Open ``folder``; FileNotFoundError or ValueError where a part is missing, damaged or of another setting."""
        config: ExperimentConfig = from_json(read_json(folder / "config.json"))
        evaluation = read_json(folder / "evaluation.json")
        if evaluation["made_from"]["config"] != to_json(config):
            raise ConfigError(
                f"{folder / 'evaluation.json'} belongs to other settings than config.json; evaluate again"
            )
        return cls(
            folder,
            config,
            evaluation,
            load_dataset(config.data.folder or folder / "data"),
            load_latents(folder / "latents"),
        )

    @cached_property
    def windows(self) -> Windows:
        """The windows of the latents and their split."""
        return Windows.from_latents(self.latents.latents, self.config.train)

    @property
    def horizon(self) -> int:
        """Steps the models are trained on."""
        return self.config.train.window - 1

    @property
    def models(self) -> dict[str, Any]:
        """The models' part of the evaluation."""
        return dict(self.evaluation["models"])

    @property
    def several(self) -> bool:
        """Whether there are several seeds."""
        return len(self.config.seeds) > 1

    @property
    def lead(self) -> str:
        """The model that portraits, film and training curves show: the paper's, else the first that is trained."""
        return "hnn" if "hnn" in self.models else min(self.models, key=lambda name: not MODELS[name].descent)  # type: ignore[index]

    @property
    def split_text(self) -> str:
        """How the test windows were set apart, in words."""
        if self.config.train.split == "video":
            return "split by video: no test video was trained on"
        return "split by window, as in the paper: test windows overlap training windows of the same video"

    def first_seed(self, name: str) -> dict[str, Any]:
        """The evaluation of the first seed of a model."""
        return dict(self.models[name]["seeds"][str(self.config.seeds[0])])

    def folder_of(self, name: str) -> Path:
        """The folder of a model's first seed."""
        return model_folder(self.folder, name, self.config.seeds[0])

    def rollout(self, z0: Tensor, steps: int) -> Tensor:
        """The lead model's rollout of the first seed, (B, steps + 1, D)."""
        model = DynamicsModel.from_pretrained(self.folder_of(self.lead))
        with torch.no_grad():
            return model.rollout(z0, steps)[0]

    def band(self, name: str, key: str) -> Band:
        """Mean and deviation of a measure: over seeds where there are several, else over test windows."""
        over_seeds = self.models[name]["over_seeds"][key]
        if self.several:
            return Band(array(over_seeds["mean"]), array(over_seeds["sd"]))
        seed = self.first_seed(name)
        entry = seed[key] if key in seed else (seed["energy"] or {})[key]
        return Band(array(entry["mean"]), array(entry["std"]))
