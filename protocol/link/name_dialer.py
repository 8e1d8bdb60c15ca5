"""Sessions with all listeners behind one name: routers that share a DNS name each get one.

    resolve --> a Dialer for each address that is new
       ^        an address that is gone: its dialer ends once it has no session
       +------- after `resolve_interval`

Two addresses may lead to the same node (IPv4 and IPv6, two interfaces). A node has one session per
dialing node, the latest; so the address that answered last stands for the others, which are not
dialed while it has its session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from baton.protocol.ids import Identity
from baton.protocol.link.address import resolve, split_tcp
from baton.protocol.link.dialer import Dialer
from baton.protocol.link.ends import GOODBYE
from baton.protocol.link.hello import hello_identity
from baton.protocol.link.session import Session
from baton.protocol.link.settings import LinkSettings
from baton.protocol.records import Record

log = logging.getLogger(__name__)


class NameDialer:
    """As `Dialer`, for every address that `address` stands for, now or later. A session that takes
    the place of another with the same node is given to `on_session` before the other is lost."""

    def __init__(
        self,
        identity: Identity,
        address: str,
        hello: Callable[[], Record],
        on_session: Callable[[Session], None],
        on_refused: Callable[[str], None] | None = None,
        *,
        settings: LinkSettings | None = None,
    ) -> None:
        """Raises ConfigError for a malformed address."""
        split_tcp(address)
        self.address = address
        self._identity = identity
        self._hello = hello
        self._on_session = on_session
        self._on_refused = on_refused
        self._settings = settings or LinkSettings()
        self._dialers: dict[str, Dialer] = {}
        """By numeric address."""
        self._nodes: dict[str, Identity] = {}
        """Who answered last at these."""
        self._stands_in: dict[str, str] = {}
        """For an address that is not dialed: the one that leads to the same node."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def dialed(self) -> set[str]:
        """The numeric addresses that are dialed, or have a session."""
        return set(self._dialers)

    def start(self) -> None:
        """Begin dialing, from the running loop. Raises RuntimeError when called twice."""
        if self._task is not None:
            raise RuntimeError("the dialer was started before")
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, reason: str = GOODBYE) -> None:
        """End all sessions; every `on_lost` is called before this returns. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        dialers, self._dialers = list(self._dialers.values()), {}
        await asyncio.gather(*(dialer.close(reason) for dialer in dialers), *self._retiring)

    async def _run(self) -> None:
        backoff = self._settings.dial_backoff
        while True:
            try:
                addresses = await resolve(self.address)
            except OSError as error:
                log.info("cannot resolve %s: %s", self.address, error)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, self._settings.dial_backoff_max)
                continue
            backoff = self._settings.dial_backoff
            self._follow(addresses)
            await asyncio.sleep(self._settings.resolve_interval)

    def _follow(self, addresses: list[str]) -> None:
        for numeric, dialer in list(self._dialers.items()):
            if numeric not in addresses and not dialer.is_open:
                self._retire(numeric, "the name does not stand for this address any more")
        for numeric, other in list(self._stands_in.items()):
            stands_in = self._dialers.get(other)
            if numeric not in addresses or stands_in is None or not stands_in.is_open:
                del self._stands_in[numeric]
        for numeric in addresses:
            if numeric not in self._dialers and numeric not in self._stands_in:
                self._dial(numeric)

    def _dial(self, numeric: str) -> None:
        dialer = self._dialers[numeric] = Dialer(
            self._identity,
            numeric,
            self._hello,
            lambda session: self._opened(numeric, session),
            self._on_refused,
            settings=self._settings,
        )
        dialer.start()

    def _opened(self, numeric: str, session: Session) -> None:
        node = hello_identity(session.peer_hello)
        # Open or not: the node may have ended the other session before this one opened here.
        others = [
            other
            for other in self._dialers
            if other != numeric and self._nodes.get(other) == node
        ]
        self._nodes[numeric] = node
        self._on_session(session)
        for other in others:
            self._stands_in[other] = numeric
            self._retire(other, f"{numeric} leads to the same node")

    def _retire(self, numeric: str, reason: str) -> None:
        dialer = self._dialers.pop(numeric)
        self._nodes.pop(numeric, None)
        task = asyncio.get_running_loop().create_task(dialer.close(reason))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
