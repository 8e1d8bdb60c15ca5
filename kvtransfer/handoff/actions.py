"""What a hand-off machine asks its stage to do. The stage does them in order."""

from __future__ import annotations

from dataclasses import dataclass

from baton.protocol.records import Aborted, Ack, Grant, Revoke, Sealed


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a record to the other side, once there is a session with it."""

    record: Grant | Revoke | Ack | Sealed | Aborted


@dataclass(frozen=True, slots=True)
class PostSend:
    """Send one block to one tag; `block` None sends zero bytes. Report with on_send_done."""

    block: int | None
    tag: int


@dataclass(frozen=True, slots=True)
class PostReceive:
    """Post a receive into one block. Report with on_receive_done."""

    block: int
    tag: int


@dataclass(frozen=True, slots=True)
class ReleaseBlocks:
    """The machine's claim on the blocks is over; those in `quarantine` may still be written."""

    quarantine: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EndQuarantine:
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Admit:
    """All KV is in place: run the request. `tokens` are what the sender sampled."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The hand-off is over. `reroute`: the router must be told to run the request again."""

    outcome: str
    reroute: bool


Action = Tell | PostSend | PostReceive | ReleaseBlocks | EndQuarantine | Admit | Ended
