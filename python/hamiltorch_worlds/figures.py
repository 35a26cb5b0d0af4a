"""The figures of the report, one function each, in one house style.

Every function takes plain arrays and returns a ``matplotlib.figure.Figure``; none touches a file or a global setting.
A model has the same colour everywhere (``STYLES``), shaded bands are one standard deviation, axes carry units, and
lines are labelled where they end instead of in a legend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = [
    "STYLES",
    "Band",
    "Style",
    "ablation",
    "cost",
    "energy",
    "error_per_horizon",
    "filmstrip",
    "frames",
    "phase_portraits",
    "skill",
    "style",
    "training_curves",
    "trajectories",
]

Array = NDArray[Any]
P = ParamSpec("P")


class Style(NamedTuple):
    """How a model is named and drawn everywhere; ``trained`` is False for references that learn nothing by descent."""

    label: str
    colour: str
    trained: bool = True


class Band(NamedTuple):
    """A mean and its standard deviation, arrays of one shape."""

    mean: Array
    std: Array


STYLES: dict[str, Style] = {
    "hnn": Style("HNN leapfrog", "#2463b0"),
    "hnn_no_energy": Style("HNN, no energy loss", "#1f9268"),
    "hnn_euler": Style("HNN Euler", "#d9820f"),
    "hnn_stormer_verlet": Style("HNN Störmer-Verlet", "#7aa6e0"),
    "hnn_midpoint": Style("HNN implicit midpoint", "#12a4bd"),
    "hnn_separable": Style("HNN T(p) + V(q)", "#8a9a2b"),
    "hnn_phase_space": Style("HNN, learned phase space", "#b0568f"),
    "mlp": Style("Baseline MLP", "#c43c35"),
    "residual_mlp": Style("Residual MLP", "#8450b8"),
    "linear": Style("Linear", "#0e8c99", trained=False),
    "persistence": Style("Persistence", "#6b7280", trained=False),
}

INK, MUTED, HAIRLINE = "#1b2430", "#5b6573", "#dfe3e8"
BALLS = ("#12a4bd", "#d6483f")
HOUSE = {
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#aab2bd",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
}


def style(name: str) -> Style:
    """Return the style of a model; one that the table does not hold is drawn in ink under its own name."""
    return STYLES.get(name, Style(name, INK))


def _in_house_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(HOUSE):  # type: ignore[arg-type]
            figure = draw(*args, **kwargs)
            # Text places itself when the canvas is drawn, so that must happen while the style is in force.
            figure.draw_without_rendering()
            return figure

    return drawn


def _canvas(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))


def _panels(columns: int, width: float, height: float, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = _canvas(width, height)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each (y, text, colour) beside the right edge at its height, moved apart where they would overlap.

    The limits and the scale of the y axis must be final.
    """
    to_axes = ax.transData - ax.transAxes
    right = ax.get_xlim()[1]

    def place(y: float) -> float:
        return float(np.clip(to_axes.transform((right, max(y, ax.get_ylim()[0])))[1], 0, 1))

    gap = 0.15 / (ax.get_window_extent().height / ax.figure.dpi)  # one line of text, as axes fraction
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    heights = [place(ends[i][0]) for i in order]
    for _ in range(200):  # push neighbours apart evenly until none overlaps
        moved = False
        for k in range(1, len(heights)):
            overlap = gap - (heights[k] - heights[k - 1])
            if overlap > 1e-4:
                heights[k - 1] -= overlap / 2
                heights[k] += overlap / 2
                moved = True
        if not moved:
            break
    for i, height in zip(order, heights, strict=True):
        _, text, colour = ends[i]
        ax.text(1.012, height, text, transform=ax.transAxes, color=colour, va="center", fontsize=9)


