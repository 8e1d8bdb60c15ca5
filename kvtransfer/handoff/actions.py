"""What a hand-off machine asks its stage to do. The stage does them in order."""

from __future__ import annotations

from dataclasses import dataclass

from baton.kvtransfer.handoff.messages import Layers
from baton.protocol.records import DIRECT, Aborted, Ack, Grant, Revoke, Scheme, Sealed


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a record to the other side, once there is a session with it."""

    record: Grant | Revoke | Ack | Sealed | Aborted


@dataclass(frozen=True, slots=True)
class PostSend:
    """Send these blocks, or these layers of them, as one message and report with on_send_done; no
    blocks: answer the tag with zero bytes, whose end concerns nobody. The message is `num_blocks`
    of the receiver's blocks, from token `skip` of the first of ours on."""

    blocks: tuple[int, ...]
    tag: int
    scheme: Scheme = DIRECT
    num_blocks: int = 0
    skip: int = 0
    layers: Layers | None = None


@dataclass(frozen=True, slots=True)
class Checksum:
    """Compute the checksums of a message, one for each of the receiver's blocks in it; the fields
    are those of its PostSend. Report with on_checksums."""

    blocks: tuple[int, ...]
    tag: int
    num_blocks: int
    skip: int


@dataclass(frozen=True, slots=True)
class PostReceive:
    """Await one message into these blocks, or these layers of them. Report with
    on_receive_done."""

    blocks: tuple[int, ...]
    tag: int
    scheme: Scheme
    layers: Layers | None = None


@dataclass(frozen=True, slots=True)
class Detach:
    """The blocks of a staged receive are given up: whatever comes must not reach them. The
    receive itself goes on, and reports as before."""

    tag: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nothing can come to this tag any more, for the sender's process is gone."""

    tag: int


@dataclass(frozen=True, slots=True)
class ReleaseBlocks:
    """The machine's claim on the blocks is over; operations may still touch `quarantine`."""

    quarantine: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EndQuarantine:
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare these blocks with the checksums, 8 bytes each. Report with on_verified."""

    blocks: tuple[int, ...]
    checksums: bytes


@dataclass(frozen=True, slots=True)
class Admit:
    """All KV is in place: run the request. `tokens` are what the sender sampled."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdoptBlocks:
    """The first `num_blocks` blocks hold KV: enter them into the prefix cache. Ends the claim on
    all blocks of the reservation."""

    num_blocks: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The hand-off is over. `reroute`: the router must be told to run the request again."""

    outcome: str
    reroute: bool


Action = (
    Tell
    | PostSend
    | Checksum
    | PostReceive
    | Detach
    | Abandon
    | ReleaseBlocks
    | EndQuarantine
    | Verify
    | Admit
    | AdoptBlocks
    | Ended
)
