"""Records about caches on the wire, and names that both sides compute."""

from __future__ import annotations

import pytest

from baton.engine.block_pool import BlockPool
from baton.engine.prefix_cache import PrefixCache
from baton.protocol.cache_events import CacheDump, CacheEvents, CacheRecord, ResendCache, pack_names
from baton.protocol.hashing import kv_root
from baton.protocol.ids import Identity
from baton.protocol.link import Session, UnspokenRecord
from baton.protocol.records import RouterHello
from baton.protocol.wire import MalformedRecord, from_wire, pack, to_wire, unpack

RECORDS: list[CacheRecord] = [
    CacheEvents(sequence=7, stored=pack_names([1, 2]), evicted=pack_names([3])),
    CacheDump(dump=2, sequence=7, part=0, parts=2, names=pack_names([5, 6])),
    ResendCache(),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_there_and_back(record: CacheRecord) -> None:
    assert from_wire(unpack(pack(to_wire(record)))) == record
    assert from_wire([*to_wire(record), "what a newer peer adds"]) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_an_older_peer_is_not_told(record: CacheRecord) -> None:
    session = Session(1, 1, RouterHello(identity=Identity("r", 1)), now=0.0, notify=lambda: None)
    assert not session.speaks(type(record))
    with pytest.raises(UnspokenRecord):
        session.send(record)


def test_malformed_ones_are_refused() -> None:
    plain = to_wire(RECORDS[0])
    for wrong in ([*plain[:-1], b"1234"], [plain[0], 0, *plain[2:]], plain[:-1]):
        with pytest.raises(MalformedRecord):
            from_wire(wrong)


def test_router_and_worker_start_chains_from_the_same_root() -> None:
    cache = PrefixCache(BlockPool(1), 16, ("fingerprint", "bfloat16"))
    assert cache.root("salt") == kv_root("fingerprint", "bfloat16", 16, "salt")
