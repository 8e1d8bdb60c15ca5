"""The scheduler's side of migration (Park) and of loans (PinCached, Adopt)."""

from __future__ import annotations

from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from make_request import make_request

from baton.engine.commands import (
    Adopt,
    Refused,
    Release,
    ReserveBlocks,
    Reserved,
    loan_key,
)
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.tokens import pack_tokens, unpack_tokens

PROMPT = list(range(10))


def decoding(driver: Driver, *, name: str = "a", prompt: list[int] = PROMPT) -> RequestKey:
    """A sequence that has told three tokens and goes on."""
    key = driver.start(make_request(name, prompt, max_tokens=12))
    for _ in range(3):
        driver.step()
    return key


# -- park ----------------------------------------------------------------------------------------


def test_a_parked_decode_stops_and_holds_what_it_computed() -> None:
    driver = Driver()
    key = decoding(driver)
    told = driver.park(key)
    assert told is not None
    output = undisturbed(PROMPT, 3)
    assert (told.position, told.tokens, told.finish_reason) == (2, (output[2],), None)
    assert told.ready_blocks == len(told.blocks) == 3  # 12 tokens: the last one has no KV yet
    driver.runner.check(told.blocks, [*PROMPT, *output], 12)
    assert driver.step() == []
    assert (driver.counts().held, driver.counts().active) == (3, 0)
    assert driver.scheduler.load().running == 0
    driver.release(key)
    driver.release(key)
    assert (driver.counts().held, driver.counts().cached) == (0, 3)


def test_a_parked_request_goes_on_elsewhere_as_if_nothing_had_happened() -> None:
    here, there = Driver(), Driver()
    key = decoding(here)
    told = here.park(key)
    assert told is not None
    output = here.outputs[key]
    moved = make_request("a", PROMPT, max_tokens=12, accepted=output[:-1])
    reserved = there.reserve(moved)
    assert isinstance(reserved, Reserved)
    assert len(reserved.blocks) == len(told.blocks)
    there.deliver(key)
    there.admit(key, told.tokens)
    there.run()
    assert output[:-1] + there.outputs[key] == undisturbed(PROMPT, 12)
    assert there.progress[key][0].position == 3  # the token that came along is not told again
    here.release(key)
    assert here.counts().held == there.counts().held == there.counts().active == 0


def test_an_admitted_sequence_can_be_parked_before_its_first_step_here() -> None:
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=12)
    driver.reserve(request)
    driver.deliver(request.key)
    driver.admit(request.key, tuple(undisturbed(PROMPT, 1)))
    told = driver.park(request.key)
    assert told is not None
    assert (told.position, len(told.blocks)) == (0, 3)


def test_what_does_not_decode_is_not_parked_and_goes_on() -> None:
    driver = Driver(num_blocks=8, prefill_chunk=4)
    assert driver.park(RequestKey("nobody", 1)) is None
    prefilling = driver.start(make_request("a", PROMPT))
    assert driver.park(prefilling) is None  # waiting
    driver.step()
    assert driver.park(prefilling) is None  # in its prompt
    hold = driver.start(make_request("hold", [7] * 6), hold=True)
    driver.run()
    assert driver.park(hold) is None
    driver.release(hold)
    request = make_request("reserved", [8] * 6)
    driver.reserve(request)
    assert driver.park(request.key) is None
    assert driver.outputs[prefilling] == undisturbed(PROMPT, 4)


def test_a_retry_whose_last_accepted_token_is_computed_now_is_not_parked() -> None:
    driver = Driver(prefill_chunk=4)
    accepted = undisturbed(PROMPT, 3)
    key = driver.start(make_request("a", PROMPT, max_tokens=12, accepted=accepted, attempt=2))
    for _ in range(3):
        driver.step()
    assert driver.outputs[key] == []  # 12 of 13 tokens are computed: one is left, as in a decode
    assert driver.park(key) is None
    driver.step()
    assert driver.park(key) is not None


def test_a_preempted_decode_is_not_parked_and_is_computed_again() -> None:
    driver = Driver(num_blocks=8)
    old, new = decoding(driver, name="old"), decoding(driver, name="new", prompt=[9] * 9)
    for _ in range(4):
        driver.step()
    assert driver.scheduler.preemptions == 1
    assert driver.park(new) is None
    assert driver.park(old) is not None
    driver.release(old)
    driver.run()
    assert driver.outputs[new] == undisturbed([9] * 9, 12)


def test_parking_twice_gives_the_same_answer() -> None:
    driver = Driver()
    key = decoding(driver)
    assert driver.park(key) == driver.park(key)
    assert driver.counts().held == 3


def test_a_parked_sequence_makes_room_for_others_only_in_the_batch() -> None:
    driver = Driver(num_blocks=6, max_running=1)
    key = decoding(driver)
    other = driver.start(make_request("b", [5] * 5, max_tokens=1))
    driver.step()
    assert other not in driver.finished
    driver.park(key)
    driver.step()
    assert other in driver.finished
    large = driver.start(make_request("large", [6] * 16, max_tokens=1))
    assert driver.step() == []  # four of six blocks are held
    driver.release(key)
    driver.run()
    assert large in driver.finished


# -- pin -----------------------------------------------------------------------------------------


def test_a_pin_holds_the_full_blocks_that_are_cached() -> None:
    driver = Driver()
    driver.start(make_request("turn-1", PROMPT, max_tokens=4))
    driver.run()
    conversation = [*PROMPT, *undisturbed(PROMPT, 4)]
    told = driver.pin(make_request("turn-2", [*conversation, 45, 46, 47]))
    assert told is not None
    assert (told.tokens, told.ready_blocks, len(told.blocks)) == ((), 3, 3)
    assert told.prefill_done
    driver.runner.check(told.blocks, conversation, 12)
    assert driver.counts().held == 3
    assert driver.step() == []


