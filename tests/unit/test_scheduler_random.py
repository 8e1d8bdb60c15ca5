"""Whatever happens in whatever order, outputs are those of an undisturbed run, the books balance
after every step, and everything ends."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
import msgspec
import pytest
from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from make_request import make_request

from baton.engine.cache_log import CacheLog
from baton.engine.commands import Adopt, ChangeRole, Release, Reserved, Unquarantine, UseCurve
from baton.protocol.cache_events import short_name, unpack_names
from baton.protocol.curves import StepCurve
from baton.protocol.hashing import chain_hashes
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.tokens import pack_tokens, unpack_tokens

TRUNKS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 5, 6, 40, 41], [30, 31], []]

REQUEST = {
    "trunk": st.integers(0, 3),
    "extra": st.integers(0, 5),
    "max_tokens": st.integers(1, 24),
    "priority": st.integers(0, 1),
    "accepted": st.sampled_from([0, 0, 0, 2]),
    "haste": st.integers(0, 3),
}
TARGETS = ({}, {"itl": 0.015}, {"itl": 0.03, "due_in": 2.0}, {"due_in": 20.0})
"""By `haste`. A step takes a second of the driver's time."""
CURVE = StepCurve(
    base=0.01, chunk=0.001, token=0.001, pair=0.0, decode=0.001, context=0.0, spread=0.1, steps=9)


