"""What the two ends of a link read from, and write into, the hellos of their owners."""

from __future__ import annotations

import msgspec

from baton.protocol.ids import Identity, ProcessRef, own_process
from baton.protocol.records import PeerHello, Record, RouterHello, WorkerHello
from baton.protocol.wire import MalformedRecord


def hello_identity(record: Record) -> Identity:
    """Who introduces themselves. Raises MalformedRecord for a record that is no hello."""
    if isinstance(record, WorkerHello | RouterHello | PeerHello):
        return record.identity
    raise MalformedRecord(f"{type(record).__name__} is no hello")


def hello_process(record: Record) -> ProcessRef | None:
    """The process behind a hello; None when a peer of version 1 does not say."""
    if isinstance(record, WorkerHello | RouterHello | PeerHello):
        return record.process
    return None


def with_process(record: Record) -> Record:
    """Our hello with our process in it, unless its owner set one."""
    if isinstance(record, WorkerHello | RouterHello | PeerHello) and record.process is None:
        return msgspec.structs.replace(record, process=own_process())
    return record


def hello_receiver(hello: Record) -> Identity | None:
    """The life that the dialer means; None when it takes whoever is there."""
    return hello.receiver if isinstance(hello, PeerHello) else None
