"""Workers that share hosts: which are neighbours, and what a link is worth to each. Pure.

Within a host KV blocks take its own link (`Machine.local_link`), between hosts the link that all
workers of a host share, in each direction. Every host gets its part of each role, so that what is
handed over stays within one as far as it can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from msgspec.structs import replace as with_fields

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout
from baton.protocol.curves import LinkCurve

T = TypeVar("T")


def on_hosts(kind: WorkerKind, per_host: int, local: LinkCurve | None) -> WorkerKind:
    """`local`: None for one as fast as that between hosts."""
    machine = kind.machine if local is None else replace(kind.machine, local_link=local)
    return replace(kind, machine=machine, per_host=per_host)


def dealt(pools: Sequence[Sequence[T]]) -> list[T]:
    """All members of all pools, in an order whose every stretch has its part of each pool: hosts
    are filled in it. Members of a pool stay in theirs."""
    places = [
        ((number + 0.5) / len(pool), member) for pool in pools for number, member in enumerate(pool)
    ]
    return [member for _, member in sorted(places, key=lambda place: place[0])]


def spans_hosts(layout: Layout, kinds: Sequence[WorkerKind]) -> bool:
    """It hands over, partly within hosts of several workers and partly between them: then a part
    of it is not like the whole, and has to be simulated as it is."""
    hands_over = not layout.strict or len(layout.pools) > 1
    return hands_over and 1 < kinds[0].per_host < layout.workers


def link_within(layout: Layout, kind: WorkerKind) -> LinkCurve:
    """Of one worker, as closed forms see it, who know of no hosts: a mean over those that it may
    hand over to, with its part of its host's link where others use that at the same time."""
    machine, per_host = kind.machine, kind.per_host
    if per_host == 1:
        return machine.link
    near = machine.link_to(same_host=True)
    if layout.workers <= per_host:
        return near
    within = (per_host - 1) / (layout.workers - 1)
    mixed = layout.count("mixed")
    pairs = min(layout.count("prefill") + mixed, layout.count("decode") + mixed)
    sharing = max(1.0, pairs / math.ceil(layout.workers / per_host))
    return with_fields(
        machine.link,
        latency=within * near.latency + (1 - within) * machine.link.latency,
        byte=within * near.byte + (1 - within) * machine.link.byte * sharing,
    )
