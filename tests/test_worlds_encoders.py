import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hamiltorch_worlds.data import generate, load_dataset
from hamiltorch_worlds.encoders import EncoderError, VJEPA2Encoder, build_encoder, embedded, train_embedded
from hamiltorch_worlds.files import DamagedFile
from hamiltorch_worlds.latents import encode_dataset
from hamiltorch_worlds.video import VideoError, read_video, write_video
from PIL import Image

# --- vjepa2 --------------------------------------------------------------------------------------------------------

TINY = {
    "crop_size": 64,
    "frames_per_clip": 16,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "mlp_ratio": 2.0,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "num_pooler_layers": 1,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random checkpoint of the kind the paper used: a classifier, whose head must be ignored."""
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vjepa2")
    transformers.VJEPA2ForVideoClassification(transformers.VJEPA2Config(**TINY)).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(checkpoint, tmp_path):
    """A copy that a test may spoil."""
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def random_clips(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_latents_are_the_mean_of_the_encoders_tokens(checkpoint):
    import transformers

    clips = random_clips(3, 16, 64, 64, 3)
    encoder = VJEPA2Encoder(str(checkpoint))
    latents = encoder.encode(clips)
    assert encoder.latent_dim == 48
    assert latents.dtype == torch.float32
    whole = transformers.VJEPA2ForVideoClassification.from_pretrained(checkpoint, local_files_only=True).eval()
    pixels = (clips.numpy() / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(pixels).float().permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        tokens = whole.vjepa2.get_vision_features(pixels)
    assert tokens.shape == (3, 8 * 16, 48)
    torch.testing.assert_close(latents, tokens.mean(1), rtol=1e-5, atol=1e-5)
    assert latents.std(0).min() > 1e-4  # the clips are told apart
    torch.testing.assert_close(encoder.encode(clips[1:2]), latents[1:2], rtol=1e-5, atol=1e-5)


def test_the_predictor_is_not_run(checkpoint, monkeypatch):
    encoder = VJEPA2Encoder(str(checkpoint))
    monkeypatch.setattr(encoder._model.predictor, "forward", None)
    assert encoder._model.config._attn_implementation == "sdpa"
    assert encoder.encode(random_clips(1, 4, 64, 64, 3)).shape == (1, 48)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 1e-2)])
def test_half_precision(checkpoint, dtype, tolerance):
    clips = random_clips(2, 16, 64, 64, 3)
    half = VJEPA2Encoder(str(checkpoint), dtype=dtype)
    latents = half.encode(clips)
    assert latents.dtype == torch.float32
    assert next(half._model.parameters()).dtype == getattr(torch, dtype)
    torch.testing.assert_close(latents, VJEPA2Encoder(str(checkpoint)).encode(clips), rtol=0, atol=tolerance)
    assert half.manifest()["dtype"] == dtype


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 130), (131, 97), (40, 50)])
def test_preprocessing_agrees_with_pillow(checkpoint, height, width):
    """Pillow's bilinear filter is anti-aliased too, and is what the checkpoint's own preprocessing names."""
    frames = random_clips(2, height // 4 + 1, width // 4 + 1, 3).numpy().repeat(4, 1).repeat(4, 2)[:, :height, :width]
    prepared = VJEPA2Encoder(str(checkpoint), resize=73, crop=64).prepare(torch.from_numpy(frames))
    short = min(height, width)
    size = (73 * width // short, 73 * height // short)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    for frame, ours in zip(frames, prepared, strict=True):
        image = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 64, top + 64))
        difference = np.abs(np.asarray(image).astype(int) - ours.permute(1, 2, 0).numpy())
        assert difference.max() <= 2


def test_frames_of_another_size_are_refused(checkpoint):
    native = VJEPA2Encoder(str(checkpoint))
    for height, width in ((96, 64), (128, 128), (32, 32)):
        with pytest.raises(EncoderError, match=rf"64x64 px, but {height}x{width}.*resize=73 and crop=64"):
            native.encode(torch.zeros(1, 16, height, width, 3, dtype=torch.uint8))
    with pytest.raises(EncoderError, match="became 50x50"):
        VJEPA2Encoder(str(checkpoint), resize=50, crop=64).prepare(torch.zeros(1, 80, 80, 3, dtype=torch.uint8))
    with pytest.raises(EncoderError, match="crop must be 64"):
        VJEPA2Encoder(str(checkpoint), crop=48)
    with pytest.raises(EncoderError, match="dtype must be one of float32"):
        VJEPA2Encoder(str(checkpoint), dtype="int8")
    with pytest.raises(EncoderError, match="vjepa2 encoder cannot decode"):
        native.decode(torch.zeros(1, 48))


def test_missing_checkpoints(tmp_path):
    for name in (str(tmp_path / "missing"), "./missing", "missing"):
        with pytest.raises(EncoderError, match="no such checkpoint folder"):
            VJEPA2Encoder(name)
    with pytest.raises(EncoderError, match=r"needs config\.json"):
        VJEPA2Encoder(str(tmp_path))
    with pytest.raises(EncoderError, match="neither a local folder nor available"):
        VJEPA2Encoder("nobody/nothing", local_files_only=True)


def test_damaged_checkpoints(broken):
    from safetensors.torch import load_file, save_file

    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk"):
        weights.write_bytes(content)
        with pytest.raises(EncoderError, match="cannot load the V-JEPA 2 checkpoint"):
            VJEPA2Encoder(str(broken))
    weights.write_bytes(whole)
    tensors = load_file(weights)
    lost = next(name for name in tensors if "encoder.layer.1" in name)
    save_file({name: value for name, value in tensors.items() if name != lost}, weights, {"format": "pt"})
    with pytest.raises(EncoderError, match=r"lacks 1 weights of the encoder, encoder\.layer\.1"):
        VJEPA2Encoder(str(broken))
    weights.unlink()
    with pytest.raises(EncoderError, match="cannot load the V-JEPA 2 checkpoint"):
        VJEPA2Encoder(str(broken))
    (broken / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EncoderError, match="checkpoint of 'bert'"):
        VJEPA2Encoder(str(broken))


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r'pip install "hamiltorch_ext\[worlds\]"'):
        VJEPA2Encoder("anywhere/at-all")


def test_a_hub_id_is_found_offline_and_transformers_imported_late(checkpoint, tmp_path):
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    script = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise AssertionError('the network was used')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from hamiltorch_worlds.encoders import EncoderError, VJEPA2Encoder\n"
        "assert 'transformers' not in sys.modules\n"
        "print(VJEPA2Encoder('someone/tiny').manifest()['weights_sha256'])\n"
        "try:\n"
        "    VJEPA2Encoder('someone/else')\n"
        "except EncoderError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    digest, error = done.stdout.split("\n", 1)
    assert digest == VJEPA2Encoder(str(checkpoint)).manifest()["weights_sha256"]
    assert "someone/else" in error


def test_the_manifest_tells_weights_apart(checkpoint, broken):
    from safetensors.torch import load_file, save_file

    encoder = VJEPA2Encoder(str(checkpoint))
    json.dumps(encoder.manifest())
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if "encoder.layer.1" in name)
    tensors[name] = tensors[name] + 1
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert VJEPA2Encoder(str(broken)).manifest()["weights_sha256"] != encoder.manifest()["weights_sha256"]


def test_videos_through_vjepa2(checkpoint, tmp_path):
    config = SimpleNamespace(name="vjepa2", checkpoint=str(checkpoint), dtype="float32", resize=73, crop=64)
    dataset = generate(tmp_path / "data", videos=2, frames=24, size=80, radius=8.0, progress=False)
    encoder = build_encoder(config, dataset, tmp_path / "encoder", progress=False)
    store = encode_dataset(dataset, encoder, tmp_path / "latents", batch=2, progress=False)
    assert [tuple(z.shape) for z in store.latents] == [(3, 48)] * 2
    frames = torch.from_numpy(read_video(dataset.videos[1]))
    torch.testing.assert_close(store.latents[1][2:], encoder.encode(frames[None, 8:24]), rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "encoder").exists()


# --- embedded ------------------------------------------------------------------------------------------------------

BALLS = {"videos": 16, "frames": 40, "size": 64, "radius": 6.0, "progress": False}


@pytest.fixture(scope="module")
def patient():
    """Training is to end by its steps in these tests, however slow the machine: a slower clock, the same steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "STEPS_PER_SECOND", embedded.STEPS_PER_SECOND / 20)
        yield


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("balls"), **BALLS)


