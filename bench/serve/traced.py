"""A trace as load: at its own times or at others, and what of it a server cannot take.

Nothing is left out in silence: who measures a trace without its longest requests has measured
another one, and is told so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.traces import Traced, read_trace, replay
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets


@dataclass(slots=True)
class Omitted:
    """Of the requests that were due."""

    due: int = 0
    left_out: int = 0
    """Too long for the limits."""
    cut: int = 0
    """Their answers end before they did in the trace."""
    limits: str = ""
    """What these are."""

    def to_dict(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "limits"}

    def warnings(self) -> list[str]:
        found = []
        if self.left_out:
            found.append(f"{self.left_out} of {self.due} requests of the trace "
                         f"({self.left_out / self.due:.1%}) were left out: {self.limits}")
        if self.cut:
            found.append(f"answers of {self.cut} of {self.due} requests of the trace were cut: "
                         f"{self.limits}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How long requests may be, in tokens; None: as long as they are."""

    context: int | None
    """Of the model: prompt and answer."""
    prompt: int | None
    answer: int | None
    whole: bool = False
    """A server that is told by a seed when answers end must have room for the longest of all."""

    def takes(self, traced: Traced, longest: int) -> bool:
        """`longest` answer of all."""
        if self.prompt is not None and traced.prompt > self.prompt:
            return False
        answer = longest if self.whole else min(traced.output, longest)
        return self.context is None or traced.prompt + answer <= self.context

    def __str__(self) -> str:
        said = [
            f"{what} {tokens:,}" for what, tokens in (
                ("prompt and answer fit a context of", self.context),
                ("--longest", self.prompt), ("--max-tokens", self.answer),
            ) if tokens is not None
        ]
        return ", ".join(said)


def of_trace(
    path: Path,
    room: Room,
    omitted: Omitted,
    *,
    targets: Targets,
    vocabulary: int,
    start: float = 0.0,
    seconds: float | None = None,
    speed: float | None = None,
    rate: float | None = None,
) -> Iterator[Arrival]:
    """`seconds` of the run; None: all that is left of the trace after `start`. `rate`: requests per
    second that it is scaled to. `omitted` counts while requests are taken. Raises ConfigError when
    nothing is left."""
    trace = [traced for traced in read_trace(path) if traced.at >= start]
    longest = max((traced.output for traced in trace), default=1)
    longest = longest if room.answer is None else min(longest, room.answer)
    fitting = [traced for traced in trace if room.takes(traced, longest)]
    if not fitting:
        raise ConfigError(f"{path}: none of {len(trace)} requests from {start:g} s on can be asked "
                          f"for ({room})" if trace else f"{path} ends before {start:g} s")
    if rate is not None:
        span = fitting[-1].at - fitting[0].at
        if span <= 0:
            raise ConfigError(f"{path} has no requests to scale from {start:g} s")
        speed = rate * span / (len(fitting) - 1)
    speed = speed or 1.0
    until = math.inf if seconds is None else start + seconds * speed
    omitted.limits = str(room)
    return _counted(trace, room, longest, omitted, until, replay(
        fitting, speed=speed, start=start, seconds=None if seconds is None else seconds * speed,
        longest=1 << 30, max_tokens=longest, targets=targets, vocabulary=vocabulary,
    ))


def _counted(
    trace: Sequence[Traced], room: Room, longest: int, omitted: Omitted, until: float,
    stream: Iterator[Arrival],
) -> Iterator[Arrival]:
    """`stream`: those of the trace that fit, in its order."""
    for traced in trace:
        if traced.at >= until:
            return
        omitted.due += 1
        if not room.takes(traced, longest):
            omitted.left_out += 1
            continue
        omitted.cut += traced.output > longest
        yield next(stream)
