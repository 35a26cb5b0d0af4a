"""Curves of the methods side by side. matplotlib is imported when something is drawn, and not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .integrators import INTEGRATORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves", "figure"]

LEAST = 1e-17  # what is smaller, zero too, is drawn here: the axes are logarithmic


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; ImportError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'hamiltorch_ext[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def curves(
    x: Sequence[float],
    measured: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """One curve a method on logarithmic axes, ``notes`` beside its name; a method has the same colour in all plots."""
    canvas = figure(7, 4.2)
    axes = canvas.subplots()
    colours = {method: f"C{index}" for index, method in enumerate(INTEGRATORS)}
    marker = "o" if len(x) < 20 else ""
    for method, values in measured.items():
        label = f"{method}, {notes[method]}" if notes else method
        y = [max(value, LEAST) for value in values]
        axes.plot([abs(at) for at in x], y, color=colours[method], marker=marker, markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.legend(loc="outside right upper", frameon=False, fontsize="small")
    return canvas
