"""One control session: records arrive once and in order, or the session is reported lost. Pure:
frames in, frames out, time passed in.

    open --close()/Bye/silence/backlog full--> closed --poll()--> on_lost called, once

Records are numbered from 1 in each direction. Receipts are cumulative and ride on whatever is
sent; a record without one is sent again when the connection changed, when the peer reports a gap,
or after a time. A broken connection is not a lost session: as long as both ends live in the same
epoch and one of them hears the other in time, it goes on.

A Session belongs to the listener or dialer that made it, which calls `receive` with each frame,
and `poll` after `notify` was called and when `next_deadline` is reached. All on one thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from baton.protocol.link.ends import GOODBYE, LossCause, SessionClosed, UnspokenRecord
from baton.protocol.link.frames import AliveFrame, AnyFrame, ByeFrame, DataFrame, Frame
from baton.protocol.link.settings import LinkSettings
from baton.protocol.link.stats import LinkStats
from baton.protocol.records import Generate, Prefill, Record, Reserve
from baton.protocol.versions import version_of, version_of_kind
from baton.protocol.wire import MalformedRecord, from_wire, pack, to_wire, unpack

log = logging.getLogger(__name__)


RECEIPT_AT_ONCE = (Prefill, Reserve, Generate)
"""What gives a worker a request: if it dies now, the receipt tells whether it had the request."""


class Session:
    """A reliable, ordered stream of records to and from one life of one peer."""

    def __init__(
        self,
        session_id: int,
        version: int,
        peer_hello: Record,
        *,
        now: float,
        notify: Callable[[], None],
        settings: LinkSettings | None = None,
        stats: LinkStats | None = None,
    ) -> None:
        self.session_id = session_id
        self.version = version
        self.peer_hello = peer_hello
        self.stats = stats or LinkStats()
        self._settings = settings or LinkSettings()
        self._notify = notify
        self._on_record: Callable[[Record], None] | None = None
        self._on_lost: Callable[[str], None] | None = None

        self._unsent: deque[bytes] = deque()
        self._unacked: deque[bytes] = deque()
        self._queued = 0
        """Number of the last record that was to be sent."""
        self._acked = 0
        """Number of the last acknowledged record; `_unacked` holds the ones after it."""
        self._handed_out = 0
        """Number of the last record given to a connection that was not known to be broken."""
        self._resend_wanted = False
        self._resent_at = float("-inf")
        self._backlog_bytes = 0
        self._unacked_bytes = 0

        self._received = 0
        """Number of the last record that arrived in order."""
        self._early: dict[int, bytes] = {}
        self._inbox: deque[Record] = deque()
        self._delivering = False
        self._receipts_owed = 0
        self._receipt_bytes = 0
        self._gap = False

        self._heard = now
        self._sent = now
        self._broken_since: float | None = None
        self._receipt_due: float | None = None
        self._resend_due: float | None = None
        self._resend_delay = self._settings.resend_after

        self._lost_reason: str | None = None
        self._lost_cause: LossCause | None = None
        self._lost_reported = False
        self._bye: str | None = None
        self._closed_here = False

    # -- for users ---------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._lost_reason is None

    @property
    def on_record(self) -> Callable[[Record], None] | None:
        """Called with each record. Those that arrived before it is set follow from the loop."""
        return self._on_record

    @on_record.setter
    def on_record(self, handler: Callable[[Record], None] | None) -> None:
        self._on_record = handler
        self._notify()

    @property
    def on_lost(self) -> Callable[[str], None] | None:
        """Called with the reason exactly once, whatever ended the session, `close` included.
        Never from inside `send` or `close`; set after the loss, it is called from the loop."""
        return self._on_lost

    @on_lost.setter
    def on_lost(self, handler: Callable[[str], None] | None) -> None:
        self._on_lost = handler
        self._notify()

    @property
    def cause(self) -> LossCause | None:
        """What ended it; None while it is open."""
        return self._lost_cause

    @property
    def heard(self) -> float:
        """When the peer's last word came, on the clock of whoever calls `receive`."""
        return self._heard

    def speaks(self, kind: type[Record]) -> bool:
        """Whether the peer knows this kind of record."""
        return version_of_kind(kind) <= self.version

    def has_acknowledged(self, number: int) -> bool:
        """Whether the peer is known to have received this record (`send` gave its number). False
        says nothing: receipts take a moment."""
        return number <= self._acked

    def was_handed_out(self, number: int) -> bool:
        """False for a record that surely never left."""
        return number <= self._handed_out

    def send(self, record: Record) -> int:
        """Queue a record; never blocks. Returns its number. Raises SessionClosed when the session
        is over, UnspokenRecord for one that the peer would misunderstand. A peer that lets the
        backlog grow past its bound is lost (reported from the loop)."""
        if self._lost_reason is not None:
            raise SessionClosed(f"session is closed: {self._lost_reason}")
        if version_of(record) > self.version:
            raise UnspokenRecord(
                f"{type(record).__name__} needs protocol version {version_of(record)}, the peer "
                f"speaks {self.version}"
            )
        data = pack(to_wire(record))
        self._unsent.append(data)
        self._queued += 1
        self._backlog_bytes += len(data)
        if (
            self._backlog_bytes > self._settings.backlog_bytes
            or len(self._unsent) + len(self._unacked) > self._settings.backlog_records
        ):
            self.close("backlog full: the peer does not keep up")
        self._notify()
        return self._queued

    def close(self, reason: str) -> None:
        """End the session and tell the peer. Idempotent. No record is delivered afterwards."""
        if self._lost_reason is None:
            self._bye = reason
            self._closed_here = True
            self._lose(reason, LossCause.HERE)

    # -- for the owner -----------------------------------------------------------------------

    def receive(self, frame: AnyFrame, now: float) -> None:
        """Take one frame of this session. Records reach `on_record` before this returns."""
        if self._lost_reason is not None:
            return
        if frame.version != self.version:
            self.stats.malformed("frame of another protocol version")
            return
        self._heard = now
        self._broken_since = None
        match frame:
            case DataFrame():
                if self._take_receipt(frame.ack, now):
                    self._take_records(frame, now)
            case AliveFrame():
                recently = now < self._resent_at + self._settings.ack_delay
                if self._take_receipt(frame.ack, now) and frame.gap and not recently:
                    self._resend(now)
                    self._notify()
            case ByeFrame():
                graceful = frame.reason == GOODBYE
                self._lose(frame.reason, LossCause.GOODBYE if graceful else LossCause.FAILED)
            case _:
                self.stats.malformed(f"{type(frame).__name__} within a session")
        self._deliver()

    def connection_changed(self, now: float) -> None:
        """The connection was replaced by a new one: what was under way on the old one is gone."""
        self._broken_since = None
        self._sent = min(self._sent, now - self._settings.ping_interval)
        self._resend(now)
        self._notify()

    def say_something(self, now: float) -> None:
        """At the next poll, so that a connection that is gone shows."""
        self._sent = min(self._sent, now - self._settings.ping_interval)
        self._notify()

    def connection_broken(self, now: float) -> None:
        """There is no connection at present."""
        if self._broken_since is None:
            self._broken_since = now

    def lose(self, reason: str, cause: LossCause = LossCause.HERE) -> None:
        """End the session without a word to the peer."""
        if self._lost_reason is None:
            self._lose(reason, cause)

    def poll(self, now: float) -> list[Frame]:
        """Deliver what waits, check the clock, and return the frames to send now."""
        self._deliver()
        if self._lost_reason is None and now >= self._lost_at():
            silent = now >= self._heard + self._settings.lost_after
            self._lose(
                f"nothing heard for {now - self._heard:.1f} s",
                LossCause.SILENCE if silent else LossCause.CONNECTION,
            )
        if self._lost_reason is not None:
            frames: list[Frame] = []
            if self._bye is not None:
                self._drain_window(frames)
                frames.append(ByeFrame(self.version, self.session_id, self._bye))
                self._bye = None
            self._report_loss()
            return frames
        if self._resend_due is not None and now >= self._resend_due:
            self._resend(now)
            self._resend_delay = min(2 * self._resend_delay, self._settings.lost_after)
            self._resend_due = now + self._resend_delay
        frames = []
        self._drain_window(frames)
        if frames and self._resend_due is None:
            self._resend_due = now + self._resend_delay
        ping_due = now >= self._sent + self._settings.ping_interval
        if self._gap or (not frames and (ping_due or self._receipt_wanted(now))):
            frames.append(AliveFrame(self.version, self.session_id, self._received, self._gap))
        if frames:
            self._sent = now
            self._receipts_owed = self._receipt_bytes = 0
            self._receipt_due = None
            self._gap = False
        return frames

    def next_deadline(self) -> float:
        """When `poll` must be called next, if nothing else happens; infinity after the end."""
        if self._lost_reason is not None:
            return float("inf")
        due = min(self._sent + self._settings.ping_interval, self._lost_at())
        if self._receipt_due is not None:
            due = min(due, self._receipt_due)
        if self._resend_due is not None:
            due = min(due, self._resend_due)
        return due

    # -- sending -----------------------------------------------------------------------------

    def _drain_window(self, frames: list[Frame]) -> None:
        if self._resend_wanted:
            self._resend_wanted = False
            self.stats.resent += len(self._unacked)
            self._pack_frames(self._acked + 1, list(self._unacked), frames)
        fresh: list[bytes] = []
        first = self._acked + len(self._unacked) + 1
        while self._unsent and len(self._unacked) < self._settings.window_records:
            size = len(self._unsent[0])
            if self._unacked and self._unacked_bytes + size > self._settings.window_bytes:
                break
            data = self._unsent.popleft()
            self._unacked.append(data)
            self._unacked_bytes += size
            fresh.append(data)
        self._pack_frames(first, fresh, frames)
        if self._broken_since is None:
            self._handed_out = self._acked + len(self._unacked)

    def _pack_frames(self, first: int, records: list[bytes], frames: list[Frame]) -> None:
        part: list[bytes] = []
        size = 0
        for data in records:
            if part and size + len(data) > self._settings.frame_bytes:
                frames.append(self._data_frame(first, part))
                first += len(part)
                part, size = [], 0
            part.append(data)
            size += len(data)
        if part:
            frames.append(self._data_frame(first, part))

    def _data_frame(self, first: int, records: list[bytes]) -> DataFrame:
        return DataFrame(self.version, self.session_id, self._received, first, tuple(records))

    def _resend(self, now: float) -> None:
        if self._unacked:
            self._resend_wanted = True
            self._resent_at = now
            self._resend_due = now + self._resend_delay

    def _take_receipt(self, ack: int, now: float) -> bool:
        """False for a receipt for something that was never sent."""
        if ack > self._acked + len(self._unacked):
            self.stats.malformed("receipt for a record that was not sent")
            return False
        count = ack - self._acked
        if count > 0:
            for _ in range(count):
                size = len(self._unacked.popleft())
                self._unacked_bytes -= size
                self._backlog_bytes -= size
            self._acked = ack
            self._resend_delay = self._settings.resend_after
            self._resend_due = now + self._resend_delay if self._unacked else None
            if self._unsent:
                self._notify()
        return True

    # -- receiving ---------------------------------------------------------------------------

    def _take_records(self, frame: DataFrame, now: float) -> None:
        number = frame.first
        for data in frame.records:
            if number <= self._received or number in self._early:
                self.stats.duplicates += 1
                self._receipt_due = now
            elif number == self._received + 1:
                self._received = number
                self._accept(data, now)
                while (next_data := self._early.pop(self._received + 1, None)) is not None:
                    self._received += 1
                    self._accept(next_data, now)
            elif number <= self._received + self._settings.window_records:
                self._early[number] = data
            else:
                self.stats.malformed("record far beyond the window")
            number += 1
        if self._early:
            self._gap = True
            self._receipt_due = now
        elif self._receipt_due is None:
            self._receipt_due = now + self._settings.ack_delay
        if self._receipt_wanted(now):
            self._notify()

    def _accept(self, data: bytes, now: float) -> None:
        self._receipts_owed += 1
        self._receipt_bytes += len(data)
        try:
            record = from_wire(unpack(data))
        except MalformedRecord as error:
            self.stats.malformed(f"record: {error}")
            return
        self._inbox.append(record)
        if isinstance(record, RECEIPT_AT_ONCE):
            self._receipt_due = now

    def _receipt_wanted(self, now: float) -> bool:
        return (
            (self._receipt_due is not None and now >= self._receipt_due)
            or self._receipts_owed >= max(1, self._settings.window_records // 4)
            or self._receipt_bytes >= self._settings.window_bytes // 4
        )

    def _deliver(self) -> None:
        """Hand records over in order. A handler that calls back into us does not nest."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._inbox and self._on_record is not None:
                if self._closed_here:
                    self._inbox.clear()
                    break
                record = self._inbox.popleft()
                try:
                    self._on_record(record)
                except Exception:
                    # One record that its handler chokes on must not end the process or the
                    # other requests of this session.
                    self.stats.handler_errors += 1
                    log.exception("handling %s failed", type(record).__name__)
        finally:
            self._delivering = False

    # -- the end -----------------------------------------------------------------------------

    def _lost_at(self) -> float:
        at = self._heard + self._settings.lost_after
        if self._broken_since is not None:
            at = min(at, self._broken_since + self._settings.reconnect_grace)
        return at

    def _lose(self, reason: str, cause: LossCause) -> None:
        self._lost_reason = reason
        self._lost_cause = cause
        self._early.clear()
        self._notify()

    def _report_loss(self) -> None:
        self._unsent.clear()
        self._unacked.clear()
        if self._lost_reported or self._on_lost is None or self._delivering:
            return
        self._lost_reported = True
        self._inbox.clear()
        assert self._lost_reason is not None
        try:
            self._on_lost(self._lost_reason)
        except Exception:
            self.stats.handler_errors += 1
            log.exception("handling the loss of a session failed")
