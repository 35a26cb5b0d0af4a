"""Files that are either whole or absent: atomic writes, JSON and safetensors with errors that name the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor


class DamagedFile(ValueError):  # noqa: N818 (it reads as what it is)
    """A file exists but its content cannot be read. The message names the file and the reason."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} is damaged ({reason}); delete it and run again to make it anew")
        self.path = path


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` when the block ends well.

    The data is on disk before the old file goes. If the block, or the disk, fails in any way (an exception, an
    interruption, no space left) the old file stays as it was and the temporary one is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON-serialisable value to `path` atomically, indented, NaN refused (`ValueError`)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises `FileNotFoundError`, or `DamagedFile` when it is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError alike
        raise DamagedFile(path, error) from error


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors, and a flat string-to-string `metadata`, to `path` as safetensors, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, dict(metadata or {})))


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file to the CPU. Raises `FileNotFoundError` or `DamagedFile`."""
    path = Path(path)
    # Not mapped into memory: what was read must not change when the file does.
    content = path.read_bytes()
    try:
        return load(content)
    except SafetensorError as error:
        raise DamagedFile(path, error) from error


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors. Raises `FileNotFoundError` or `DamagedFile`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise DamagedFile(path, error) from error


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
