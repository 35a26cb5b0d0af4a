import errno
import os

import numpy as np
import pytest
import torch
from hamiltorch_worlds.data import generate, load_dataset
from hamiltorch_worlds.encoders import Encoder, EncoderError
from hamiltorch_worlds.files import DamagedFile
from hamiltorch_worlds.latents import LatentsError, encode_dataset, load_latents
from hamiltorch_worlds.video import VideoError, read_video, write_video


class MeanEncoder(Encoder):
    """Mean colour of a clip, and how often it was asked."""

    latent_dim = 4

    def __init__(self, version=1):
        self.version = version
        self.batches = []

    def prepare(self, frames):
        return frames.float().mean((1, 2))

    def encode_prepared(self, clips):
        self.batches.append(len(clips))
        return torch.cat([clips.mean(1), clips[:, -1, :1]], dim=1)

    def manifest(self):
        return {"name": "mean", "version": self.version}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data"), videos=3, frames=37, size=32, radius=4.0, progress=False)


@pytest.fixture
def dataset(original, tmp_path):
    """A copy that a test may spoil, in the form of a folder of one's own."""
    for path in original.videos:
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
    return load_dataset(tmp_path / "own")


def encode(dataset, folder, encoder=None, **options):
    return encode_dataset(dataset, encoder or MeanEncoder(), folder, progress=False, **options)


def test_clips_are_what_they_should_be(dataset, tmp_path):
    encoder = MeanEncoder()
    store = encode(dataset, tmp_path / "latents", encoder, clip=16, stride=4, batch=4)
    assert store.videos == ["video_000", "video_001", "video_002"]
    assert [tuple(z.shape) for z in store.latents] == [(6, 4)] * 3
    assert store.frames[0].tolist() == [15, 19, 23, 27, 31, 35]
    assert encoder.batches == [4, 2] * 3
    frames = torch.from_numpy(read_video(dataset.videos[1]))
    clips = torch.stack([frames[start : start + 16] for start in range(0, 22, 4)])
    torch.testing.assert_close(store.latents[1], encoder.encode(clips))
    assert store.latents[1].dtype == torch.float32
    again = load_latents(tmp_path / "latents")
    assert all(torch.equal(one, two) for one, two in zip(store.latents, again.latents, strict=True))
    assert again.manifest == store.manifest
    assert store.manifest["encoder"] == {"name": "mean", "version": 1}
    assert (store.manifest["clip"], store.manifest["stride"], store.manifest["latent_dim"]) == (16, 4, 4)
    assert [len(source["sha256"]) for source in store.manifest["videos"]] == [64] * 3
    assert [source["device"] for source in store.manifest["videos"]] == ["cpu"] * 3


def test_the_papers_numbers(tmp_path):
    write_video(tmp_path / "own" / "a.mp4", np.zeros((150, 16, 16, 3), np.uint8))
    store = encode(load_dataset(tmp_path / "own"), tmp_path / "latents", clip=16, stride=4)
    assert len(store.latents[0]) == 34
    assert store.frames[0][-1] == 147


def test_what_is_done_is_not_done_again(dataset, tmp_path):
    encode(dataset, tmp_path / "latents")
    encoder = MeanEncoder()
    encoder.device = torch.device("meta")  # another device is no reason
    encode(dataset, tmp_path / "latents", encoder)
    assert encoder.batches == []
    # A video that has changed is encoded again, and only that one.
    write_video(dataset.videos[1], np.full((20, 32, 32, 3), 99, np.uint8))
    store = encode(dataset, tmp_path / "latents", encoder)
    assert encoder.batches == [2]
    assert store.latents[1][0].mean() > 80
    assert [source["device"] for source in store.manifest["videos"]] == ["cpu", "meta", "cpu"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_encoding_goes_on_after_an_interruption(dataset, tmp_path, failure):
    class Failing(MeanEncoder):
        def encode_prepared(self, clips):
            if len(self.batches) == 3:  # in the middle of the second video
                raise failure
            return super().encode_prepared(clips)

    folder = tmp_path / "latents"
    with pytest.raises(failure):
        encode(dataset, folder, Failing(), batch=3)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "video_000.safetensors"]
    with pytest.raises(LatentsError, match="incomplete"):
        load_latents(folder)
    encoder = MeanEncoder()
    store = encode(dataset, folder, encoder, batch=3)
    assert encoder.batches == [3, 3, 3, 3]
    whole = encode(dataset, tmp_path / "whole")
    assert all(torch.equal(one, two) for one, two in zip(store.latents, whole.latents, strict=True))


def test_a_full_disk_loses_nothing(dataset, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        if len(calls) == 3:  # manifest, first video, second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    folder = tmp_path / "latents"
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        encode(dataset, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "video_000.safetensors"]
    monkeypatch.undo()
    encoder = MeanEncoder()
    encode(dataset, folder, encoder)
    assert len(encoder.batches) == 2


def test_latents_of_another_encoder_are_refused(dataset, tmp_path):
    folder = tmp_path / "latents"
    store = encode(dataset, folder)
    for arguments, named in (
        ({"encoder": MeanEncoder(2)}, "encoder"),
        ({"clip": 8}, "clip"),
        ({"stride": 2}, "stride"),
    ):
        with pytest.raises(LatentsError, match=f"another {named}.*delete"):
            encode(dataset, folder, **arguments)
    assert all(torch.equal(one, two) for one, two in zip(store.latents, load_latents(folder).latents, strict=True))


def test_damaged_latents_are_named_and_made_anew(dataset, tmp_path):
    folder = tmp_path / "latents"
    store = encode(dataset, folder)
    path = folder / "video_002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match="video_002"):
        load_latents(folder)
    encoder = MeanEncoder()
    again = encode(dataset, folder, encoder)
    assert encoder.batches == [6]
    assert torch.equal(again.latents[2], store.latents[2])
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DamagedFile, match="manifest"):
        load_latents(folder)


def test_missing_latents(dataset, tmp_path):
    with pytest.raises(LatentsError, match="no latents in"):
        load_latents(tmp_path / "latents")
    encode(dataset, tmp_path / "latents")
    (tmp_path / "latents" / "video_001.safetensors").unlink()
    with pytest.raises(LatentsError, match="video_001"):
        load_latents(tmp_path / "latents")


def test_hostile_videos_are_named_and_the_rest_is_kept(dataset, tmp_path):
    last = dataset.videos[2]
    whole = last.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        last.write_bytes(content)
        with pytest.raises(VideoError, match="video_002"):
            encode(dataset, tmp_path / "latents")
    write_video(last, np.zeros((15, 32, 32, 3), np.uint8))
    with pytest.raises(VideoError, match=r"video_002.* 15 frames, fewer than one clip of 16"):
        encode(dataset, tmp_path / "latents")
    last.write_bytes(whole)
    encoder = MeanEncoder()
    encode(dataset, tmp_path / "latents", encoder)
    assert encoder.batches == [6]


def test_the_interface_checks_clips_and_says_what_cannot_be_decoded():
    with pytest.raises(EncoderError, match=r"uint8 of shape \(N, clip, H, W, 3\)"):
        MeanEncoder().encode(torch.zeros(2, 16, 8, 8, 3))
    with pytest.raises(EncoderError, match="mean encoder cannot decode"):
        MeanEncoder().decode(torch.zeros(2, 4))
