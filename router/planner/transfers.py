"""What hand-offs ask of the links between workers, and what they add to requests. Pure.

One transfer at a time leaves a worker, as fast as its link goes; a prompt's blocks travel while the
rest of it is computed, so what delays the second token is its last chunk, what the link is slower
than the computation, and waiting for the transfers of other prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from baton.protocol.curves import LinkCurve
from baton.router.planner.phases import Kind
from baton.router.planner.queueing import waiting
from baton.router.planner.workload import Workload


class Traffic(NamedTuple):
    bytes_per_second: float
    """Of all hand-offs together."""
    capacity: float
    """Bytes per second that the links can carry: out of all senders, or into all receivers,
    whichever is less."""
    exposed: float
    """Seconds that a typical hand-off delays the second token; infinite beyond what links carry."""

    @property
    def share(self) -> float:
        return self.bytes_per_second / self.capacity if self.capacity > 0 else math.inf


def request_bytes(workload: Workload, token_bytes: float) -> float:
    """Of a mean request, if all decode elsewhere."""
    return token_bytes * workload.handed.share * workload.handed.tokens


def traffic(
    workload: Workload,
    link: LinkCurve,
    token_bytes: float,
    kind: Kind,
    *,
    rate: float,
    senders: int,
    receivers: int,
) -> Traffic:
    """`rate`: requests per second that are handed over, from `senders` workers of this `kind`."""
    per_request = request_bytes(workload, token_bytes)
    demand = rate * per_request
    capacity = link.bandwidth * min(senders, receivers)
    if per_request <= 0:
        return Traffic(0.0, capacity, link.latency)
    service = link.latency + link.byte * per_request
    spread = workload.handed.variation
    # Prompts leave a worker about as evenly as it reads them.
    wait = waiting(1, rate / senders, service, spread, 1.0).mean
    reading = kind.curve.prefill_seconds(round(workload.tokens), 0, kind.chunk)
    last = token_bytes * min(kind.chunk, workload.tokens) * link.byte
    behind = max(0.0, link.byte * per_request - reading)
    return Traffic(demand, capacity, link.latency + max(last, behind) + wait)
