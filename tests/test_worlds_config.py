import dataclasses
import json
from typing import get_args

import pytest
from hamiltorch_worlds.config import (
    ConfigError,
    EncoderConfig,
    ExperimentConfig,
    ModelName,
    TrainConfig,
    from_json,
    preset,
    to_json,
    with_overrides,
)


def test_the_paper_preset_is_table_1_and_section_4():
    config = preset("paper")
    assert to_json(config.train) == {
        "epochs": 50,
        "batch_size": 32,
        "window": 16,
        "learning_rate": 1e-3,
        "min_learning_rate": 1e-5,
        "weight_decay": 1e-5,
        "clip_norm": 1.0,
        "energy_weight_start": 0.1,
        "energy_weight_end": 1.0,
        "dt": 1.0,
        "hidden": [512, 512, 256],
        "activation": "softplus",
        "baseline_hidden": [512, 512],
        "split": "video",
        "test_fraction": 0.2,
    }
    data = config.data
    assert (data.videos, data.frames, data.size, data.fps, data.radius) == (50, 150, 256, 30, 20)
    assert (config.encoder.clip, config.encoder.stride, config.encoder.latent_dim) == (16, 4, 1024)
    assert config.models == get_args(ModelName)
    assert config.seeds == (0,)


def test_the_quick_preset_has_windows_on_both_sides_of_the_split():
    config = preset("quick")
    latents = (config.data.frames - config.encoder.clip) // config.encoder.stride + 1
    assert latents >= config.train.window
    assert round(config.data.videos * config.train.test_fraction) >= 1


def test_json_round_trip_and_defaults():
    config = with_overrides(preset("quick"), ["data.folder=/videos", "encoder.resize=292", "seeds=3,4"])
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert from_json({"train": {"epochs": 7}}) == ExperimentConfig(train=TrainConfig(epochs=7))
    assert from_json({"hidden": [8]}, TrainConfig).hidden == (8,)


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.hidden=64, 32", "train", "hidden", (64, 32)),
        ("train.split=window", "train", "split", "window"),
        ("data.folder=/my videos/a=b", "data", "folder", "/my videos/a=b"),
        ("encoder.crop=none", "encoder", "crop", None),
        ("encoder.crop=256", "encoder", "crop", 256),
    ],
)
def test_overrides_take_the_type_of_their_field(text, section, key, value):
    changed = getattr(with_overrides(preset("paper"), [text]), section)
    assert getattr(changed, key) == value
    assert type(getattr(changed, key)) is type(value)


def test_overrides_of_the_top_level_and_their_order():
    config = with_overrides(preset("paper"), ["seeds=0,1,2", "models=hnn,mlp", "seeds=5"])
    assert config.seeds == (5,)
    assert config.models == ("hnn", "mlp")
    assert with_overrides(config, []) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epoch=3", r"unknown .*'train\.epoch'.*train\.epochs"),
        ("train=3", r"unknown .*'train'"),
        ("epochs", "must read key=value"),
        ("train.epochs=3.5", r"train\.epochs must be an integer, got '3\.5'"),
        ("train.epochs=0", "epochs .* must be positive, got 0"),
        ("train.dt=nan", r"train\.dt must be a finite number"),
        ("train.dt=0", "dt .* other than zero"),
        ("train.hidden=", "hidden .* one or more"),
        ("train.window=1", "window .* at least 2"),
        ("train.test_fraction=1", "test_fraction .* between 0 and 1"),
        ("train.split=frame", r"train\.split must be one of video, window, got 'frame'"),
        ("models=hnn,lstm", "models must be one of hnn, .*got 'lstm'"),
        ("seeds=1,1", "seeds .* each once"),
        ("seeds=-1", "seeds .* zero or positive"),
        ("encoder.latent_dim=7", "latent_dim .* even"),
    ],
)
def test_what_does_not_fit_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(preset("paper"), [text])


@pytest.mark.parametrize("data", [{"trian": {}}, {"train": {"epoch": 1}}, {"train": 3}, {"seeds": [True]}, [1]])
def test_json_that_does_not_fit_is_refused(data):
    with pytest.raises(ConfigError):
        from_json(data)


def test_unknown_preset():
    with pytest.raises(ConfigError, match="paper, quick"):
        preset("large")


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EncoderConfig().clip = 3
