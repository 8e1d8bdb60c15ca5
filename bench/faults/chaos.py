"""Control messages that are dropped, delayed, duplicated or reordered. For measurements and tests:
nothing that serves imports this."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from baton.protocol.link.pump import Pump

log = logging.getLogger(__name__)

TOLD_EVERY = 100
"""Frames between two lines in the log that say what became of them."""
TOLD = "frames so far: "
MAX_DELAY = 2.0
"""Seconds."""
HOLD = 0.05
"""Seconds after which a frame that waits to be overtaken goes anyway."""


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    """The share of frames that each of these happens to; they exclude each other."""

    drop: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.drop, self.delay, self.duplicate, self.reorder)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares must be at least 0 and at most 1 in all: {shares}")


class Fate:
    """Draws what becomes of each frame. Deterministic for a seed and an order of frames."""

    def __init__(self, spec: ChaosSpec, seed: int) -> None:
        self._spec = spec
        self._random = random.Random(seed)
        self.counts = dict.fromkeys(("drop", "delay", "duplicate", "reorder", "pass"), 0)

    def draw(self) -> tuple[str, float]:
        """What happens, and the delay in seconds, which is 0 but for "delay"."""
        spec, mark = self._spec, self._random.random()
        what = "pass"
        for name in ("drop", "delay", "duplicate", "reorder"):
            share = getattr(spec, name)
            if mark < share:
                what = name
                break
            mark -= share
        self.counts[what] += 1
        if sum(self.counts.values()) % TOLD_EVERY == 0:
            log.warning("%s%s", TOLD, json.dumps(self.counts))
        return what, self._random.uniform(0, MAX_DELAY) if what == "delay" else 0.0


class Disturbance:
    """What stands before one socket: passes frames on to `send` as its `Fate` wants."""

    def __init__(
        self,
        fate: Fate,
        send: Callable[[list[bytes]], bool],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._fate = fate
        self._send = send
        self._later = later
        self._held: list[list[bytes]] = []

    def send(self, parts: list[bytes]) -> bool:
        """As `Pump.send`. What is not sent now counts as sent, as on a real network."""
        what, delay = self._fate.draw()
        sent = True
        match what:
            case "drop":
                pass
            case "delay":
                self._later(delay, lambda: self._pass_on(parts))
            case "reorder":
                self._held.append(parts)
                self._later(HOLD, lambda: self._release(parts))
            case _:
                sent = self._send(parts)
                if what == "duplicate":
                    self._send(parts)
                while self._held:
                    self._send(self._held.pop(0))
        return sent

    def _pass_on(self, parts: list[bytes]) -> None:
        self._send(parts)

    def _release(self, parts: list[bytes]) -> None:
        """Nothing overtook it in time."""
        if any(held is parts for held in self._held):
            self._held = [held for held in self._held if held is not parts]
            self._send(parts)


def install(spec: ChaosSpec, seed: int) -> Fate:
    """From now on, everything that this process sends over control sessions is disturbed."""
    fate = Fate(spec, seed)
    original = Pump.send

    def disturbed(self: Pump, parts: list[bytes]) -> bool:
        disturbance: Disturbance | None = getattr(self, "_disturbance", None)
        if disturbance is None:
            disturbance = Disturbance(
                fate,
                lambda parts: original(self, parts),
                lambda delay, call: asyncio.get_running_loop().call_later(delay, call),
            )
            self._disturbance = disturbance  # type: ignore[attr-defined]
        return disturbance.send(parts)

    Pump.send = disturbed  # type: ignore[method-assign]
    return fate


def told_in(log_text: str) -> dict[str, int]:
    """What a process's log last said of its frames; empty when it said nothing."""
    lines = [line for line in log_text.splitlines() if TOLD in line]
    if not lines:
        return {}
    counts: dict[str, int] = json.loads(lines[-1].partition(TOLD)[2])
    return counts
