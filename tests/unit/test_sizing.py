"""Sizing on a real router: who acts, what is sent, what people see and say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted_workers import LOAD, Cluster, FakeWorker, until

from baton.deploy.settings import RouterSettings
from baton.deploy.worker.role import RoleKeeper
from baton.protocol.curves import StepCurve
from baton.protocol.errors import BatonError, ConfigError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Cancel, Curves, Record, SetRole
from baton.router.lanes import configure
from baton.router.metrics import RouterMetrics
from baton.router.sizing import Sizing

CURVE = StepCurve(
    base=0.01, chunk=0.0, token=1e-4, pair=0.0, decode=1e-4, context=0.0, spread=0.0, steps=1
)
ME, LOWER, HIGHER = Identity("router", 1), Identity("alpha", 7), Identity("zeta", 3)


class RoleWorker(FakeWorker):
    """Changes its role as a real worker does."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.keeper = RoleKeeper(self.hello.role)
        self.routers = (ME,)
        self.orders: list[SetRole] = []

    def take(self, record: Record) -> None:
        if isinstance(record, SetRole):
            self.orders.append(record)
            self.keeper.take(record, ME)
            self.tell()
        else:
            super().take(record)

    def tell(self) -> None:
        self.send(msgspec.structs.replace(
            LOAD, role=self.keeper.role, term=self.keeper.term, routers=self.routers,
            controller=self.keeper.controller, pinned=self.keeper.pinned,
        ))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    made.address = await made.control.bind("tcp://127.0.0.1:0")
    yield made
    for worker in made.workers.values():
        await worker.dialer.close()
    await made.control.close()


async def join(cluster: Cluster, name: str, role: str) -> RoleWorker:
    worker = RoleWorker(cluster, name, role)
    cluster.workers[worker.identity] = worker
    worker.dialer.start()
    await until(lambda: worker.session is not None)
    worker.send(Curves(step=CURVE))
    worker.tell()
    entry = cluster.dispatcher.registry.named(name)
    assert entry is not None
    await until(lambda: entry.load is not None and entry.curves is not None)
    return worker


def role_of(cluster: Cluster, name: str) -> str:
    worker = cluster.dispatcher.registry.named(name)
    assert worker is not None
    return worker.role


async def test_the_leader_orders_in_its_term(cluster: Cluster) -> None:
    """Nobody decodes: one worker is to do both at once."""
    workers = [await join(cluster, name, "prefill") for name in ("a", "b")]
    changes: list[str] = []
    sizing = Sizing(cluster.dispatcher, ME, mode="auto", role_changed=changes.append)
    sizing.tick(0.0)
    await until(lambda: role_of(cluster, "a") == "mixed")
    assert [o for w in workers for o in w.orders] == [
        SetRole(role="mixed", term=1, controller="router/1")
    ]
    sizing.tick(1.0)
    assert changes == ["mixed"]
    assert sizing.controller.log[-1].chosen.mixed == 1


@pytest.mark.parametrize("mode", ["dry-run", "off"])
async def test_otherwise_nothing_is_ordered(cluster: Cluster, mode: str) -> None:
    worker = await join(cluster, "a", "prefill")
    sizing = Sizing(cluster.dispatcher, ME, mode=mode)
    for second in range(30):
        sizing.tick(float(second))
    entry = cluster.dispatcher.registry.named("a")
    assert entry is not None
    entry.session.send(Cancel(key=RequestKey("none", 0), reason="said after any order"))
    await until(lambda: any(isinstance(record, Cancel) for record in worker.seen))
    assert worker.orders == []
    moves = [move for entry in sizing.controller.log for move in entry.moves]
    assert (len(moves) > 0) == (mode == "dry-run")


async def test_a_router_that_does_not_lead_orders_nothing_until_it_does(cluster: Cluster) -> None:
    worker = await join(cluster, "a", "prefill")
    worker.keeper.take(SetRole(role="prefill", term=5, controller="alpha/7"), LOWER)
    worker.routers = (ME, LOWER)
    worker.tell()
    entry = cluster.dispatcher.registry.named("a")
    assert entry is not None
    await until(lambda: entry.load is not None and LOWER in entry.load.routers)
    sizing = Sizing(cluster.dispatcher, ME, mode="auto")
    sizing.tick(0.0)
    assert sizing.controller.last is None
    assert sizing.view(0.0)["leader"] == "alpha"
    worker.routers = (ME,)
    worker.tell()
    await until(lambda: entry.load is not None and LOWER not in entry.load.routers)
    sizing.tick(1.0)
    await until(lambda: worker.orders != [])
    assert worker.orders[0].term == 6
    assert worker.keeper.role == "mixed"


