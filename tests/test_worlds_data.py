import errno
import os

import av
import numpy as np
import pytest
import torch
from hamiltorch_worlds import data as data_module
from hamiltorch_worlds import files
from hamiltorch_worlds.data import DatasetError, generate, load_dataset, render
from hamiltorch_worlds.files import DamagedFile, atomic_write, read_json, read_tensors, write_json, write_tensors
from hamiltorch_worlds.physics import roll, simulate
from hamiltorch_worlds.video import VideoError, iterate_video, read_video, video_fps, write_video

SMALL = {"frames": 12, "size": 48, "radius": 5.0, "progress": False}


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, failure):
    target = tmp_path / "file"
    target.write_text("old")

    def write():
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["file"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file_alone(tmp_path):
    target = tmp_path / "file.json"
    target.write_text("{}")
    for write in (
        lambda: write_json(target, {"a": 1}),
        lambda: write_tensors(target, {"a": torch.ones(3)}),
        lambda: write_video(target, np.zeros((3, 16, 16, 3), np.uint8)),
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
        assert target.read_text() == "{}"
        assert listing(tmp_path) == ["file.json"]


def test_json_and_tensors_come_back(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"x": [1, None, "é"]})
    assert read_json(tmp_path / "deep" / "a.json") == {"x": [1, None, "é"]}
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1.5, dtype=torch.float64)}
    write_tensors(tmp_path / "a.safetensors", tensors, {"made": "here"})
    back = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)
    assert files.read_metadata(tmp_path / "a.safetensors") == {"made": "here"}


def test_damaged_files_are_named(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(100)})
    whole = (tmp_path / "a.safetensors").read_bytes()
    for content in (b"", b"not tensors at all", whole[:-7], b"\xff" * 64):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(DamagedFile, match=r"a\.safetensors is damaged"):
            read_tensors(tmp_path / "a.safetensors")
    for content in (b"", b"{", b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DamagedFile, match=r"a\.json is damaged"):
            read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="missing"):
        read_tensors(tmp_path / "missing")


# --- physics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "radius", "frames"), [(256, 20, 150), (64, 6, 400), (100, 25, 200)])
def test_energy_is_exact_and_balls_stay_apart_and_inside(size, radius, frames):
    for seed in range(20):
        motion = simulate(seed, frames=frames, size=size, radius=radius)
        np.testing.assert_allclose(motion.energy, motion.energy[0], rtol=1e-13)
        np.testing.assert_allclose(motion.energy, 0.5 * (motion.velocities**2).sum((1, 2)), rtol=1e-15)
        assert motion.positions.min() >= radius
        assert motion.positions.max() <= size - radius
        distance = np.hypot(*(motion.positions[:, 0] - motion.positions[:, 1]).T)
        assert distance.min() > 2 * radius - 1e-9
        assert motion.contacts[:, 0].any()


def test_starts_and_velocities_are_random_but_seeded():
    first, again, other = simulate([3, 0]), simulate([3, 0]), simulate([3, 1])
    assert np.array_equal(first.positions, again.positions)
    starts = np.stack([simulate([0, index], frames=1).positions[0] for index in range(30)])
    assert starts.std(axis=0).min() > 30
    assert not np.allclose(first.velocities[0], other.velocities[0])
    speeds = np.hypot(*np.moveaxis(np.stack([simulate([0, i], frames=1).velocities[0] for i in range(30)]), -1, 0))
    assert 2 <= speeds.min() < 2.2
    assert 2.8 < speeds.max() <= 3


def test_a_free_ball_follows_the_closed_form_of_reflection():
    # Unfolded at the walls, the motion is a straight line: x is a triangle wave.
    velocity = np.array([[7.3, -4.1], [0.0, 0.0]])
    motion = roll(np.array([[20.0, 100.0], [50.0, 12.0]]), velocity, frames=40, size=200, radius=5)
    assert not motion.contacts[:, 0].any()
    time = np.arange(40)[:, None]
    phase = (np.array([20.0, 100.0]) - 5 + velocity[0] * time) % 380
    np.testing.assert_allclose(motion.positions[:, 0], 5 + np.minimum(phase, 380 - phase), atol=1e-11)
    assert np.array_equal(motion.positions[:, 1], np.broadcast_to([50.0, 12.0], (40, 2)))


