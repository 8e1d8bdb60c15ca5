"""What the prefill stage knows of how its hand-offs overlap with their prefills: it times the
chunks, keeps an `Overlap` for each receiver, and has the engine tell of layers where they help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

from baton.engine.commands import Progress
from baton.kvtransfer.handoff.messages import can_cut
from baton.kvtransfer.handoff.sender import Sender
from baton.kvtransfer.overlap import Chunk, Cutting, Link, Observed, Overlap
from baton.kvtransfer.probe import SMALL_MESSAGE, blocks_in
from baton.protocol.curves import LinkCurve
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout

log = logging.getLogger(__name__)

_MEMORY = 0.02
"""What the last message counts."""


class Marks(Protocol):
    """See engine's LayerMarks."""

    def watch(self, key: RequestKey, layers: int) -> None: ...

    def unwatch(self, key: RequestKey) -> None: ...


class Links(Protocol):
    """What is known of the ways to other workers, by node id."""

    def transfer(self, peer: str, num_bytes: int, seconds: float) -> None: ...

    def link(self, peer: str) -> LinkCurve | None: ...


class Overlaps:
    """`fixed`: into so many groups of layers always; None: as measured; 1: never, as without
    `marks`."""

    def __init__(
        self,
        layout: KVLayout,
        links: Links,
        clock: Callable[[], float],
        marks: Marks | None = None,
        fixed: int | None = None,
    ) -> None:
        self.layout = layout
        self.can_cut = marks is not None and can_cut(layout)
        self._marks = marks
        self._links = links
        self._clock = clock
        self._fixed = fixed if self.can_cut else 1
        self._cutting = Cutting(
            layout.num_layers, layout.block_bytes, blocks_in(SMALL_MESSAGE, layout.block_bytes)
        )
        self._posting = 0.0
        self._pairs: dict[Identity, Overlap] = {}
        self._traces: dict[RequestKey, list[tuple[float, int]]] = {}
        """Of prompts that are computed: when so many of their blocks were ready."""

    def layers_per_message(self, peer: Identity) -> int:
        pair = self._pairs.get(peer)
        if pair is None:
            pair = self._pairs[peer] = Overlap(self._cutting, self._fixed)
        return pair.layers_per_message

    def began(self, key: RequestKey, peer: Identity) -> None:
        """A prompt for this receiver is going to be computed."""
        self._traces[key] = []
        layers = self.layers_per_message(peer)
        if layers and self._marks is not None:
            self._marks.watch(key, layers)

    def progress(self, progress: Progress) -> None:
        trace = self._traces.get(progress.key)
        if trace is None:
            return
        now = self._clock()
        if progress.prefill_done and progress.phases is not None:
            # Where it began, as the engine says; all else was seen from here.
            trace.insert(0, (now - progress.phases["prefill"], 0))
        trace.append((now, progress.ready_blocks))

    def ended(self, key: RequestKey, peer: Identity, machine: Sender, outcome: str) -> None:
        if self._marks is not None:
            self._marks.unwatch(key)
        trace = self._traces.pop(key, [])
        stamps, granted = machine.stamps, machine.granted
        if outcome != "acked" or len(trace) < 2 or trace[0][1] or granted is None:
            return
        have = granted.first_block
        chunks = tuple(
            Chunk(max(0.0, end - begin), max(have, ready) - max(have, before))
            for (begin, before), (end, ready) in pairwise(trace)
        )
        pair = self._pairs.get(peer)
        if pair is not None and any(chunk.blocks for chunk in chunks):
            # Until the Ack: a small message may count as sent before the link has had it.
            exposed = self._clock() - stamps["ready"]
            layers = granted.scheme.layers_per_message
            curve = self._links.link(peer.node_id)
            link = None if curve is None else Link(curve, self._posting)
            before = pair.layers_per_message
            pair.observe(Observed(chunks, exposed, layers), link)
            if pair.layers_per_message != before:
                log.info("KV to %s: %s", peer.node_id, _name(pair.layers_per_message))

    def posted(self, seconds: float) -> None:
        """What a message took within the transport's call."""
        self._posting += (seconds - self._posting) * _MEMORY

    def transferred(self, peer: Identity, num_bytes: int, seconds: float) -> None:
        """While the link to it was in use without a pause."""
        self._links.transfer(peer.node_id, num_bytes, seconds)

    def forget(self, peer: Identity) -> None:
        """This life of the receiver is not known any more."""
        self._pairs.pop(peer, None)


def _name(layers_per_message: int) -> str:
    if not layers_per_message:
        return "whole blocks"
    return f"{layers_per_message} layers a message, while the others are computed"
