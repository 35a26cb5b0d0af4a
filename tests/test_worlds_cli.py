"""The command line, end to end on a tiny run, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hamiltorch_worlds import experiment
from hamiltorch_worlds.cli import app
from hamiltorch_worlds.config import to_json
from hamiltorch_worlds.experiment import Experiment
from hamiltorch_worlds.report import build_report
from hamiltorch_worlds.training import DivergenceError
from hamiltorch_worlds.video import read_video
from typer.testing import CliRunner

TINY = [
    "data.videos=3",
    "data.frames=40",
    "encoder.training_seconds=0.5",
    "encoder.latent_dim=32",
    "train.window=6",
    "train.epochs=1",
    "train.hidden=8,8",
    "train.baseline_hidden=8",
]


# Without --device a GPU is taken where there is one, and this build may have no kernels for it.
pytestmark = pytest.mark.filterwarnings("ignore:running on the torch reference path")


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line_error(result, *parts):
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert str(part) in result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished demo, and what the command printed; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = command("demo", "--preset", "quick", "--run", folder, "--seeds", "0,1", *TINY)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_demo_runs_every_stage_and_ends_by_naming_the_report(finished):
    folder, printed = finished
    page = folder / "report" / "report.html"
    assert printed.splitlines()[-1] == f"report: {page}"
    for stage in ("data:", "encode:", "train: hnn, seed 1", "evaluate:", "report:"):
        assert stage in printed
    assert printed.count(" s\n") >= 5  # each stage says how long it took

    html = page.read_text()
    assert "://" not in html  # nothing is loaded from elsewhere
    for figure in (
        "dataset",
        "energy",
        "error_per_horizon",
        "training",
        "phase_portraits",
        "ablation",
        "skill",
        "cost",
    ):
        assert (folder / "report" / "figures" / f"{figure}.png").exists()
    for reference in ("Persistence", "Linear", "Residual MLP", "0.102 ± 0.045", "over 2 seeds", "split by video"):
        assert reference in html
    assert read_video(folder / "report" / "prediction.mp4").shape[0] > 10
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["evaluation"]["structure"]["hnn"]["symplectic_defect"] > 0
    assert len(report["findings"]) >= 4


def test_a_second_demo_changes_nothing(finished):
    folder, _ = finished
    kept = [folder / "evaluation.json", *folder.glob("models/*/model.safetensors"), *folder.glob("latents/*")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.name != "manifest.json"}
    result = command("demo", "--run", folder, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"report: {folder / 'report' / 'report.html'}\n"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_seed_is_added_to_a_run(copied):
    result = command("evaluate", "--run", copied, "--seeds", "0,1,2", "models=hnn,persistence")
    assert result.exit_code == 0, result.output
    evaluation = json.loads((copied / "evaluation.json").read_text())
    assert list(evaluation["models"]) == ["hnn", "persistence"]
    assert list(evaluation["models"]["hnn"]["seeds"]) == ["0", "1", "2"]


def test_an_evaluation_is_kept_until_another_device_is_named(copied):
    path = copied / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda:0 (Some GPU)"}))
    for named, device in (
        ([], "cuda:0 (Some GPU)"),
        (["--device", "auto"], "cuda:0 (Some GPU)"),
        (["--device", "cpu"], "cpu"),
    ):
        result = command("evaluate", "--run", copied, *named)
        assert result.exit_code == 0, result.output
        assert json.loads(path.read_text())["device"] == device
    assert json.loads(path.read_text())["cost"]["device"] == "cpu"
    again = path.stat().st_mtime_ns
    assert command("evaluate", "--run", copied, "--device", "cpu").exit_code == 0
    assert path.stat().st_mtime_ns == again


def test_own_videos_without_labels(finished, tmp_path):
    folder, _ = finished
    run = tmp_path / "own"
    own = f"data.folder={folder / 'data' / 'videos'}"
    result = command("demo", "--preset", "quick", "--run", run, *TINY, own, "models=residual_mlp,persistence")
    assert result.exit_code == 0, result.output
    assert "no true state to read" in (run / "report" / "report.html").read_text()


def test_stages_one_by_one(tmp_path):
    for stage, last in (("data", "videos"), ("encode", "latents")):
        first = ["--preset", "quick", *TINY] if stage == "data" else []
        result = command(stage, "--run", tmp_path / "run", "--quiet", *first)
        assert result.exit_code == 0, result.output
        assert result.stdout.rstrip().endswith(last)


@pytest.mark.parametrize(
    ("override", "message"),
    [("train.epoch=3", "train.epochs"), ("train.epochs=three", "integer"), ("epochs", "key=value")],
)
def test_bad_override(tmp_path, override, message):
    assert_one_line_error(command("demo", "--run", tmp_path / "run", override), override.split("=")[0], message)
    assert not (tmp_path / "run").exists()


def test_unknown_preset(tmp_path):
    assert_one_line_error(command("demo", "--run", tmp_path / "run", "--preset", "huge"), "paper", "quick", "'huge'")


@pytest.mark.parametrize("stage", ["encode", "train", "evaluate", "report"])
def test_missing_run(tmp_path, stage):
    assert_one_line_error(command(stage, "--run", tmp_path / "none"), tmp_path / "none", "no run")
    assert not (tmp_path / "none").exists()


def test_missing_folder_of_videos(tmp_path):
    result = command("demo", "--run", tmp_path / "run", f"data.folder={tmp_path / 'none'}")
    assert_one_line_error(result, tmp_path / "none")


def test_missing_encoder_folder(tmp_path):
    missing = tmp_path / "none" / "vjepa2"
    own = ["encoder.name=vjepa2", f"encoder.checkpoint={missing}"]
    result = command("demo", "--preset", "quick", "--run", tmp_path / "run", *TINY, *own)
    assert_one_line_error(result, missing)


def test_other_settings_in_the_same_folder(copied):
    before = (copied / "config.json").read_text()
    result = command("train", "--run", copied, "train.epochs=7")
    assert_one_line_error(result, "train.epochs is 1 there, not 7", copied)
    assert (copied / "config.json").read_text() == before


@pytest.mark.parametrize(
    "name", ["models/hnn-seed0/model.safetensors", "models/hnn-seed0/config.json", "config.json", "evaluation.json"]
)
def test_damaged_file(copied, name):
    path = copied / name
    path.write_bytes(path.read_bytes()[:-40])
    assert_one_line_error(command("report", "--run", copied), path, "damaged")


def test_report_of_another_configuration(copied):
    run = Experiment.open(copied, ["seeds=0"])
    assert to_json(run.config)["seeds"] == [0]
    with pytest.raises(ValueError, match=r"evaluation\.json belongs to other settings"):
        build_report(copied)


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [(KeyboardInterrupt(), 130, "same command"), (DivergenceError("the loss is nan"), 1, "error: the loss is nan")],
)
def test_failures_in_a_stage(tmp_path, monkeypatch, failure, code, said):
    def generate(*arguments, **settings):
        raise failure

    monkeypatch.setattr(experiment, "generate", generate)
    result = command("data", "--run", tmp_path / "run")
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    def generate(*arguments, **settings):
        raise AssertionError("a bug")

    monkeypatch.setattr(experiment, "generate", generate)
    result = command("data", "--run", tmp_path / "run")
    assert isinstance(result.exception, AssertionError)


def test_help_is_quick_and_shows_examples():
    code = "import sys, hamiltorch_worlds.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "Examples" in command("--help").stdout
    assert "train.epochs=3" in command("demo", "--help").stdout
