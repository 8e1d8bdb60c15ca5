"""The faults, by the cluster that they need. One cluster takes several, each repaired after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from baton.bench.faults import cancels, deaths, links, memory, partition
from baton.bench.faults.entry import Tampering
from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import Oracle, Verdict
from baton.bench.faults.load import Ask
from baton.bench.faults.parts import BLOCK, Parts, Plan

SHARE = 0.05
"""Of control messages that each kind of chaos strikes."""
CORRUPT_EVERY = 20
"""Of so many messages with blocks, one has a wrong byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything."""

    in_flight: int
    rounds: int = 5
    """Times that a worker of each role is killed."""
    short_pause: float = 1.0
    long_pause: float = 30.0
    cut: float = 10.0
    """Seconds."""
    cancels: int = 10_000


Fault = tuple[str, Callable[[Ground, Scale], Verdict]]


class Skipped(Exception):
    """Why a case cannot be tried on this machine."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cluster, and what is done to it. `plan` completes a plan for these asks."""

    name: str
    plan: Callable[[Plan, Sequence[Ask]], Plan]
    faults: tuple[Fault, ...]
    start: Callable[[Plan], Parts] = Parts
    why_not: Callable[[], str | None] = lambda: None
    """What this machine lacks for it."""


def cases() -> list[Case]:
    return [
        Case("two of each", lambda plan, asks: plan, _TWO_OF_EACH),
        Case("one of each", lambda plan, asks: replace(plan, prefill=1, decode=1), (
            ("only decode", lambda g, s: deaths.kill_the_only(g, "decode")),
        )),
        Case("one mixed", lambda plan, asks: replace(plan, prefill=0, decode=0, mixed=1), (
            ("only mixed", lambda g, s: deaths.kill_the_only(g, "mixed")),
        )),
        *(
            Case(f"chaos: {name}", _chaotic(shares), ((
                f"chaos {name}", lambda g, s, name=name: links.bad_links(
                    g, f"{name} 5 % of control messages", s.rounds)  # type: ignore[misc]
            ),))
            for name, shares in _CHAOS.items()
        ),
        Case("no room: receiver", _tight(decode=3.0), ((
            "no room receiver", lambda g, s: memory.no_room(g, "receiver without room")),)),
        Case("no room: sender", _tight(prefill=1.5), ((
            "no room sender", lambda g, s: memory.no_room(g, "sender's cache evicts")),)),
        Case("no room: one request each", _tight(prefill=1.0, decode=1.0, pairs=1), ((
            "no room pair", lambda g, s: memory.no_room(g, "a pair sized to one request each")),)),
        Case("corruption", _corrupting, ((
            "corrupt", lambda g, s: memory.corruption(g, CORRUPT_EVERY)),)),
        Case("partition", lambda plan, asks: plan, ((
            "partition", lambda g, s: partition.partition(g, s.cut)),),
            partition.PartedParts, partition.why_not),
    ]


_TWO_OF_EACH: tuple[Fault, ...] = (
    ("kill prefill", lambda g, s: deaths.kill(g, "prefill", s.rounds)),
    ("kill decode", lambda g, s: deaths.kill(g, "decode", s.rounds)),
    ("stop short prefill", lambda g, s: deaths.pause(g, "prefill", s.short_pause)),
    ("stop short decode", lambda g, s: deaths.pause(g, "decode", s.short_pause)),
    ("stop long prefill", lambda g, s: deaths.pause(g, "prefill", s.long_pause)),
    ("stop long decode", lambda g, s: deaths.pause(g, "decode", s.long_pause)),
    ("restart prefill", lambda g, s: deaths.restart(g, "prefill")),
    ("restart decode", lambda g, s: deaths.restart(g, "decode")),
    ("restart router", lambda g, s: deaths.restart_router(g)),
    ("cut prefill router", lambda g, s: links.cut(g, "prefill-0>router", s.cut)),
    ("cut decode router", lambda g, s: links.cut(g, "decode-0>router", s.cut)),
    ("cut workers", lambda g, s: links.cut(g, ">decode-0", s.cut)),
    ("cancels", lambda g, s: cancels.cancels(g, s.cancels)),
)

_CHAOS = {
    "drop": {"drop": SHARE},
    "delay": {"delay": SHARE},
    "duplicate": {"duplicate": SHARE},
    "reorder": {"reorder": SHARE},
    "drop, delay, duplicate and reorder": dict.fromkeys(
        ("drop", "delay", "duplicate", "reorder"), SHARE
    ),
}


def run(
    case: Case,
    base: Plan,
    asks: Sequence[Ask],
    scale: Scale,
    *,
    seed: int,
    only: str = "",
    oracle: Oracle | None = None,
) -> Iterator[tuple[Verdict, Oracle]]:
    """The faults of one case whose name contains `only`, each verdict as it comes. `oracle` is of
    another case with the same load, if there is one. Raises PartFailed when a process ends or does
    not start that nobody broke, Skipped when it cannot be done here."""
    faults = [fault for name, fault in case.faults if only in name]
    if not faults:
        return
    why_not = case.why_not()
    if why_not is not None:
        raise Skipped(why_not)
    with case.start(case.plan(base, asks)) as parts:
        ground = Ground(parts, asks, concurrency=scale.in_flight, seed=seed, oracle=oracle)
        for fault in faults:
            yield fault(ground, scale), ground.oracle


def blocks_for(asks: Sequence[Ask]) -> int:
    """KV blocks of the longest request, and one for the token that comes next."""
    return max(len(ask.prompt) + ask.max_tokens for ask in asks) // BLOCK + 2


def _tight(
    prefill: float = 0.0, decode: float = 0.0, pairs: int = 2
) -> Callable[[Plan, Sequence[Ask]], Plan]:
    """Pools that hold so many of the longest request; 0 is the usual pool."""

    def plan(base: Plan, asks: Sequence[Ask]) -> Plan:
        blocks = blocks_for(asks)

        def pool(requests: float) -> tuple[str, ...]:
            return ("--kv-blocks", str(int(blocks * requests))) if requests else ()

        return replace(
            base, prefill=pairs, decode=pairs,
            options=(*base.options, "--max-model-len", str((blocks - 1) * BLOCK)),
            prefill_options=pool(prefill), decode_options=pool(decode),
        )

    return plan


def _chaotic(shares: dict[str, float]) -> Callable[[Plan, Sequence[Ask]], Plan]:
    def plan(base: Plan, asks: Sequence[Ask]) -> Plan:
        return replace(base, tampering=Tampering(chaos=shares, seed=base.tampering.seed))

    return plan


def _corrupting(base: Plan, asks: Sequence[Ask]) -> Plan:
    return replace(
        base,
        worker_options=(*base.worker_options, "--kv-checksum"),
        sender_tampering=Tampering(corrupt_every=CORRUPT_EVERY, seed=base.tampering.seed),
    )
