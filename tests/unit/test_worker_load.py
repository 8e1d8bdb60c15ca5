"""What a worker tells its routers of its load, and its engine of its speed."""

from __future__ import annotations

import threading
from itertools import count

import pytest
from make_request import make_request
from mini_worker import MiniWorker

from baton.deploy.worker.curves import CurveKeeper
from baton.engine.commands import Command, UseCurve
from baton.protocol.curves import StepCurve
from baton.protocol.ids import Identity
from baton.protocol.records import Curves, Generate, Load, Record, SetDraining

CURVE = StepCurve(
    base=1e-4, chunk=0.0, token=1e-6, pair=0.0, decode=1e-6, context=0.0, spread=0.1, steps=9)


@pytest.mark.asyncio
async def test_heartbeats_tell_the_backlog_and_the_engine_hears_how_fast_it_is() -> None:
    worker = MiniWorker("w", "mixed", 64)
    told: list[Record] = []
    given: list[Command] = []
    submit = worker.engine.submit

    def also_noted(command: Command) -> None:
        given.append(command)
        submit(command)

    seen_decoding = threading.Event()
    steps = count()

    def before_step(_: object) -> None:
        if next(steps) > 4:  # it stands still in the middle of decoding until that was told
            seen_decoding.wait(60)

    worker.runner.before_step = before_step
    worker.links.tell_all = told.append  # type: ignore[method-assign]
    worker.worker._submit = also_noted
    worker.worker._curves = CurveKeeper(CURVE)
    await worker.start()

    def load() -> Load | None:
        return next((r for r in reversed(told) if isinstance(r, Load)), None)

    try:
        await worker.until(load, "a heartbeat")
        assert [type(record) for record in told[:2]] == [Curves, Load]
        [curve] = [record.step for record in told if isinstance(record, Curves)]
        assert given == [UseCurve(curve)]
        first = load()
        assert first is not None
        assert (first.decoding, first.decode_context, first.backlog_seconds) == (0, 0, 0)
        worker.worker.on_record(
            Identity("router", 1), Generate(request=make_request("a", [1, 2, 3], max_tokens=390)))
        await worker.until(lambda: (seen := load()) and seen.decoding == 1, "one that decodes")
        seen = load()
        assert seen is not None
        assert seen.decode_context > 3
    finally:
        seen_decoding.set()
        await worker.stop()


@pytest.mark.asyncio
async def test_all_routers_hear_that_one_wants_the_worker_empty() -> None:
    worker = MiniWorker("w", "mixed", 64)
    told: list[Record] = []
    worker.links.tell_all = told.append  # type: ignore[method-assign]
    await worker.start()

    def state() -> str:
        return next((r.state for r in reversed(told) if isinstance(r, Load)), "unknown")

    try:
        await worker.until(lambda: state() == "ready", "a heartbeat")
        worker.worker.on_record(Identity("router", 1), SetDraining(draining=True))
        assert state() == "draining"
        worker.worker._send_load()
        assert state() == "draining"
        worker.worker.on_record(Identity("another", 1), SetDraining(draining=False))
        assert state() == "ready"
    finally:
        await worker.stop()
