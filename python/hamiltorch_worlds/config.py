"""The configuration of a run: plain dataclasses, presets, ``key=value`` overrides, JSON.

Defaults are the paper's (H-JEPA, sections 4.1 to 4.4 and Table 1), with the embedded encoder in place of V-JEPA 2.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = [
    "ConfigError",
    "DataConfig",
    "EncoderConfig",
    "ExperimentConfig",
    "ModelName",
    "Preset",
    "TrainConfig",
    "from_json",
    "preset",
    "to_json",
    "with_overrides",
]

ModelName = Literal[
    "hnn",
    "hnn_no_energy",
    "hnn_euler",
    "hnn_stormer_verlet",
    "hnn_midpoint",
    "hnn_separable",
    "hnn_phase_space",
    "mlp",
    "residual_mlp",
    "persistence",
    "linear",
]
Preset = Literal["paper", "quick"]
C = TypeVar("C")


class ConfigError(ValueError):
    """A configuration key or value that does not exist or does not fit; the message names it."""


@dataclass(frozen=True)
class DataConfig:
    """The videos (H-JEPA section 4.1).

    Lengths are in pixels, ``fps`` in frames per second. ``folder`` names a folder of one's own videos; the other
    fields, which describe the synthetic collisions, are then unused.
    """

    videos: int = 50
    frames: int = 150
    size: int = 256
    fps: int = 30
    radius: float = 20.0
    seed: int = 0
    folder: str | None = None

    def __post_init__(self) -> None:
        _need(self, "videos frames size fps radius", "positive", lambda value: value > 0)
        _need(self, "seed", "zero or positive", lambda value: value >= 0)


@dataclass(frozen=True)
class EncoderConfig:
    """How clips become latents (H-JEPA section 4.2).

    ``clip`` and ``stride`` count frames. ``checkpoint``, ``dtype``, ``resize`` and ``crop`` belong to "vjepa2": a
    hub id or a local folder, the arithmetic, the shortest edge in pixels after resizing (None keeps it) and the side of
    the central square (None keeps the frame). ``training_seconds`` and ``seed`` belong to "embedded".
    """

    name: Literal["embedded", "vjepa2"] = "embedded"
    checkpoint: str = "facebook/vjepa2-vitl-fpc16-256-ssv2"
    clip: int = 16
    stride: int = 4
    batch: int = 8
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    resize: int | None = None
    crop: int | None = None
    training_seconds: float = 90.0
    latent_dim: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        _need(self, "clip stride batch resize crop training_seconds latent_dim", "positive", lambda value: value > 0)
        _need(self, "seed", "zero or positive", lambda value: value >= 0)
        _need(self, "latent_dim", "even, as z = (q, p)", lambda value: value % 2 == 0)


@dataclass(frozen=True)
class TrainConfig:
    """The dynamics models and their training (H-JEPA Table 1, section 4.4).

    ``window`` counts latents, the initial one included. ``dt`` is the initial value of the learned time step, in units
    of one latent. ``hidden`` and ``activation`` describe H, ``baseline_hidden`` the two MLP baselines. Test windows are
    whole videos with ``split="video"``; "window" is the paper's split, where windows that overlap in time fall on both
    sides.
    """

    epochs: int = 50
    batch_size: int = 32
    window: int = 16
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    weight_decay: float = 1e-5
    clip_norm: float = 1.0
    energy_weight_start: float = 0.1
    energy_weight_end: float = 1.0
    dt: float = 1.0
    hidden: tuple[int, ...] = (512, 512, 256)
    activation: Literal["softplus", "tanh", "silu", "gelu", "sin"] = "softplus"
    baseline_hidden: tuple[int, ...] = (512, 512)
    split: Literal["video", "window"] = "video"
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        _need(self, "epochs batch_size learning_rate clip_norm", "positive", lambda value: value > 0)
        _need(
            self,
            "min_learning_rate weight_decay energy_weight_start energy_weight_end",
            "zero or positive",
            lambda value: value >= 0,
        )
        _need(self, "window", "at least 2 (an initial latent and one to predict)", lambda value: value >= 2)
        _need(self, "dt", "other than zero", lambda value: value != 0)
        _need(self, "hidden baseline_hidden", "one or more positive widths", lambda value: value and min(value) > 0)
        _need(self, "test_fraction", "between 0 and 1, both excluded", lambda value: 0 < value < 1)


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole run: data, encoder, training, and which models with which seeds (initialisation, order of the data)."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    models: tuple[ModelName, ...] = get_args(ModelName)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        _need(self, "models seeds", "one or more, each once", lambda value: value and len(set(value)) == len(value))
        _need(self, "seeds", "zero or positive", lambda value: min(value) >= 0)


def preset(name: Preset) -> ExperimentConfig:
    """Return "paper" (the paper's sizes, one seed) or "quick" (the whole path in a minute, far too small to learn)."""
    if name == "paper":
        return ExperimentConfig()
    if name == "quick":
        return ExperimentConfig(
            data=DataConfig(videos=6, frames=60, size=64, radius=6.0),
            # 60 frames give 23 latents at stride 2, so 8 windows a video; at the paper's stride there would be none.
            encoder=EncoderConfig(stride=2, training_seconds=10.0),
            train=TrainConfig(epochs=2, batch_size=8, hidden=(64, 64), baseline_hidden=(64, 64)),
        )
    raise ConfigError(f"preset must be one of {', '.join(get_args(Preset))}, got {name!r}")


def with_overrides(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Return ``config`` with ``section.key=value`` texts applied, such as "train.epochs=3", "seeds=0,1,2".

    Values take the type of their field: lists are separated by commas, "none" clears an optional one. ConfigError
    names a key that does not exist, with those that do, and a value that does not fit.
    """
    data = to_json(config)
    known = _keys(data)
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"an override must read key=value, got {text!r}")
        if key not in known:
            raise ConfigError(f"unknown configuration key {key!r}; known are {', '.join(known)}")
        section, _, name = key.rpartition(".")
        (data[section] if section else data)[name] = value.strip()
    return from_json(data)


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as plain JSON data (dicts, lists, numbers, strings, None)."""
    return {
        entry.name: to_json(value)
        if dataclasses.is_dataclass(value := getattr(config, entry.name))
        else (list(value) if isinstance(value, tuple) else value)
        for entry in dataclasses.fields(config)
    }


def from_json(data: Mapping[str, Any], cls: type[C] = ExperimentConfig, *, name: str = "") -> C:  # type: ignore[assignment]
    """Build a configuration from ``to_json``'s data; keys that are missing keep their defaults.

    ``cls`` is the dataclass to build and ``name`` the section's name in messages. Raises ConfigError.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{name or 'the configuration'} must be a mapping of keys to values, got {data!r}")
    hints = get_type_hints(cls)
    prefix = f"{name}." if name else ""
    for key in data:
        if key not in hints:
            raise ConfigError(f"unknown configuration key {prefix + key!r}; known are {', '.join(hints)}")
    return cls(**{key: _convert(value, hints[key], prefix + key) for key, value in data.items()})


def _convert(value: Any, hint: Any, key: str) -> Any:
    """``value``, from JSON or as text from a command line, as the type ``hint``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(value, hint, name=key)
    if origin in (types.UnionType, Union):  # the optional fields: X | None
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        return _convert(value, arguments[0], key)
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.strip("()[]").split(",") if part.strip()]
        elif not isinstance(value, (list, tuple)):
            value = [value]
        return tuple(_convert(entry, arguments[0], key) for entry in value)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{key} must be one of {', '.join(arguments)}, got {value!r}")
        return value
    return _convert_scalar(value, hint, key)


def _convert_scalar(value: Any, hint: type, key: str) -> Any:
    wanted = {int: "an integer", float: "a finite number", str: "a text"}[hint]
    fits = isinstance(value, (str, int, float) if hint is not str else str) and not isinstance(value, bool)
    try:
        result = hint(value) if fits else None
    except (ValueError, OverflowError):
        result = None
    truncated = hint is int and not isinstance(value, str) and result != value
    if result is None or truncated or (hint is float and not math.isfinite(result)):
        raise ConfigError(f"{key} must be {wanted}, got {value!r}")
    return result


def _keys(data: Mapping[str, Any]) -> list[str]:
    """The keys of the leaves, sections first: ["data.videos", ..., "models", "seeds"]."""
    return [
        key
        for name, value in data.items()
        for key in ([f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name])
    ]


def _need(config: Any, names: str, what: str, fits: Callable[[Any], object]) -> None:
    """ConfigError unless each of the fields that is set fits; ``names`` are separated by blanks."""
    for name in names.split():
        value = getattr(config, name)
        if value is not None and not fits(value):
            raise ConfigError(f"{name} of {type(config).__name__} must be {what}, got {value!r}")
