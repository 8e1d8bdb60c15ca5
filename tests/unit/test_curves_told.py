"""What a worker says of its speed: to whom, when, and what its router keeps of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted_workers import Cluster, until

from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.links import RouterLinks
from baton.engine.commands import StepStats
from baton.protocol.curves import LinkCurve, StepCurve, StepShape
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.link import Session
from baton.protocol.records import Curves, Record, RouterHello, WorkerHello
from baton.protocol.versions import version_of

CURVE = StepCurve(
    base=0.01, chunk=0.003, token=4e-4, pair=3e-7, decode=5e-4, context=2e-6, spread=0.1, steps=9
)
SHAPE = StepShape.chunk(100) + StepShape.decodes(3, 600)


def steps(keeper: CurveKeeper, count: int, factor: float = 1.0) -> None:
    for number in range(count):
        shape = StepShape.chunk(16 + 7 * (number % 9)) + StepShape.decodes(1 + number % 5, 900)
        keeper.step(StepStats(factor * CURVE.seconds(shape), shape))


def test_nothing_is_said_while_nothing_is_known() -> None:
    keeper = CurveKeeper()
    assert keeper.take() is None
    assert keeper.current() == Curves(step=None)


def test_a_profile_is_told_before_the_first_step() -> None:
    told = CurveKeeper(CURVE).take()
    assert told is not None
    assert told.step is not None
    assert told.step.seconds(SHAPE) == pytest.approx(CURVE.seconds(SHAPE))


def test_only_what_has_changed_enough_is_told_again() -> None:
    keeper = CurveKeeper()
    steps(keeper, 400)
    assert keeper.take() is not None
    assert keeper.take() is None
    steps(keeper, 10)
    assert keeper.take() is None
    steps(keeper, 20, factor=2.0)
    told = keeper.take()
    assert told is not None
    assert told.step is not None
    assert told.step.seconds(SHAPE) == pytest.approx(2 * CURVE.seconds(SHAPE), rel=0.1)
    steps(keeper, 500, factor=2.0)  # nothing new but that it is surer
    told = keeper.take()
    assert told is not None
    assert told.step is not None
    assert told.step.steps == 930


def test_links_are_told_by_their_receivers() -> None:
    keeper = CurveKeeper(CURVE)
    keeper.take()
    for _ in range(50):
        keeper.transfer("d1", 1 << 20, 1e-3)
    told = keeper.take()
    assert told is not None
    ((peer, link),) = told.links
    assert peer == "d1"
    assert link.seconds(1 << 20) == pytest.approx(1e-3, rel=0.05)
    keeper.transfer("d1", 1 << 20, 1e-3)
    assert keeper.take() is None


def never() -> WorkerHello:
    raise AssertionError("nobody is dialled")


class Deaf:
    """Hears nothing of a worker's routers."""

    def on_router_joined(self) -> None: ...

    def on_record(self, router: Identity, record: Record) -> None: ...

    def on_router_lost(self, orphans: list[RequestKey]) -> None: ...


@pytest.mark.parametrize(("version", "told"), [(1, 0), (2, 1)])
def test_an_older_router_is_not_told(version: int, told: int) -> None:
    router = Identity("r", 1)
    links = RouterLinks(Identity("w", 1), (), never, Deaf(), lambda reason: None)
    session = Session(1, version, RouterHello(identity=router), now=0.0, notify=lambda: None)
    links._opened(session)
    curves = Curves(step=CURVE)
    assert version_of(curves) == 2
    links.tell_all(curves)
    assert session.is_open
    assert len(session.poll(0.0)) == told


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    made.address = await made.control.bind("tcp://127.0.0.1:0")
    yield made
    for worker in made.workers.values():
        await worker.dialer.close()
    await made.control.close()


async def test_a_router_keeps_the_curves_of_each_worker_and_shows_them(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    assert cluster.dispatcher.worker_views()[0].curves is None
    link = LinkCurve(latency=1e-3, byte=1e-9, spread=0.2, transfers=3)
    worker.send(Curves(step=CURVE, links=(("d1", link),)))
    await until(lambda: cluster.dispatcher.worker_views()[0].curves is not None)
    (kept,) = cluster.dispatcher.registry
    assert kept.curves == Curves(step=CURVE, links=(("d1", link),))
    shown = msgspec.to_builtins(cluster.dispatcher.worker_views()[0].curves)
    assert shown["step"]["token"] == 4e-4
    assert shown["step"]["steps"] == 9
    assert shown["links"]["d1"]["bandwidth"] == pytest.approx(1e9)
    msgspec.json.encode(cluster.dispatcher.worker_views())
