"""Reading and writing videos with PyAV, which brings its own FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from .files import atomic_write

Frames = NDArray[np.uint8]

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
"""Files that count as videos."""


class VideoError(ValueError):
    """A video that cannot be used. The message names the file and the reason."""

    def __init__(self, path: Path | str, reason: object) -> None:
        super().__init__(f"cannot use video {path}: {reason}")


def write_video(path: Path | str, frames: Frames, fps: float = 30) -> None:
    """Write `frames`, uint8 (T, H, W, 3) RGB, as an MP4 that browsers play (H.264 where FFmpeg has it), atomically.

    The same frames give the same file.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 of shape (T, H, W, 3), got {frames.dtype} of shape {frames.shape}")
    height, width = frames.shape[1:3]
    even = height % 2 == 0 and width % 2 == 0
    if "libx264" in av.codecs_available:
        # Chroma at half resolution plays everywhere but exists for even sizes only.
        codec, pixels = "libx264", "yuv420p" if even else "yuv444p"
        # With its macroblock tree, x264 gives narrow frames another file each time (seen in version 165).
        options = {"crf": "12", "preset": "fast", "x264-params": "mbtree=0"}
    else:
        codec, pixels, options = "mpeg4", "yuv420p", {"qscale": "2"}
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def iterate_video(path: Path | str) -> Iterator[Frames]:
    """Yield the frames of a video one by one, uint8 (H, W, 3) RGB, in order of display.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file is empty, is no video, is truncated or is corrupt (also in the middle, after the frames
            before the damage were given).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such video: {path}")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(path, "it holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            packets = shown = 0
            end = 0.0  # of the last packet, in seconds
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.is_corrupt:
                    raise VideoError(path, f"it is truncated or corrupt at packet {packets} of {stream.frames}")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise VideoError(path, f"frame {shown} is corrupt")
                    shown += 1
                    yield cast(Frames, frame.to_ndarray(format="rgb24"))
            # FFmpeg takes a file that ends early for one that ends; the index in the header knows better.
            if packets < stream.frames:
                raise VideoError(path, f"it is truncated: {packets} of {stream.frames} packets are there")
            if shown == 0:
                raise VideoError(path, "it holds no frames")
            # Matroska counts no packets, but states how long it lasts; with sound too, that may be the sound.
            stated = (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0
            if stream.frames == 0 and end < stated - 2 / float(stream.average_rate or 1):
                raise VideoError(path, f"it is truncated: it ends after {end:.2f} s of {stated:.2f} s")
    except av.FFmpegError as error:
        raise VideoError(path, error.strerror or error) from error


def read_video(path: Path | str) -> Frames:
    """Read a whole video into uint8 (T, H, W, 3) RGB. Errors as `iterate_video`."""
    return np.stack(list(iterate_video(path)))


def video_fps(path: Path | str) -> float:
    """Frames per second that a video's header states. Raises `VideoError`."""
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
    except av.FFmpegError as error:
        raise VideoError(path, error.strerror or error) from error
    if not rate:
        raise VideoError(path, "it states no frame rate")
    return float(rate)