async def test_a_router_that_does_not_lead_learns_its_share_before_it_does(
    cluster: Cluster,
) -> None:
    """Else it would plan, in its first minute, for its own requests alone."""
    worker = await join(cluster, "a", "mixed")
    entry = cluster.dispatcher.registry.named("a")
    assert entry is not None
    worker.stop_at = 1
    flights = [cluster.submit() for _ in range(2)]
    await until(lambda: len(entry.decoding) == 2)

    async def hear(*routers: Identity) -> None:
        worker.send(msgspec.structs.replace(LOAD, routers=routers, running=7, waiting=1))
        await until(lambda: entry.load is not None and entry.load.routers == routers)

    await hear(LOWER, ME, HIGHER)
    sizing = Sizing(cluster.dispatcher, ME, mode="dry-run")
    for second in range(60):
        sizing.tick(float(second))
    assert not sizing.leadership.leads
    assert sizing._look().others == pytest.approx(4.0, rel=0.01)  # two of eight are ours
    await hear(ME, HIGHER)
    sizing.tick(60.0)
    assert sizing.leadership.leads
    assert sizing._look().others == pytest.approx(4.0, rel=0.01)
    for flight in flights:
        flight.cancel("enough")


async def test_a_person_is_obeyed_and_not_overruled(cluster: Cluster) -> None:
    worker = await join(cluster, "a", "prefill")
    sizing = Sizing(cluster.dispatcher, ME, mode="auto")
    sizing.set_role("a", "decode")
    await until(lambda: role_of(cluster, "a") == "decode")
    sizing.tick(0.0)  # it would have it do both
    assert len(worker.orders) == 1
    sizing.set_role("a", "auto")
    await until(lambda: not worker.keeper.pinned)
    entry = cluster.dispatcher.registry.named("a")
    assert entry is not None
    await until(lambda: entry.load is not None and not entry.load.pinned)
    sizing.tick(20.0)
    await until(lambda: role_of(cluster, "a") == "mixed")
    with pytest.raises(BatonError, match="one of prefill, decode, mixed, auto"):
        sizing.set_role("a", "boss")
    with pytest.raises(BatonError, match="no worker 'b'"):
        sizing.set_role("b", "mixed")


async def test_requests_are_observed_and_all_can_be_seen(cluster: Cluster) -> None:
    await join(cluster, "a", "prefill")
    await join(cluster, "b", "decode")
    metrics = RouterMetrics()
    sizing = Sizing(cluster.dispatcher, ME, mode="dry-run", attained=metrics.attained)
    loop = asyncio.get_running_loop()
    for _ in range(15):
        flight = cluster.submit(max_tokens=6, prompt_tokens=40)
        assert [token async for delta in flight.events() for token in delta.tokens]
    sizing.tick(loop.time() + 0.5)
    assert sizing.view(loop.time())["last"]["workload"] is None  # type: ignore[index]
    sizing.tick(loop.time() + 4.0)
    view = json.loads(json.dumps(sizing.view(loop.time() + 4.5)))
    last = view["last"]
    assert last["workload"]["requests"] == 15
    assert last["workload"]["output_tokens"] == pytest.approx(6)
    assert last["workload"]["prompt_tokens_to_compute"] == pytest.approx(40)
    assert last["current"] == {"prefill": 1, "decode": 1, "mixed": 0}
    assert last["expected_now"]["goodput"] > 0.9
    assert [worker["id"] for worker in view["workers"]] == ["a", "b"]
    assert sizing.controller.observation._running == {}
    for kept in (True, True, True, False):
        metrics.attained("ttft", kept)
    share = metrics.registry.get_sample_value("baton_slo_attainment_ratio", {"target": "ttft"})
    assert share == pytest.approx(18 / 19)
    both = metrics.registry.get_sample_value("baton_slo_attainment_ratio", {"target": "both"})
    assert both == 1.0


def test_whoever_gives_targets_wants_them() -> None:
    assert RouterSettings().sizing_mode == "dry-run"
    assert RouterSettings(lanes=configure(0.3, None, ())).sizing_mode == "auto"
    assert RouterSettings(lanes=configure(0.3, None, ()), sizing="off").sizing_mode == "off"
    with pytest.raises(ConfigError, match="--sizing must be one of"):
        RouterSettings(sizing="on")


async def test_the_planner_knows_how_much_a_step_holds(cluster: Cluster) -> None:
    worker = RoleWorker(cluster, "a", "mixed")
    worker.hello = msgspec.structs.replace(worker.hello, max_batch_tokens=4096)
    cluster.workers[worker.identity] = worker
    worker.dialer.start()
    await until(lambda: worker.session is not None)
    worker.send(Curves(step=CURVE))
    entry = cluster.dispatcher.registry.named("a")
    assert entry is not None
    await until(lambda: entry.curves is not None)
    [state] = Sizing(cluster.dispatcher, ME, mode="off")._look().workers
    assert state.kind.step_tokens == 4096
