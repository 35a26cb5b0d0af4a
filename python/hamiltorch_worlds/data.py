"""The data set: synthetic two-ball videos with labels, or a folder of one's own videos.

A folder made by `generate` holds videos/video_000.mp4 ..., labels/video_000.safetensors ... and dataset.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .files import read_json, read_tensors, write_json, write_tensors
from .physics import Array, Trajectory, simulate
from .video import SUFFIXES, Frames, video_fps, write_video

COLOURS = ((0, 255, 255), (255, 0, 0))
"""RGB of the two balls, on black (the authors' cyan and red)."""

MANIFEST = "dataset.json"


class DatasetError(ValueError):
    """A folder that is no data set, an incomplete one, or one made with other settings."""


@dataclass(frozen=True)
class Dataset:
    """Videos in a fixed order, with their labels where these exist.

    Attributes:
        folder: where the data set is; labels are looked for in its sub-folder `labels`.
        videos: the video files, sorted by name; stems are unique.
        fps: frames per second (of the first video, for a folder of one's own).
    """

    folder: Path
    videos: list[Path]
    fps: float

    def labels(self, index: int) -> dict[str, Tensor] | None:
        """Labels of video `index`, or None if it has none. Raises `DamagedFile`.

        positions (T, 2, 2) px and velocities (T, 2, 2) px/frame, float64; energy (T,) px²/frame², float64; contacts
        (T, 3) bool with columns `physics.CONTACTS`.
        """
        path = _label_path(self.folder, self.videos[index].stem)
        return read_tensors(path) if path.exists() else None


def generate(
    folder: Path | str,
    *,
    videos: int = 50,
    frames: int = 150,
    size: int = 256,
    fps: float = 30,
    radius: float = 20.0,
    seed: int = 0,
    progress: bool = True,
) -> Dataset:
    """Make (or finish making) the two-ball data set of H-JEPA, section 4.1, in `folder`.

    Videos that are already complete are kept, so an interrupted call is finished by the same call. Video i depends on
    (seed, i) alone: asking for more videos later adds some and changes none.

    Args:
        folder: created if needed.
        videos: how many.
        frames: frames per video.
        size: height and width in px.
        fps: frames per second written into the MP4 (velocities are per frame and do not depend on it).
        radius: of the balls, px; `size` must be at least 4 radii.
        seed: non-negative.

    Raises:
        ValueError: a setting out of range.
        DatasetError: `folder` holds a data set made with other settings.
    """
    folder = Path(folder)
    for name, value, least in (("videos", videos, 1), ("frames", frames, 1), ("size", size, 2), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps!r}")
    settings = {"frames": frames, "size": size, "fps": float(fps), "radius": float(radius), "seed": seed}
    manifest = folder / MANIFEST
    if manifest.exists():
        found = read_json(manifest)
        if found["settings"] != settings:
            raise DatasetError(
                f"{folder} holds a data set made with {found['settings']}, but {settings} was asked for; "
                "use another folder or delete this one"
            )
    write_json(manifest, {"format": 1, "videos": videos, "settings": settings})
    for index in tqdm(range(videos), desc="videos", unit="video", disable=not progress):
        video, label = _video_path(folder, index), _label_path(folder, f"video_{index:03d}")
        if video.exists() and label.exists():
            continue
        trajectory = simulate([seed, index], frames=frames, size=size, radius=radius)
        write_tensors(label, _label_tensors(trajectory), {"units": "px, frames, unit masses"})
        write_video(video, render(trajectory.positions, size=size, radius=radius), fps)
    return load_dataset(folder)


def load_dataset(folder: Path | str) -> Dataset:
    """Open a data set made by `generate`, or any folder with videos (`video.SUFFIXES`) directly in it.

    Raises `DatasetError` if there is no such folder, no video in it, two videos with the same stem, or if a generated
    set is incomplete; `VideoError` if the first video of one's own cannot be opened.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"no such folder: {folder}")
    if (folder / MANIFEST).exists():
        manifest = read_json(folder / MANIFEST)
        videos = [_video_path(folder, index) for index in range(manifest["videos"])]
        missing = [path.name for path in videos if not path.exists()]
        if missing:
            raise DatasetError(
                f"{folder} is incomplete: {len(missing)} of {len(videos)} videos are missing ({missing[0]} first); "
                "generate it again to finish it"
            )
        return Dataset(folder, videos, manifest["settings"]["fps"])
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise DatasetError(f"no videos in {folder}: looked for files ending in {', '.join(SUFFIXES)}")
    stems = [path.stem for path in videos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DatasetError(f"two videos in {folder} are both named {twice[0]!r}; rename one")
    return Dataset(folder, videos, video_fps(videos[0]))


def render(positions: Array, *, size: int, radius: float, colours: Sequence[tuple[int, int, int]] = COLOURS) -> Frames:
    """Draw discs at sub-pixel `positions` (T, balls, 2) in px on black, anti-aliased: uint8 (T, size, size, 3)."""
    frames = np.zeros((len(positions), size, size, 3), dtype=np.uint8)
    reach = int(np.ceil(radius + 1))
    for frame, centres in zip(frames, positions, strict=True):
        for (x, y), colour in zip(centres, colours, strict=True):
            left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
            patch = frame[top : int(y) + reach + 1, left : int(x) + reach + 1]
            # Pixel i covers [i, i + 1]; its centre decides how much of it the disc covers.
            dx = left + 0.5 + np.arange(patch.shape[1]) - x
            dy = top + 0.5 + np.arange(patch.shape[0]) - y
            cover = np.clip(radius + 0.5 - np.hypot(dx[None, :], dy[:, None]), 0, 1)[..., None]
            patch[:] = np.round(patch + cover * (np.asarray(colour) - patch))
    return frames


def _label_tensors(trajectory: Trajectory) -> dict[str, Tensor]:
    return {
        "positions": torch.from_numpy(trajectory.positions),
        "velocities": torch.from_numpy(trajectory.velocities),
        "energy": torch.from_numpy(trajectory.energy),
        "contacts": torch.from_numpy(trajectory.contacts),
    }


def _video_path(folder: Path, index: int) -> Path:
    return folder / "videos" / f"video_{index:03d}.mp4"


def _label_path(folder: Path, stem: str) -> Path:
    return folder / "labels" / f"{stem}.safetensors"
