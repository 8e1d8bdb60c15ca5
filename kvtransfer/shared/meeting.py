"""Where sender and receiver find each other: each process listens on a socket without a path.

The receiver dials, because what it may then count on is certain at once: a connection that was made
will be served, whenever the sender comes to it, or end. So it knows before it grants anything
whether it will take blocks itself. The token in the address of its inbox tells the sender which of
the connections that it accepted belongs to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Sequence

from baton.kvtransfer.shared.offers import Offers
from baton.kvtransfer.shared.socket_link import SocketLink
from baton.kvtransfer.shared.wire import VERSION, Hello, Message, pack_hello
from baton.kvtransfer.transport import Operation

log = logging.getLogger(__name__)

_BACKLOG = 4096
TOKEN_BYTES = 16


class Meeting:
    """One process's sender side: it accepts receivers, and hands out `Offers` by their tokens."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[Operation, Exception | None], None],
    ) -> None:
        """`ended` as of `Offers`. Raises OSError where there are no such sockets."""
        self._loop = loop
        self._ended = ended
        self.name = f"baton-kv-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind("\0" + self.name)
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self._links: set[SocketLink] = set()
        self._offers: dict[bytes, Offers] = {}
        loop.add_reader(self._listener.fileno(), self._accept)

    def offers(self, token: bytes) -> Offers:
        """The same for each that asks; waits for the connection if that is still to come."""
        found = self._offers.get(token)
        if found is None:
            found = self._offers[token] = Offers(
                self._loop, self._ended, lambda: self._drop(token)
            )
        return found

    def close(self) -> None:
        """Idempotent. Whatever is offered ends with an error."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for link in list(self._links):
            link.close()
        self._links.clear()
        for each in list(self._offers.values()):
            each.close()

    def _drop(self, token: bytes) -> None:
        self._offers.pop(token, None)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionError):
            connection, _ = self._listener.accept()
            self._greet(SocketLink(connection, self._loop))

    def _greet(self, link: SocketLink) -> None:
        if not link.is_own_user:
            log.warning("another user's process asked for KV memory and was not served")
            link.close()
            return
        self._links.add(link)

        def heard(message: Message, fds: Sequence[int]) -> None:
            # Only senders give descriptors away.
            self._links.discard(link)
            if fds or not isinstance(message, Hello) or message.version != VERSION:
                log.warning("a process that does not speak as we do asked for KV memory")
                link.close()
                return
            self.offers(message.token).opened(link)

        link.on_message = heard
        link.on_lost = lambda: self._links.discard(link)


def dial(
    name: str, token: bytes, loop: asyncio.AbstractEventLoop, ready: Callable[[SocketLink], None]
) -> None:
    """Connect to the sender with this name, and say for which inbox. `ready` sets the link's
    callbacks. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        connection.connect("\0" + name)
    except OSError:
        connection.close()
        raise
    link = SocketLink(connection, loop)
    if not link.is_own_user:
        link.close()
        raise PermissionError("the sender runs as another user")
    ready(link)
    link.send(pack_hello(token))
