"""The scheduler's side of a hand-off: prefills that hold, reservations that are admitted."""

from __future__ import annotations

import pytest
from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from make_request import make_request

from baton.engine.block_pool import IntegrityError
from baton.engine.commands import Refused, Release, Reserved, Unquarantine
from baton.engine.order import AGEING
from baton.protocol.records import Request

PROMPT = list(range(10))


# -- the sending side ----------------------------------------------------------------------------


def test_a_hold_sequence_tells_its_blocks_as_they_get_ready() -> None:
    driver = Driver(prefill_chunk=4)
    key = driver.start(make_request("a", PROMPT), hold=True)
    driver.run()
    told = driver.progress[key]
    assert [p.ready_blocks for p in told] == [1, 2, 3]
    assert {p.blocks for p in told} == {(0, 1, 2)}
    assert [p.prefill_done for p in told] == [False, False, True]
    assert told[-1].tokens == tuple(undisturbed(PROMPT, 1))
    assert told[-1].finish_reason is None
    assert driver.counts().held == 3
    assert driver.scheduler.load().running == 0
    driver.release(key)
    assert (driver.counts().held, driver.counts().cached) == (0, 2)


def test_cached_blocks_are_ready_before_the_first_step() -> None:
    driver = Driver()
    driver.start(make_request("a", PROMPT))
    driver.run()
    key = driver.start(make_request("b", PROMPT), hold=True)
    driver.scheduler.schedule(driver.now)
    [event] = driver.scheduler.take_events()
    assert (event.key, event.ready_blocks, len(event.blocks)) == (key, 2, 3)


def test_a_first_token_that_ends_the_request_still_holds_until_release() -> None:
    driver = Driver()
    key = driver.start(make_request("a", PROMPT, max_tokens=1), hold=True)
    driver.run()
    assert driver.finished[key] == "length"
    assert driver.progress[key][-1].prefill_done
    assert driver.counts().held == 3
    driver.release(key)
    assert driver.counts().held == 0


def test_a_retry_holds_prompt_and_accepted_tokens() -> None:
    output = undisturbed(PROMPT, 9)
    driver = Driver()
    key = driver.start(make_request("a", PROMPT, max_tokens=20, accepted=output[:8]), hold=True)
    driver.run()
    last = driver.progress[key][-1]
    assert (last.position, last.tokens, len(last.blocks)) == (8, (output[8],), 5)


def test_hold_sequences_are_never_preempted() -> None:
    driver = Driver(num_blocks=8, prefill_chunk=4)
    decode = driver.start(make_request("decode", [1] * 7, max_tokens=24))
    driver.step()
    hold = driver.start(make_request("hold", [2] * 14, max_tokens=5), hold=True)
    driver.run()
    assert driver.scheduler.preemptions == 1  # the decode itself, whose room the lease has
    assert [p.blocks for p in driver.progress[hold]] == [driver.progress[hold][0].blocks] * 4
    assert driver.counts().held == 4
    assert decode not in driver.finished
    driver.release(hold)
    driver.run()
    assert driver.outputs[decode] == undisturbed([1] * 7, 24)


def test_prefills_that_compete_for_the_pool_all_get_through() -> None:
    driver = Driver(num_blocks=6, prefill_chunk=4)
    keys = [driver.start(make_request(f"{n}", [n] * 15), hold=True) for n in range(4)]
    for key in keys:
        driver.run()
        assert driver.progress[key][-1].prefill_done
        driver.release(key)
    assert driver.counts().held == driver.counts().active == 0
    assert driver.scheduler.preemptions == 0


# -- the receiving side --------------------------------------------------------------------------


def test_reserve_deliver_admit() -> None:
    output = undisturbed(PROMPT, 6)
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=6)
    assert driver.reserve(request) == Reserved(request.key, (0, 1, 2), 0)
    assert driver.counts().held == 3
    assert driver.step() == []
    driver.deliver(request.key)
    driver.admit(request.key, (output[0],))
    assert driver.counts().active == 3
    driver.run()
    assert driver.outputs[request.key] == output
    assert driver.counts().active == driver.counts().held == 0
    assert driver.progress[request.key][0].phases is None
    # what arrived serves others
    again = driver.start(make_request("b", PROMPT))
    driver.run()
    assert driver.progress[again][0].cached_tokens == 8


