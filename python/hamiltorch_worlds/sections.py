"""The sections of the report, one function each: numbers and figures in, words around them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from . import figures
from .config import to_json
from .encoders import build_encoder
from .figures import Band, style
from .files import write_bytes
from .findings import number
from .models import MODELS
from .movie import side_by_side
from .page import Cell, bullets, facts, folded, note, paragraph, picture, table, video
from .paper import PAPER, PAPER_COST
from .run_folder import FinishedRun, array
from .video import iterate_video, write_video

FILM_VIDEOS = 3
FEWEST_UPDATES = 300  # steps of descent below which the report says that it proves nothing
COST_LABELS = {
    "fused_leapfrog": "HNN leapfrog, fused",
    "fused_euler": "HNN Euler, fused",
    "autograd_leapfrog": "HNN leapfrog, autograd",
    "mlp": "Baseline MLP",
}


class Gallery:
    """Keeps each figure as a PNG beside the page, and hands out the HTML that embeds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}

    def show(self, name: str, figure: Figure, lead: str, caption: str) -> str:
        """Write ``figure`` to figures/``name``.png and return it as HTML with its caption."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
        path = self.folder / "figures" / f"{name}.png"
        write_bytes(path, buffer.getvalue())
        self.files[name] = f"figures/{path.name}"
        return picture(buffer.getvalue(), lead, caption)


def glance(run: FinishedRun, found: Sequence[str]) -> str:
    """The result in a few numbers and findings."""
    lead, test = run.models[run.lead]["over_seeds"], run.evaluation["test"]
    cards = [
        (number(lead["mse"]["mean"]), f"mean squared error of {style(run.lead).label}, {run.horizon} steps"),
        (number(lead["skill"]["mean"], 2), "skill against persistence (1 is perfect)"),
    ]
    if lead["relative_drift"]["mean"] is not None:
        cards.append(
            (number(lead["relative_drift"]["mean"], 2), "energy drift, in units of the spread of H over the data")
        )
    cards.append((f"{test['windows']}", f"test windows, from {_count(len(test['videos']), 'video')}"))
    updates = run.config.train.epochs * max(1, run.evaluation["train"]["windows"] // run.config.train.batch_size)
    short = updates < FEWEST_UPDATES
    return (
        facts(cards)
        + (note("Too short to judge.", f"{updates} steps of training only: this run shows the path.") if short else "")
        + bullets(found)
        + note("How the test is made.", f"The data are {run.split_text}.")
    )


def film(run: FinishedRun, gallery: Gallery) -> str:
    """The film of predictions on test videos, and a strip of it."""
    if run.config.encoder.name != "embedded":  # asking the encoder itself would load its large checkpoint
        return paragraph(
            f"The {run.config.encoder.name} encoder cannot be decoded, so predicted latents cannot be seen."
        )
    encoder = build_encoder(run.config.encoder, run.dataset, run.folder / "encoder", progress=False)
    label = style(run.lead).label
    chosen = run.windows.video[run.windows.test].unique().tolist()[:FILM_VIDEOS]
    seconds_per_step = run.config.encoder.stride / run.dataset.fps
    films, strip = [], ""
    for index in chosen:
        latents = run.latents.latents[index]
        predicted = run.rollout(latents[:1], len(latents) - 1)[0]
        panels = {
            "video": _frames_at(run.dataset.videos[index], run.latents.frames[index]),
            "encoded and decoded": encoder.decode(latents).numpy(),
            f"predicted by {label}": encoder.decode(predicted).numpy(),
        }
        source = f"test video: {run.latents.videos[index]}"
        pictures = side_by_side(panels, run.horizon, seconds_per_step, source)
        films += [pictures, np.repeat(pictures[-1:], 4, axis=0)]
        if not strip:
            last = len(latents) - 1
            steps = sorted(
                {round(step) for step in np.linspace(0, run.horizon, 5)}
                | {round(step) for step in np.linspace(run.horizon, last, 4)}
            )
            strip = gallery.show(
                "filmstrip",
                figures.filmstrip(panels, steps, run.horizon),
                f"Frames of the first, {run.latents.videos[index]}.",
                "Rows as in the film. Where the second row is already unlike the first the encoder lost something; "
                "what the third loses on top is the dynamics model's error. Steps in orange lie beyond the horizon "
                "that was trained on.",
            )
    path = gallery.folder / "prediction.mp4"
    write_video(path, np.concatenate(films), fps=1 / seconds_per_step)
    unseen = "not trained on" if run.config.train.split == "video" else "whose other windows were trained on"
    film_html = video(
        path.read_bytes(),
        f"Video, decoded latents, decoded prediction ({_count(len(chosen), 'test video')}, {unseen}; the first, not "
        "the best).",
        f"The prediction sees the first latent, {run.config.encoder.clip} frames, and nothing after it. One step is "
        f"{seconds_per_step:.2f} s, shown at the video's own speed. The bar is blue up to the {run.horizon} steps "
        "the models were trained on, and orange beyond.",
    )
    return film_html + strip


def data(run: FinishedRun, gallery: Gallery) -> str:
    """What the videos show, and how they are split."""
    config, evaluation = run.config, run.evaluation
    labels = [run.dataset.labels(index) for index in range(min(8, len(run.dataset.videos)))]
    if all(label is not None and "positions" in label for label in labels):
        shown = [label["positions"][:100].numpy() for label in labels if label is not None]
        energies = [label["energy"] for label in labels if label is not None]
        change = max(((energy - energy[0]).abs().max() / energy[0]).item() for energy in energies)
        figure = gallery.show(
            "dataset",
            figures.trajectories(shown, config.data.size, config.data.radius, run.dataset.fps),
            "The videos (the paper's Figure 2).",
            "Two balls of equal mass in a box, bouncing off each other and the walls without loss. Each sharp bend "
            f"is a contact. The kinetic energy of these videos changes by at most {number(change, 2)} of itself: "
            "rounding.",
        )
    else:
        images = [next(iter(iterate_video(path))) for path in run.dataset.videos[:8]]
        figure = gallery.show(
            "dataset",
            figures.frames(images, [path.stem for path in run.dataset.videos]),
            "The videos.",
            "The first frame of each of the first videos. There are no labels, so nothing here is compared with "
            "true physics.",
        )
    test, train = evaluation["test"], evaluation["train"]
    text = (
        f"Clips of {config.encoder.clip} frames, one every {config.encoder.stride}, become latents of "
        f"{run.windows.dim} numbers; the first half is taken for q, the second for p. Runs of {config.train.window} "
        f"latents are the windows: {train['windows']} for training from {_count(len(train['videos']), 'video')}, "
        f"{test['windows']} for testing from {_count(len(test['videos']), 'video')}. They are {run.split_text}."
    )
    remark = note(
        "Against leakage.",
        "Neighbouring windows share all but one of their latents. The paper splits windows at random, so nearly "
        "every test window has a near copy in the training set; here whole videos are held out unless "
        "train.split=window asks for the paper's way.",
    )
    return figure + paragraph(text) + remark


def prediction(run: FinishedRun, gallery: Gallery) -> str:
    """Errors on the test windows (Table 2, Figure 4) and skill."""
    means = {name: entry["over_seeds"]["mse"]["mean"] for name, entry in run.models.items()}
    best = min((value for value in means.values() if value is not None), default=None)
    rows: list[list[str | Cell]] = []
    for name, entry in run.models.items():
        over = entry["over_seeds"]
        rows.append(
            [
                _name(name),
                f"{entry['parameters']:,}",
                Cell(_plus_minus(run.band(name, "mse")), "best" if means[name] == best else ""),
                number(over["normalised_mse"]["mean"]),
                number(over["skill"]["mean"]),
                number(over["latent_step"]["mean"]),
                Cell(f"{PAPER[name].mse[0]} ± {PAPER[name].mse[1]}" if name in PAPER else "", "paper"),
            ]
        )
    spread = f"{len(run.config.seeds)} seeds" if run.several else "test windows"
    html = table(
        [
            "Model",
            "Parameters",
            f"MSE, mean ± sd over {spread}",
            "MSE / Var(z)",
            "Skill",
            "Latent step",
            Cell("Paper's MSE, V-JEPA 2 latents", "paper"),
        ],
        rows,
        f"Error over {run.horizon}-step rollouts (the paper's Table 2).",
        "MSE in squared latent units, mean over dimensions and steps; 1 in the next column is the error of "
        "predicting the mean. Skill is 1 - MSE / MSE of persistence. The latent step is the mean distance between "
        f"neighbouring predictions (in the data {number(run.evaluation['latent']['step'])}); a model that stalls has "
        "a small one. The paper's numbers belong to another encoder and another split: compare ratios, not values.",
    )
    curves = {name: run.band(name, "mse_per_horizon") for name in run.models}
    curves = {name: curve for name, curve in curves.items() if np.isfinite(curve.mean).all()}
    # Over windows the spreads are wide: only the two models that the paper compares.
    banded = tuple(curves) if run.several else ("hnn", "mlp")
    of_two = "" if run.several else " for the two models that the paper compares"
    if curves:
        html += gallery.show(
            "error_per_horizon",
            figures.error_per_horizon(curves, banded),
            "Error at each step (Figure 4).",
            f"Mean over {run.evaluation['test']['windows']} test windows; shaded, ± 1 sd over {spread}{of_two}. "
            "Dashed lines are references that need no training by descent. A model is only worth its cost where it "
            "lies below all of them.",
        )
    skills = {
        name: array(entry["over_seeds"]["skill_per_horizon"]["mean"])
        for name, entry in run.models.items()
        if name != "persistence"
    }
    skills = {name: curve for name, curve in skills.items() if np.isfinite(curve).all()}
    if skills:
        html += gallery.show(
            "skill",
            figures.skill(skills),
            "Skill at each step.",
            "How much of persistence's error each model removes. Consecutive clips share most of their frames, so "
            "persistence is hard to beat at the first step and easy later.",
        )
    return html


def energy(run: FinishedRun, gallery: Gallery) -> str:
    """Energy along rollouts (Figure 3), and what one step keeps."""
    own = [name for name in run.models if (run.first_seed(name)["energy"] or {}).get("of") == "own"]
    if not own:
        return paragraph("None of the models of this run has an energy.")
    drift, long = {}, run.evaluation["extended_steps"]
    for name in own:
        energy = run.first_seed(name)["energy"]
        change, spread = energy["extended"]["change_per_step"], energy["spread"]
        if spread and None not in change["mean"]:
            drift[name] = Band(array(change["mean"]) / spread, array(change["std"]) / spread)
    html = ""
    if drift:
        first = next(iter(drift))
        html += gallery.show(
            "energy",
            figures.energy(drift, run.horizon, array(run.first_seed(first)["energy"]["extended"]["example"])),
            "Energy along the rollout (Figure 3).",
            f"Left: {style(first).label}, the first test window, in the units of its own H. Middle and right: the "
            f"mean change from the start over test windows, ± 1 sd, seed {run.config.seeds[0]}, divided by the "
            f"spread of each model's H over the test latents. Beyond {run.horizon} steps there is no training and, "
            "beyond the video's end, no truth.",
        )
    structure = run.evaluation["structure"]
    rows: list[list[str | Cell]] = [
        [
            _name(name),
            number(run.models[name]["over_seeds"]["dt"]["mean"]),
            number(structure[name]["symplectic_defect"], 2),
            number(structure[name]["return_error"], 2),
            number(run.models[name]["over_seeds"]["relative_drift"]["mean"], 2),
            number(run.models[name]["over_seeds"]["extended_relative_drift"]["mean"], 2),
        ]
        for name in own
    ]
    html += table(
        [
            "Model",
            "Learned Δt",
            "Symplectic defect",
            "Return error",
            f"Drift, {run.horizon} steps",
            f"Drift, {long} steps",
        ],
        rows,
        "What one step keeps, measured in float64.",
        "Symplectic defect: norm of AᵀJA - J over that of J, for the Jacobian A of one step, mean over four test "
        f"states; about 1e-15 for a symplectic step. Return error: distance from the start after {run.horizon} steps "
        "forward and back, over the distance travelled. Drift: max |H(t) - H(0)| over the spread of H. The "
        "paper's Δt went from 1 to 1.167.",
    )
    return html + note(
        "Not symplectic.",
        "The paper's Algorithm 1 is symplectic, volume preserving and reversible for H = T(p) + V(q) only. Its "
        "network H(q, p) is not of that form, so its Proposition 1 does not hold, and the defect above is what is "
        "missing. A small defect here means that the learned H curves little within one step, not that the "
        "method keeps the structure.",
    ) + note(
        "Why drift is divided.",
        "(H, Δt) and (cH, Δt/c) give the same rollout for any c, so an energy loss in absolute units falls when H "
        "merely shrinks. Divided by the spread of H over the data, it cannot.",
    )  # fmt: skip


def ablation(run: FinishedRun, gallery: Gallery) -> str:
    """What each part contributes (Table 3, Figure 7)."""
    rows: list[list[str | Cell]] = []
    errors, drifts, borrowed = {}, {}, []
    for name, entry in run.models.items():
        energy, error, published = run.first_seed(name)["energy"], run.band(name, "mse"), PAPER.get(name)
        mark = " *" if energy and energy["of"] != "own" else ""
        if np.isfinite(error.mean):
            errors[name] = error
        # Of the models without an H the figure shows the one that the paper's shows.
        if energy and (not mark or name == "mlp") and np.isfinite((drift := run.band(name, "relative_drift")).mean):
            drifts[name] = drift
            borrowed += [name] if mark else []
        rows.append(
            [
                _name(name),
                _integrator(run, name),
                _energy_weight(run, name),
                _plus_minus(error),
                _plus_minus(run.band(name, "relative_drift")) + mark if energy else "no H",
                number(entry["over_seeds"]["drift"]["mean"], 2) + mark if energy else "no H",
                Cell(f"{published.mse[0]:.3f} ± {published.mse[1]:.3f}" if published else "", "paper"),
                Cell(f"{published.drift[0]:.3f} ± {published.drift[1]:.3f}" if published else "", "paper"),
            ]
        )
    html = table(
        [
            "Model",
            "Integrator",
            "λ",
            "MSE",
            "Drift / spread of H",
            "Drift, absolute",
            Cell("Paper: MSE", "paper"),
            Cell("Paper: drift", "paper"),
        ],
        rows,
        "Ablation (the paper's Table 3).",
        f"Drift is max |H(t) - H(0)| over {run.horizon} steps, mean ± sd over "
        f"{'seeds' if run.several else 'test windows'}. * has no H of its own: measured with the HNN's, as in the "
        "paper; it says little about the model. Each HNN is measured with its own H, so absolute drifts of two rows "
        "are in different units. The paper's numbers: V-JEPA 2 latents, window split, absolute drift.",
    )
    if errors and drifts:
        html += gallery.show(
            "ablation",
            figures.ablation(errors, drifts, borrowed, run.several),
            "The same, drawn (Figure 7).",
            "Left: prediction error; lower is better. Right: scale-free energy drift; hollow, along the HNN's H. "
            "Low drift alone is no merit: persistence has none.",
        )
    return html


def training(run: FinishedRun, gallery: Gallery) -> str:
    """Losses over the epochs (Figure 5)."""
    path = run.folder_of(run.lead) / "metrics.jsonl"
    if not path.exists():
        return paragraph("No model of this run was trained by descent.")
    log = [json.loads(line) for line in path.read_text().splitlines()]
    history = {
        key: array([row[key] for row in log]) for key in ("prediction", "test_mse", "energy", "energy_weight", "dt")
    }
    history = {key: values for key, values in history.items() if np.isfinite(values).any()}
    seconds = sum(row["seconds"] for row in log)
    devices = " and ".join(dict.fromkeys(row["device"] for row in log))  # several where it was resumed on another
    peak = max((row["peak_memory_mib"] for row in log if row["peak_memory_mib"] is not None), default=None)
    memory = "" if peak is None else f", with at most {peak:.0f} MiB of GPU memory"
    html = gallery.show(
        "training",
        figures.training_curves(history),
        f"Training of {style(run.lead).label}, seed {run.config.seeds[0]} (Figure 5).",
        f"{len(log)} epochs in {seconds:.0f} s on {devices}{memory}. Test error is measured after each epoch and used "
        "for nothing: the last weights are kept. Below, the weight λ of the energy loss and the learned time step, in "
        "latents.",
    )
    rows: list[list[str | Cell]] = []
    for name in run.models:
        log_path = run.folder_of(name) / "metrics.jsonl"
        if log_path.exists():
            last = json.loads(log_path.read_text().splitlines()[-1])
            gap = last["test_mse"] / last["prediction"] if last["test_mse"] and last["prediction"] else None
            rows.append([_name(name), number(last["prediction"]), number(last["test_mse"]), number(gap, 2)])
    return html + table(
        ["Model", "Train prediction loss", "Test MSE", "Test / train"],
        rows,
        "The last epoch.",
        "A ratio well above one is overfitting: the test videos are new. The paper reports 0.097 and 0.102, a ratio "
        "of 1.05, on windows that overlap.",
    )


def portraits(run: FinishedRun, gallery: Gallery) -> str:
    """Phase portraits (Figure 6)."""
    index = int(run.windows.video[run.windows.test][0])
    truth = run.latents.latents[index]
    predicted = run.rollout(truth[:1], max(run.horizon, len(truth) - 1))[0]
    return gallery.show(
        "phase_portraits",
        figures.phase_portraits(truth.numpy(), predicted.numpy(), run.lead, run.horizon),
        "Four conjugate pairs (Figure 6).",
        f"Test video {run.latents.videos[index]}: in grey what the encoder saw, in colour what "
        f"{style(run.lead).label} predicted from the first latent alone. The paper shows the predictions only; "
        "smooth curves are no sign of quality unless they follow the grey ones.",
    )


def cost(run: FinishedRun, gallery: Gallery) -> str:
    """Time per rollout step (section 5.6)."""
    cost = run.evaluation["cost"]
    times = {key: entry for key, entry in cost["milliseconds_per_step"].items() if key in COST_LABELS}
    base = times["autograd_leapfrog"]["median"]
    rows: list[list[str | Cell]] = [
        [
            COST_LABELS[key],
            f"{number(entry['mean'])} ± {number(entry['std'], 2)}",
            number(entry["median"]),
            f"{base / entry['median']:.2g}",
            Cell(f"{PAPER_COST[key]}", "paper"),
        ]
        for key, entry in times.items()
    ]
    where = cost["device"] + (f", {_count(cost['threads'], 'thread')}" if cost["device"] == "cpu" else "")
    if "fused_leapfrog" in times:
        ratio = times["fused_leapfrog"]["median"] / times["mlp"]["median"]
        remark = f"A fused leapfrog step costs {ratio:.2g} times a step of the baseline MLP"
        remark += "; in the paper, by autograd, 18 times."
    else:
        remark = "This build has no fused rollouts for this device, so the models ran by autograd too."
    headings = ["Method", "ms per step, mean ± sd", "Median", "Speed-up over autograd"]
    return table(
        [*headings, Cell("Paper's code, A100, ms", "paper")],
        rows,
        f"Cost of a {cost['steps']}-step rollout, batch {cost['batch']}, on {where}.",
        f"{cost['warm_up']} warm-up and {cost['runs']} timed runs, methods taking turns, without gradients, each "
        f"time that of the finished rollout; torch {cost['versions']['torch']}, hamiltorch_ext "
        f"{cost['versions']['hamiltorch_ext']}. {remark}",
    ) + gallery.show(
        "cost",
        figures.cost({COST_LABELS[key]: entry["median"] for key, entry in times.items()}),
        "The same, drawn.",
        "Median milliseconds per step. Autograd, drawn dark, is what the paper's code does: three differentiated "
        "passes of H per leapfrog step.",
    )  # fmt: skip


def probe(run: FinishedRun) -> str:
    """What the latents hold of the true state."""
    probed = run.evaluation["probe"]
    if probed is None:
        return paragraph("The videos carry no labels, so there is no true state to read off the latents.")
    rows: list[list[str | Cell]] = [
        [what, _r_squared(probed[key])]
        for key, what in (
            ("positions", "Positions of both balls"),
            ("velocities", "Velocities"),
            ("energy", "Kinetic energy"),
        )
    ]
    return table(
        ["True quantity", "R² on test videos"],
        rows,
        "What a linear probe reads off one latent.",
        "Ridge regression from z to the state at the clip's last frame, tested on "
        f"{_count(probed['test_videos'], 'held-out video')}; 1 is perfect, 0 is the mean, below 0 is worse than the "
        "mean. Energy is quadratic in velocity, so a linear probe may miss it. What the latents do not hold at all, "
        "no dynamics model can predict.",
    )


def limits(run: FinishedRun) -> str:
    """What the numbers do not show."""
    if run.config.encoder.name == "embedded":
        points = [
            "The latents come from the embedded encoder; the paper's come from V-JEPA 2 (here encoder.name=vjepa2). "
            "Absolute errors and energies here and there are in different units.",
            "The embedded encoder was trained on short snippets of all videos, test videos included; the dynamics "
            "models were not.",
        ]
    else:
        points = [
            "The latents come from V-JEPA 2 as in the paper, but of other videos and split otherwise.",
            "The encoder is frozen and saw none of these videos.",
        ]
    points += [
        "Test windows of one video overlap, so the spread over windows understates the uncertainty; the spread over "
        "seeds "
        + ("is what the tables show." if run.several else "needs more seeds than this run has (--seeds 0,1,2)."),
        "The energy is the network's own invention. Conserving it is not conserving the balls' kinetic energy, and "
        "the energy loss trains for it.",
        "Energies beyond the end of the videos are extrapolations without any truth to compare with.",
    ]
    return bullets(points)


def again(run: FinishedRun, environment: dict[str, Any]) -> str:
    """How to repeat the run: its settings and surroundings."""
    text = (
        "The same folder and command carry on or skip what is done; config.json in the run folder holds every setting."
    )
    return (
        paragraph(text)
        + folded("Configuration", json.dumps(to_json(run.config), indent=2))
        + folded("Environment", json.dumps(environment, indent=2))
    )


def _r_squared(value: float | None) -> str:
    if value is None:
        return "undefined"
    return number(value, 4) if value > -10 else "below -10"  # of a target that hardly varies in the test videos


def _integrator(run: FinishedRun, name: str) -> str:
    if name not in run.evaluation["structure"]:
        return "none"
    method = str(run.evaluation["structure"][name].get("method", "leapfrog"))  # older evaluations do not say
    return "Euler" if method == "euler" or name == "hnn_euler" else method.replace("_", " ")


def _energy_weight(run: FinishedRun, name: str) -> str:
    if name not in run.evaluation["structure"]:
        return "none"
    start, end = run.config.train.energy_weight_start, run.config.train.energy_weight_end
    return f"{start:g} → {end:g}" if MODELS[name].energy_loss else "0"  # type: ignore[index]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _name(name: str) -> Cell:
    return Cell(style(name).label, "", style(name).colour)


def _plus_minus(band: Band) -> str:
    if not np.isfinite(band.mean):
        return number(None)
    return (
        f"{number(float(band.mean))} ± {number(float(band.std), 2)}"
        if np.isfinite(band.std)
        else number(float(band.mean))
    )


def _frames_at(path: Path, indices: Tensor) -> NDArray[np.uint8]:
    """The frames of a video at ascending ``indices``, uint8 (n, H, W, 3)."""
    wanted = set(indices.tolist())
    return np.stack([frame for index, frame in enumerate(iterate_video(path)) if index in wanted])