def test_a_head_on_collision_exchanges_velocities_at_the_exact_time():
    # Gap 60 - 10 = 50, closing speed 4: contact after 12.5 frames.
    motion = roll(
        np.array([[50.0, 60.0], [110.0, 60.0]]), np.array([[3.0, 0], [-1.0, 0]]), frames=20, size=200, radius=5
    )
    np.testing.assert_allclose(motion.velocities[12], [[3, 0], [-1, 0]])
    np.testing.assert_allclose(motion.velocities[13], [[-1, 0], [3, 0]], atol=1e-15)
    np.testing.assert_allclose(motion.positions[13], [[87.0, 60], [99.0, 60]], atol=1e-12)
    assert np.flatnonzero(motion.contacts[:, 0]).tolist() == [13]


def test_momentum_is_kept_in_collisions_of_balls_and_time_can_be_reversed():
    for seed in range(10):
        motion = simulate(seed, frames=100)
        walls = motion.contacts[1:, 1:].any(axis=1)
        change = np.abs(np.diff(motion.velocities.sum(axis=1), axis=0)).max(axis=1)
        assert change[~walls].max() < 1e-12
        back = roll(motion.positions[-1], -motion.velocities[-1], frames=100, size=256, radius=20)
        np.testing.assert_allclose(back.positions[::-1], motion.positions, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"radius": 0}, {"radius": 65.0}, {"radius": float("nan")}])
def test_impossible_boxes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        simulate(0, **wrong)


# --- video ---------------------------------------------------------------------------------------------------------


def noise_video(frames=30, height=48, width=64):
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (frames, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)[:, :height, :width]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_a_video_comes_back(tmp_path, height, width):
    frames = render(simulate(0, frames=20, size=64, radius=8).positions, size=64, radius=8)[:, :height, :width]
    write_video(tmp_path / "a.mp4", frames, 24)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 3
    assert video_fps(tmp_path / "a.mp4") == 24
    write_video(tmp_path / "b.mp4", frames, 24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_without_x264_another_encoder_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    frames = render(simulate(0, frames=8, size=64, radius=8).positions, size=64, radius=8)
    write_video(tmp_path / "a.mp4", frames)
    assert np.abs(read_video(tmp_path / "a.mp4").astype(int) - frames).mean() < 5


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="frames must be uint8"):
        write_video(tmp_path / "a.mp4", wrong)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_videos_are_refused(tmp_path, kept):
    write_video(tmp_path / "a.mp4", noise_video())
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(VideoError, match=r"a\.mp4"):
        read_video(tmp_path / "a.mp4")


