"""Figures, film and page of the report, on made-up numbers."""

from __future__ import annotations

import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hamiltorch_worlds import figures, movie, page
from hamiltorch_worlds.findings import findings, number, percent
from matplotlib.figure import Figure
from PIL import Image

STEPS = np.arange(1, 16)


def band(height: float, spread: float = 0.2) -> figures.Band:
    mean = height * np.sqrt(STEPS / 15)
    return figures.Band(mean, spread * mean)


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB"))


def colour(name: str) -> np.ndarray:
    return np.array([int(figures.STYLES[name].colour[i : i + 2], 16) for i in (1, 3, 5)])


def has_colour(image: np.ndarray, name: str) -> bool:
    return bool((np.abs(image.astype(int) - colour(name)).max(axis=-1) < 12).any())


MODEL_FIGURES = {
    "error": lambda names: figures.error_per_horizon({name: band(1 + i) for i, name in enumerate(names)}, names),
    "skill": lambda names: figures.skill({name: 0.1 * i + 0 * STEPS for i, name in enumerate(names)}),
    "energy": lambda names: figures.energy({name: band(1 + i) for i, name in enumerate(names)}, 5, band(1).mean),
    "ablation": lambda names: figures.ablation(
        {name: figures.Band(np.array(1.0 + i), np.array(0.1)) for i, name in enumerate(names)},
        {names[0]: figures.Band(np.array(0.3), np.array(0.1))},
        borrowed=[],
        several_seeds=False,
    ),
}


@pytest.mark.parametrize("kind", MODEL_FIGURES)
def test_a_model_keeps_its_colour_in_every_figure(kind):
    image = pixels(MODEL_FIGURES[kind](["hnn", "mlp"]))
    assert has_colour(image, "hnn")
    assert has_colour(image, "mlp")
    assert not has_colour(image, "residual_mlp")


def test_colours_are_distinct():
    table = np.stack([colour(name) for name in figures.STYLES]).astype(int)
    distance = np.abs(table[:, None] - table[None]).sum(-1) + 1000 * np.eye(len(table), dtype=int)
    assert distance.min() > 60


@pytest.mark.parametrize("height", [1.0, 500.0], ids=["linear", "logarithmic"])
def test_labels_of_lines_that_end_together_do_not_overlap(height):
    ends = {name: band(1.0) for name in figures.STYLES}
    ends["mlp"] = band(height)
    figure = figures.error_per_horizon(ends, banded=ends)
    (ax,) = figure.axes
    assert ax.get_yscale() == ("log" if height > 20 else "linear")
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == len(figures.STYLES)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_bands_are_one_standard_deviation():
    figure = figures.error_per_horizon(
        {"hnn": figures.Band(np.full(15, 2.0), np.full(15, 0.5)), "mlp": band(1)}, ["hnn"]
    )
    (patch,) = figure.axes[0].collections
    vertices = patch.get_paths()[0].vertices[:, 1]
    assert vertices.min() == pytest.approx(1.5)
    assert vertices.max() == pytest.approx(2.5)


def test_remaining_figures_draw():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(34, 12)), axis=0)
    images = rng.integers(0, 255, (34, 16, 16, 3), dtype=np.uint8)
    falling = 1 / STEPS
    drawn = [
        figures.trajectories([rng.uniform(20, 200, (100, 2, 2)) for _ in range(5)], size=256, radius=20, fps=30),
        figures.frames(list(images[:3]), ["a", "b", "c"]),
        figures.training_curves({"prediction": falling, "test_mse": falling, "energy": falling, "dt": falling}),
        figures.training_curves({"prediction": falling[:1], "test_mse": falling[:1]}),
        figures.phase_portraits(walk, walk, "hnn", 15),
        figures.cost({"one": 1.0, "two": 0.2}),
        figures.filmstrip({"video": images, "prediction": images}, (0, 15, 30), 15),
    ]
    for figure in drawn:
        assert pixels(figure).std() > 3


