"""The experiment as stages over one run folder; each makes what it needs first and skips what is done.

The folder: config.json, environment.json, data/, encoder/, latents/, models/<name>-seed<k>/, evaluation.json, report/.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import hamiltorch_ext

from .config import ConfigError, ExperimentConfig, from_json, preset, to_json, with_overrides
from .data import Dataset, generate, load_dataset
from .device import describe_device, resolve_device
from .encoders import build_encoder
from .evaluation import evaluate, measure_cost, probe
from .files import read_json, write_json
from .latents import LatentStore, encode_dataset
from .models import DynamicsModel
from .run_folder import model_folder
from .structure import measure_structure
from .training import train
from .windows import Windows

__all__ = ["Experiment", "environment"]

FREE_TO_CHANGE = ("models", "seeds")
"""What may differ from one command to the next in the same folder: it adds models and invalidates nothing."""


class Experiment:
    """One run: a folder, its configuration, and the stages as methods.

    Stages are ``data``, ``encode``, ``train``, ``evaluate`` and ``report``, each building on the ones before.

    ``device`` is where networks run, one device for everything: "auto" (a GPU where torch can use one), "cpu", "cuda"
    or "cuda:N". It is no setting of the run: each command may use another, and what is made stays as it is. Raises
    ValueError where there is no such device.
    """

    def __init__(
        self, folder: Path | str, config: ExperimentConfig, *, device: str = "auto", quiet: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.config = config
        self.device = resolve_device(device)
        self.any_device = device == "auto"
        self.quiet = quiet
        self.progress = not quiet and sys.stderr.isatty()

    @classmethod
    def start(
        cls,
        folder: Path | str,
        preset_name: str | None,
        overrides: Sequence[str] = (),
        *,
        device: str = "auto",
        quiet: bool = False,
    ) -> Experiment:
        """Begin a run in ``folder``, or carry on with the one that is there.

        ``preset_name`` None means the folder's own configuration, or "paper" for a new one. Raises ConfigError where
        the folder holds a run with other settings.
        """
        path = Path(folder) / "config.json"
        if not path.exists():
            config = with_overrides(preset(preset_name or "paper"), overrides)  # type: ignore[arg-type]
        else:
            stored: ExperimentConfig = from_json(read_json(path))
            config = with_overrides(stored if preset_name is None else preset(preset_name), overrides)  # type: ignore[arg-type]
            _refuse_changes(path, stored, config)
        experiment = cls(folder, config, device=device, quiet=quiet)
        write_json(path, to_json(config))
        write_json(path.with_name("environment.json"), environment(experiment.device))
        return experiment

    @classmethod
    def open(
        cls, folder: Path | str, overrides: Sequence[str] = (), *, device: str = "auto", quiet: bool = False
    ) -> Experiment:
        """Carry on with the run in ``folder``. Raises ConfigError where there is none or settings differ."""
        if not (Path(folder) / "config.json").exists():
            raise ConfigError(f"no run in {folder} (it has no config.json); 'data' or 'demo' begins one there")
        return cls.start(folder, None, overrides, device=device, quiet=quiet)

    @cached_property
    def dataset(self) -> Dataset:
        """The videos: made in data/, or those of ``data.folder``."""
        data = self.config.data
        if data.folder is not None:
            with self._stage(f"data: videos of {data.folder}"):
                return load_dataset(data.folder)
        with self._stage(f"data: {data.videos} videos of {data.frames} frames, {data.size} px"):
            return generate(
                self.folder / "data",
                videos=data.videos,
                frames=data.frames,
                size=data.size,
                fps=data.fps,
                radius=data.radius,
                seed=data.seed,
                progress=self.progress,
            )

    @cached_property
    def latents(self) -> LatentStore:
        """Every video's latents, in latents/; the embedded encoder is trained in encoder/ first."""
        dataset, encoder = self.dataset, self.config.encoder
        what = f"encode: {encoder.name}, clips of {encoder.clip} frames every {encoder.stride}"
        with self._stage(f"{what}, on {self.device}"):
            return encode_dataset(
                dataset,
                build_encoder(encoder, dataset, self.folder / "encoder", self.device, progress=self.progress),
                self.folder / "latents",
                clip=encoder.clip,
                stride=encoder.stride,
                batch=encoder.batch,
                progress=self.progress,
            )

    @cached_property
    def windows(self) -> Windows:
        """The windows of the latents and their split, on the device."""
        return Windows.from_latents(self.latents.latents, self.config.train).to(self.device)

    @cached_property
    def models(self) -> dict[str, dict[int, DynamicsModel]]:
        """Every model by name and seed, trained in models/."""
        windows = self.windows
        models: dict[str, dict[int, DynamicsModel]] = {}
        for name in self.config.models:
            for seed in self.config.seeds:
                folder = model_folder(self.folder, name, seed)
                with self._stage(f"train: {name}, seed {seed}, on {self.device}"):
                    models.setdefault(name, {})[seed] = train(
                        name, windows, self.config.train, seed, folder, progress=self.progress
                    )
        return models

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """All numbers of the report, kept in evaluation.json with the configuration they belong to.

        Costs depend on the device: where one is named, numbers from another are not kept.
        """
        path = self.folder / "evaluation.json"
        models, windows, latents, config = self.models, self.windows, self.latents, self.config
        made_from = {"config": to_json(config), "windows": windows.fingerprint}
        what = "evaluate: errors, energies, structure and cost on the test windows"
        with self._stage(f"{what}, on {self.device}"):
            stored = read_json(path) if path.exists() else {}
            right_device = self.any_device or stored.get("device") == describe_device(self.device)
            if stored.get("made_from") == made_from and right_device:
                return dict(stored)
            first = {name: by_seed[config.seeds[0]] for name, by_seed in models.items()}
            states, horizon = windows.data[windows.test, 0], config.train.window - 1
            labels = [self.dataset.labels(index) for index in range(len(self.dataset.videos))]
            evaluation = {
                "made_from": made_from,
                **evaluate(models, windows),
                "structure": measure_structure(first, states, horizon),
                "probe": probe(latents.latents, latents.frames, labels, config.train.test_fraction),
                "cost": measure_cost(config.train, windows.dim, self.device),
            }
            write_json(path, evaluation)
            return evaluation

    def report(self) -> Path:
        """Write report/ and return the path of report.html."""
        from .report import build_report  # matplotlib is for this stage only

        _ = self.evaluation
        with self._stage("report: figures, film, page"):
            return build_report(self.folder)

    @contextmanager
    def _stage(self, what: str) -> Iterator[None]:
        """Say what begins, and how long it took."""
        self._say(what)
        begin = time.perf_counter()
        yield
        self._say(f"  done in {time.perf_counter() - begin:.1f} s")

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


