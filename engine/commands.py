"""What the rest of the worker asks of the engine thread, and what it answers. No torch.

Commands are taken between steps, in order; one given during a step takes effect at its end.
Events are published from the engine thread after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from baton.engine.cache_log import CacheChange
from baton.protocol.curves import StepCurve, StepShape
from baton.protocol.ids import RequestKey
from baton.protocol.records import BlockCounts, Request, TokenLogprobs

# -- commands --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a sequence. With `hold`, stop after the first sampled token and keep its blocks
    "held" until Release; otherwise run to its end."""

    request: Request
    hold: bool


@dataclass(frozen=True, slots=True)
class ReserveBlocks:
    """All or nothing: pin what the prefix cache holds of this request's prompt + accepted tokens,
    allocate the rest. Answered by Reserved or Refused ("running": it was admitted before, and this
    is the same reservation, come twice). `loan`: for the prefix cache only, nothing will run on
    it."""

    request: Request
    loan: bool = False


@dataclass(frozen=True, slots=True)
class AdmitReserved:
    """The KV of a reservation has arrived: enter its full blocks into the prefix cache and run
    it. `tokens` were sampled elsewhere and follow the accepted ones."""

    key: RequestKey
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """End a sequence or reservation in whatever state it is; idempotent, unknown keys are fine.
    Its full computed blocks stay cached. `quarantine`: blocks that an unfinished operation may
    still touch; they stay out of use until Unquarantine."""

    key: RequestKey
    quarantine: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unquarantine:
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """The first `num_blocks` blocks of a reservation hold KV now, and no request is to run on it:
    enter those that are full into the prefix cache and end the reservation, without a word.
    Unknown keys are fine."""

    key: RequestKey
    num_blocks: int


@dataclass(frozen=True, slots=True)
class PinCached:
    """Hold the full blocks that the prefix cache has of this request's prompt + accepted tokens,
    until Release. Answered by one Progress with `prefill_done` and no tokens, whose `blocks` are
    these; or by Refused ("not_cached", "busy", "duplicate").

    A lender may have the request itself too, as its decode worker, so give the request that is
    named here the key that `loan_key` makes of its own: Progress, Refused and Release go by it."""

    request: Request


def loan_key(key: RequestKey) -> RequestKey:
    """What the engine of a lender knows the loan of a request by. Never leaves the process."""
    return RequestKey(f"{key.request_id}/loan", key.attempt)


@dataclass(frozen=True, slots=True)
class Park:
    """Stop a sequence that is decoding, after its present step, and hold its blocks until
    Release. Answered by one Progress with `prefill_done`, whose `tokens` are the last one that
    was sampled (its KV is not computed) and repeat what was told before; or by Refused
    ("not_running"), and then nothing has changed."""

    key: RequestKey


@dataclass(frozen=True, slots=True)
class ChangeRole:
    role: str


@dataclass(frozen=True, slots=True)
class UseCurve:
    """How long steps take here, from now on: what prompts may have of a step beside decodes with
    an inter-token target follows from it."""

    curve: StepCurve


Command = (
    Start
    | ReserveBlocks
    | AdmitReserved
    | Adopt
    | PinCached
    | Park
    | Release
    | Unquarantine
    | ChangeRole
    | UseCurve
)

# -- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """`blocks` in order of the request's tokens; the first `cached_blocks` already hold KV."""

    key: RequestKey
    blocks: tuple[int, ...]
    cached_blocks: int


@dataclass(frozen=True, slots=True)
class Refused:
    key: RequestKey
    reason: str


class Progress(msgspec.Struct, frozen=True):
    """What one step did to one sequence. (A struct, for there is one for each token.)"""

    key: RequestKey
    position: int
    """Output position of the first of `tokens`."""
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: str | None = None
    cached_tokens: int | None = None
    phases: dict[str, float] | None = None
    hold: bool = False
    """True for sequences that are held, or will be (`hold`, PinCached, Park), which also tell
    where their KV is. The answers to PinCached and Park are not for the router."""
    blocks: tuple[int, ...] = ()
    ready_blocks: int = 0
    """The first so many of `blocks` are final. The last, partial block becomes ready with the
    end of the prefill."""
    prefill_done: bool = False
    """All of prompt + accepted is computed, `tokens` holds the first token, the sequence is held
    until Release (also when finish_reason is set)."""


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    """The engine cannot run this sequence (it can never fit, say). It is gone."""

    key: RequestKey
    code: str
    message: str


Event = Reserved | Refused | Progress | SequenceFailed
"""About one sequence."""


@dataclass(frozen=True, slots=True)
class LayersOf:
    """Of one sequence in a step: the first `begun` of its `blocks` are final once the step is
    over."""

    key: RequestKey
    blocks: tuple[int, ...]
    begun: int


@dataclass(frozen=True, slots=True)
class LayersDone:
    """Published in the midst of a step, see `LayerMarks`: of these blocks the first `layers`
    layers are final, as soon as `ready()`. A step that then fails ends its sequences as ever."""

    sequences: tuple[LayersOf, ...]
    layers: int
    ready: Callable[[], bool] | None = None
    """None: they are."""


@dataclass(frozen=True, slots=True)
class StepStats:
    seconds: float
    shape: StepShape
    itl: float = math.inf
    """The tightest inter-token target of the sequences that decode in it, in seconds."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    waiting: int
    running: int
    waiting_tokens: int
    blocks: BlockCounts
    steps: int
    preemptions: int
    decoding: int = 0
    decode_context: int = 0
    backlog_seconds: float | None = None
    """These three as in `Load`."""


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """Published after every pass of the loop that did something, also one without a forward
    pass (`stats` is None then)."""

    events: tuple[Event, ...]
    load: EngineLoad
    stats: StepStats | None = field(default=None)
    cache: tuple[CacheChange, ...] = ()
    """What can be found in the prefix cache since the last one, and what cannot any more."""
