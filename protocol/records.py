"""Every record that crosses a process boundary, but those of `cache_events.py`.

Version 2. A record is an array whose first element is its name; new fields go at the end with a
default, so that version N and N-1 read each other; `versions.py` says what each version added.
Durations cross processes, clock times never.

    router  -> worker   Prefill  Reserve  Generate  Lend  Migrate  Cancel  SetRole  SetDraining
    worker  -> router   Load  Curves  WorkerMetrics  TokenBatch  Admitted  Parked  Declined
                        RequestFailed
    decode  -> prefill  Grant  Revoke  Ack  Probe
    prefill -> decode   Sealed  Aborted
"""

from __future__ import annotations

import msgspec

from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.ids import Identity, ProcessRef, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.sampling import SamplingParams


class Record(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Base of all records."""


class Deadlines(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Seconds, counted by each process from its own receipt."""

    first_token: float = 120.0
    between_tokens: float = 60.0
    total: float | None = None
    handoff: float = 30.0
    """A reservation without a seal, or a lease without an acknowledgement, ends after this."""


class Targets(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the operator wants of a request, in seconds. None: as soon as may be."""

    ttft: float | None = None
    """From its arrival at the router to its first token."""
    itl: float | None = None
    """Between tokens."""
    firm: bool = True
    """Somebody asked for them: steps are kept within them, and what they leave no room for waits
    or is refused. Else they only say which of two ways is better."""


class Request(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The request record: with the accepted tokens it determines the decode state (nothing else
    does, so any worker can go on from it)."""

    key: RequestKey
    choice: int
    prompt: bytes
    """Token ids, `pack_tokens`."""
    accepted: bytes = b""
    """Output tokens that earlier attempts delivered to the client, `pack_tokens`."""
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    cache_salt: str = ""
    lane: str = "interactive"
    priority: int = 0
    deadlines: Deadlines = Deadlines()
    targets: Targets = Targets()
    due_in: float | None = None
    """Seconds from the receipt of this record until the first token should be there; what is due
    first is computed first. Negative: late already. None: no target."""


# -- handshakes ------------------------------------------------------------------------------


class ModelCard(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a worker serves. Two workers with one fingerprint give the same logits."""

    fingerprint: str
    name: str
    max_model_len: int
    vocab_size: int
    dtype: str


class WorkerHello(Record, frozen=True):
    """A worker to a router, first thing in a session."""

    identity: Identity
    pid: int
    host: str
    role: str
    model: ModelCard
    layout: KVLayout
    num_blocks: int
    max_running: int
    peer_address: str
    """Where other workers reach this one's hand-off channel (a ZeroMQ address)."""
    device: str
    process: ProcessRef | None = None
    """Of all hellos: filled in by the link, which watches the peer's process where it can."""
    prefill_chunk: int = 512
    """Most tokens of one prompt in a step. (Of a worker that does not say: what it then was.)"""
    max_batch_tokens: int = 2048
    """Most tokens of a step, over all sequences."""


class RouterHello(Record, frozen=True):
    """A router's answer."""

    identity: Identity
    process: ProcessRef | None = None


class PeerHello(Record, frozen=True):
    """Both ways between workers: the sender of KV dials, the receiver answers."""

    identity: Identity
    host: str
    fingerprint: str
    layout: KVLayout
    transport: str
    transport_address: bytes
    pid: int
    """For version 1, which knows no `process`."""
    process: ProcessRef | None = None
    """On the same host the survivor watches it: while it lives, it may still write."""
    receiver: Identity | None = None
    """Of a sender: the life that it means. Another one at the same address refuses."""


# -- router to worker ------------------------------------------------------------------------


class WorkerRef(msgspec.Struct, frozen=True, array_like=True):
    """A worker in the life in which the router knows it."""

    identity: Identity
    peer_address: str


class Prefill(Record, frozen=True):
    """Compute this prompt, sample its first token, hand the KV to `decode`."""

    request: Request
    decode: WorkerRef
    lender: WorkerRef | None = None
    """A worker that has more of the prompt's KV in its cache, and was told to `Lend` it."""


class Reserve(Record, frozen=True):
    """Reserve blocks for this request, whose KV `prefill` will send, and decode it once sealed."""

    request: Request
    prefill: WorkerRef


class Generate(Record, frozen=True):
    """Do all of it here, the prefill in chunks."""

    request: Request
    lender: WorkerRef | None = None


class Lend(Record, frozen=True):
    """Send `borrower` the blocks of this request's prompt that the cache holds. Costs the request
    nothing when it fails: the borrower then computes them."""

    request: Request
    borrower: WorkerRef


class Migrate(Record, frozen=True):
    """Stop decoding this request after the present step and hand its KV to `decode`, which will
    get a Reserve of the same attempt. Answered by Parked, or by the request's end."""

    key: RequestKey
    decode: WorkerRef


class Cancel(Record, frozen=True):
    """Forget this attempt, in whatever state it is. Idempotent; unknown keys are fine."""

    key: RequestKey
    reason: str


class SetRole(Record, frozen=True):
    """What the router will send, and so how the worker fills its steps. Of two commands the one
    with the higher term counts; people's own carry the term that is in force."""

    role: str
    """Or, of a person, "auto": the controller may change it again."""
    term: int = 0
    controller: str = ""
    """The router that decided, or "" for a person."""


class SetDraining(Record, frozen=True):
    """Whether the worker is to be emptied. It says so with every heartbeat, to all its routers, and
    each of them takes away what it has there."""

    draining: bool


# -- worker to router ------------------------------------------------------------------------


class BlockCounts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Blocks of a pool by state; they add up to the size of the pool."""

    free: int
    cached: int
    active: int
    held: int
    quarantined: int


class Load(Record, frozen=True):
    """The heartbeat: what a worker has on its hands."""

    role: str
    state: str
    """"ready" or "draining"."""
    waiting: int
    running: int
    handoffs: int
    """Hand-offs in progress, either direction."""
    waiting_tokens: int
    """Prompt tokens not computed yet."""
    blocks: BlockCounts
    step_age: float
    """Seconds since the last step ended, 0 when no work is pending."""
    steps: int
    preemptions: int
    decoding: int = 0
    """Of `running`, those whose prompt is computed."""
    decode_context: int = 0
    """Tokens that these attend to, all together."""
    backlog_seconds: float | None = None
    """Until all of `waiting_tokens` are computed, as the worker predicts it. None: unknown."""
    term: int = 0
    """Of the commands about its role that it has taken, the latest."""
    controller: str = ""
    """Whose commands it takes in this term; "" while none came."""
    pinned: bool = False
    """A person chose its role, and no controller changes it."""
    routers: tuple[Identity, ...] = ()
    """All that it serves: so routers learn of each other."""


class Curves(Record, frozen=True):
    """How long this worker's steps and its transfers to others take, as it has measured. Sent
    when it has changed by some percent, and to a router that has just come."""

    step: StepCurve | None
    """None while nothing is known."""
    links: tuple[tuple[str, LinkCurve], ...] = ()
    """By the receiver's worker id, for those that were sent to."""


class WorkerMetrics(Record, frozen=True):
    """Cumulative samples of a worker's own metrics, for the router's /metrics page."""

    samples: tuple[tuple[str, str, dict[str, str], float], ...]
    """(family, sample name, labels, value)."""
    types: dict[str, tuple[str, str]]
    """Family to (type, help)."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of one token, and the most likely alternatives at its position, best
    first. Taken from the logits after penalties and bias and before temperature."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenDelta(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """New tokens of one sequence. `position` is the output position of the first of them, counted
    over all attempts; the router accepts only the next one of the current attempt."""

    key: RequestKey
    position: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: str | None = None
    """"stop" (an end or stop id, which is the last of `tokens`), "length", or None."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; with the first token only."""
    phases: dict[str, float] | None = None
    """Seconds spent per phase on this worker ("queue", "prefill", ...), once, when known."""


class TokenBatch(Record, frozen=True):
    """All tokens of one step for one router."""

    deltas: tuple[TokenDelta, ...]


class Admitted(Record, frozen=True):
    """The decode worker took the request over: KV sealed, blocks its own."""

    key: RequestKey
    transferred_bytes: int
    cached_blocks: int
    phases: dict[str, float]


class Parked(Record, frozen=True):
    """The request has stopped here for its migration; all its tokens were sent before this. With
    `parked` False it goes on here, for it was not decoding."""

    key: RequestKey
    parked: bool


class Declined(Record, frozen=True):
    """The worker cannot take this attempt ("busy", "no_session", "timeout", "stale", ...): route
    it again. Nothing is held."""

    key: RequestKey
    reason: str


class RequestFailed(Record, frozen=True):
    """The attempt ended here for a reason that another worker would share."""

    key: RequestKey
    code: str
    message: str


# -- hand-off channel ------------------------------------------------------------------------


class Scheme(msgspec.Struct, frozen=True, array_like=True):
    """How blocks become messages between one pair of workers."""

    blocks_per_message: int = 1
    staged: bool = False
    """Gathered into a buffer of the transport at the sender, landed in one at the receiver and
    copied into the blocks from there. Otherwise from block to block, one block per message."""
    layers_per_message: int = 0
    """A message holds so many layers of its blocks, the next one the following layers of the same
    blocks; 0: all layers. Only for a sender whose last seal asked for it."""
    pulled: bool = False
    """The receiver copies from the sender's memory itself. Only for a sender that it is connected
    with for that, see `kvtransfer/shared`."""


DIRECT = Scheme()


class Grant(Record, frozen=True):
    """Receiver to sender: blocks are reserved and receives posted, one per message.

    Messages of all layers: message m holds the blocks from `cached_blocks + m *
    scheme.blocks_per_message` on, at most `scheme.blocks_per_message` of them and none from
    `num_blocks` on, and goes to tag `first_tag + m`. With `scheme.layers_per_message` each of
    these is as many messages as it takes for all layers, the first layers first, under
    consecutive tags. Every tag is answered, with the blocks' bytes or, after an abort, with zero
    bytes; no tag is ever used twice.
    """

    key: RequestKey
    operation: int
    cached_blocks: int
    num_blocks: int
    first_tag: int
    scheme: Scheme = DIRECT


class Revoke(Record, frozen=True):
    """Receiver to sender: stop; answer the tags that are still open with zero bytes."""

    key: RequestKey
    operation: int
    first_tag: int
    num_tags: int
    again: bool = False
    """The session broke since the grant, so the sender may never have seen it, or may have
    forgotten the hand-off: it answers these tags in any case."""


class Ack(Record, frozen=True):
    """Receiver to sender: admitted. The sender's lease is over."""

    key: RequestKey
    operation: int


class ProbeRound(msgspec.Struct, frozen=True, array_like=True):
    """A message of zero bytes, then so many with blocks, under consecutive tags."""

    scheme: Scheme
    messages: int


class Probe(Record, frozen=True):
    """Receiver to sender: send `num_blocks` scratch blocks in each round, one round after the
    other, so that I learn which scheme is the fastest. Receives are posted."""

    first_tag: int
    block_bytes: int
    num_blocks: int
    rounds: tuple[ProbeRound, ...]


class Sealed(Record, frozen=True):
    """Sender to receiver: all blocks were sent under a live lease. Carries what the sender
    sampled, so that the receiver goes on from there."""

    key: RequestKey
    operation: int
    epoch: int
    """The sender's."""
    tokens: tuple[int, ...]
    num_blocks: int | None = None
    """Of a loan: how many blocks were sent, if fewer than granted."""
    checksums: bytes = b""
    """8 bytes for each block that was sent (xxh3_64 of its bytes, little endian), or none."""
    layers_per_message: int = 0
    """How the sender wants the next grants of this session cut, see Scheme: what it could not
    hide behind its prefills was too much, or is not any more."""


class Aborted(Record, frozen=True):
    """Sender to receiver: no seal will come. `finished`: the first token ended the request."""

    key: RequestKey
    operation: int | None
    reason: str


RouterToWorker = Prefill | Reserve | Generate | Lend | Migrate | Cancel | SetRole | SetDraining
WorkerToRouter = (
    Load | Curves | WorkerMetrics | TokenBatch | Admitted | Parked | Declined | RequestFailed
)
PeerToPeer = Grant | Revoke | Ack | Probe | Sealed | Aborted
Hello = WorkerHello | RouterHello | PeerHello
AnyRecord = RouterToWorker | WorkerToRouter | PeerToPeer | Hello
