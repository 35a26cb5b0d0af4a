"""The side-by-side film: the video, its decoded latents, and the decoded prediction, with a clock above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["side_by_side"]

Frames = NDArray[np.uint8]
PANEL, GAP = 256, 16
CLOCK, BAR, TITLES, TOP = 18, 34, 58, 76  # heights from the top, px
FOOTER = 44  # empty, for the player's controls
PAPER, INK, MUTED, TRACK = "#12171f", "#eef2f6", "#98a3b1", "#2a323d"
WITHIN, BEYOND = "#5b9bea", "#f0a33a"


def _font(size: int) -> Any:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def side_by_side(panels: Mapping[str, Frames], horizon: int, seconds_per_step: float, source: str) -> Frames:
    """Compose one picture per rollout step from panels of the same steps.

    Args:
        panels: per title the frames, uint8 (T, H, W, 3), index = rollout step; each is scaled to one common square.
        horizon: number of steps the model was trained on; the clock changes colour after it.
        seconds_per_step: time between two steps in the video, for the clock.
        source: where the window comes from, written at the upper left.

    Returns:
        uint8 (T, height, width, 3), both even as H.264 needs.
    """
    lengths = {title: len(frames) for title, frames in panels.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"panels must hold the same number of frames, got {lengths}")
    last = next(iter(lengths.values())) - 1
    width = len(panels) * (PANEL + GAP) + GAP
    small, plain = _font(12), _font(14)
    pictures = []
    for step in range(last + 1):
        picture = Image.new("RGB", (width, TOP + PANEL + FOOTER), PAPER)
        draw = ImageDraw.Draw(picture)
        for column, (title, frames) in enumerate(panels.items()):
            left = GAP + column * (PANEL + GAP)
            draw.text((left, TITLES), title, fill=INK, font=plain, anchor="lm")
            image = Image.fromarray(frames[step]).resize((PANEL, PANEL), Image.Resampling.BICUBIC)
            picture.paste(image, (left, TOP))
        reach = width - 2 * GAP
        draw.rectangle((GAP, BAR, width - GAP, BAR + 4), fill=TRACK)
        for start, end, colour in ((0, min(step, horizon), WITHIN), (horizon, step, BEYOND)):
            if end > start:
                draw.rectangle((GAP + reach * start / last, BAR, GAP + reach * end / last, BAR + 4), fill=colour)
        beyond = step > horizon
        note = "beyond the training horizon   " if beyond else ""
        clock = f"{note}step {step} of {last}   {step * seconds_per_step:.2f} s"
        draw.text((GAP, CLOCK), source, fill=MUTED, font=small, anchor="lm")
        draw.text((width - GAP, CLOCK), clock, fill=BEYOND if beyond else WITHIN, font=small, anchor="rm")
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
