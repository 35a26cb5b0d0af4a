"""Two balls of equal mass that collide elastically with each other and with the walls of a square box.

The motion is event-driven: between contacts it is a straight line, and every contact is met at its exact time. So
kinetic energy is conserved to rounding, and the balls never overlap nor leave the box (H-JEPA, section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONTACTS = ("ball-ball", "ball 0-wall", "ball 1-wall")
"""What the columns of `Trajectory.contacts` mean."""

SPEED = (2.0, 3.0)
"""Range of the initial speeds in px/frame, for a box of 256 px; it grows with the box."""


@dataclass(frozen=True)
class Trajectory:
    """The state of both balls at every frame.

    Attributes:
        positions: centres, (frames, 2 balls, 2) in px; x to the right, y down, the box is [0, size]².
        velocities: (frames, 2 balls, 2) in px/frame.
        energy: kinetic energy for unit masses, (frames,) in px²/frame².
        contacts: (frames, 3) bool; whether a contact of the kind `CONTACTS[k]` happened since the frame before.
    """

    positions: Array
    velocities: Array
    energy: Array
    contacts: NDArray[np.bool_]


def simulate(seed: int | list[int], *, frames: int = 150, size: float = 256.0, radius: float = 20.0) -> Trajectory:
    """Simulate one video's motion from random, non-overlapping starts and random velocities.

    Starts are drawn again, up to 100 times, until the balls meet at least once: the subject is collisions.

    Args:
        seed: anything that `numpy.random.default_rng` takes; the same seed gives the same trajectory.
        frames: number of frames, at least 1.
        size: side of the box, px; at least 4 radii.
        radius: radius of both balls, px.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if not (radius > 0 and size >= 4 * radius and math.isfinite(size)):
        raise ValueError(f"radius must be positive and size at least 4 radii, got radius={radius} and size={size}")
    rng = np.random.default_rng(seed)
    for _ in range(100):
        trajectory = roll(*_random_start(rng, size, radius), frames=frames, size=size, radius=radius)
        if trajectory.contacts[:, 0].any():
            break
    return trajectory


def roll(positions: Array, velocities: Array, *, frames: int, size: float, radius: float) -> Trajectory:
    """Follow two balls from the given positions and velocities, both (2, 2), through all contacts."""
    x, v = np.array(positions, dtype=np.float64), np.array(velocities, dtype=np.float64)
    low, high = radius, size - radius
    xs, vs = np.empty((frames, 2, 2)), np.empty((frames, 2, 2))
    contacts = np.zeros((frames, 3), dtype=bool)
    for frame in range(frames):
        left = 1.0 if frame else 0.0  # time still to pass before this frame
        while True:
            wall_times = _wall_times(x, v, low, high)
            ball_time = _ball_time(x, v, 2 * radius)
            step = min(float(wall_times.min()), ball_time)
            if step > left:
                break
            x = np.clip(x + step * v, low, high)  # the clip only removes rounding
            left -= step
            if ball_time <= step:
                _collide(x, v)
                contacts[frame, 0] = True
            else:
                ball, axis = np.unravel_index(int(wall_times.argmin()), (2, 2))
                x[ball, axis] = high if v[ball, axis] > 0 else low
                v[ball, axis] = -v[ball, axis]
                contacts[frame, 1 + ball] = True
        x = np.clip(x + left * v, low, high)
        xs[frame], vs[frame] = x, v
    return Trajectory(xs, vs, 0.5 * (vs**2).sum(axis=(1, 2)), contacts)


def _random_start(rng: np.random.Generator, size: float, radius: float) -> tuple[Array, Array]:
    while True:
        positions = rng.uniform(radius, size - radius, (2, 2))
        if np.hypot(*(positions[1] - positions[0])) > 2 * radius:
            break
    speeds = rng.uniform(*SPEED, 2) * size / 256
    angles = rng.uniform(0, 2 * np.pi, 2)
    return positions, speeds[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _wall_times(x: Array, v: Array, low: float, high: float) -> Array:
    """Time until each coordinate meets the wall it moves towards, (2, 2); infinite for one at rest."""
    gap = np.where(v > 0, high - x, x - low)
    times = np.full((2, 2), np.inf)
    np.divide(gap, np.abs(v), out=times, where=v != 0)
    return times


def _ball_time(x: Array, v: Array, distance: float) -> float:
    """Time until the centres are `distance` apart; infinite unless the balls approach each other."""
    dx, dv = x[1] - x[0], v[1] - v[0]
    approach = float(dx @ dv)
    if approach >= 0:
        return math.inf
    speed2 = float(dv @ dv)
    gap = float(dx @ dx) - distance**2
    discriminant = approach**2 - speed2 * gap
    if discriminant < 0:
        return math.inf
    # The root in the form that does not cancel; rounding may put touching balls a hair inside each other.
    return max(gap / (math.sqrt(discriminant) - approach), 0.0)


def _collide(x: Array, v: Array) -> None:
    """Exchange the velocity components along the line of centres, in place (equal masses, elastic)."""
    normal = (x[1] - x[0]) / np.hypot(*(x[1] - x[0]))
    exchange = ((v[1] - v[0]) @ normal) * normal
    v[0] += exchange
    v[1] -= exchange
