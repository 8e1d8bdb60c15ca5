"""What a client saw of one request, and the times that follow from it. Pure.

    due ---- sent ------ first piece - piece - ... - last piece ---- ended
      send lag |   TTFT   |     gaps, one per token      |
               |                  E2E                    |

A piece is what arrived together with k tokens in it; its gap counts as k gaps of a k-th, so figures
of tokens do not depend on how a server cuts its stream. What a reader waited for at worst is kept
as the longest gap between pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from baton.bench.simulator.outcome import Outcome
from baton.protocol.records import Targets

SERVED = ("stop", "length")
REFUSED, CANCELLED, UNFINISHED = "refused", "cancelled", "unfinished"
DISCONNECTED, TIMEOUT = "disconnected", "timeout"


@dataclass(slots=True)
class Seen:
    """One request. Times in seconds since the load began, unless said otherwise."""

    number: int
    """In the order in which they were due."""
    kind: str
    session: str
    lane: str
    targets: Targets
    due: float
    """When it should be sent."""
    prompt: int
    """Tokens; as the server counts them, where it tells."""
    asked: int
    """Output tokens that it should give."""
    sent: float | None = None
    held: bool = False
    """It waited for the answer before it in its conversation."""
    outcome: str = UNFINISHED
    """A finish reason; else "refused", "error CODE", "disconnected", "timeout", "cancelled" (by
    us), "unfinished" (when the run ended)."""
    status: int = 0
    """Of HTTP; 0: there was no answer."""
    detail: str = ""
    """What the server said of its error."""
    pieces: list[float] = field(default_factory=list)
    """When each piece with tokens arrived, since `sent`."""
    counts: list[int] = field(default_factory=list)
    """Tokens of each."""
    ended: float | None = None
    ids: list[int] | None = None
    """Output token ids, where the server tells them."""
    text: str = ""
    cached: int = 0
    """Prompt tokens found in a cache, as the server says."""
    counted_by: str = ""
    """How tokens were counted."""
    headers: dict[str, str] = field(default_factory=dict)
    """Those that explain (`x-baton-...`), without that prefix."""

    @property
    def tokens(self) -> int:
        return sum(self.counts)

    @property
    def served(self) -> bool:
        return self.outcome in SERVED

    @property
    def ttft(self) -> float | None:
        """Seconds from sending to the first token."""
        return self.pieces[0] if self.pieces else None

    @property
    def e2e(self) -> float | None:
        """Seconds from sending to the last token."""
        return self.pieces[-1] if self.pieces else None

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first; None with fewer than two."""
        tokens = self.tokens
        if tokens < 2:
            return None
        return (self.pieces[-1] - self.pieces[0]) / (tokens - 1)

    @property
    def longest_gap(self) -> float | None:
        """Seconds between two pieces, at most."""
        if len(self.pieces) < 2:
            return None
        return max(b - a for a, b in pairwise(self.pieces))

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        """Seconds, one for each token after the first; they add up to E2E - TTFT."""
        if not self.pieces:
            return np.zeros(0)
        counts = np.asarray(self.counts)
        each = np.diff(np.asarray(self.pieces)) / counts[1:]
        return np.concatenate([np.zeros(counts[0] - 1), np.repeat(each, counts[1:])])

    @property
    def send_lag(self) -> float | None:
        """Seconds that it was sent too late; of those that were held, none is known."""
        return None if self.sent is None or self.held else self.sent - self.due

    def attained(self, e2e: float | None = None) -> bool:
        """Served within all targets, of `e2e` seconds too. A refusal is a miss."""
        if not self.served or self.ttft is None:
            return False
        within = e2e is None or (self.e2e or 0.0) <= e2e
        return within and self.outcome_of().attained

    def outcome_of(self) -> Outcome:
        """As the simulator says it, so that what was predicted and what was seen are judged
        alike."""
        return Outcome(
            kind=self.kind,
            lane=self.lane,
            at=self.due,
            prompt=self.prompt,
            end=self.outcome,
            tokens=self.tokens,
            ttft=self.ttft,
            last=self.e2e,
            longest_gap=self.longest_gap or 0.0,
            cached=self.cached,
            targets=self.targets,
        )


def tokens_within(seen: Sequence[Seen], start: float, end: float) -> int:
    """Output tokens that arrived within [start, end)."""
    total = 0
    for one in seen:
        if one.sent is None or not one.pieces:
            continue
        at = np.asarray(one.pieces) + one.sent
        total += int(np.asarray(one.counts)[(at >= start) & (at < end)].sum())
    return total
