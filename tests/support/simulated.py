"""Small simulated clusters, for tests of the simulator and of the router in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from baton.bench.simulator.machine import Machine
from baton.bench.workloads.arrival import Arrival
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Targets
from baton.protocol.tokens import pack_tokens


def machine(
    *,
    base: float = 10e-3,
    token: float = 0.0,
    pair: float = 0.0,
    decode: float = 0.0,
    context: float = 0.0,
    spread: float = 0.0,
    byte: float = 1e-10,
    num_blocks: int = 4000,
    max_running: int = 64,
    max_batch_tokens: int = 512,
    prefill_chunk: int = 512,
) -> Machine:
    """Seconds, as in StepCurve and LinkCurve. One block is 64 KiB."""
    return Machine(
        name="test",
        curve=StepCurve(base=base, chunk=0.0, token=token, pair=pair, decode=decode,
                        context=context, spread=spread, steps=1000),
        link=LinkCurve(latency=1e-3, byte=byte, spread=spread, transfers=100),
        layout=KVLayout(8, 4, 32, 16, "float16"),
        num_blocks=num_blocks,
        limits=SchedulerLimits(
            max_model_len=8192, max_running=max_running, max_batch_tokens=max_batch_tokens,
            prefill_chunk=prefill_chunk,
        ),
    )


def arrivals(
    times: Iterable[float],
    *,
    prompt: int = 400,
    length: int = 20,
    limit: int = 1000,
    seed: int = 0,
    targets: Targets | None = None,
) -> Iterator[Arrival]:
    """One request each, all alike, with prompts of their own."""
    rng = Random(seed)
    for at in times:
        noise = rng.getrandbits(32)

        def tokens(noise: int = noise) -> bytes:
            return pack_tokens(Random(noise).choices(range(1000), k=prompt))

        yield Arrival(at, tokens, length, limit, noise, targets=targets or Targets())


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Arrival times, `rate` per second."""
    rng, now = Random(seed), 0.0
    while (now := now + rng.expovariate(rate)) < seconds:
        yield now
