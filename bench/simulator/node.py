"""A simulated worker as its peers reach it: its place in the network, receives that wait, and its
channels to and from others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any

from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Link, Network
from baton.bench.simulator.peers import Incoming, Outgoing
from baton.kvtransfer.mover import OnDone
from baton.protocol.curves import LinkCurve
from baton.protocol.ids import Identity
from baton.protocol.records import Scheme


class Node:
    """A worker, as its peers reach it."""

    def __init__(
        self, network: Network, identity: Identity, machine: Machine, random: Random
    ) -> None:
        self.network = network
        self.identity = identity
        self.machine = machine
        self.random = random
        self.dead = False
        self.started = False
        """It answers."""
        self.host = network.host_of(identity.node_id)
        self.link = network.link_of(self.host)
        self.own = Link()
        """To workers of the same host."""
        self.landings: dict[int, OnDone] = {}
        """Receives that are not over, by tag."""
        self.outgoing = Outgoing(self)
        self.incoming = Incoming(self)
        self.process = network.join(self)
        self._tags = count(1)

    @property
    def under_way(self) -> int:
        """Transfers to the living, and receives that wait."""
        return self.outgoing.under_way + len(self.landings)

    def link_to(self, node_id: str) -> LinkCurve:
        """What a transfer to this worker takes by itself."""
        same_host = self.network.host_of(node_id) == self.host
        return self.machine.link_to(same_host=same_host)

    def issue_tags(self, number: int) -> int:
        first = next(self._tags)
        self._tags = count(first + number)
        return first

    def receive(
        self, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone
    ) -> Landing:
        """In the place of a `BlockMover`."""
        self.landings[tag] = on_done
        return Landing(self, tag)

    def die(self, noticed: float) -> None:
        self.dead = True
        self.network.leave(self, noticed)

    def peer_died(self, peer: Identity) -> None:
        """It is noticed now."""
        self.outgoing.lose(peer)
        self.incoming.lose(peer)

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        loop = self.network.loop
        loop.at(loop.time() + seconds, callback, *args)


class Landing:
    __slots__ = ("_node", "_tag")

    def __init__(self, node: Node, tag: int) -> None:
        self._node, self._tag = node, tag

    def detach(self) -> bool:
        return False

    def abandon(self) -> None:
        self._node.landings.pop(self._tag, None)
