"""Latents on disk: one safetensors file per video and a manifest that says what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .data import Dataset
from .device import describe_device
from .encoders.base import Encoder
from .files import (
    DamagedFile,
    read_json,
    read_metadata,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from .video import VideoError, iterate_video

MANIFEST = "manifest.json"
CHUNK = 32  # frames prepared at once: a long or large video never lies in memory whole


class LatentsError(ValueError):
    """A folder of latents that is missing, incomplete, or made by another encoder."""


@dataclass(frozen=True)
class LatentStore:
    """The latents of a data set.

    Attributes:
        folder: where they are stored.
        latents: one float32 (clips, D) per video, in order of time.
        frames: one int64 (clips,) per video: the index of each clip's last frame, the one that decoders draw.
        videos: the videos' stems.
        manifest: encoder, clip, stride, dtype and, for each video, the source's hash and the device that encoded it.
    """

    folder: Path
    latents: list[Tensor]
    frames: list[Tensor]
    videos: list[str]
    manifest: dict[str, Any]


def encode_dataset(
    dataset: Dataset,
    encoder: Encoder,
    folder: Path | str,
    *,
    clip: int = 16,
    stride: int = 4,
    batch: int = 8,
    progress: bool = True,
) -> LatentStore:
    """Encode every video into overlapping clips, and store the latents in `folder` (H-JEPA, section 4.2).

    Each video's file is written when that video is done, and carries the hash of its source: after an interruption the
    same call goes on where it stopped, and a video that has changed is encoded again.

    Args:
        dataset: the videos, each of at least `clip` frames.
        encoder: what encodes them.
        folder: created if needed.
        clip: frames per latent.
        stride: frames from the start of one clip to the start of the next.
        batch: clips encoded at once.
        progress: show a progress bar.

    Raises:
        LatentsError: `folder` holds latents of another encoder, clip or stride.
        VideoError: a video is damaged or shorter than a clip.
    """
    folder = Path(folder)
    made_by = {"encoder": encoder.manifest(), "clip": clip, "stride": stride, "dtype": "float32"}
    manifest_path = folder / MANIFEST
    if manifest_path.exists():
        found = read_json(manifest_path)
        different = [key for key in made_by if found.get(key) != made_by[key]]
        if different:
            raise LatentsError(
                f"{folder} holds latents with another {' and '.join(different)} ("
                + "; ".join(f"{key} was {found.get(key)}, now {made_by[key]}" for key in different)
                + "); use another folder or delete this one"
            )
    write_json(manifest_path, {**made_by, "videos": None})  # incomplete until the end
    fingerprint = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
    sources = []
    with tqdm(total=len(dataset.videos), desc="encode", unit="video", disable=not progress) as bar:
        for video in dataset.videos:
            source = {"name": video.stem, "file": video.name, "sha256": sha256(video)}
            metadata = {"encoder": fingerprint, "source": source["sha256"]}
            target = folder / f"{video.stem}.safetensors"
            if not _is_done(target, metadata):
                made_on = {"device": describe_device(encoder.device)}
                write_tensors(target, _encode_video(video, encoder, clip, stride, batch), {**metadata, **made_on})
            sources.append({**source, "device": read_metadata(target)["device"]})
            bar.update()
    write_json(manifest_path, {**made_by, "latent_dim": encoder.latent_dim, "videos": sources})
    return load_latents(folder)


def load_latents(folder: Path | str) -> LatentStore:
    """Open what `encode_dataset` stored. Raises `LatentsError` (missing, incomplete) or `DamagedFile`."""
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise LatentsError(f"no latents in {folder}: {MANIFEST} is missing")
    manifest = read_json(folder / MANIFEST)
    if manifest["videos"] is None:
        raise LatentsError(f"the latents in {folder} are incomplete; encode again to finish them")
    videos = [source["name"] for source in manifest["videos"]]
    missing = [name for name in videos if not (folder / f"{name}.safetensors").exists()]
    if missing:
        raise LatentsError(f"the latents of {', '.join(missing)} are missing in {folder}; encode again")
    tensors = [read_tensors(folder / f"{name}.safetensors") for name in videos]
    return LatentStore(folder, [t["latents"] for t in tensors], [t["frames"] for t in tensors], videos, manifest)


def _is_done(path: Path, metadata: dict[str, str]) -> bool:
    try:
        return read_metadata(path).items() >= metadata.items()
    except (FileNotFoundError, DamagedFile):
        return False


def _encode_video(path: Path, encoder: Encoder, clip: int, stride: int, batch: int) -> dict[str, Tensor]:
    frames = torch.cat([encoder.prepare(chunk) for chunk in _chunks(path)])
    if len(frames) < clip:
        raise VideoError(path, f"it has {len(frames)} frames, fewer than one clip of {clip}")
    starts = torch.arange(0, len(frames) - clip + 1, stride)
    indices = starts[:, None] + torch.arange(clip)
    latents = torch.cat([encoder.encode_prepared(frames[some]) for some in indices.split(batch)])
    return {"latents": latents, "frames": indices[:, -1]}


def _chunks(path: Path) -> Iterator[Tensor]:
    chunk = []
    for frame in iterate_video(path):
        chunk.append(frame)
        if len(chunk) == CHUNK:
            yield torch.from_numpy(np.stack(chunk))
            chunk = []
    if chunk:
        yield torch.from_numpy(np.stack(chunk))
