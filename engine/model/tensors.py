"""Which tensors a model's files hold and where, without reading them. No torch.

Reading the table of a file compares it with the file's size, so that a truncated download is
found before any process starts to load it.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.engine.model.gguf_file import GGUFFile
from baton.protocol.errors import ConfigError

_MAX_HEADER = 100 << 20
"""Safetensors' own limit on its header, in bytes."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    name: str
    dtype: str
    """As the file spells it: "BF16", "Q4_1"."""
    shape: tuple[int, ...]
    """In torch's order."""
    file: Path
    offset: int
    """Of the first data byte in the file."""
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def gguf_tensors(file: GGUFFile) -> list[StoredTensor]:
    return [
        StoredTensor(
            tensor.name,
            tensor.tensor_type.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            file.path,
            tensor.data_offset,
            tensor.n_bytes,
        )
        for tensor in file.tensors
    ]


def safetensors_tensors(path: Path) -> list[StoredTensor]:
    """Raises ConfigError if the file is absent, not safetensors, or not as long as it should be."""
    header, start, size = _safetensors_header(path)
    tensors = []
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            tensors.append(
                StoredTensor(
                    name, entry["dtype"], tuple(entry["shape"]), path, start + first, last - first
                )
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: damaged safetensors header: {error!r}") from error
    end = max((tensor.offset + tensor.nbytes for tensor in tensors), default=start)
    if end > size:
        raise ConfigError(
            f"{path}: truncated: its header describes {end} bytes, the file has {size}"
        )
    return tensors


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(header, offset of the data, size of the file)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise ConfigError(f"{path}: truncated: {size} bytes are too few for safetensors")
            (length,) = struct.unpack("<Q", prefix)
            if length > _MAX_HEADER:
                hint = "; a Git LFS pointer?" if prefix == b"version " else ""
                raise ConfigError(f"{path}: not a safetensors file{hint}")
            raw = stream.read(length)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if len(raw) < length:
        raise ConfigError(
            f"{path}: truncated: its header takes {8 + length} bytes, the file has {size}"
        )
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ConfigError(f"{path}: not a safetensors file: the header is no JSON object")
    return header, 8 + length, size