def _lines(ax: Axes, steps: Array, curves: Mapping[str, Band], banded: Collection[str]) -> None:
    """Draw one line per model, references dashed, and the bands of those in ``banded``."""
    for name, curve in curves.items():
        _, colour, trained = style(name)
        ax.plot(steps, curve.mean, color=colour, linestyle="-" if trained else (0, (4, 2)), zorder=3)
        if name in banded:
            ax.fill_between(
                steps, curve.mean - curve.std, curve.mean + curve.std, color=colour, alpha=0.13, linewidth=0
            )


def _end_labels(ax: Axes, curves: Mapping[str, Band]) -> None:
    _label_ends(ax, [(float(curve.mean[-1]), style(name).label, style(name).colour) for name, curve in curves.items()])


@_in_house_style
def trajectories(positions: Sequence[Array], size: int, radius: float, fps: float) -> Figure:
    """Paths of two balls in up to eight videos (H-JEPA, Figure 2).

    Args:
        positions: one array (T, 2, 2) per video: time, ball, (x, y) in pixels, y downward as in the image.
        size: width and height of the image in pixels.
        radius: radius of the balls in pixels.
        fps: frames per second.
    """
    shown = positions[:8]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = _panels(columns, 2.3 * columns + 0.4, 2.42 * rows + 0.5, rows, sharex=True, sharey=True)
    for number, (ax, path) in enumerate(zip(axes, shown, strict=False)):
        for ball, colour in enumerate(BALLS):
            x, y = path[:, ball, 0], path[:, ball, 1]
            ax.plot(x, y, color=colour, linewidth=1.4)
            ax.add_patch(Circle((x[0], y[0]), radius, fill=False, color=colour, linewidth=1.1, linestyle=(0, (2, 2))))
            ax.add_patch(Circle((x[-1], y[-1]), radius, color=colour, alpha=0.85, linewidth=0))
        ax.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=(0, size // 2, size), yticks=(0, size // 2, size))
        ax.grid(visible=False)
        for side in ax.spines.values():
            side.set_visible(True)
        ax.set_title(f"video {number}", fontsize=9, fontweight="normal", color=MUTED, pad=4)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    frames_shown = len(shown[0])
    figure.suptitle(
        f"Two-ball collisions, {frames_shown} frames ({frames_shown / fps:.1f} s) each: dashed start, filled end",
        fontsize=10.5, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    figure.supxlabel("x (px)", fontsize=9.5, color=MUTED)
    figure.supylabel("y (px)", fontsize=9.5, color=MUTED)
    return figure


@_in_house_style
def frames(images: Sequence[Array], titles: Sequence[str]) -> Figure:
    """One frame of each of up to eight videos, for data without labels; images uint8 (H, W, 3)."""
    shown = images[:8]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = _panels(columns, 2.3 * columns + 0.2, 2.2 * rows + 0.2, rows)
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, shown, titles, strict=False):
        ax.imshow(image)
        ax.set_title(title, fontsize=8.5, fontweight="normal", color=MUTED, pad=3)
    return figure


@_in_house_style
def energy(drift: Mapping[str, Band], horizon: int, example: Array) -> Figure:
    """Learned energy along rollouts from test states (H-JEPA, Figure 3).

    Args:
        drift: per model |H(z_t) - H(z_0)| / std of H over the data, mean and spread over test windows, (steps + 1,).
        horizon: number of steps the models were trained on.
        example: H(z_t) of the first model from one test state in its own units, (steps + 1,).
    """
    figure, (absolute, short, long) = _panels(3, 9.6, 3.4, width_ratios=(1, 1, 1.4))
    first = next(iter(drift))
    absolute.plot(np.arange(len(example)), example, color=style(first).colour)
    absolute.axhline(example[0], color=INK, linewidth=1, linestyle=(0, (4, 2)))
    absolute.axvline(horizon, color="#aab2bd", linewidth=0.9)
    reach = max(float(np.abs(example - example[0]).max()) * 1.3, 1e-6)
    absolute.set(ylim=(example[0] - reach, example[0] + reach), xlabel="rollout step", ylabel="H (learned units)")
    absolute.set_title("One window: H")
    for ax, steps in ((short, horizon), (long, len(example) - 1)):
        cut = {name: Band(curve.mean[: steps + 1], curve.std[: steps + 1]) for name, curve in drift.items()}
        _lines(ax, np.arange(steps + 1), cut, banded=cut)
        ax.set(xlabel="rollout step", xlim=(0, steps))
        ax.set_ylim(bottom=0)
        ax.set_title(f"{steps} steps" + (", training horizon" if steps == horizon else ", open loop"))
    short.set_ylabel("|H(t) - H(0)| / sd of H over the data")
    for ax in (absolute, short, long):
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    long.axvline(horizon, color="#aab2bd", linewidth=0.9)
    long.text(horizon, 0.94, " trained up to here", transform=long.get_xaxis_transform(), color=MUTED, fontsize=8.5)
    figure.draw_without_rendering()
    _end_labels(long, drift)
    return figure


@_in_house_style
def error_per_horizon(errors: Mapping[str, Band], banded: Collection[str]) -> Figure:
    """Squared error of each rollout step, mean and spread over test windows (H-JEPA, Figure 4).

    Args:
        errors: per model the error at steps 1, 2, ..., shape (steps,).
        banded: models whose band is drawn; wide bands of many models cover each other.
    """
    figure, (ax,) = _panels(1, 8.6, 4.3)
    steps = np.arange(1, len(next(iter(errors.values())).mean) + 1)
    _lines(ax, steps, errors, banded)
    ends = [float(curve.mean.max()) for curve in errors.values()]
    if max(ends) > 20 * min(ends):  # one model that blew up would press all others onto the axis
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5 * min(float(curve.mean.min()) for curve in errors.values()))
    else:
        ax.set_ylim(bottom=0)
    ax.set(xlabel="rollout step (one latent)", ylabel="mean squared error (latent units²)", xlim=(1, steps[-1]))
    ax.set_title("Prediction error by horizon")
    figure.draw_without_rendering()
    _end_labels(ax, errors)
    return figure