def test_pinned_blocks_are_not_evicted_and_released_ones_are() -> None:
    driver = Driver(num_blocks=5)
    driver.start(make_request("turn-1", PROMPT, max_tokens=3))
    driver.run()
    told = driver.pin(make_request("turn-2", PROMPT))
    assert told is not None
    large = driver.start(make_request("large", [9] * 16, max_tokens=1))
    assert driver.step() == []
    driver.runner.check(told.blocks, PROMPT, 8)
    driver.release(told.key)
    driver.run()
    assert large in driver.finished
    assert driver.counts().held == 0


def test_nothing_cached_is_no_pin() -> None:
    driver = Driver()
    assert driver.pin(make_request("a", PROMPT)) is None
    assert driver.refused[RequestKey("a", 1)] == "not_cached"
    assert driver.counts().held == 0


def test_nobody_pins_what_the_queue_is_waiting_for() -> None:
    driver = Driver(num_blocks=6)
    driver.start(make_request("turn-1", PROMPT, max_tokens=3))
    driver.run()
    lease = driver.start(make_request("lease", [7] * 12, max_tokens=2), hold=True)
    driver.step()
    driver.start(make_request("waiting", [9] * 16, max_tokens=1))
    assert driver.step() == []
    assert driver.pin(make_request("turn-2", PROMPT)) is None
    assert driver.refused[RequestKey("turn-2", 1)] == "busy"
    driver.release(lease)
    driver.run()


def test_a_lender_may_have_the_request_itself_under_its_own_key() -> None:
    driver = Driver()
    driver.start(make_request("turn-1", PROMPT, max_tokens=4))
    driver.run()
    request = make_request("turn-2", PROMPT, max_tokens=6)
    reserved = driver.reserve(request)
    assert isinstance(reserved, Reserved)
    assert driver.pin(request) is None
    assert driver.refused[request.key] == "duplicate"
    told = driver.pin(renamed(request))
    assert told is not None
    assert told.blocks == reserved.blocks[:2]
    driver.release(told.key)
    driver.deliver(request.key)
    output = undisturbed(PROMPT, 6)
    driver.admit(request.key, (output[0],))
    driver.run()
    assert driver.outputs[request.key] == output


def renamed(request: Request) -> Request:
    return Request(
        key=loan_key(request.key),
        choice=0,
        prompt=pack_tokens(unpack_tokens(request.prompt)),
        sampling=request.sampling,
    )


# -- adopt ---------------------------------------------------------------------------------------


def test_adopted_blocks_serve_the_request_that_starts_next() -> None:
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=4)
    assert isinstance(driver.reserve(request), Reserved)
    driver.deliver(request.key)
    assert driver.apply(Adopt(request.key, 2)) == []
    assert (driver.counts().held, driver.counts().cached) == (0, 2)
    driver.start(request, hold=True)
    assert [item.num_tokens for item in driver.step()] == [10 - 2 * BLOCK]
    assert driver.progress[request.key][-1].cached_tokens == 2 * BLOCK


def test_only_what_has_arrived_is_adopted() -> None:
    driver = Driver()
    request = make_request("a", PROMPT, max_tokens=4)
    driver.reserve(request)
    driver.deliver(request.key, 1)
    driver.apply(Adopt(request.key, 1))
    assert driver.counts().cached == 1
    driver.start(request)
    driver.run()  # the fake runner would notice a block that was never written
    assert driver.outputs[request.key] == undisturbed(PROMPT, 4)


def test_a_partial_block_is_never_adopted() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    driver.reserve(request)
    driver.deliver(request.key)
    driver.apply(Adopt(request.key, 3))
    assert (driver.counts().cached, driver.counts().free) == (2, 14)


def test_adopting_less_than_was_cached_forgets_nothing() -> None:
    driver = Driver()
    driver.start(make_request("a", PROMPT))
    driver.run()
    request = make_request("b", [*PROMPT, 30, 31])
    reserved = driver.reserve(request)
    assert isinstance(reserved, Reserved)
    assert reserved.cached_blocks == 2
    driver.apply(Adopt(request.key, 0))
    assert driver.counts().held == 0
    assert driver.counts().cached == 3


def test_adopting_what_is_no_reservation_changes_nothing() -> None:
    driver = Driver()
    driver.apply(Adopt(RequestKey("nobody", 1), 3))
    key = decoding(driver)
    driver.apply(Adopt(key, 3))
    driver.run()
    assert driver.outputs[key] == undisturbed(PROMPT, 12)
    request = make_request("b", PROMPT)
    driver.reserve(request)
    driver.apply(Release(request.key))
    driver.apply(Adopt(request.key, 2))
    assert isinstance(driver.reserve(request), Reserved | Refused)
    assert driver.counts().held == 3


def test_a_loan_takes_no_place_of_what_runs() -> None:
    driver = Driver(max_running=1)
    loan = make_request("a/loan", PROMPT)
    [event] = driver.apply(ReserveBlocks(loan, loan=True))
    assert isinstance(event, Reserved)
    request = make_request("b", [9] * 6, max_tokens=3)
    assert isinstance(driver.reserve(request), Reserved)
    refused = driver.reserve(make_request("c", [8] * 6))
    assert refused == Refused(RequestKey("c", 1), "busy")
    for key in (loan.key, request.key):
        driver.release(key)
    assert driver.counts().held == 0
    assert isinstance(driver.reserve(make_request("d", [8] * 6)), Reserved)
