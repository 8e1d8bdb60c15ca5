"""Where each named tensor of a checkpoint goes, and the check that every one came exactly once.

A checkpoint stores q, k and v (and gate and up) apart; the model wants them as one matrix, in its
own dtype, packed for the CPU at hand. `WeightSlots` copies each tensor to its rows of the fused
matrix as it arrives, and packs a matrix when its last part is in. So beyond the result at most a
few matrices exist at any time, however large the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from baton.kernels.ops import Ops, PackedLinear
from baton.protocol.errors import ConfigError


class WeightSlots:
    def __init__(self, ops: Ops, dtype: torch.dtype, device: torch.device) -> None:
        self._ops = ops
        self._dtype = dtype
        self._device = device
        self._slots: dict[str, tuple[tuple[int, ...], Callable[[Tensor], None]]] = {}
        self._ignored: set[str] = set()

    def vector(self, name: str, size: int, put: Callable[[Tensor], None]) -> None:
        """A parameter that is used as it is, such as the weight of a norm."""
        self._add(name, (size,), lambda tensor: put(self._convert(tensor)))

    def matrix(
        self, name: str, rows: int, columns: int, put: Callable[[Tensor], None]
    ) -> None:
        """A matrix that is used as it is, such as an embedding."""
        self._add(name, (rows, columns), lambda tensor: put(self._convert(tensor)))

    def linear(
        self,
        parts: Sequence[tuple[str, int]],
        columns: int,
        *,
        bias: bool,
        put: Callable[[PackedLinear], None],
    ) -> None:
        """One linear layer. `parts`: (module name, output rows) from top to bottom; each has a
        tensor `<name>.weight` and, with `bias`, `<name>.bias`."""
        fused = _Fused(self, sum(rows for _, rows in parts), columns, bias, len(parts), put)
        start = 0
        for name, rows in parts:
            self._add(f"{name}.weight", (rows, columns), fused.weight_part(start, rows))
            if bias:
                self._add(f"{name}.bias", (rows,), fused.bias_part(start, rows))
            start += rows

    def ignore(self, name: str) -> None:
        """A tensor that some checkpoints carry and this model does not need."""
        self._ignored.add(name)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take every tensor. Raises ConfigError naming the tensor that is unknown, comes twice,
        has another shape than expected, or is missing."""
        missing = dict.fromkeys(self._slots)
        for name, tensor in weights:
            if name in self._ignored or name.endswith(".rotary_emb.inv_freq"):
                continue
            if name not in self._slots:
                raise ConfigError(f"the checkpoint has a tensor {name!r} that the model does not")
            if name not in missing:
                raise ConfigError(f"the checkpoint has the tensor {name!r} twice")
            shape, put = self._slots[name]
            if tuple(tensor.shape) != shape:
                raise ConfigError(
                    f"tensor {name!r} has shape {list(tensor.shape)}, the configuration asks for "
                    f"{list(shape)}"
                )
            del missing[name]
            put(tensor)
        if missing:
            first = next(iter(missing))
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ConfigError(f"the checkpoint has no tensor {first!r}{more}")

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def pack(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        return self._ops.pack_linear(weight, bias)

    def _convert(self, tensor: Tensor) -> Tensor:
        # Always a copy: the source is a view of a mapped file, which is to be let go.
        return self.empty(*tensor.shape).copy_(tensor)

    def _add(self, name: str, shape: tuple[int, ...], put: Callable[[Tensor], None]) -> None:
        self._slots[name] = (shape, put)


class _Fused:
    """Collects the parts of one linear layer; gives it away, packed, when it is complete."""

    def __init__(
        self,
        slots: WeightSlots,
        rows: int,
        columns: int,
        bias: bool,
        parts: int,
        put: Callable[[PackedLinear], None],
    ) -> None:
        self._slots = slots
        self._size = (rows, columns)
        self._has_bias = bias
        self._left = parts * (2 if bias else 1)
        self._put = put
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def weight_part(self, start: int, rows: int) -> Callable[[Tensor], None]:
        return lambda tensor: self._take(tensor, start, rows)

    def bias_part(self, start: int, rows: int) -> Callable[[Tensor], None]:
        return lambda tensor: self._take(tensor, start, rows)

    def _take(self, tensor: Tensor, start: int, rows: int) -> None:
        # Allocated with the first part, so that layers still to come take no memory.
        if self._weight is None:
            self._weight = self._slots.empty(*self._size)
            self._bias = self._slots.empty(self._size[0]) if self._has_bias else None
        target = self._weight if tensor.dim() == 2 else self._bias
        assert target is not None
        target[start : start + rows].copy_(tensor)
        self._left -= 1
        if self._left == 0:
            self._put(self._slots.pack(self._weight, self._bias))
            self._weight = self._bias = None
