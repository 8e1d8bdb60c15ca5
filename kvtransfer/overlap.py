"""Whether the KV of a prompt's chunk travels while its later layers are computed. Pure.

Of a pair of workers the sender knows how long the chunks of its last prompts took, how many bytes
each brought, what was still to be sent when the prompt was computed (exposed), and the curve of
the link. It cuts by layers where that was more than a tenth of the prefill, and into as many
groups as this model of a pipe says are worth it; and goes back where whole blocks would do by
far, or where cutting was tried and prompts were not at the receiver sooner for it.

    chunk 1          chunk 2               computed
       |-g1-|-g2-|      |-g1-|-g2-|        on the link
                                  ^--^ exposed
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from baton.kvtransfer.handoff.messages import blocks_by_layers
from baton.protocol.curves import LinkCurve

SHARE = 0.1
"""Of the prefill: more than this exposed is too much."""
BACK = 0.5
"""Go back to whole blocks when they would expose less than this part of SHARE."""
WORTH = 0.04
"""Of the prefill: a cut into more messages has to gain so much."""
_RECENT = 8
_ENOUGH = 3
"""Hand-offs, before anything is concluded from them."""
_GIVEN_UP = 64
"""Hand-offs until cutting is tried again where it did not help, and whole blocks where it did: only
these show what the link does."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt that became ready at once. `seconds`: since the part before it."""

    seconds: float
    blocks: int
    """That were to be sent."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A hand-off that succeeded. `exposed`: seconds from the end of the prefill until all was at
    the receiver. `layers_per_message`: as it was granted, 0 for all."""

    chunks: tuple[Chunk, ...]
    exposed: float
    layers_per_message: int

    @property
    def prefill(self) -> float:
        return sum(chunk.seconds for chunk in self.chunks)

    @property
    def cost(self) -> float:
        """Seconds a block until all was there: a step that cutting slows down counts too."""
        blocks = sum(chunk.blocks for chunk in self.chunks)
        return (self.prefill + self.exposed) / max(1, blocks)


@dataclass(frozen=True, slots=True)
class Cutting:
    """What a pair of layouts and its scheme allow."""

    num_layers: int
    block_bytes: int
    blocks_per_message: int = 1

    def groups(self, layers_per_message: int) -> int:
        return -(-self.num_layers // layers_per_message) if layers_per_message else 1

    def blocks(self, layers_per_message: int) -> int:
        """Of a message."""
        if not layers_per_message:
            return self.blocks_per_message
        return blocks_by_layers(
            self.blocks_per_message, layers_per_message, self.num_layers, self.block_bytes
        )

    def choices(self) -> list[int]:
        """Layers per message, coarsest first."""
        layers = {-(-self.num_layers // groups) for groups in range(2, self.num_layers + 1)}
        return sorted(layers, reverse=True)


@dataclass(frozen=True, slots=True)
class Link:
    """`message`: seconds that each costs here, whatever its size."""

    curve: LinkCurve
    message: float


def predict_exposed(
    chunks: Sequence[Chunk], link: Link, cutting: Cutting, layers_per_message: int = 0
) -> float:
    """Seconds from the end of the prefill until all of it is over the link, which carries one
    message after the other, each as soon as it is computed; the last one arrives the link's latency
    later."""
    groups = cutting.groups(layers_per_message)
    computed = free = 0.0
    for chunk in chunks:
        messages = -(-chunk.blocks // cutting.blocks(layers_per_message))
        num_bytes = chunk.blocks * cutting.block_bytes / groups
        for group in range(groups):
            ready = computed + chunk.seconds * (group + 1) / groups
            if messages:
                free = max(free, ready) + messages * link.message + num_bytes * link.curve.byte
        computed += chunk.seconds
    return max(0.0, free + link.curve.latency - computed) if free else 0.0


class Overlap:
    """One pair. `fixed`: so many groups of layers whatever was measured; 1: never cut."""

    def __init__(self, cutting: Cutting, fixed: int | None = None) -> None:
        self._cutting = cutting
        self._fixed = fixed is not None
        self.layers_per_message = 0
        """How the next grants should be cut; 0: not."""
        if fixed is not None and fixed > 1:
            self.layers_per_message = -(-cutting.num_layers // min(fixed, cutting.num_layers))
        self._whole: deque[Observed] = deque(maxlen=_RECENT)
        self._cut: deque[Observed] = deque(maxlen=_RECENT)
        self._given_up = 0
        self._cut_for = 0
        """Hand-offs."""

    def observe(self, handoff: Observed, link: Link | None) -> None:
        """After each hand-off. Ones without a computed prompt say nothing."""
        if self._fixed or link is None or handoff.prefill <= 0 or handoff.cost <= 0:
            return
        self._given_up = max(0, self._given_up - 1)
        (self._cut if handoff.layers_per_message else self._whole).append(handoff)
        if self.layers_per_message:
            self._while_cut(link)
        else:
            self._while_whole(link)

    def _while_whole(self, link: Link) -> None:
        if self._given_up or len(self._whole) < _ENOUGH:
            return
        if _median_share([(each.exposed, each.prefill) for each in self._whole]) <= SHARE:
            return
        self.layers_per_message = self._best(self._whole, link, now=0)
        self._cut.clear()

    def _while_cut(self, link: Link) -> None:
        self._cut_for += 1
        if len(self._cut) < _ENOUGH:
            return
        predicted = [
            (predict_exposed(each.chunks, link, self._cutting), each.prefill) for each in self._cut
        ]
        if self._cut_for >= _GIVEN_UP or _median_share(predicted) < SHARE * BACK:
            self._stop()
        elif len(self._cut) == _RECENT and _median_cost(self._cut) >= _median_cost(self._whole):
            self._stop()
            self._given_up = _GIVEN_UP
        else:
            self.layers_per_message = self._best(self._cut, link, now=self.layers_per_message)

    def _stop(self) -> None:
        self.layers_per_message = self._cut_for = 0
        self._whole.clear()

    def _best(self, seen: Sequence[Observed], link: Link, now: int) -> int:
        """The coarsest cut that is nearly as good as the best; what is `now` stays unless another
        is clearly better."""
        prefill = statistics.median(each.prefill for each in seen)

        def exposed(layers: int) -> float:
            return statistics.median(
                predict_exposed(each.chunks, link, self._cutting, layers) for each in seen
            )

        predicted = {layers: exposed(layers) for layers in (0, *self._cutting.choices())}
        least = min(predicted.values())
        if predicted.get(now, predicted[0]) <= least + WORTH * prefill:
            return now
        return next(k for k, value in predicted.items() if value <= least + WORTH / 2 * prefill)


def _median_share(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(part / whole for part, whole in pairs)


def _median_cost(seen: Sequence[Observed]) -> float:
    return statistics.median(each.cost for each in seen)
