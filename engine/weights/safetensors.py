"""Tensors of safetensors files, memory mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from baton.protocol.errors import ConfigError


def iter_safetensors(files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in files:
        try:
            with safe_open(path, framework="pt", device="cpu") as opened:
                for name in opened.offset_keys():
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: {error}") from error