@_in_house_style
def skill(values: Mapping[str, Array]) -> Figure:
    """Skill 1 - error / error of persistence at each step; zero is 'nothing changes', one is perfect; (steps,) each."""
    figure, (ax,) = _panels(1, 8.6, 3.9)
    curves = {name: Band(value, np.zeros_like(value)) for name, value in values.items()}
    steps = np.arange(1, len(next(iter(values.values()))) + 1)
    _lines(ax, steps, curves, banded=())
    low = min(float(value.min()) for value in values.values())
    ax.set(ylim=(max(low - 0.05, -1.0), 1.0), xlim=(1, steps[-1]))
    ax.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 2)), zorder=2)
    ax.set(xlabel="rollout step (one latent)", ylabel="skill against persistence")
    ax.set_title("Skill: 1 is perfect, 0 is predicting that nothing changes")
    figure.draw_without_rendering()
    _end_labels(ax, curves)
    return figure


@_in_house_style
def training_curves(history: Mapping[str, Array]) -> Figure:
    """Losses of one training, with the curriculum and the learned step below (H-JEPA, Figure 5).

    Args:
        history: arrays over epochs (E,) named ``prediction``, ``test_mse``, ``energy``, ``energy_weight`` and ``dt``;
            all but the first two may be missing (a model without energy or step).
    """
    small = [(key, text) for key, text in (("energy_weight", "λ"), ("dt", "learned Δt")) if key in history]
    epochs = np.arange(1, len(history["prediction"]) + 1)
    figure = _canvas(8.6, 4.9 if small else 3.9)
    grid = figure.add_gridspec(2 if small else 1, max(1, len(small)), height_ratios=(2.6, 1) if small else (1,))
    ax = figure.add_subplot(grid[0, :])
    drawn: list[tuple[str, str, str, Any]] = [("prediction", "train prediction loss", style("hnn").colour, "-")]
    drawn += [("test_mse", "test error", style("mlp").colour, (0, (4, 2)))]
    if "energy" in history:
        drawn.append(("energy", "energy loss", style("hnn_no_energy").colour, (0, (1, 1.4))))
    for key, _, colour, dash in drawn:
        ax.plot(epochs, history[key], color=colour, linestyle=dash)
    ax.set_yscale("log")
    ax.set(xlim=(1, max(2, epochs[-1])), ylabel="loss (latent units²; energy: |ΔH|)")
    ax.set_title("Losses")
    for column, (key, text) in enumerate(small):
        below = figure.add_subplot(grid[1, column])
        below.plot(epochs, history[key], color=INK, linewidth=1.5)
        below.set(xlim=(1, max(2, epochs[-1])), xlabel="epoch", ylabel=text)
    if not small:
        ax.set_xlabel("epoch")
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.draw_without_rendering()
    _label_ends(ax, [(float(history[key][-1]), text, colour) for key, text, colour, _ in drawn])
    return figure


