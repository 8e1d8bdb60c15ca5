"""The UCX transport: one context and one worker per process, driven by the process's own loop.

How a peer is reached is measured, not assumed (all without CMA, whose use takes the survivor down
with a dying peer):

| peer | endpoint error handling | why |
|---|---|---|
| on this host | off | with it on, UCX gives up shared memory for TCP |
| on this host, but shared memory does not reach it | on | it is TCP anyway, loudly logged |
| elsewhere | on | a lost peer fails its operations |

Life of an endpoint: open -> closing, while sends are under way -> given back to UCX. It is *lost*
once its peer has died (a failed send says so, on the same host also the kernel): then everything
under way on it fails at once, and so does every later send. Receives belong to no endpoint: one
whose sender died stays outstanding, harmless, until `forget` or `close`. Why each sender should
have an inbox of its own is told in inbox.py.

Nothing waits for a peer: UCX objects that still have work under way at `close` are kept until the
process exits, with the memory that they may touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from baton.kernels.native.copying import Copier, make_copier
from baton.kvtransfer import transport
from baton.kvtransfer.counted import CountedOperation, OnDone
from baton.kvtransfer.shared.endpoint import CARRIER, SharedEndpoint
from baton.kvtransfer.shared.inbox import SharedInbox
from baton.kvtransfer.shared.meeting import Meeting
from baton.kvtransfer.traffic import Totals
from baton.kvtransfer.transport import Buffer, Operation
from baton.kvtransfer.ucx import binding
from baton.kvtransfer.ucx.address import UcxAddress, unpack
from baton.kvtransfer.ucx.inbox import UcxInbox
from baton.kvtransfer.ucx.operation import UcxOperation
from baton.protocol.link import ProcessWatch

log = logging.getLogger(__name__)

DEFAULT_OPTIONS = {"TLS": "^cma", "SYSV_FIFO_SIZE": "1024", "RNDV_THRESH": "128K"}
"""FIFO: 8 MiB of shared memory between two processes instead of 2. Where more processes want to run
than there are cores, each turn of the sender or receiver moves so much more, at half the CPU time.
RNDV: what is larger waits at the sender for its receive. Left to itself, UCX sends even 256 KiB
without asking here, and keeps it in memory of a receiver that has posted nothing."""
CLOSE_SECONDS = 0.1
"""How long `close` gives endpoints to say good-bye."""

class _Goodbye(Operation):
    """The closing of an endpoint, which is kept as long as that takes."""

    __slots__ = ()


class UcxEndpoint(transport.Endpoint):
    """Made by `UcxTransport.connect`."""

    def __init__(self, owner: UcxTransport, peer: UcxAddress, same_host: bool) -> None:
        self._owner = owner
        self._life: ProcessWatch | None = None
        self._lost: ConnectionResetError | None = None
        self._closing = False
        self.released = False
        self.on_lost: Callable[[], None] | None = None
        if same_host:
            self._life = ProcessWatch(peer.process, self._on_death, owner.loop)
            if self._life.gone:
                self._end_watch()
                raise ConnectionError(f"process {peer.process.pid} is gone")
        try:
            self._connect(peer, same_host)
        except ConnectionError:
            self._end_watch()
            raise
        self._traffic = owner.totals.by(self._carriers)

    def _connect(self, peer: UcxAddress, same_host: bool) -> None:
        worker = self._owner.worker
        self._error_handling = not same_host
        self._ucx = worker.connect(peer.worker, error_handling=self._error_handling)
        self._carriers = _carriers(self._ucx.lanes())
        if same_host and self._carriers == "tcp":
            log.warning(
                "SLOW PATH: a peer on this host (process %d) is reached over TCP, some ten times "
                "slower than shared memory. Share /dev/shm and the IPC namespace with it.",
                peer.process.pid,
            )
            self._owner.release(self._ucx)
            self._error_handling = True
            self._ucx = worker.connect(peer.worker, error_handling=True)
            self._carriers = _carriers(self._ucx.lanes())

    @property
    def carriers(self) -> str:
        """What UCX may use on this endpoint, as it says itself; TCP, which it keeps beside for
        bookkeeping, is named only where there is nothing else."""
        return self._carriers

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    def post_send(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        array = binding.view(buffer)
        progress = self._owner.progress
        operation = UcxOperation(buffer, on_done, array.nbytes, self._traffic, self)
        if self._lost is not None:
            progress.fail(operation, self._lost)
        elif self._closing:
            progress.fail(operation, ConnectionAbortedError("the endpoint was closed"))
        else:
            try:
                request = self._ucx.send(array, tag)
            except Exception as error:
                progress.fail(operation, ConnectionResetError(f"cannot send: {error}"))
            else:
                progress.outstanding.add_send(self, request, operation)
                progress.posted()
        return operation

    def close(self) -> None:
        self._closing = True
        self.settle()

    def settle(self) -> None:
        """Give the endpoint back to UCX once it is closed and has nothing under way."""
        if self._closing and not self.released and not self._owner.progress.outstanding.has(self):
            self.released = True
            self._end_watch()
            self._owner.release(self._ucx)

    def lose(self, error: ConnectionResetError) -> None:
        """The peer is gone: fail all that is under way."""
        if self._lost is not None:
            return
        self._lost = error
        if self.on_lost is not None:
            self.on_lost()
        if not self._error_handling:
            # UCX leaves pending what the peer had not answered. With error handling it fails
            # operations itself, and only then is their memory out of its hands.
            self._owner.give_up_sends(self, error)
        self.settle()

    def forget(self) -> None:
        """The transport is closed: nothing is watched any more."""
        self._end_watch()

    def _on_death(self) -> None:
        self.lose(ConnectionResetError("the peer process has died"))

    def _end_watch(self) -> None:
        if self._life is not None:
            self._life.close()
            self._life = None


class UcxTransport(transport.Transport):
    """Made on a running loop, which it belongs to. `options` are UCX's, without `UCX_`, and go on
    top of `DEFAULT_OPTIONS`. Where the peer's memory can be mapped, UCX carries only what does not
    lie in shared memory; see `kvtransfer/shared`."""

    name = "ucx"

    def __init__(
        self, options: Mapping[str, str] | None = None, *, shares: bool = True
    ) -> None:
        """`shares`: receivers on this host may take blocks from our memory, and we from others'."""
        self.loop = asyncio.get_running_loop()
        self.totals = Totals()
        self._options = {**DEFAULT_OPTIONS, **(options or {})}
        self._meeting = self._meet() if shares else None
        self._copier: Copier | None = None
        self._inbox = self._make_inbox()
        self._inboxes: dict[Hashable, UcxInbox | SharedInbox] = {}
        self.worker, self.progress = self._inbox.worker, self._inbox.progress
        self._endpoints: set[UcxEndpoint] = set()
        self._goodbyes: set[_Goodbye] = set()
        self._all_said = asyncio.Event()
        self._abandoned: list[Any] = []
        self._closed = False
        log.info("UCX %s over %s", binding.VERSION, " ".join(self.worker.devices()))

    @property
    def address(self) -> bytes:
        return self._inbox.address

    def inbox(self, peer: Hashable, sender: bytes | None = None) -> UcxInbox | SharedInbox:
        if self._closed:
            raise RuntimeError("the transport is closed")
        inbox = self._inboxes.get(peer)
        if inbox is None:
            ucx = self._make_inbox()
            inbox = self._inboxes[peer] = self._sharing(ucx) if self._meeting else ucx
        if sender is not None and isinstance(inbox, SharedInbox):
            self._dial(inbox, sender)
        return inbox

    def forget(self, peer: Hashable) -> None:
        inbox = self._inboxes.pop(peer, None)
        if inbox is not None:
            inbox.close()

    def connect(self, address: bytes, *, same_host: bool) -> UcxEndpoint | SharedEndpoint:
        if self._closed:
            raise ConnectionError("the transport is closed")
        peer = unpack(address)
        if peer.version != binding.VERSION:
            raise ConnectionError(f"peer has UCX {peer.version}, we have {binding.VERSION}")
        self._endpoints = {each for each in self._endpoints if not each.released}
        endpoint = UcxEndpoint(self, peer, same_host)
        self._endpoints.add(endpoint)
        if same_host and peer.token and self._meeting is not None:
            offers = self._meeting.offers(peer.token)
            return SharedEndpoint(endpoint, offers, self.totals.by(CARRIER), self._ended)
        return endpoint

    def post_receive(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        return self._inbox.post_receive(buffer, tag, on_done)

    def watch(self, tag: int, on_arrival: Callable[[], None]) -> None:
        self._inbox.watch(tag, on_arrival)

    def unwatch(self, tag: int) -> None:
        self._inbox.unwatch(tag)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = self._inbox.closed = True
        for inbox in self._inboxes.values():
            inbox.close()
        if self._meeting is not None:
            self._meeting.close()
        if self._copier is not None:
            self._copier.close()
        for endpoint in self._endpoints:
            if endpoint.is_lost:
                # Nobody hears our good-bye, and UCX would log that as an error.
                self._abandoned.append(endpoint)
            else:
                endpoint.close()
        if self._goodbyes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_said.wait(), CLOSE_SECONDS)
        self.progress.stop()
        entries = list(self.progress.outstanding)
        for endpoint in self._endpoints:
            endpoint.forget()
        if entries or self._abandoned:
            binding.keep_until_exit(self.worker, self._endpoints, entries, self._abandoned)

    def release(self, endpoint: binding.Endpoint) -> None:
        """Close towards the peer, without waiting for it."""
        request = endpoint.start_close()
        if request is not None:
            goodbye = _Goodbye(endpoint, self._said)
            self._goodbyes.add(goodbye)
            self._all_said.clear()
            self.progress.outstanding.add_send(goodbye, request, goodbye)
            self.progress.posted()

    def give_up_sends(self, endpoint: UcxEndpoint, error: ConnectionResetError) -> None:
        """Fail the sends of this endpoint; UCX's own records of them are kept."""
        for request, operation in self.progress.outstanding.take_run(endpoint):
            if not request.completed:
                self._abandoned.append((request, operation.buffer))
            self.progress.fail(operation, error)

    def _make_inbox(self) -> UcxInbox:
        name = self._meeting.name if self._meeting is not None else ""
        return UcxInbox(self._options, self.loop, self.totals.received, self._ended, name)

    def _meet(self) -> Meeting | None:
        try:
            return Meeting(self.loop, self._ended)
        except (AttributeError, OSError) as error:
            log.warning("KV memory cannot be shared with processes of this host: %s", error)
            return None

    def _sharing(self, ucx: UcxInbox) -> SharedInbox:
        if self._copier is None:
            self._copier = make_copier(self.loop)
        return SharedInbox(ucx, self._copier, self.loop, self.totals.received, self._ended)

    def _dial(self, inbox: SharedInbox, sender: bytes) -> None:
        try:
            peer = unpack(sender)
            if not peer.meeting:
                raise ConnectionError("it does not share its memory")
            inbox.dial(peer.meeting)
        except OSError as error:
            log.warning(
                "SLOW PATH: blocks of a sender on this host come over UCX, with two copies instead "
                "of one: %s", error,
            )

    def _ended(self, operation: Operation, error: Exception | None) -> None:
        if not isinstance(operation, CountedOperation):
            operation.finish(error)
            return
        if self._closed:
            return
        operation.traffic.count(operation.num_bytes, error)
        endpoint = operation.endpoint if isinstance(operation, UcxOperation) else None
        if endpoint is not None:
            if isinstance(error, ConnectionResetError):
                endpoint.lose(error)
            endpoint.settle()
        operation.finish(error)

    def _said(self, goodbye: Operation) -> None:
        assert isinstance(goodbye, _Goodbye)
        self._goodbyes.discard(goodbye)
        if not self._goodbyes:
            self._all_said.set()


def _carriers(lanes: list[str]) -> str:
    fast = [lane for lane in lanes if lane != "tcp"]
    return "+".join(fast or lanes) or "none"
