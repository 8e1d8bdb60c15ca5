"""A worker's cache reaches a router's index over a session, batch by batch or all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from baton.deploy.worker.cache_teller import CacheTeller
from baton.engine.cache_log import FIRST, CacheChange
from baton.protocol.cache_events import ResendCache
from baton.protocol.hashing import chain_hashes, root_hash
from baton.protocol.ids import Identity
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Session
from baton.protocol.records import ModelCard, Record, WorkerHello
from baton.router.caches import Caches
from baton.router.registry import Registry, Worker

NAMES = chain_hashes(root_hash("test"), range(8), 1)
CHAIN: list[CacheChange] = list(zip(NAMES, [FIRST, *NAMES], strict=False))


class AskedSession(Session):
    """Keeps what the router says."""

    asked: list[Record]

    def send(self, record: Record) -> int:
        self.asked.append(record)
        return len(self.asked)


class Rig:
    """One worker, one router; `lost` records do not arrive. The session itself is left out, but
    for its version."""

    def __init__(self, version: int = 2) -> None:
        hello = WorkerHello(
            identity=Identity("w", 1),
            pid=1,
            host="h",
            role="mixed",
            model=ModelCard(fingerprint="f", name="n", max_model_len=99, vocab_size=9, dtype="d"),
            layout=KVLayout(2, 2, 8, 16, "float32"),
            num_blocks=100,
            max_running=4,
            peer_address="p",
            device="cpu",
        )
        self.registry = Registry()
        self.session = AskedSession(1, version, hello, now=0.0, notify=lambda: None)
        self.session.asked = []
        self.worker: Worker = self.registry.add(hello, self.session, 0.0)
        self.caches = Caches(self.registry)
        self.lost = 0
        self.teller = CacheTeller(
            tell_all=self.arrive, tell_router=lambda router, record: self.arrive(record)
        )
        self.caches.worker_joined(self.worker)

    def arrive(self, record: Record) -> None:
        if self.lost:
            self.lost -= 1
        else:
            self.caches.on_record(self.worker, record, time.monotonic())  # type: ignore[arg-type]

    def answer(self) -> None:
        """The router's heartbeat, and the worker's answer to what it asks."""
        self.caches.tick(time.monotonic())
        asked, self.session.asked = self.session.asked, []
        for record in asked:
            assert isinstance(record, ResendCache)
            self.teller.resend(Identity("r", 1))

    def known(self) -> int:
        return self.caches.known.held(NAMES).get(self.worker.identity, 0)

    async def until_known(self, count: int) -> None:
        await until(lambda: self.known() == count)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.005)


async def test_changes_follow_on_the_dump() -> None:
    rig = Rig()
    rig.answer()
    rig.teller.changed(CHAIN[:3])
    rig.teller.changed(CHAIN[3:5])
    assert rig.known() == 0  # they travel together, a little later
    await rig.until_known(5)
    rig.teller.changed([(NAMES[4], None)])
    await rig.until_known(4)
    assert not rig.session.asked


async def test_a_router_that_comes_later_is_told_all() -> None:
    rig = Rig()
    rig.lost = 1
    rig.teller.changed(CHAIN[:6])
    await until(lambda: rig.lost == 0)
    assert rig.known() == 0
    rig.answer()
    await rig.until_known(6)


async def test_a_lost_batch_is_noticed_with_the_next() -> None:
    rig = Rig()
    rig.answer()
    rig.lost = 1
    rig.teller.changed(CHAIN[:6])
    await until(lambda: rig.lost == 0)
    rig.teller.changed([(NAMES[5], None)])

    def made_good() -> bool:
        rig.answer()
        return rig.known() == 5

    await until(made_good)


async def test_a_lost_worker_and_one_of_the_version_before() -> None:
    rig = Rig()
    rig.answer()
    rig.teller.changed(CHAIN[:6])
    await rig.until_known(6)
    rig.caches.worker_lost(rig.worker)
    rig.caches.worker_lost(rig.worker)
    assert rig.known() == 0
    old = Rig(version=1)
    old.answer()
    assert not old.session.asked
    old.caches.known.remember(old.worker.identity, NAMES[:2])
    assert old.known() == 0