@_in_house_style
def phase_portraits(truth: Array, predicted: Array, name: str, horizon: int) -> Figure:
    """First four conjugate pairs (q_i, p_i) of one test window, encoded and predicted (H-JEPA, Figure 6).

    Args:
        truth: encoded latents, (T, 2d).
        predicted: the rollout from the first of them, (steps + 1, 2d); it may go on for longer.
        name: the model, for its colour.
        horizon: number of steps the model was trained on.
    """
    d = truth.shape[1] // 2
    pairs = min(4, d)
    figure, axes = _panels(pairs, 2.4 * pairs, 2.9)
    colour = style(name).colour
    for i, ax in enumerate(axes):
        ax.plot(truth[:, i], truth[:, d + i], color="#a9b0ba", linewidth=1.3, marker="o", markersize=2.4)
        ax.plot(predicted[: horizon + 1, i], predicted[: horizon + 1, d + i], color=colour, marker="o", markersize=2.4)
        ax.plot(
            predicted[horizon:, i], predicted[horizon:, d + i], color=colour, linewidth=1.1, linestyle=(0, (2, 1.5))
        )
        ax.plot(truth[0, i], truth[0, d + i], "o", color="#1f9268", markersize=7, zorder=4)
        ax.plot(predicted[horizon, i], predicted[horizon, d + i], "X", color=colour, markersize=8, zorder=4)
        ax.plot(truth[horizon, i], truth[horizon, d + i], "X", color="#7d858f", markersize=8, zorder=4)
        ax.set(xlabel=f"q$_{{{i}}}$", ylabel=f"p$_{{{i}}}$")
    entries = [
        Line2D([], [], color="#a9b0ba", marker="o", markersize=3, label="encoded video"),
        Line2D(
            [], [], color=colour, marker="o", markersize=3, label=f"{style(name).label}, {horizon} steps trained on"
        ),
        Line2D([], [], color=colour, linewidth=1.1, linestyle=(0, (2, 1.5)), label="the same, further"),
        Line2D([], [], color="#1f9268", marker="o", linewidth=0, markersize=7, label="start"),
        Line2D([], [], color=MUTED, marker="X", linewidth=0, markersize=7, label=f"step {horizon}"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


@_in_house_style
def ablation(
    errors: Mapping[str, Band], drifts: Mapping[str, Band], borrowed: Collection[str], several_seeds: bool
) -> Figure:
    """Bars of prediction error and scale-free energy drift per model (H-JEPA, Figure 7).

    Args:
        errors, drifts: scalars as 0-d bands; ``drifts`` may lack models without energy.
        borrowed: models whose drift is along another model's H; drawn hollow.
        several_seeds: whether the bands are spreads over seeds or over test windows, for the caption on the axis.
    """
    figure, axes = _panels(2, 9.4, 0.38 * len(errors) + 1.3, width_ratios=(1.15, 1), sharey=True)
    spread = "± 1 sd over seeds" if several_seeds else "± 1 sd over test windows"
    rows = {name: row for row, name in enumerate(reversed(list(errors)))}
    for ax, bars, title, unit in (
        (axes[0], errors, "Prediction error", f"mean squared error (latent units²), {spread}"),
        (axes[1], drifts, "Energy drift", f"max |H(t) - H(0)| / sd of H, {spread}"),
    ):
        means = {name: float(bar.mean) for name, bar in bars.items()}
        wide = max(means.values()) > 25 * min(means.values()) > 0
        if wide:  # on a logarithmic axis a bar's length means nothing, so points stand for the values
            ax.set_xscale("log")
        for name, bar in bars.items():
            row, mean, std, colour = rows[name], means[name], float(bar.std), style(name).colour
            inside = "white" if bars is drifts and name in borrowed else colour
            if wide:
                ax.plot(mean, row, "o", color=colour, markerfacecolor=inside, markersize=8, zorder=3)
            else:
                ax.barh(row, mean, facecolor=inside, edgecolor=colour, height=0.6)
            left = min(std, 0.9 * mean)
            ax.errorbar(mean, row, xerr=((left,), (std,)), fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
            ax.annotate(f"{mean:.3g}", (mean + std, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
        for name in rows.keys() - bars.keys():
            ax.text(
                0.01,
                rows[name],
                "no H of its own",
                transform=ax.get_yaxis_transform(),
                color=MUTED,
                va="center",
                fontsize=8.5,
            )
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set(xlabel=unit, title=title)
        ax.margins(x=0.18)
    axes[0].set_yticks(list(rows.values()), [style(name).label for name in rows], color=INK)
    return figure


@_in_house_style
def cost(milliseconds: Mapping[str, float]) -> Figure:
    """Wall-clock milliseconds per rollout step of each way to run a model, shortest first (H-JEPA, section 5.6)."""
    ordered = sorted(milliseconds.items(), key=lambda item: item[1])
    figure, (ax,) = _panels(1, 8.6, 0.4 * len(ordered) + 1.1)
    rows = np.arange(len(ordered))[::-1]
    values = [value for _, value in ordered]
    ax.barh(rows, values, color=[INK if "autograd" in text else "#2463b0" for text, _ in ordered], height=0.6)
    for row, value in zip(rows, values, strict=True):
        ax.annotate(f"{value:.3g} ms", (value, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_yticks(rows, [text for text, _ in ordered], color=INK)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="milliseconds per step, batch 1", title="Cost of one rollout step")
    ax.margins(x=0.14)
    return figure


@_in_house_style
def filmstrip(rows: Mapping[str, Array], steps: Sequence[int], horizon: int) -> Figure:
    """Rows of frames over the same steps: truth, reconstruction, prediction.

    Args:
        rows: per row title the frames, uint8 (T, H, W, 3), index = rollout step.
        steps: which steps to show.
        horizon: number of steps the model was trained on; later ones are marked.
    """
    cell = (9.4 - 1.2) / len(steps)  # the row titles take the rest
    figure, axes = _panels(len(steps), 9.4, cell * len(rows) + 0.35, len(rows))
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.025, h_pad=0.025, wspace=0, hspace=0))
    for row, (title, images) in enumerate(rows.items()):
        for column, step in enumerate(steps):
            ax = axes[row * len(steps) + column]
            ax.imshow(images[step], interpolation="lanczos")
            ax.set(xticks=(), yticks=())
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set_visible(False)
            if row == 0:
                late = step > horizon
                ax.set_title(
                    f"step {step}",
                    fontsize=9,
                    fontweight="normal",
                    loc="center",
                    pad=4,
                    color="#d9820f" if late else MUTED,
                )
            if column == 0:
                ax.set_ylabel(fill(title, 14), fontsize=9.5, color=INK, rotation=0, ha="right", va="center", labelpad=8)
    return figure
