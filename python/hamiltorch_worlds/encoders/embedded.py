"""The default encoder: small, trained on the videos themselves in about a minute, and decodable.

Each frame becomes a set of slots. A slot looks at the picture through a learned attention map; it says *where* the
map's centre of mass lies (x, y) and *what* it sees there (two numbers), in the manner of deep spatial autoencoders
(Finn et al., 2016, arXiv:1509.06113). The decoder draws every slot as a soft blob at its place and paints the frame
from the blobs. Both are trained as an autoencoder of single frames, with one thing asked of neighbouring frames: that
the slots move steadily ("slow and steady" features, Jayaraman and Grauman, 2016, arXiv:1506.04714). All videos are
used, those that the dynamics are later tested on too: no label and no long-range order is seen.

A clip of frames then becomes z = (q, p): a straight line is fitted through the slots of its frames, the last ones
weighing most; q is its value at the clip's last frame and p its slope per frame. So the halves of z are what a
Hamiltonian takes them for, configuration and rate of change, and a picture depends on q alone, as in Hamiltonian
Generative Networks (Toth et al., 2020, arXiv:1909.13789).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ..data import Dataset
from ..device import describe_device
from ..files import read_json, read_tensors, sha256, write_json, write_tensors
from ..video import VideoError, iterate_video
from .base import Encoder, EncoderError

logger = logging.getLogger(__name__)

SIZE = 64  # side of the pictures, px
GRID = 16  # side of the attention maps, cells
SLOT = 4  # numbers per slot: x, y and two that say what
SHARPNESS = 20.0  # of attention; from flatter maps the slots do not learn to leave the middle
HALF_LIFE = 1.0  # frames after which a frame weighs half in the fit through a clip

BATCH = 16  # triplets of frames per training step
GAP = 4  # frames between the frames of a triplet
STEPS_PER_SECOND = 5  # of the budget; two cores do twice as many and more
LEARNING_RATE = 4e-3
NOISE = 0.03  # added to slots before decoding: predictions will not be exact either
STEADY, SPREAD = 0.03, 0.1  # weights of the two regularisers
MAX_FRAMES = 20_000  # kept in memory for training: 240 MB


class FrameAutoencoder(nn.Module):
    """Pictures (N, 3, 64, 64) in [0, 1] to slots (N, slots * 4) and back.

    In a row of slots all x and y come first, (x_0, y_0, x_1, y_1, ...) in [-1, 1], then all that says what.
    """

    background: Tensor
    cells: Tensor

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        # What does not move, in [0, 1]: the network sees and draws the difference from it.
        self.register_buffer("background", torch.zeros(3, SIZE, SIZE))
        centres = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
        # x and y of each cell's centre, (256, 2)
        self.register_buffer("cells", torch.cartesian_prod(centres, centres).flip(-1), persistent=False)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.SiLU(),
        )
        self.attention = nn.Conv2d(48, slots, 1, bias=False)
        # Slots look near places of their own to begin with, so that objects that look alike find different slots.
        home = torch.rand(slots, 2) * 2 - 1
        self.prior = nn.Parameter(-0.5 * (self.cells - home[:, None]).square().sum(-1))
        self.what = nn.Parameter(torch.randn(slots, 48, SLOT - 2) / 48**0.5)
        self.colour = nn.Parameter(torch.randn(slots, SLOT - 1, 32) / slots**0.5)
        self.log_width = nn.Parameter(torch.full((slots,), -2.0))
        self.paint = nn.Sequential(
            nn.Conv2d(32, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 3 * (SIZE // GRID) ** 2, 3, padding=1),
            nn.PixelShuffle(SIZE // GRID),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, 64, 64) in [0, 1] to slots (N, slots * 4)."""
        features = self.trunk((pictures - self.background) * 2)
        attention = (SHARPNESS * self.attention(features).flatten(2) + self.prior).softmax(-1)
        where = attention @ self.cells
        seen = attention @ features.flatten(2).mT
        what = torch.tanh(torch.einsum("nkc,kcs->nks", seen, self.what))
        return torch.cat([where.flatten(1), what.flatten(1)], dim=1)

    def decode(self, slots: Tensor) -> Tensor:
        """Slots (N, slots * 4) to pictures (N, 3, 64, 64), not clamped."""
        where, what = slots.split([2 * self.slots, (SLOT - 2) * self.slots], dim=1)
        x, y = where.unflatten(1, (-1, 2)).unbind(-1)
        axis = self.cells[:GRID, 0]
        precision = torch.exp(-2 * self.log_width)[:, None]
        # A Gaussian in two dimensions is a product of two in one.
        across = torch.exp(-0.5 * precision * (x[..., None] - axis) ** 2)
        down = torch.exp(-0.5 * precision * (y[..., None] - axis) ** 2)
        what = what.unflatten(1, (-1, SLOT - 2))
        colour = self.colour[:, 0] + torch.einsum("nks,ksc->nkc", what, self.colour[:, 1:])
        painted: Tensor = self.paint(torch.einsum("nkc,nkh,nkw->nchw", colour, down, across))
        return self.background + painted


