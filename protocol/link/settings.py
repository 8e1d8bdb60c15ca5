"""Times and bounds of a control session, each default written here once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Times in seconds, sizes in bytes."""

    ping_interval: float = 0.5
    """Something is sent at least this often; a ping only when there is nothing else to say."""
    lost_after: float = 3.0
    """Silence after which a peer counts as lost."""
    reconnect_grace: float = 0.8
    """The same from when the connection is seen to be broken: a peer that lives comes back
    within milliseconds, a killed one should not keep its requests waiting for `lost_after`."""
    ack_delay: float = 0.1
    """A receipt waits this long for a record to travel with, unless a quarter of the window is
    unacknowledged."""
    resend_after: float = 0.5
    """First resend of a record that is not acknowledged; doubles with each further one."""
    window_records: int = 1024
    window_bytes: int = 8 << 20
    """Bounds on what was sent and is not acknowledged; a single larger record goes alone."""
    frame_bytes: int = 256 << 10
    """Records are coalesced into messages of about this size."""
    backlog_records: int = 1 << 18
    backlog_bytes: int = 256 << 20
    """Bounds on all that waits to be sent or acknowledged. A peer that falls this far behind is
    given up."""
    dial_attempt: float = 2.0
    """An attempt without an answer ends after this; the next one resolves the name again."""
    dial_backoff: float = 0.05
    dial_backoff_max: float = 2.0
    resolve_interval: float = 5.0
    """A name may come to stand for other addresses, or more of them."""