def test_a_reservation_is_made_once_and_known_again_when_it_runs() -> None:
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=6)
    reserved = driver.reserve(request)
    assert driver.reserve(request) == reserved
    assert driver.counts().held == 3
    driver.deliver(request.key)
    driver.admit(request.key, tuple(undisturbed(PROMPT, 1)))
    assert driver.reserve(request) == Refused(request.key, "running")
    driver.run()
    assert driver.outputs[request.key] == undisturbed(PROMPT, 6)
    assert driver.counts().held == driver.counts().active == 0


def test_a_reservation_pins_all_that_is_cached() -> None:
    driver = Driver()
    prompt = list(range(12))
    driver.start(make_request("a", prompt))
    driver.run()
    event = driver.reserve(make_request("b", [*prompt, 50, 51]))
    assert isinstance(event, Reserved)
    assert (event.cached_blocks, len(event.blocks)) == (3, 4)
    whole = driver.reserve(make_request("c", prompt))
    assert isinstance(whole, Reserved)
    assert (whole.cached_blocks, whole.blocks) == (3, event.blocks[:3])


def test_a_reservation_is_granted_whole_or_refused() -> None:
    driver = Driver(num_blocks=5)
    first = make_request("a", PROMPT)
    assert isinstance(driver.reserve(first), Reserved)
    assert driver.reserve(make_request("b", [3] * 12)) == Refused(make_request("b", []).key, "busy")
    assert driver.counts().held == 3
    large = driver.reserve(make_request("c", list(range(30))))
    assert isinstance(large, Refused)
    assert large.reason == "too_large"
    driver.release(first.key)
    assert isinstance(driver.reserve(make_request("b", [3] * 12)), Reserved)


def test_reservations_count_as_running() -> None:
    driver = Driver(max_running=2)
    driver.start(make_request("a", PROMPT))
    driver.step()
    assert isinstance(driver.reserve(make_request("b", [1])), Reserved)
    assert isinstance(driver.reserve(make_request("c", [2])), Refused)


def test_reserving_twice_gives_the_same_answer() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    assert driver.reserve(request) == driver.reserve(request)
    assert driver.counts().held == 3


def large(name: str, due_in: float | None) -> Request:
    """A prompt of seven blocks."""
    return make_request(name, list(range(500, 528)), max_tokens=2, due_in=due_in)


def test_no_reservation_takes_more_than_its_share_while_smaller_prompts_wait() -> None:
    driver = Driver(num_blocks=12)
    assert isinstance(driver.reserve(large("first", 30.0)), Reserved)  # nobody waits
    driver = Driver(num_blocks=12)
    driver.start(make_request("waits", [1] * 4, due_in=30.0))
    assert driver.reserve(large("large", 30.0)) == Refused(large("large", 30.0).key, "busy")
    assert isinstance(driver.reserve(make_request("small", [3] * 12, due_in=30.0)), Reserved)


@pytest.mark.parametrize("due_in", [None, -AGEING - 1])
def test_a_large_reservation_is_granted_when_it_has_aged_or_has_no_target(
    due_in: float | None,
) -> None:
    driver = Driver(num_blocks=12)
    driver.start(make_request("waits", [1] * 4, due_in=30.0))
    assert isinstance(driver.reserve(large("large", due_in)), Reserved)


@pytest.mark.parametrize("due_in", [30.0, None])
def test_a_large_prompt_that_waits_for_blocks_lets_small_reservations_pass(
    due_in: float | None,
) -> None:
    """Unless it has no target, by which one could tell when it has waited enough."""
    driver = Driver(num_blocks=12)
    lease = driver.start(make_request("lease", [1] * 24), hold=True)
    driver.step()
    driver.start(large("large", due_in))
    assert driver.step() == []
    small = driver.reserve(make_request("small", [3] * 4, due_in=30.0))
    assert isinstance(small, Refused if due_in is None else Reserved)
    also_large = driver.reserve(large("also large", 30.0))
    assert isinstance(also_large, Refused)
    driver.release(lease)


