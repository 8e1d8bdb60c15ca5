"""The prefix index against a plain one, and its slots."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from baton.protocol.cache_events import SHORT_BITS, pack_names, short_name, unpack_names
from baton.protocol.hashing import chain_hashes, root_hash
from baton.router.prefix_index import MOST_SETS, SHARDS, PrefixIndex

ROOT = root_hash("test")


def chain(*tokens: int) -> list[bytes]:
    return chain_hashes(ROOT, tokens, 1)


def shorts(names: Sequence[bytes]) -> list[int]:
    return [short_name(name) for name in names]


def filled(contents: dict[str, list[list[bytes]]]) -> PrefixIndex[str]:
    index: PrefixIndex[str] = PrefixIndex()
    for worker, chains in contents.items():
        slot = index.open()
        for names in chains:
            index.store(slot, shorts(names))
        index.show(slot, worker)
    return index


PROMPTS = st.lists(st.integers(0, 1), max_size=9).map(lambda tokens: chain(*tokens))


@given(st.lists(st.lists(PROMPTS, max_size=4), max_size=70), PROMPTS)
def test_it_finds_what_a_plain_index_finds(contents: list[list[list[bytes]]], asked: list[bytes]):
    index = filled({f"w{i}": chains for i, chains in enumerate(contents)})
    expected = {}
    for i, chains in enumerate(contents):
        held = {name for names in chains for name in names}
        count = 0
        while count < len(asked) and asked[count] in held:
            count += 1
        if count:
            expected[f"w{i}"] = count
    for _ in "again":  # what it remembers of the first time changes nothing
        found = index.match(asked)
        assert found == expected
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_every_length_is_found() -> None:
    names = chain(*range(256))
    index = filled({f"w{i}": [names[: 4 * i]] for i in range(65)})
    assert index.match(names) == {f"w{i}": 4 * i for i in range(1, 65)}
    assert index.match(names[:100]) == {f"w{i}": min(4 * i, 100) for i in range(1, 65)}
    assert index.match([]) == {}
    assert index.match(chain(7, 8, 9)) == {}


def test_look_ups_follow_from_the_lengths_that_differ() -> None:
    """They are what a decision costs in a large table."""
    names = chain(*range(256))

    class Counted(list[bytes]):
        looked = 0

        def __getitem__(self, at):  # type: ignore[no-untyped-def]
            self.looked += 1
            return super().__getitem__(at)

    for workers, most in ((1, 11), (64, 11)):  # 64 that have as much
        asked = Counted(names)
        index = filled({f"w{i}": [names[:100]] for i in range(workers)})
        assert set(index.match(asked).values()) == {100}
        assert asked.looked <= most
    asked = Counted(names)
    filled({f"w{i}": [names] for i in range(64)}).match(asked)
    assert asked.looked == 2


def test_a_gap_confuses_nobody_else() -> None:
    """Between a lost batch and the dump, a worker's blocks need not be the first of a chain."""
    names = chain(*range(16))
    holes = {"ends": [[names[0], names[15]]], "middle": [names[6:9]]}
    found = filled({"whole": [names], "half": [names[:8]], **holes}).match(names)
    assert (found["whole"], found["half"]) == (16, 8)
    assert "middle" not in found


def test_evicted_blocks_are_gone_for_their_worker_only() -> None:
    names = chain(1, 2, 3, 4)
    index: PrefixIndex[str] = PrefixIndex()
    for worker in ("a", "b"):
        slot = index.open()
        index.store(slot, shorts(names))
        index.store(slot, shorts(names))  # twice is once
        assert index.size(slot) == 4
        index.show(slot, worker)
    index.evict(0, shorts(names[2:]))
    index.evict(0, shorts(names[3:]))
    assert index.size(0) == 2
    assert index.match(names) == {"a": 2, "b": 4}
    index.evict(1, shorts(names))
    assert index.match(names) == {"a": 2}
    assert len(index) == 2


def test_a_slot_counts_only_while_it_is_shown() -> None:
    names = chain(1, 2)
    index = filled({"a": [names[:1]]})
    fresh = index.open()
    index.store(fresh, shorts(names))
    assert index.match(names) == {"a": 1}
    index.close(0)
    assert index.match(names) == {}
    index.show(fresh, "a")
    assert index.match(names) == {"a": 2}


def test_a_closed_slot_is_used_again_only_when_it_is_clean() -> None:
    names = chain(*range(200))
    index = filled({"old": [names], "other": [names[:50]]})
    for _ in range(SHARDS // 2):
        assert not index.tidy()
    index.close(0)
    assert index.open() == 2
    steps = 1
    while index.tidy():
        steps += 1
    assert steps == SHARDS  # half a round had gone by before
    assert len(index) == 50
    assert index.open() == 0
    index.show(0, "new")
    assert index.match(names) == {"other": 50}
    assert not index.tidy(SHARDS)


def test_a_slot_of_another_worker_is_not_taken_for_the_one_before() -> None:
    names = chain(1, 2, 3)
    index = filled({f"w{i}": [names] for i in range(40)})
    assert index.match(names)["w35"] == 3
    index.close(35)
    while index.tidy(SHARDS):
        pass
    slot = index.open()
    assert slot == 35
    index.store(slot, shorts(names))
    index.show(slot, "other")
    found = index.match(names)
    assert found["other"] == 3
    assert "w35" not in found


def test_sets_that_are_remembered_are_bounded() -> None:
    index: PrefixIndex[int] = PrefixIndex()
    slots = [index.open() for _ in range(12)]
    for slot in slots:
        index.show(slot, slot)
    names = chain(*range(MOST_SETS + 100))
    for number, name in enumerate(names):
        for slot in slots:
            if number >> slot & 1:
                index.store(slot, shorts([name]))
    for number, name in enumerate(names):
        assert set(index.match([name])) == {slot for slot in slots if number >> slot & 1}
    assert all(len(sets) <= MOST_SETS for sets in index._groups)


def test_two_slots_are_swept_in_one_go() -> None:
    names = chain(*range(100))
    index = filled({"a": [names], "b": [names[:30]], "c": [names[:60]]})
    index.close(0)
    assert index.tidy(SHARDS // 2)
    index.close(2)
    assert index.tidy(SHARDS // 2)  # the first is done, the second half
    assert index.open() == 0
    assert not index.tidy(SHARDS)
    assert len(index) == 30
    assert index.open() == 2
    assert index.match(names) == {"b": 30}


def test_names_on_the_wire() -> None:
    names = shorts(chain(*range(50)))
    assert max(names).bit_length() == SHORT_BITS
    assert list(unpack_names(pack_names(names))) == names
    assert pack_names([1, 258]) == b"\1" + b"\0" * 7 + b"\2\1" + b"\0" * 6