def test_film_has_even_sides_and_its_clock_changes_colour_after_the_training_horizon():
    frames = np.zeros((7, 20, 20, 3), dtype=np.uint8)
    film = movie.side_by_side({"video": frames, "prediction": frames}, horizon=4, seconds_per_step=0.1, source="x")
    assert film.shape[0] == 7
    assert film.shape[1] % 2 == film.shape[2] % 2 == 0
    beyond = np.array([0xF0, 0xA3, 0x3A])
    marked = [(np.abs(picture.astype(int) - beyond).max(-1) < 8).any() for picture in film]
    assert marked == [False] * 5 + [True] * 2


def test_film_refuses_panels_of_different_length():
    short, long = (np.zeros((n, 8, 8, 3), dtype=np.uint8) for n in (3, 4))
    with pytest.raises(ValueError, match=r"same number of frames.*'a': 3, 'b': 4"):
        movie.side_by_side({"a": short, "b": long}, 2, 0.1, "x")


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values["id"]} if "id" in values else set()
        self.links += [values[key] for key in ("href", "src") if key in values]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_escaped():
    body = (
        page.paragraph("a < b & c")
        + page.table(["model", "value"], [[page.Cell("<hnn>", "best", "#123456"), "1"]], "Table.", "Caption.")
        + page.picture(b"png", "Figure.", "Seen.")
        + page.video(b"mp4", "Film.", "Seen.")
        + page.note("Note.", "Text.")
        + page.facts([("1", "one")])
        + page.bullets(["x > y"])
        + page.folded("more", "<pre>")
    )
    html = page.page("T & U", "run", "lede", [page.Section("one", "One", body)], "foot")
    collector = Collector()
    collector.feed(html)
    assert collector.open == []
    assert all(link.startswith("data:") or link[1:] in collector.anchors for link in collector.links)
    assert len(collector.links) == 3
    assert "a &lt; b &amp; c" in html
    assert "<hnn>" not in html
    assert "T &amp; U" in html
    assert not re.search(r"https?://|\$[a-z]", html)


def evaluation(**errors):
    """An evaluation with these errors, persistence at 1, and drifts as in the paper's Table 3."""
    drifts = {"hnn": 0.010, "hnn_no_energy": 0.146, "hnn_euler": 0.012}
    models = {
        name: {
            "over_seeds": {
                "mse": {"mean": error},
                "skill": {"mean": None if error is None else 1 - error},
                "relative_drift": {"mean": drifts.get(name)},
            }
        }
        for name, error in {**errors, "persistence": 1.0}.items()
    }
    return {"models": models, "test": {"horizon": 15}, "structure": {"hnn": {"symplectic_defect": 0.02}}}


def test_findings_say_where_the_structure_does_not_help():
    def said(residual):
        return " ".join(findings(evaluation(hnn=0.5, mlp=1.5, residual_mlp=residual)))

    assert "does not help" in said(0.4)
    assert "does not help" not in said(0.6)
    assert "Worse than predicting that nothing changes: Baseline MLP." in said(0.6)
    assert "not symplectic" in said(0.6)


def test_findings_credit_the_energy_loss_only_where_the_drifts_say_so():
    models = evaluation(hnn=0.5, hnn_no_energy=0.4, hnn_euler=0.5)
    said = " ".join(findings(models))
    assert "0.01 instead of 0.146" in said
    assert "25 % above" in said
    assert "it is the energy loss, not the integrator" in said
    models["models"]["hnn_euler"]["over_seeds"]["relative_drift"]["mean"] = 0.1
    assert "it is the energy loss" not in " ".join(findings(models))


def test_findings_survive_a_model_that_overflows():
    said = " ".join(findings(evaluation(hnn=0.5, mlp=None)))
    assert "baseline MLP" not in said
    assert number(None) == "overflow"


@pytest.mark.parametrize(
    ("value", "text"), [(0.52, "48 % below"), (1.01, "within 2 % of"), (1.3, "30 % above"), (3.4, "3.4 times")]
)
def test_percent(value, text):
    assert percent(value, 1.0) == text
