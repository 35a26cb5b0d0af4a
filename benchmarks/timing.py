"""Alternating measurement: peers take turns in one run, so that a change of the machine's mood hits them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]
Synchronise = Callable[[Any], None]  # given the results of the last call

SLOW = 0.5  # seconds: what takes longer needs no warming between samples


@dataclass(frozen=True)
class Effort:
    """How long to measure. A sample is the mean of as many calls as fill ``sample_s``."""

    sample_s: float = 0.05
    min_samples: int = 9
    max_samples: int = 60
    budget_s: float = 8.0  # per peer and case
    spread: float = 0.02  # stop once each peer's interquartile range is below this part of its median

    @classmethod
    def quick(cls) -> Effort:
        return cls(sample_s=0.002, min_samples=3, max_samples=5, budget_s=0.5)

    @classmethod
    def gpu(cls) -> Effort:
        """Short: nobody else runs on a GPU, so few samples agree."""
        return cls(sample_s=0.02, min_samples=5, max_samples=20, budget_s=0.5)


def measure(calls: Mapping[str, Call], effort: Effort, synchronise: Synchronise) -> dict[str, dict[str, Any]]:
    """Median and quartiles (seconds per call) of every call, measured in turn."""
    typical = {name: _typical_seconds(call, synchronise) for name, call in calls.items()}
    repeats = {name: max(1, round(effort.sample_s / seconds)) for name, seconds in typical.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + effort.budget_s * len(calls)
    order = list(calls)
    for turn in range(effort.max_samples):
        # Nobody always follows the same neighbour, whose threads and cache lines linger.
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            if typical[name] < SLOW:
                synchronise(calls[name]())  # caches and thread pools as they are in a loop of one's own
            samples[name].append(_seconds(calls[name], repeats[name], synchronise))
        if turn + 1 >= effort.min_samples and (
            time.perf_counter() > end or all(_spread(times) < effort.spread for times in samples.values())
        ):
            break
    return {name: _summary(times, repeats[name]) for name, times in samples.items()}


def _typical_seconds(call: Call, synchronise: Synchronise) -> float:
    """Seconds of one call, after warming up."""
    first = _seconds(call, 1, synchronise)
    return first if first > SLOW else min(_seconds(call, 1, synchronise) for _ in range(3))


def _seconds(call: Call, repeats: int, synchronise: Synchronise) -> float:
    synchronise(None)
    start = time.perf_counter()
    for _ in range(repeats):
        results = call()
    synchronise(results)
    return (time.perf_counter() - start) / repeats


def _spread(times: list[float]) -> float:
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float((high - low) / middle)


def _summary(times: list[float], repeats: int) -> dict[str, Any]:
    low, middle, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
    return {
        "median_s": middle,
        "q1_s": low,
        "q3_s": high,
        "min_s": min(times),
        "samples": len(times),
        "calls_per_sample": repeats,
    }
