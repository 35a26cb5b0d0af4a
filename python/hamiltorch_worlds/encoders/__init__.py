"""Encoders of video clips behind one interface: `vjepa2` (frozen, V-JEPA 2) and `embedded` (trained on the spot)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data import Dataset
from .base import Encoder, EncoderError
from .embedded import EmbeddedEncoder, train_embedded
from .vjepa2 import VJEPA2Encoder

if TYPE_CHECKING:
    from ..config import EncoderConfig

__all__ = ["EmbeddedEncoder", "Encoder", "EncoderError", "VJEPA2Encoder", "build_encoder", "train_embedded"]


def build_encoder(
    config: EncoderConfig,
    dataset: Dataset,
    folder: Path | str,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Encoder:
    """Build the encoder that `config.name` names.

    Args:
        config: "embedded" reads latent_dim, clip, training_seconds and seed; "vjepa2" checkpoint, dtype, resize, crop.
        dataset: what the embedded encoder is trained on.
        folder: where the embedded encoder is stored, and loaded from if it is there; "vjepa2" writes nothing.
        device: where the network runs.
        progress: show progress bars.

    Raises:
        EncoderError: unknown name, or as the encoders say.
    """
    if config.name == "embedded":
        return train_embedded(
            dataset,
            folder,
            latent_dim=config.latent_dim,
            clip=config.clip,
            training_seconds=config.training_seconds,
            seed=config.seed,
            device=device,
            progress=progress,
        )
    if config.name == "vjepa2":
        return VJEPA2Encoder(
            config.checkpoint, dtype=config.dtype, resize=config.resize, crop=config.crop, device=device
        )
    raise EncoderError(f"encoder name must be 'embedded' or 'vjepa2', got {config.name!r}")
