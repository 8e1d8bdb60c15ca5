"""What one ZeroMQ message of a control session holds: one frame, as one MessagePack array.

The first elements are the kind, the protocol version and the session. Records travel inside as
bytes, so that one malformed record spoils nothing else. The layout of `HelloFrame` and
`RefuseFrame` is the same in every version: they are how versions are agreed on.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from baton.protocol.wire import MalformedRecord, pack, unpack

Uint = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


ATTEMPT_BITS = 16
"""The low bits of a session's id count the attempts of one dialer; the others are random."""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Base of all frames. `version` is the sender's newest in Hello and Refuse, and the agreed
    one in all others; `session` names one attempt of a dialer (see `ATTEMPT_BITS`)."""

    version: Uint
    session: Uint


class HelloFrame(Frame, frozen=True, array_like=True, tag=1):
    """Dialer to listener; sent again until answered."""

    oldest: Uint
    """The oldest version that the dialer speaks; `version` is the newest."""
    record: bytes


class WelcomeFrame(Frame, frozen=True, array_like=True, tag=2):
    """Listener to dialer: accepted, speaking `version`. Idempotent."""

    record: bytes


class RefuseFrame(Frame, frozen=True, array_like=True, tag=3):
    """Listener to dialer: no session, and why."""

    reason: str


class DataFrame(Frame, frozen=True, array_like=True, tag=4):
    """Records `first`, `first + 1`, ...; numbers start at 1 in each direction."""

    ack: Uint
    """All up to this number have arrived in order."""
    first: Uint
    records: tuple[bytes, ...]


class AliveFrame(Frame, frozen=True, array_like=True, tag=5):
    """Heartbeat and receipt."""

    ack: Uint
    gap: bool = False
    """Later records arrived and the one after `ack` did not: send it again now."""


class ByeFrame(Frame, frozen=True, array_like=True, tag=6):
    """The sender knows this session no longer (or never did)."""

    reason: str


AnyFrame = HelloFrame | WelcomeFrame | RefuseFrame | DataFrame | AliveFrame | ByeFrame


def encode_frame(frame: Frame) -> bytes:
    return pack(msgspec.to_builtins(frame, builtin_types=(bytes,)))


def decode_frame(data: bytes) -> AnyFrame:
    """Raises MalformedRecord for bytes that are no frame."""
    plain = unpack(data)
    try:
        frame: AnyFrame = msgspec.convert(plain, type=AnyFrame, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError) as error:
        raise MalformedRecord(f"no frame: {error}") from error
    return frame
