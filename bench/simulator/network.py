"""The network between simulated workers: who is there, and how long bytes take.

Workers of one host share its link, in each direction; by default each worker is a host. What
leaves goes one after the other, at once as much as was ready, and so does what arrives: who waits
at the receiver's link keeps nobody at its own. Between workers of one host nothing passes the
host's link, only links of their own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from baton.bench.simulator.clock import SimulatedLoop
from baton.protocol.errors import ConfigError
from baton.protocol.ids import Identity, ProcessRef

if TYPE_CHECKING:
    from baton.bench.simulator.node import Node


class Link:
    """When it is free again, in seconds."""

    __slots__ = ("free_in", "free_out")

    def __init__(self) -> None:
        self.free_out = self.free_in = 0.0


class Network:
    """`workers_per_host`: they fill hosts in the order in which they come; who starts again does
    so where it was. Raises ConfigError when that is none."""

    def __init__(self, loop: SimulatedLoop, workers_per_host: int = 1) -> None:
        if workers_per_host < 1:
            raise ConfigError(f"{workers_per_host} workers per host")
        self.loop = loop
        self._per_host = workers_per_host
        self._places: dict[str, int] = {}
        """The number of each worker, by node id."""
        self._hosts: dict[int, Link] = {}
        self._nodes: dict[Identity, Node] = {}
        self._gone: set[int] = set()
        """Processes, by number."""
        self._processes = 0

    def host_of(self, node_id: str) -> int:
        place = self._places.setdefault(node_id, len(self._places))
        return place // self._per_host

    def link_of(self, host: int) -> Link:
        return self._hosts.setdefault(host, Link())

    def join(self, node: Node) -> ProcessRef:
        """Returns what it is known by as a process."""
        self._nodes[node.identity] = node
        self._processes += 1
        return ProcessRef(self._processes, 0, "simulated")

    def leave(self, node: Node, noticed: float) -> None:
        """Its process is gone; the others notice it after so many seconds."""
        self._nodes.pop(node.identity, None)
        self._gone.add(node.process.pid)
        if noticed:
            self.loop.at(self.loop.time() + noticed, self._notice, node.identity)
        else:
            self._notice(node.identity)

    def is_gone(self, process: ProcessRef) -> bool:
        return process.pid in self._gone

    def find(self, identity: Identity) -> Node | None:
        """None when that life is over."""
        return self._nodes.get(identity)

    def life_of(self, node_id: str) -> Node | None:
        """Who answers at its address now; None while nobody does."""
        return next(
            (n for n in self._nodes.values() if n.identity.node_id == node_id and n.started), None
        )

    def carry(self, sender: Node, receiver: Node, num_bytes: int) -> tuple[float, float]:
        """When the last of these bytes is there, and for how many seconds until then they arrive
        if nothing holds them up."""
        near = sender.host == receiver.host
        link = sender.machine.link_to(same_host=near)
        now = self.loop.time()
        if not num_bytes:
            return now + link.latency, 0.0
        seconds = link.byte * num_bytes
        if link.spread:
            seconds *= math.exp(sender.random.gauss(0.0, link.spread))
        out, into = (sender.own, receiver.own) if near else (sender.link, receiver.link)
        begin = max(now, out.free_out)
        out.free_out = begin + seconds
        into.free_in = max(begin, into.free_in) + seconds
        return into.free_in + link.latency, seconds

    def _notice(self, dead: Identity) -> None:
        for node in list(self._nodes.values()):
            node.peer_died(dead)
