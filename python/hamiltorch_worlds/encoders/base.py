"""The one interface of all encoders: frames are prepared one by one, clips of prepared frames become latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class EncoderError(ValueError):
    """An encoder that cannot be built, or input that it cannot take. The message says what is needed."""


class Encoder(ABC):
    """Turns clips of video into latent vectors, and back into frames if it can.

    Attributes:
        latent_dim: size D of a latent.
        can_decode: whether `decode` works.
        device: where the network runs; it decides nothing beyond rounding, and is no part of the manifest.
    """

    latent_dim: int
    can_decode: bool = False
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def prepare(self, frames: Tensor) -> Tensor:
        """Do the work on single frames: uint8 (T, H, W, 3) to (T, ...), whatever `encode_prepared` takes.

        Clips that overlap share it. Raises `EncoderError` for frames of a size that this encoder cannot take.
        """

    @abstractmethod
    def encode_prepared(self, clips: Tensor) -> Tensor:
        """Encode clips of prepared frames, (N, clip, ...), to float32 latents (N, D) on the CPU."""

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What decides the latents, JSON-serialisable: two encoders with equal manifests give equal latents."""

    def encode(self, clips: Tensor) -> Tensor:
        """Encode raw clips, uint8 (N, clip, H, W, 3), to float32 latents (N, D) on the CPU."""
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise EncoderError(
                f"clips must be uint8 of shape (N, clip, H, W, 3), got {clips.dtype} of shape {tuple(clips.shape)}"
            )
        return self.encode_prepared(self.prepare(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))

    def decode(self, latents: Tensor) -> Tensor:
        """Draw the last frame of each clip from its latent: (N, D) to uint8 (N, h, w, 3).

        Raises `EncoderError` where `can_decode` is False.
        """
        raise EncoderError(f"the {self.manifest()['name']} encoder cannot decode latents into frames")