@pytest.fixture(scope="module")
def trained(balls, tmp_path_factory, patient):
    folder = tmp_path_factory.mktemp("encoder")
    encoder = train_embedded(balls, folder, latent_dim=256, training_seconds=280, progress=False)
    return SimpleNamespace(folder=folder, encoder=encoder)


@pytest.fixture(scope="module")
def store(balls, trained, tmp_path_factory):
    return encode_dataset(balls, trained.encoder, tmp_path_factory.mktemp("latents"), stride=2, progress=False)


def ball_centres(frames):
    """Centres of the cyan and the red ball in uint8 (N, 64, 64, 3), in px: (N, 2, 2)."""
    red, green, _ = frames.float().div(255).unbind(-1)
    axis = torch.arange(64) + 0.5
    centres = []
    for mass in (green, (red - green).clamp(min=0)):
        mass = mass * (mass > 0.35)
        total = mass.sum((1, 2)) + 1e-6
        centres.append(torch.stack([(mass.sum(1) * axis).sum(1) / total, (mass.sum(2) * axis).sum(1) / total], 1))
    return torch.stack(centres, 1)


def truth(dataset, store, name):
    return torch.stack([dataset.labels(index)[name][frames] for index, frames in enumerate(store.frames)])


def test_decoded_frames_show_both_balls_in_their_places(balls, trained, store):
    pictures = trained.encoder.decode(torch.cat(store.latents))
    assert pictures.shape == (16 * 13, 64, 64, 3)
    assert pictures.dtype == torch.uint8
    error = (ball_centres(pictures) - truth(balls, store, "positions").flatten(0, 1)).norm(dim=-1)
    assert error.median() < 0.5
    assert error.quantile(0.95) < 2
    for index, video in enumerate(balls.videos):
        frames = torch.from_numpy(read_video(video))[store.frames[index]]
        ours = pictures.unflatten(0, (16, 13))[index]
        assert (ours.float() - frames).square().mean() < 0.3 * frames.float().square().mean()


