"""Opening a GGUF file quickly. No torch.

The `gguf` library's reader turns every element of every array into several numpy views: seconds
for a vocabulary and its merges. `GGUFFile` is that reader with the arrays kept whole: a string
array stays one span of bytes until somebody asks for its strings, a numeric array is one view.
Tensors, types and scalars are the library's own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderField

from baton.protocol.errors import ConfigError

_LENGTH = struct.Struct("<Q")


class GGUFFile(GGUFReader):
    """A memory-mapped GGUF file: `value(key)`, `has(name)` and the library's `tensors`.

    Raises ConfigError, naming the file and the cause, for a file that is absent, not GGUF, one
    part of several, of foreign byte order, or shorter than its header says.
    """

    _flat: npt.NDArray[np.uint8] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        try:
            self.size = path.stat().st_size
            super().__init__(path)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            cause = " ".join(str(error).split())
            raise ConfigError(
                f"{path}: not a readable GGUF file, damaged or truncated "
                f"({self.size} bytes): {cause}"
            ) from error
        self._names = {tensor.name for tensor in self.tensors}
        parts = self.value("split.count", 1)
        if parts > 1:
            raise ConfigError(
                f"{path}: one of {parts} parts of a split GGUF; merge them into one file first"
            )

    @property
    def architecture(self) -> str:
        return str(self.value("general.architecture", "none stated"))

    def has(self, tensor: str) -> bool:
        return tensor in self._names

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value as plain Python: scalar, string, or list of either."""
        field = self.fields.get(key)
        if field is None:
            return default
        if field.types[0] == GGUFValueType.ARRAY and field.types[-1] == GGUFValueType.STRING:
            count = int(field.parts[-2][0])
            return _strings(field.parts[-1], count)
        return field.contents()

    def metadata(self, prefix: str) -> Mapping[str, Any]:
        """All values whose key starts with `prefix`, under the full key."""
        return {key: self.value(key) for key in self.fields if key.startswith(prefix)}

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:
        """As the library's, from a plain view of the mapping: slicing np.memmap itself costs
        several times as much, and the header takes thousands of slices."""
        if self._flat is None:
            self._flat = self.data.view(np.ndarray)
        wanted = np.dtype(dtype)
        end = offset + wanted.itemsize * int(count)
        return self._flat[offset:end].view(wanted.newbyteorder(override_order or self.byte_order))

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[GGUFValueType]]:
        """As the library's, except that an array is `[item type, length, payload]`."""
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        if self.byte_order != "I":
            raise ValueError("the byte order is not this machine's")
        raw_item = self._get(orig_offs, np.uint32)
        length = self._get(orig_offs + 4, np.uint64)
        item, count, start = GGUFValueType(int(raw_item[0])), int(length[0]), orig_offs + 12
        if item == GGUFValueType.STRING:
            payload = self._get(start, np.uint8, _span(self.data, start, count))
        elif item in self.gguf_scalar_to_np:
            payload = self._get(start, self.gguf_scalar_to_np[item], count)
            if len(payload) < count:
                raise ValueError("an array reaches past the end of the file")
        else:
            raise ValueError(f"arrays of {item.name} are not supported")
        types = [GGUFValueType.ARRAY] + [item] * (count > 0)
        return 12 + payload.nbytes, [raw_item, length, payload], [2], types

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for field in fields:
            _, name, _, dims, raw_type, offset = field.parts
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(int(raw_type[0]))]
            count = int(np.prod(dims, dtype=np.uint64))
            end = start_offs + int(offset[0]) + count // block * width
            if end > self.size:
                raise ConfigError(
                    f"{self.path}: truncated: tensor {bytes(name).decode()} ends at byte {end}, "
                    f"the file at byte {self.size}"
                )
        super()._build_tensors(start_offs, fields)


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and path.is_file() and os.access(path, os.R_OK)


def _span(data: np.memmap[Any, np.dtype[np.uint8]], start: int, count: int) -> int:
    """Bytes that `count` length-prefixed strings take from `start`."""
    view, unpack, offset = data.data, _LENGTH.unpack_from, start
    for _ in range(count):
        offset += 8 + unpack(view, offset)[0]
    if offset > len(view):
        raise ValueError("a string reaches past the end of the file")
    return offset - start


def _strings(payload: npt.NDArray[np.uint8], count: int) -> list[str]:
    raw, unpack, offset = payload.tobytes(), _LENGTH.unpack_from, 0
    strings = []
    for _ in range(count):
        end = offset + 8 + unpack(raw, offset)[0]
        strings.append(str(raw[offset + 8 : end], "utf-8"))
        offset = end
    return strings