class EmbeddedEncoder(Encoder):
    """Slots of frames, fitted through time and standardised: z = (q, p).

    Frames of any size are resized to 64x64; those that are not square are squeezed. `offset` (D,) and `scale` (D,)
    make z of zero mean and each half of unit root-mean-square deviation over the videos trained on. One factor per
    half keeps the proportions within it, so that directions in which nothing happens stay small.
    """

    can_decode = True

    def __init__(self, network: FrameAutoencoder, offset: Tensor, scale: Tensor, manifest: dict[str, Any]) -> None:
        self._network = network.eval().requires_grad_(False)
        self._offset, self._scale = offset, scale
        self.device = offset.device
        self._manifest = manifest
        self.latent_dim = len(offset)

    @torch.inference_mode()
    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames, uint8 (T, H, W, 3), into slots, float32 (T, D / 2)."""
        return self._network.encode(_resize(frames).to(self.device).float() / 255)

    @torch.inference_mode()
    def encode_prepared(self, clips: Tensor) -> Tensor:
        """Encode the slots of clips, (N, clip, D / 2), at least 2 frames each, to float32 (N, D)."""
        return ((_fit(clips) - self._offset) / self._scale).cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Draw the last frame of each clip, uint8 (N, 64, 64, 3), from q, the first half of `latents` (N, D)."""
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise EncoderError(f"latents must have shape (N, {self.latent_dim}), got {tuple(latents.shape)}")
        half = self.latent_dim // 2
        slots = latents.to(self._offset)[:, :half] * self._scale[:half] + self._offset[:half]
        pictures = torch.cat([self._network.decode(some) for some in slots.split(256)])
        return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).contiguous().cpu()

    def manifest(self) -> dict[str, Any]:
        """Shape, preprocessing and the hash of the weights."""
        return self._manifest


