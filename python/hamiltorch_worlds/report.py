"""The report of a run: one self-contained HTML page, its figures, its film and its numbers."""

from __future__ import annotations

from pathlib import Path

from . import sections
from .config import to_json
from .files import read_json, write_bytes, write_json
from .findings import findings
from .page import Section, page
from .paper import PAPER
from .run_folder import FinishedRun

__all__ = ["build_report"]


def build_report(folder: Path | str) -> Path:
    """Write the report of an evaluated run and return the path of its page.

    Args:
        folder: a run folder with config.json, evaluation.json, environment.json, latents/, models/, and its videos.

    Returns:
        ``folder``/report/report.html, one file that needs no other. Beside it: report.json (the same numbers and
        findings), figures/*.png and, where the encoder can decode, prediction.mp4.

    Raises:
        FileNotFoundError, ValueError: a part of the run is missing or damaged; the message names it.
    """
    run = FinishedRun.open(Path(folder))
    environment = read_json(run.folder / "environment.json")
    target = run.folder / "report"
    gallery = sections.Gallery(target)
    found = findings(run.evaluation)
    parts = [
        Section("glance", "At a glance", sections.glance(run, found)),
        Section("film", "The prediction, seen", sections.film(run, gallery)),
        Section("data", "Data and split", sections.data(run, gallery)),
        Section("prediction", "Prediction", sections.prediction(run, gallery)),
        Section("energy", "Energy and structure", sections.energy(run, gallery)),
        Section("ablation", "Ablation", sections.ablation(run, gallery)),
        Section("training", "Training", sections.training(run, gallery)),
        Section("portraits", "Phase portraits", sections.portraits(run, gallery)),
        Section("cost", "Cost", sections.cost(run, gallery)),
        Section("latents", "What the latents hold", sections.probe(run)),
        Section("limits", "How far to trust this", sections.limits(run)),
        Section("again", "Run it again", sections.again(run, environment)),
    ]
    write_json(
        target / "report.json",
        {
            "findings": found,
            "config": to_json(run.config),
            "environment": environment,
            "evaluation": run.evaluation,
            "paper": {name: row._asdict() for name, row in PAPER.items()},
            "figures": gallery.files,
        },
    )
    html = page(
        title="Hamiltonian dynamics on latent video",
        eyebrow=f"H-JEPA experiment, {run.config.encoder.name} encoder",
        lede=(
            f"{len(run.dataset.videos)} videos became sequences of {run.windows.dim}-dimensional latents z = (q, p). "
            "A network learned one scalar, an energy H(q, p), and Hamilton's equations roll it forward. Here is how "
            "well that predicts, what it conserves, what it costs, and how it compares with models that know no "
            "mechanics."
        ),
        sections=parts,
        footer=f"Made by hamiltorch_worlds from {run.folder.resolve().name}/. Numbers: report.json. Figures: figures/.",
    )
    path = target / "report.html"
    write_bytes(path, html.encode())
    return path