def test_files_that_are_no_video_are_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("dear diary\n" * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    for name, reason in (("empty", "empty"), ("text", "Invalid data"), ("sound", "no video stream")):
        with pytest.raises(VideoError, match=f"{name}.mp4.*{reason}"):
            read_video(tmp_path / f"{name}.mp4")
    with pytest.raises(FileNotFoundError, match="missing"):
        next(iterate_video(tmp_path / "missing.mp4"))


# --- data set ------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers(tmp_path):
    dataset = generate(tmp_path, videos=2, progress=False)
    assert [path.name for path in dataset.videos] == ["video_000.mp4", "video_001.mp4"]
    assert dataset.fps == video_fps(dataset.videos[0]) == 30
    frames, labels = read_video(dataset.videos[1]), dataset.labels(1)
    assert frames.shape == (150, 256, 256, 3)
    assert {name: tuple(value.shape) for name, value in labels.items()} == {
        "positions": (150, 2, 2),
        "velocities": (150, 2, 2),
        "energy": (150,),
        "contacts": (150, 3),
    }
    assert (labels["energy"] / labels["energy"][0] - 1).abs().max() < 1e-14
    # The picture shows each ball where its label says, and as large. Green is cyan's, and red the rest of red.
    red, green = torch.from_numpy(frames[..., :2]).double().div(255).unbind(-1)
    for ball, mass in enumerate((green, (red - green).clamp(min=0))):
        mass = mass * (mass > 0.25)  # the rest is compression
        centres = torch.arange(256) + 0.5
        x = (mass.sum(1) * centres).sum(1) / mass.sum((1, 2))
        y = (mass.sum(2) * centres).sum(1) / mass.sum((1, 2))
        assert (torch.stack([x, y], 1) - labels["positions"][:, ball]).abs().max() < 0.25
        assert (mass.sum((1, 2)) / (torch.pi * 20**2) - 1).abs().max() < 0.05


def test_any_count_size_and_seed(tmp_path):
    first = generate(tmp_path / "a", videos=3, seed=7, fps=12, **SMALL)
    again = generate(tmp_path / "b", videos=5, seed=7, fps=12, **SMALL)
    other = generate(tmp_path / "c", videos=1, seed=8, fps=12, **SMALL)
    assert read_video(first.videos[0]).shape == (12, 48, 48, 3)
    for one, two in zip(first.videos, again.videos, strict=False):
        assert one.read_bytes() == two.read_bytes()
    assert first.videos[0].read_bytes() != other.videos[0].read_bytes()
    assert first.videos[0].read_bytes() != first.videos[1].read_bytes()
    more = generate(tmp_path / "a", videos=5, seed=7, fps=12, **SMALL)
    assert [path.read_bytes() for path in more.videos] == [path.read_bytes() for path in again.videos]


@pytest.mark.parametrize("failing", ["write_video", "write_tensors", "simulate"])
def test_generation_goes_on_after_an_interruption(tmp_path, monkeypatch, failing):
    work, calls = getattr(data_module, failing), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(*args, **kwargs)

    monkeypatch.setattr(data_module, failing, interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "a", videos=4, **SMALL)
    assert not [name for name in listing(tmp_path) if name.endswith("tmp")]
    with pytest.raises(DatasetError, match="2 of 4 videos are missing"):
        load_dataset(tmp_path / "a")
    dataset = generate(tmp_path / "a", videos=4, **SMALL)
    assert len(calls) == 5  # two, the one that failed, and the two still missing
    whole = generate(tmp_path / "b", videos=4, **SMALL)
    assert listing(tmp_path / "a") == listing(tmp_path / "b")
    assert [path.read_bytes() for path in dataset.videos] == [path.read_bytes() for path in whole.videos]


def test_a_full_disk_in_the_middle_loses_nothing(tmp_path, monkeypatch):
    generate(tmp_path, videos=2, **SMALL)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        if len(calls) == 3:  # the manifest and a label fit, the video does not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        generate(tmp_path, videos=3, **SMALL)
    assert listing(tmp_path / "videos") == ["video_000.mp4", "video_001.mp4"]
    monkeypatch.undo()
    assert len(generate(tmp_path, videos=3, **SMALL).videos) == 3
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix != ".json")


def test_another_data_set_is_not_overwritten(tmp_path):
    generate(tmp_path, videos=1, **SMALL)
    with pytest.raises(DatasetError, match=r"'seed': 0.*'seed': 1"):
        generate(tmp_path, videos=1, seed=1, **SMALL)


@pytest.mark.parametrize(
    "wrong", [{"videos": 0}, {"frames": 0}, {"seed": -1}, {"fps": 0}, {"size": 2.5}, {"radius": -1.0}]
)
def test_settings_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate(tmp_path, **{"videos": 1, **SMALL, **wrong})


def test_a_folder_of_ones_own(tmp_path):
    for name in ("b.mp4", "a.MOV", "c.mkv"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame in noise_video():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    (tmp_path / "notes.txt").write_text("not a video")
    dataset = load_dataset(tmp_path)
    assert [path.name for path in dataset.videos] == ["a.MOV", "b.mp4", "c.mkv"]
    assert dataset.fps == 25
    assert [read_video(path).shape for path in dataset.videos] == [(30, 48, 64, 3)] * 3
    assert dataset.labels(0) is None


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(DatasetError, match=r"no videos in .*\.mp4"):
        load_dataset(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(VideoError, match=r"a\.mp4"):
        load_dataset(tmp_path)
    (tmp_path / "a.avi").touch()
    with pytest.raises(DatasetError, match="both named 'a'"):
        load_dataset(tmp_path)


def test_missing_labels_are_none_and_damaged_ones_an_error(tmp_path):
    dataset = generate(tmp_path, videos=2, **SMALL)
    (tmp_path / "labels" / "video_000.safetensors").unlink()
    (tmp_path / "labels" / "video_001.safetensors").write_bytes(b"junk")
    assert load_dataset(tmp_path).labels(0) is None
    with pytest.raises(DamagedFile, match="video_001"):
        dataset.labels(1)
    assert generate(tmp_path, videos=2, **SMALL).labels(0) is not None


def test_a_truncated_matroska_is_refused(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "whole.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, width=32, height=32)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert len(read_video(tmp_path / "whole.mkv")) == 60
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"cut\.mkv.*truncated"):
        read_video(tmp_path / "cut.mkv")