def environment(device: torch.device) -> dict[str, Any]:
    """What a command runs on, JSON-serialisable: versions, processor, device, and how hamiltorch_ext was built."""
    packages = ("hamiltorch_ext", "torch", "numpy", "av", "matplotlib", "safetensors", "transformers")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": describe_device(device),
        "packages": {name: _version(name) for name in packages},
        "build": json.loads(json.dumps(hamiltorch_ext.build_info(), default=str)),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refuse_changes(path: Path, stored: ExperimentConfig, wanted: ExperimentConfig) -> None:
    """Settings are fixed once something was made with them; a first command that failed has fixed nothing."""
    if not any((path.parent / made).exists() for made in ("data", "encoder", "latents", "models")):
        return
    before, after = _flat(to_json(stored)), _flat(to_json(wanted))
    changed = [key for key in after if after[key] != before[key] and key not in FREE_TO_CHANGE]
    if changed:
        settings = ", ".join(f"{key} is {before[key]} there, not {after[key]}" for key in changed)
        raise ConfigError(
            f"{path} holds a run with other settings ({settings}); choose another --run folder, or delete this one"
        )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: entry
        for section, value in config.items()
        for key, entry in (
            ((f"{section}.{name}", inner) for name, inner in value.items())
            if isinstance(value, dict)
            else ((section, value),)
        )
    }
