"""Windows of consecutive latents, and their split into training and test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .config import TrainConfig

__all__ = ["Windows", "make_windows", "split"]

# One split for every model and seed, so that they are compared on the same test windows.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Windows:
    """Every window of a data set, and which of them are for training and for testing.

    ``data``: (N, window, D). ``video``: (N,), the number of the video that each window is from. ``train`` and ``test``:
    ascending indices into the N windows.
    """

    data: Tensor
    video: Tensor
    train: Tensor
    test: Tensor

    @classmethod
    def from_latents(cls, latents: Sequence[Tensor], config: TrainConfig) -> Windows:
        """Cut ``latents``, one (n_i, D) tensor per video, as the configuration says."""
        data, video = make_windows(latents, config.window)
        train, test = split(video, config.test_fraction, by=config.split, seed=SPLIT_SEED)
        return cls(data, video, train, test)

    def to(self, device: torch.device | str) -> Windows:
        """The same windows with ``data`` on ``device``; indices stay on the CPU, where batches are drawn."""
        return replace(self, data=self.data.to(device))

    @property
    def dim(self) -> int:
        """Size of a latent, D."""
        return self.data.shape[2]

    @property
    def start(self) -> Tensor:
        """For each window, which of its video's latents it begins with, (N,)."""
        position = torch.arange(len(self.video), device=self.video.device)
        return position - torch.searchsorted(self.video, self.video)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the windows and their split: training resumes on the data it began with, or not at all."""
        digest = hashlib.sha256(repr((tuple(self.data.shape), self.data.dtype)).encode())
        for tensor in (self.data, self.train, self.test):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def make_windows(latents: Sequence[Tensor], window: int) -> tuple[Tensor, Tensor]:
    """Cut every run of ``window`` consecutive latents (H-JEPA section 4.2).

    Args:
        latents: one (n_i, D) tensor per video; a video with n_i < window gives no window.
        window: latents per window.

    Returns:
        Windows (N, window, D), video by video and in order of time, and the video of each, (N,).

    Raises:
        ValueError: no video is long enough, or the shapes do not fit.
    """
    shapes = [tuple(latent.shape) for latent in latents]
    if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise ValueError(f"latents must be one (n, D) tensor or more with one D, got shapes {shapes}")
    longest = max(shape[0] for shape in shapes)
    if longest < window:
        raise ValueError(
            f"latents must have a video of at least {window} latents (the window), the longest has {longest}; "
            "use longer videos, a smaller encoder.stride or a smaller train.window"
        )
    # unfold puts the window last: (n - window + 1, D, window).
    pieces = [latent.unfold(0, window, 1).transpose(1, 2) if len(latent) >= window else None for latent in latents]
    data = torch.cat([piece for piece in pieces if piece is not None])
    counts = torch.tensor([0 if piece is None else len(piece) for piece in pieces])
    return data, torch.repeat_interleave(torch.arange(len(latents)), counts)


def split(video: Tensor, test_fraction: float, *, by: Literal["video", "window"], seed: int) -> tuple[Tensor, Tensor]:
    """Split windows at random into training and test indices, both ascending.

    By "video", no video has windows on both sides. By "window", as in the paper, most test windows share all but one
    latent with a training window, and the test error is that of interpolation.

    Args:
        video: the video of each window, (N,).
        test_fraction: share of the videos (or windows) that are for testing; at least one goes to each side.
        by: "video" or "window".
        seed: of the random choice.

    Raises:
        ValueError: there are fewer than two videos (or windows).
    """
    units, unit_of_window = video.unique(return_inverse=True)
    if by == "window":
        units = unit_of_window = torch.arange(len(video))
    count = len(units)
    if count < 2:
        raise ValueError(
            f"a split by {by} needs two {by}s or more, got {count}; more videos or train.split=window help"
        )
    test_count = min(max(round(test_fraction * count), 1), count - 1)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:test_count]
    is_test = torch.isin(unit_of_window, chosen)
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