def train_embedded(
    dataset: Dataset,
    folder: Path | str,
    *,
    latent_dim: int = 1024,
    clip: int = 16,
    training_seconds: float = 90.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> EmbeddedEncoder:
    """Train the encoder on `dataset` and store it in `folder`, or load it if it is already there.

    The number of steps follows from `training_seconds` alone (5 per second), so the result depends on the videos, the
    settings and the seed only; the clock ends a training that is slower than that, with a message in the log.

    Args:
        dataset: the videos, each of at least `clip` frames.
        folder: for config.json and model.safetensors, written together at the end.
        latent_dim: D, a multiple of 8.
        clip: frames per latent, at least 9.
        training_seconds: time budget.
        seed: of the initial weights and the order of frames.
        device: where to train and run.
        progress: show progress bars.

    Raises:
        EncoderError: a setting out of range, or `folder` holds an encoder made with other settings or videos.
        VideoError: a video is damaged or shorter than a clip.
        DamagedFile: the stored encoder cannot be read.
    """
    if latent_dim < 2 * SLOT or latent_dim % (2 * SLOT):
        raise EncoderError(f"latent_dim must be a positive multiple of {2 * SLOT}, got {latent_dim}")
    if clip <= 2 * GAP:
        raise EncoderError(f"clip must be at least {2 * GAP + 1} frames, got {clip}")
    folder = Path(folder)
    steps = max(1, round(training_seconds * STEPS_PER_SECOND))
    settings = {
        "name": "embedded",
        "latent_dim": latent_dim,
        "clip": clip,
        "steps": steps,
        "seed": seed,
        "videos_sha256": hashlib.sha256("".join(map(sha256, dataset.videos)).encode()).hexdigest(),
    }
    if (folder / "config.json").exists():
        found = read_json(folder / "config.json")["settings"]
        different = [key for key in settings if found.get(key) != settings[key]]
        if different:
            raise EncoderError(
                f"{folder} holds an encoder trained with other {' and '.join(different)}; "
                "use another folder or delete this one"
            )
    else:
        videos = _load_pictures(dataset, clip, progress)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: it draws for every device
            network, done = _train(videos, latent_dim // (2 * SLOT), steps, training_seconds, device, progress)
        offset, scale = _statistics(network, videos, clip, device)
        tensors = {**network.state_dict(), "offset": offset, "scale": scale}
        write_tensors(folder / "model.safetensors", tensors)
        made = {"steps_done": done, "device": describe_device(offset.device)}
        write_json(folder / "config.json", {"format": 1, "settings": settings, **made})
    return _load(folder, latent_dim, device)


def _load(folder: Path, latent_dim: int, device: torch.device | str) -> EmbeddedEncoder:
    weights = folder / "model.safetensors"
    tensors = {name: tensor.to(device) for name, tensor in read_tensors(weights).items()}
    offset, scale = tensors.pop("offset"), tensors.pop("scale")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once
        network = FrameAutoencoder(latent_dim // (2 * SLOT)).to(device)
    network.load_state_dict(tensors)
    manifest = {
        "name": "embedded",
        "latent_dim": latent_dim,
        "weights_sha256": sha256(weights),
        "dtype": "float32",
        "preprocessing": {"resize": [SIZE, SIZE], "interpolation": "bilinear, anti-aliased"},
        "pooling": f"line fit through slots, half-life {HALF_LIFE} frames",
    }
    return EmbeddedEncoder(network, offset, scale, manifest)


def _load_pictures(dataset: Dataset, clip: int, progress: bool) -> list[Tensor]:
    """The videos' frames as uint8 (T, 3, 64, 64) each, from the start and no more than memory should hold."""
    most = max(clip, MAX_FRAMES // len(dataset.videos))
    videos = []
    for path in tqdm(dataset.videos, desc="read", unit="video", disable=not progress):
        frames = [_resize(torch.from_numpy(frame)[None]) for frame in itertools.islice(iterate_video(path), most)]
        if len(frames) < clip:
            raise VideoError(path, f"it has {len(frames)} frames, fewer than one clip of {clip}")
        videos.append(torch.cat(frames))
    return videos


def _train(
    videos: list[Tensor], slots: int, steps: int, seconds: float, device: torch.device | str, progress: bool
) -> tuple[FrameAutoencoder, int]:
    pictures = torch.cat(videos)
    lengths = torch.tensor([len(video) for video in videos])
    starts = lengths.cumsum(0) - lengths
    network = FrameAutoencoder(slots)
    some = torch.linspace(0, len(pictures) - 1, min(len(pictures), 255)).long()
    network.background.copy_(pictures[some].float().median(dim=0).values / 255)
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.15)
    begin = time.monotonic()
    bar = tqdm(range(steps), desc="train encoder", unit="step", disable=not progress)
    for step in bar:
        if time.monotonic() - begin > seconds:
            logger.warning("the encoder's training was stopped by the clock after %d of %d steps", step, steps)
            return network, step
        video = torch.randint(len(videos), (BATCH,))
        middle = starts[video] + GAP + (torch.rand(BATCH) * (lengths[video] - 2 * GAP)).long()
        triplets = pictures[torch.cat([middle - GAP, middle, middle + GAP])]
        loss = _loss(network, triplets.to(device, memory_format=torch.channels_last).float() / 255)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return network, steps


def _loss(network: FrameAutoencoder, pictures: Tensor) -> Tensor:
    slots = network.encode(pictures)
    drawn = network.decode(slots + NOISE * torch.randn(slots.shape).to(slots))
    # Small moving things must not be lost in a large still background.
    weight = (pictures - network.background).abs().amax(dim=1, keepdim=True) + 0.1
    reconstruction = (weight * (drawn - pictures) ** 2).sum() / (3 * weight.sum())
    before, now, after = slots.chunk(3)
    steady = (before - 2 * now + after).square().mean() / ((after - before).square().mean() + 1e-6)
    # Every slot should follow something: x and y that vary by less than this are pushed to vary more.
    spread = torch.relu(0.3 - slots[:, : 2 * network.slots].std(dim=0)).mean()
    return reconstruction + STEADY * steady + SPREAD * spread


@torch.inference_mode()
def _statistics(
    network: FrameAutoencoder, videos: list[Tensor], clip: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    latents = []
    for video in videos:
        slots = torch.cat([network.encode(some.to(device).float() / 255) for some in video.split(256)])
        latents.append(_fit(slots.unfold(0, clip, 1).mT))
    deviation, offset = torch.std_mean(torch.cat(latents), dim=0)
    halves = deviation.chunk(2)
    scale = torch.cat([half.square().mean().sqrt().clamp_min(1e-6).expand_as(half) for half in halves])
    return offset, scale


def _fit(slots: Tensor) -> Tensor:
    """Weighted least-squares line through slots (N, clip, K) in time: its end and slope, (N, 2K)."""
    times = torch.arange(1 - slots.shape[1], 1, dtype=torch.float64)
    weights = 0.5 ** (-times / HALF_LIFE)
    s0, s1, s2 = weights.sum(), (weights * times).sum(), (weights * times**2).sum()
    value = weights * (s2 - s1 * times)
    slope = weights * (s0 * times - s1)
    kernels = torch.stack([value, slope]) / (s0 * s2 - s1**2)
    return torch.einsum("kt,nts->nks", kernels.to(slots), slots).flatten(1)


def _resize(frames: Tensor) -> Tensor:
    return functional.interpolate(
        frames.movedim(-1, -3), size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