class SchedulerMachine(RuleBasedStateMachine):
    """A tiny pool, prompts that share their starts, sequences of every kind."""

    @initialize(
        num_blocks=st.integers(5, 10),
        chunk=st.sampled_from([1, 3, 4, 7, 16]),
        max_running=st.integers(1, 5),
        role=st.sampled_from(["prefill", "decode", "mixed"]),
    )
    def setup(self, num_blocks: int, chunk: int, max_running: int, role: str) -> None:
        self.cache_log = CacheLog()
        self.told: set[int] = set()
        self.driver = Driver(
            num_blocks,
            role=role,
            max_running=max_running,
            max_batch_tokens=max(chunk, max_running + 1),
            prefill_chunk=chunk,
        )
        self.count = 0
        self.reserved: list[RequestKey] = []
        self.started: list[RequestKey] = []
        self.holds: list[RequestKey] = []
        self.cancelled: set[RequestKey] = set()
        self.quarantined: list[tuple[int, ...]] = []
        self.outgoing: dict[RequestKey, tuple[int, ...]] = {}
        """Blocks of parked decodes and of pins."""

    def request(
        self, trunk: int, extra: int, max_tokens: int, priority: int, accepted: int, haste: int
    ) -> Request:
        self.count += 1
        prompt = [*TRUNKS[trunk], *(20 + (extra * 7 + i) % 5 for i in range(extra))] or [9]
        return make_request(
            f"r{self.count}",
            prompt,
            max_tokens=max_tokens,
            priority=priority,
            accepted=undisturbed(prompt, min(accepted, max_tokens - 1)),
            **TARGETS[haste],  # type: ignore[arg-type]
        )

    # -- moves -------------------------------------------------------------------------------

    @rule(hold=st.booleans(), **REQUEST)
    def start(self, hold: bool, **request: int) -> None:
        key = self.driver.start(self.request(**request), hold=hold)
        self.started.append(key)
        if hold:
            self.holds.append(key)

    @rule(**REQUEST)
    def reserve(self, **request: int) -> None:
        record = self.request(**request)
        if isinstance(self.driver.reserve(record), Reserved):
            self.reserved.append(record.key)

    @precondition(lambda self: self.reserved)
    @rule(index=st.integers(0, 99), count=st.sampled_from([1, 1, 2, 3]))
    def admit(self, index: int, count: int) -> None:
        key = self.reserved.pop(index % len(self.reserved))
        self.started.append(key)
        self.driver.deliver(key)
        tokens = self.driver.tokens(key)
        left = self.driver.requests[key].sampling.max_tokens - len(self.driver.accepted(key))
        self.driver.admit(key, tuple(undisturbed(tokens, min(count, left))))

    @precondition(lambda self: self.reserved)
    @rule(index=st.integers(0, 99), late=st.booleans())
    def abort(self, index: int, late: bool) -> None:
        """A hand-off that is never sealed, in whose blocks bytes may still arrive."""
        key = self.reserved.pop(index % len(self.reserved))
        reserved = self.driver.reserved[key]
        fresh = reserved.blocks[reserved.cached_blocks :] if late else ()
        self.driver.apply(Release(key, quarantine=fresh))
        self.quarantined.append(fresh)

    @precondition(lambda self: self.reserved)
    @rule(index=st.integers(0, 99), brought=st.integers(0, 4))
    def adopt(self, index: int, brought: int) -> None:
        """A loan brings some blocks more than were cached; nothing runs on the reservation."""
        key = self.reserved.pop(index % len(self.reserved))
        num_blocks = self.driver.deliver(key, brought)
        self.driver.apply(Adopt(key, num_blocks))

    @rule(**REQUEST)
    def pin(self, **request: int) -> None:
        record = self.request(**request)
        told = self.driver.pin(record)
        if told is not None:
            self.outgoing[record.key] = told.blocks

    @precondition(lambda self: self.started)
    @rule(index=st.integers(0, 99))
    def park(self, index: int) -> None:
        key = self.started[index % len(self.started)]
        told = self.driver.park(key)
        if told is not None:
            assert key not in self.driver.finished
            self.outgoing[key] = told.blocks

    @precondition(lambda self: self.outgoing)
    @rule(index=st.integers(0, 99), here=st.booleans())
    def sent(self, index: int, here: bool) -> None:
        """What was pinned or parked has arrived elsewhere; with `here`, a parked one comes back,
        computed again from its tokens."""
        self.check_outgoing()
        key = list(self.outgoing)[index % len(self.outgoing)]
        del self.outgoing[key]
        self.driver.release(key)
        if key in self.started:
            self.started.remove(key)
            if here:
                self.started.append(self.driver.start(self.again(key)))

    def again(self, key: RequestKey) -> Request:
        """The next attempt at a parked request."""
        old, output = self.driver.requests[key], self.driver.outputs[key]
        tokens = unpack_tokens(old.accepted) + output
        return msgspec.structs.replace(
            old, key=RequestKey(key.request_id, key.attempt + 1), accepted=pack_tokens(tokens)
        )

    @precondition(lambda self: self.quarantined)
    @rule()
    def late_bytes(self) -> None:
        blocks = self.quarantined.pop()
        for block in blocks:
            self.driver.runner.memory[block] = [None] * self.driver.runner.block_size
        self.driver.apply(Unquarantine(blocks))

    @precondition(lambda self: self.started)
    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        key = self.started[index % len(self.started)]
        self.cancelled.add(key)
        self.driver.release(key)

    @rule(role=st.sampled_from(["prefill", "decode", "mixed"]))
    def change_role(self, role: str) -> None:
        self.driver.apply(ChangeRole(role))

    @rule(factor=st.sampled_from([0.1, 1.0, 3.0]))
    def learn(self, factor: float) -> None:
        self.driver.apply(UseCurve(CURVE.scaled(factor)))

    @rule(steps=st.sampled_from([1, 2, 4, 12]))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.driver.step()
            self.check_blocks_of_holds()
            self.check_outgoing()

    # -- what holds --------------------------------------------------------------------------

    def check_blocks_of_holds(self) -> None:
        """What was told to be ready has the right content, at the same place, until released."""
        for key in self.holds:
            told = self.driver.progress[key]
            if key in self.cancelled or not told or not told[-1].blocks:
                continue
            assert len({p.blocks for p in told}) == 1
            tokens = self.driver.tokens(key)
            ready = min(told[-1].ready_blocks * self.driver.runner.block_size, len(tokens))
            self.driver.runner.check(told[-1].blocks, tokens, ready)

    def check_outgoing(self) -> None:
        """What is pinned or parked keeps its content until released."""
        for key, blocks in self.outgoing.items():
            if key in self.cancelled:
                continue
            tokens = self.driver.tokens(key) + self.driver.outputs[key]
            size = self.driver.runner.block_size
            last = key in self.started  # its KV is not computed
            self.driver.runner.check(blocks, tokens, min(len(blocks) * size, len(tokens) - last))

    def is_done(self, key: RequestKey) -> bool:
        told = self.driver.progress[key]
        return bool(told) and told[-1].prefill_done

    @invariant()
    def outputs_are_undisturbed(self) -> None:
        if not hasattr(self, "driver"):
            return
        for key, output in self.driver.outputs.items():
            assert output == undisturbed(self.driver.tokens(key), len(output))

    @invariant()
    def routers_are_told_what_can_be_found(self) -> None:
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        self.cache_log.add(driver.cache_changes)
        driver.cache_changes.clear()
        batch = self.cache_log.take()
        if batch is not None:
            self.told -= set(unpack_names(batch.evicted))
            self.told |= set(unpack_names(batch.stored))
        assert len(self.told) <= len(driver.pool._by_name)
        root = driver.scheduler._cache.root("")
        for key, output in driver.outputs.items():
            chain = chain_hashes(root, driver.tokens(key) + output, BLOCK)
            told = [short_name(name) in self.told for name in chain]
            found = len(driver.pool.match(chain))
            assert told == [True] * found + [False] * (len(chain) - found)

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        for key in self.reserved:
            driver.release(key)
        for blocks in self.quarantined:
            driver.apply(Unquarantine(blocks))
        for key in self.outgoing:
            driver.release(key)
        self.started = [key for key in self.started if key not in self.outgoing]
        released: set[RequestKey] = set()
        for _ in range(1000):
            batch = driver.step()
            done = {key for key in self.holds if self.is_done(key)}
            for key in done - released:
                driver.release(key)
            if not batch and not done - released:
                break
            released |= done
        else:
            raise AssertionError("still running")
        self.outputs_are_undisturbed()
        for key in self.started:
            if key in self.cancelled or key in driver.failed:
                continue
            if key in self.holds:
                assert key in released, f"{key} starved"
            else:
                assert driver.finished[key] == "length"
                allowed = driver.requests[key].sampling.max_tokens
                assert len(driver.outputs[key]) == allowed - len(driver.accepted(key))
        for failure in driver.failed.values():
            assert failure.code == "context_length_exceeded"
        counts = driver.counts()
        assert counts.active == counts.held == counts.quarantined == 0
        load = driver.scheduler.load()
        assert (load.waiting, load.running, load.waiting_tokens) == (0, 0, 0)


SchedulerMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestScheduler = SchedulerMachine.TestCase


MOVES = {
    "start": 4, "hold": 3, "reserve": 3, "admit": 2, "adopt": 1, "pin": 1, "park": 3, "sent": 2,
    "cancel": 2, "step": 12,
}
"""Steps are rare enough that the queue never runs dry for long."""


@pytest.mark.parametrize("seed", range(30))
def test_long_crowded_histories(seed: int) -> None:
    """The same machine where it is crowded for long: preemption, sharing and leases at once."""
    random = Random(seed)
    machine = SchedulerMachine()
    machine.setup(random.randint(6, 12), random.choice([1, 3, 4, 8]), random.randint(2, 5), "mixed")
    machine.learn(random.choice([0.1, 1.0, 3.0]))
    for _ in range(120):
        [move] = random.choices(list(MOVES), weights=list(MOVES.values()))
        shape = {
            "trunk": random.randrange(4),
            "extra": random.randrange(6),
            "max_tokens": random.randint(1, 20),
            "priority": random.choice([0, 0, 0, 1]),
            "accepted": 0,
            "haste": random.randrange(4),
        }
        if move in ("start", "hold"):
            machine.start(hold=move == "hold", **shape)
        elif move == "reserve":
            machine.reserve(**shape)
        elif move == "admit" and machine.reserved:
            machine.admit(random.randrange(99), random.choice([1, 1, 3]))
        elif move == "adopt" and machine.reserved:
            machine.adopt(random.randrange(99), random.randrange(4))
        elif move == "pin":
            machine.pin(**shape)
        elif move == "park" and machine.started:
            machine.park(random.randrange(99))
        elif move == "sent" and machine.outgoing:
            machine.sent(random.randrange(99), random.choice([True, False]))
        elif move == "cancel" and machine.started:
            machine.cancel(random.randrange(len(machine.started)))
        elif move == "step":
            machine.step(random.randint(1, 5))
    machine.outputs_are_undisturbed()
    machine.teardown()