@pytest.mark.parametrize(("name", "least"), [("positions", 0.75), ("velocities", 0.6)])
def test_positions_and_velocities_can_be_read_off_linearly(balls, trained, store, name, least):
    """From videos that the probe has not seen; with 12 short ones to learn from it cannot do much better."""
    z, y = torch.stack(store.latents).double(), truth(balls, store, name).flatten(2)
    half = z.shape[-1] // 2
    z = z[..., :half] if name == "positions" else z[..., half:]  # q and p are what they are called
    seen, tested = z[:12].flatten(0, 1), z[12:].flatten(0, 1)
    goal = y[:12].flatten(0, 1)
    gram = seen.T @ seen + 0.1 * len(seen) * torch.eye(half, dtype=z.dtype)
    weights = torch.linalg.solve(gram, seen.T @ (goal - goal.mean(0)))
    residual = tested @ weights + goal.mean(0) - y[12:].flatten(0, 1)
    assert 1 - residual.square().mean() / y[12:].flatten(0, 1).var() > least


def test_latents_are_well_scaled_and_smooth(store):
    z = torch.stack(store.latents)
    for half in z.chunk(2, dim=-1):
        assert half.mean().abs() < 0.1
        assert 0.8 < half.flatten(0, 1).var(0).mean() < 1.2
    step = (z[:, 1:] - z[:, :-1]).square().mean()
    assert step < 0.2 * z.var()
    q = z[..., : z.shape[-1] // 2]
    assert (q[:, 2:] - 2 * q[:, 1:-1] + q[:, :-2]).square().mean() < 0.5 * (q[:, 1:] - q[:, :-1]).square().mean()


def test_an_encoder_is_loaded_not_trained_twice(balls, trained, monkeypatch, patient):
    monkeypatch.setattr(embedded, "_train", None)
    again = train_embedded(balls, trained.folder, latent_dim=256, training_seconds=280, progress=False)
    clips = torch.from_numpy(read_video(balls.videos[0]))[None, :16]
    assert torch.equal(again.encode(clips), trained.encoder.encode(clips))
    assert again.manifest() == trained.encoder.manifest()
    for changed in ({"seed": 1}, {"latent_dim": 128}, {"clip": 12}):
        settings = {"latent_dim": 256, "training_seconds": 280, "progress": False, **changed}
        with pytest.raises(EncoderError, match=f"other {next(iter(changed))}"):
            train_embedded(balls, trained.folder, **settings)


def quick_training(dataset, folder, **options):
    return train_embedded(dataset, folder, **{"latent_dim": 32, "training_seconds": 20, "progress": False, **options})


def test_training_depends_on_the_seed_and_nothing_else(balls, tmp_path, patient):
    state = torch.random.get_rng_state()
    first = quick_training(balls, tmp_path / "a").manifest()["weights_sha256"]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert quick_training(balls, tmp_path / "b").manifest()["weights_sha256"] == first
    assert quick_training(balls, tmp_path / "c", seed=1).manifest()["weights_sha256"] != first


def test_the_clock_ends_a_training_that_is_too_slow(balls, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(embedded, "STEPS_PER_SECOND", 10_000)
    encoder = quick_training(balls, tmp_path, training_seconds=0.3)
    done = json.loads((tmp_path / "config.json").read_text())["steps_done"]
    assert 1 <= done < 3000
    assert f"after {done} of 3000 steps" in caplog.text
    assert encoder.latent_dim == 32


def test_interrupted_training_leaves_nothing_behind(balls, tmp_path, monkeypatch, patient):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick_training(balls, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
    quick_training(balls, tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        quick_training(balls, tmp_path / "encoder")


def test_ones_own_videos_of_other_sizes(tmp_path, patient):
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 256, (10, 13, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for index in range(2):
        frames = np.stack([np.roll(texture, (t, 2 * t + index), (0, 1)) for t in range(20 + index)])
        write_video(tmp_path / "own" / f"clip{index}.mp4", frames, 25)
    config = SimpleNamespace(name="embedded", latent_dim=64, clip=12, training_seconds=60, seed=0)
    dataset = load_dataset(tmp_path / "own")
    encoder = build_encoder(config, dataset, tmp_path / "encoder", progress=False)
    store = encode_dataset(dataset, encoder, tmp_path / "latents", clip=12, progress=False)
    assert [tuple(z.shape) for z in store.latents] == [(3, 64), (3, 64)]
    assert all(z.isfinite().all() for z in store.latents)
    assert encoder.decode(store.latents[0]).shape == (3, 64, 64, 3)
    write_video(tmp_path / "own" / "clip2.mp4", frames[:11], 25)
    with pytest.raises(VideoError, match=r"clip2\.mp4.* 11 frames"):
        quick_training(load_dataset(tmp_path / "own"), tmp_path / "other", clip=12)


def test_settings_that_cannot_be(balls, trained, tmp_path):
    for wrong in ({"latent_dim": 1023}, {"latent_dim": 0}, {"clip": 8}):
        with pytest.raises(EncoderError, match=next(iter(wrong))):
            quick_training(balls, tmp_path, **wrong)
    with pytest.raises(EncoderError, match=r"shape \(N, 256\)"):
        trained.encoder.decode(torch.zeros(3, 100))
    with pytest.raises(EncoderError, match="'embedded' or 'vjepa2', got 'other'"):
        build_encoder(SimpleNamespace(name="other"), balls, tmp_path)
