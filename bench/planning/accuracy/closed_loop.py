"""What clients of one worker see that each send their next request when they have its answer.

Published measurements are nearly all of this kind: so many clients begin at once, and each sends
some ten requests. At first prompts wait for each other. Requests of equal length then end together
and come back together, unless something sets them apart: lengths that differ, clients that are not
equally fast. How much they do decides the time to the first token more than the device does, and
no published table states it: `Clients` has a value for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from baton.bench.planning.accuracy.one_worker import Job, OneWorker
from baton.protocol.curves import StepCurve


@dataclass(frozen=True, kw_only=True)
class Clients:
    """`count` at a time, `waves` requests of each; lengths in tokens, times in seconds."""

    count: int
    prompt: int
    output: int
    """At least 2."""
    waves: int = 10
    shortest: float = 1.0
    """Prompts and outputs are uniformly between this part of their length and all of it."""
    turnaround: float = 0.03
    """Until the next request is at the engine, uniformly between 0 and this."""


class Seen(NamedTuple):
    """Means over all requests, in seconds."""

    ttft: float
    tpot: float


def closed_loop(curve: StepCurve, clients: Clients, *, seed: int = 1, **worker: Any) -> Seen:
    """`worker`: as OneWorker takes them."""
    random = Random(seed)
    ttft: list[float] = []
    tpot: list[float] = []
    to_send = clients.count * (clients.waves - 1)

    def length(whole: int, least: int) -> int:
        if clients.shortest >= 1:
            return whole
        return max(least, round(whole * random.uniform(clients.shortest, 1.0)))

    def send() -> None:
        at = engine.now + random.random() * clients.turnaround
        engine.send(Job(engine.now, length(clients.prompt, 1), length(clients.output, 2)), at)

    def done(job: Job) -> None:
        nonlocal to_send
        ttft.append(job.ttft)
        tpot.append(job.tpot)
        if to_send:
            to_send -= 1
            send()

    engine = OneWorker(curve, done=done, **worker)
    for _ in range(clients.count):
        send()
    engine.run()
    return Seen(sum(ttft) / len(ttft), sum(tpot) / len(tpot))
