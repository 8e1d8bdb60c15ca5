"""Which steps say how far they are, layer by layer: those that compute a prompt whose receiver
takes its KV so. Costs nothing while there is none.

    I/O thread      watch ------------------------------------------------> unwatch
    engine thread     begin a step -> after each group of layers: publish

A published `LayersDone` is true once `ready()` says so: at once on a CPU, where a layer is
computed when its call returns; on a device when its event has been passed, which the I/O thread
asks, so that the engine thread never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baton.engine.batch import BatchItem
from baton.engine.commands import LayersDone, LayersOf
from baton.protocol.ids import RequestKey

AfterLayer = Callable[[int], None]
"""Called with how many layers are computed."""


class LayerMarks:
    """`publish` is called on the engine thread and must not block. `mark()` records that all that
    was given to the device until now is computed, and returns what asks for it; None: it is."""

    def __init__(
        self,
        publish: Callable[[LayersDone], None],
        *,
        block_size: int,
        num_layers: int,
        mark: Callable[[], Callable[[], bool]] | None = None,
    ) -> None:
        self._publish = publish
        self._block_size = block_size
        self._num_layers = num_layers
        self._mark = mark
        self._watched: dict[RequestKey, int] = {}

    def watch(self, key: RequestKey, layers: int) -> None:
        """Steps of this sequence tell of every so many layers. From any thread."""
        self._watched[key] = layers

    def unwatch(self, key: RequestKey) -> None:
        """Not any more. Unknown keys are fine."""
        self._watched.pop(key, None)

    def begin(self, items: Sequence[BatchItem]) -> AfterLayer | None:
        """What to call after each layer of a step; None when nobody wants to know."""
        if not self._watched:
            return None
        every = [self._watched.get(item.seq.key) for item in items]
        wanted = [layers for layers in every if layers is not None]
        if not wanted:
            return None
        sequences = tuple(
            self._of(item) for item, layers in zip(items, every, strict=True) if layers is not None
        )
        return self._teller(sequences, max(1, min(wanted)))

    def _of(self, item: BatchItem) -> LayersOf:
        seq = item.seq
        end = seq.num_computed + item.num_tokens
        # A block is final when it is full, or when the prompt ends in it.
        begun = end // self._block_size if end < len(seq.tokens) else -(-end // self._block_size)
        return LayersOf(seq.key, tuple(seq.block_ids), begun)

    def _teller(self, sequences: tuple[LayersOf, ...], every: int) -> AfterLayer:
        last, mark, publish = self._num_layers, self._mark, self._publish

        def after_layer(layers: int) -> None:
            if layers % every == 0 or layers == last:
                publish(LayersDone(sequences, layers, None if mark is None else mark()))

        return after_layer
