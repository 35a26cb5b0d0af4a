"""V-JEPA 2, frozen, from the `transformers` library: the encoder of H-JEPA (section 4.2).

The preprocessing is our own, because the library's needs torchvision. It is the same arithmetic: bilinear with
anti-aliasing, rounded to uint8, centre crop, ImageNet mean and deviation.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .base import Encoder, EncoderError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VJEPA2Encoder(Encoder):
    """Mean over all space-time tokens of V-JEPA 2's encoder.

    With ``resize=None, crop=None`` frames must already be as large as the checkpoint was made for, and are seen whole.
    The library's own preprocessing, which the paper used, is ``resize=int(crop * 256 / 224)`` and ``crop`` the
    checkpoint's size (292 and 256 for 256 px): it cuts an eighth of each axis away.

    Args:
        checkpoint: a local folder with config.json and model.safetensors, or a hub id. A folder is never looked up on
            the hub; for an id the hub's own settings hold, `HF_HUB_OFFLINE` among them.
        dtype: "float32", "float16" or "bfloat16"; latents are float32 in any case.
        resize: shortest edge after resizing, px; None keeps the frame.
        crop: side of the central square, px; None keeps the frame.
        device: where the network runs.
        local_files_only: take a hub id from the local cache only.

    Raises:
        EncoderError: `transformers` is not installed, or the checkpoint is missing, damaged or no V-JEPA 2.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: str = "float32",
        resize: int | None = None,
        crop: int | None = None,
        device: torch.device | str = "cpu",
        local_files_only: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise EncoderError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self._model = _load(checkpoint, DTYPES[dtype], local_files_only).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self._resize, self._crop = resize, crop
        self._size = int(self._model.config.crop_size)
        self.latent_dim = int(self._model.config.hidden_size)
        if crop is not None and crop != self._size:
            raise EncoderError(f"crop must be {self._size}, the frame size of {checkpoint}, or none; got {crop}")
        self._manifest = {
            "name": "vjepa2",
            "checkpoint": Path(checkpoint).name,  # the same for a hub id and a copy of it in some folder
            "weights_sha256": _weights_hash(self._model),
            "dtype": dtype,
            "preprocessing": {"resize": resize, "crop": crop, "mean": list(MEAN), "std": list(STD)},
            "pooling": "mean over space-time tokens",
        }

    def prepare(self, frames: Tensor) -> Tensor:
        """Resize and crop uint8 (T, H, W, 3) to uint8 (T, 3, size, size). Raises `EncoderError` for other sizes."""
        images = frames.movedim(-1, -3)
        height, width = images.shape[-2:]
        if self._resize is not None and min(height, width) != self._resize:
            shape = [edge * self._resize // min(height, width) for edge in (height, width)]
            large = functional.interpolate(
                images.float(), size=shape, mode="bilinear", antialias=True, align_corners=False
            )
            images = large.round().clamp(0, 255).to(torch.uint8)
            height, width = shape
        if self._crop is not None and min(height, width) >= self._crop:
            top, left = (height - self._crop) // 2, (width - self._crop) // 2
            images = images[..., top : top + self._crop, left : left + self._crop]
        if images.shape[-2:] != (self._size, self._size):
            # The network would run, with wrong positions: it numbers patches by the size in its configuration.
            raise EncoderError(
                f"this checkpoint takes frames of {self._size}x{self._size} px, but {frames.shape[-3]}x"
                f"{frames.shape[-2]} frames became {images.shape[-2]}x{images.shape[-1]}; "
                f"set resize={self._size * 256 // 224} and crop={self._size}"
            )
        return images.contiguous()

    @torch.inference_mode()
    def encode_prepared(self, clips: Tensor) -> Tensor:
        """Encode uint8 (N, clip, 3, size, size) to float32 (N, hidden_size)."""
        mean = torch.tensor(MEAN, device=self.device)[:, None, None]
        std = torch.tensor(STD, device=self.device)[:, None, None]
        pixels = (clips.to(self.device) / 255 - mean) / std
        # The predictor's output is not needed, and would cost a third more.
        output = self._model(pixel_values_videos=pixels.to(self._model.dtype), skip_predictor=True)
        # Thousands of tokens are averaged: in half precision the sum itself would lose digits.
        latents: Tensor = output.last_hidden_state.float().mean(dim=1).cpu()
        return latents

    def manifest(self) -> dict[str, Any]:
        """Name of the checkpoint, the hash of its weights, dtype, preprocessing and pooling."""
        return self._manifest


def _load(checkpoint: str, dtype: torch.dtype, local_files_only: bool) -> Any:
    try:
        import transformers
        from transformers import VJEPA2Model
    except Exception as error:  # a torchvision that does not fit torch breaks this import in ways of its own
        raise EncoderError(
            f'the vjepa2 encoder needs the transformers library: pip install "hamiltorch_ext[worlds]" ({error})'
        ) from error
    folder = Path(checkpoint).expanduser()
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise EncoderError(f"no checkpoint in {folder}: it needs config.json and model.safetensors")
    if not local and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", checkpoint):
        raise EncoderError(f"no such checkpoint folder: {checkpoint}")
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": folder if local else checkpoint,
        "local_files_only": local or local_files_only,
    }
    verbosity = transformers.logging.get_verbosity()
    # A classifier's checkpoint holds layers that we do not use; that is no news. What is missing is judged below.
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(**source)
        if config.model_type != "vjepa2":
            raise EncoderError(f"{checkpoint} is a checkpoint of {config.model_type!r}, not of 'vjepa2'")
        loaded: Any = VJEPA2Model.from_pretrained(
            **source, config=config, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    except EncoderError:
        raise
    except Exception as error:  # the library's errors come in many types
        where = "" if local else " (neither a local folder nor available from the hub or its cache)"
        raise EncoderError(f"cannot load the V-JEPA 2 checkpoint {checkpoint}{where}: {error}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    model, loading = loaded
    absent = sorted(name for name in loading["missing_keys"] if name.startswith("encoder."))
    if absent:
        raise EncoderError(f"the checkpoint {checkpoint} lacks {len(absent)} weights of the encoder, {absent[0]} first")
    return model


def _weights_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
