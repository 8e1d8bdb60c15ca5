"""Between which workers hand-offs fail although both are well: a link that is cut. Pure.

    fails ----> severed: no hand-off over it --pause over--> one is tried --succeeds--> forgotten
                   ^                                           |
                   +------------ fails, the pause doubles -----+

Blaming the workers would take both from everybody, and with them what each can still do: serve with
others, or alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from baton.protocol.ids import Identity

PAUSE, MOST_PAUSE = 1.0, 15.0
"""Seconds."""
TRIAL = 5.0
"""Seconds that a trial is waited for; by then it has come to nothing, or was cancelled."""

Pair = tuple[Identity, Identity]
"""Who computes the prompt, and who decodes."""


@dataclass(slots=True)
class _State:
    until: float
    pause: float = PAUSE
    trying: bool = False


class Severed:
    def __init__(self) -> None:
        self._states: dict[Pair, _State] = {}

    def failed(self, pair: Pair, now: float) -> None:
        """A hand-off over it did. All that were under way then fail, which counts once."""
        state = self._states.get(pair)
        if state is None:
            self._states[pair] = _State(now + PAUSE)
        elif state.trying or now >= state.until:
            state.pause = min(MOST_PAUSE, 2 * state.pause)
            state.until, state.trying = now + state.pause, False

    def sent(self, pair: Pair, now: float) -> None:
        """A hand-off over it begins. After a pause it is a trial, and the others wait for it."""
        state = self._states.get(pair)
        if state is not None and now >= state.until:
            state.until, state.trying = now + TRIAL, True

    def worked(self, pair: Pair) -> None:
        if self._states:
            self._states.pop(pair, None)

    def gone(self, worker: Identity) -> None:
        """Idempotent."""
        for pair in [pair for pair in self._states if worker in pair]:
            del self._states[pair]

    def pairs(self, now: float, *, trials: bool = True) -> Collection[Pair]:
        """Over which nothing should be handed now. Without `trials`, what may be tried again is not
        tried either: by who would lose by it once more."""
        if not self._states:
            return ()
        return {
            pair for pair, state in self._states.items() if now < state.until or not trials
        }