def test_no_reservation_is_granted_while_the_queue_lacks_blocks() -> None:
    driver = Driver(num_blocks=6)
    lease = driver.start(make_request("lease", [1] * 15), hold=True)
    driver.step()
    waiting = driver.start(make_request("waiting", [2] * 12, max_tokens=1))
    assert driver.step() == []
    refused = driver.reserve(make_request("small", [3]))
    assert isinstance(refused, Refused)
    driver.release(lease)
    driver.run()
    assert waiting in driver.finished
    assert isinstance(driver.reserve(make_request("small", [3])), Reserved)


def test_an_unsealed_reservation_leaves_nothing_in_the_cache() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    driver.reserve(request)
    driver.deliver(request.key)
    driver.release(request.key)
    assert driver.counts().free == 16
    driver.start(make_request("b", PROMPT))
    assert [item.num_tokens for item in driver.step()] == [10]


def test_blocks_that_may_still_be_written_are_quarantined() -> None:
    driver = Driver(num_blocks=4)
    request = make_request("a", PROMPT)
    reserved = driver.reserve(request)
    assert isinstance(reserved, Reserved)
    driver.apply(Release(request.key, quarantine=reserved.blocks[1:]))
    driver.apply(Release(request.key, quarantine=reserved.blocks[1:]))
    assert (driver.counts().quarantined, driver.counts().free) == (2, 2)
    key = driver.start(make_request("b", PROMPT))
    assert driver.step() == []
    driver.apply(Unquarantine(reserved.blocks[1:]))
    driver.run()
    assert driver.outputs[key] == undisturbed(PROMPT, 4)
    assert driver.counts().quarantined == 0


def test_a_hand_off_can_not_write_into_shared_blocks() -> None:
    driver = Driver()
    driver.start(make_request("a", PROMPT))
    driver.run()
    request = make_request("b", PROMPT)
    reserved = driver.reserve(request)
    assert isinstance(reserved, Reserved)
    with pytest.raises(IntegrityError, match="shared blocks"):
        driver.apply(Release(request.key, quarantine=reserved.blocks))


def test_admitting_what_is_not_reserved_is_refused() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    driver.reserve(request)
    driver.release(request.key)
    driver.admit(request.key, (1,))
    assert driver.refused[request.key] == "unknown"


def test_an_admitted_sequence_that_is_at_its_end_ends() -> None:
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=1)
    driver.reserve(request)
    driver.deliver(request.key)
    driver.admit(request.key, tuple(undisturbed(PROMPT, 1)))
    assert driver.finished[request.key] == "length"
    assert driver.counts().active == 0


def test_a_seal_without_a_token_fails() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    driver.reserve(request)
    driver.admit(request.key, ())
    assert driver.failed[request.key].code == "internal_error"
    assert driver.counts().active == 0


def test_an_admitted_sequence_survives_preemption() -> None:
    driver = Driver(num_blocks=8)
    old = driver.start(make_request("old", [1] * 7, max_tokens=24))
    driver.step()
    request = make_request("a", PROMPT, max_tokens=20)
    assert isinstance(driver.reserve(request), Reserved)
    driver.deliver(request.key)
    output = undisturbed(PROMPT, 20)
    driver.admit(request.key, tuple(output[:1]))
    driver.run()
    assert driver.scheduler.preemptions > 0
    assert driver.outputs[request.key] == output
    assert driver.outputs[old] == undisturbed([1] * 7, 24)
    assert driver.counts().cached * BLOCK <= 8 * BLOCK


def test_a_decode_that_is_preempted_for_a_later_part_of_the_step_leaves_it() -> None:
    driver = Driver(num_blocks=8)
    output = undisturbed(PROMPT, 8)
    request = make_request("a", PROMPT, max_tokens=8)
    driver.reserve(request)  # older than the decode
    driver.deliver(request.key)
    decode = driver.start(make_request("decode", [1] * 7, max_tokens=12))
    driver.step()
    lease = driver.start(make_request("lease", [2] * 7), hold=True)
    driver.step()
    filler = driver.reserve(make_request("filler", [3]))  # leaves no block
    assert driver.counts().free + driver.counts().cached == 1 - isinstance(filler, Reserved)
    driver.admit(request.key, tuple(output[:3]))  # 13 tokens: one block more than reserved
    batch = driver.step()
    assert driver.scheduler.preemptions == 1
    assert [item.seq.key for item in batch] == [request.key]
    driver.release(lease)
    driver.run()
    assert driver.outputs[request.key] == output
    assert driver.outputs[decode] == undisturbed([1] * 7, 12)
