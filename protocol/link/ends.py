"""How sessions end, and what cannot be said on them."""

from __future__ import annotations

from enum import Enum

GOODBYE = "the peer closed"
"""How an end that closes as intended says so. A peer that fails says something else, or nothing."""


class LossCause(Enum):
    """What ended a session."""

    HERE = "here"
    """`close`, or a new session in its place."""
    GOODBYE = "goodbye"
    """The peer closed it as intended."""
    FAILED = "failed"
    """The peer said that it cannot go on."""
    PROCESS = "process"
    """The kernel says that the peer's process is gone."""
    CONNECTION = "connection"
    """The connection broke and did not come back in time."""
    SILENCE = "silence"
    """Connected, and nothing heard."""


class SessionClosed(ConnectionError):
    """The session is over; nothing more can be sent on it."""


class UnspokenRecord(ValueError):
    """The peer agreed on a version that does not know this record. Nothing was sent."""
