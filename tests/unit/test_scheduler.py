"""Scheduling rules, one by one: how a step is filled, stopping, sharing, preemption."""

from __future__ import annotations

import pytest
from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from make_request import make_request

from baton.engine.commands import ChangeRole
from baton.engine.limits import SchedulerLimits

PROMPT = list(range(10))


def sizes(driver: Driver) -> list[int]:
    return [item.num_tokens for item in driver.step()]


# -- filling a step ------------------------------------------------------------------------------


def test_one_sequence_from_start_to_end() -> None:
    driver = Driver()
    key = driver.start(make_request("a", PROMPT, max_tokens=5))
    driver.run()
    assert driver.outputs[key] == undisturbed(PROMPT, 5)
    assert driver.finished[key] == "length"
    assert driver.runner.sizes == [[10], [1], [1], [1], [1]]
    assert driver.counts().active == driver.counts().held == 0
    assert driver.counts().cached == 3  # 14 tokens were computed


def test_prefill_in_chunks_that_end_on_block_ends() -> None:
    driver = Driver(prefill_chunk=6)
    key = driver.start(make_request("a", list(range(15)), max_tokens=2))
    driver.run()
    assert driver.runner.sizes == [[4], [4], [4], [3], [1]]
    assert driver.outputs[key] == undisturbed(list(range(15)), 2)


def test_decodes_come_first_and_new_sequences_join_at_every_step() -> None:
    driver = Driver(max_batch_tokens=12, prefill_chunk=12, role="prefill")
    driver.start(make_request("a", PROMPT, max_tokens=10))
    assert sizes(driver) == [10]
    driver.start(make_request("b", [50 + t for t in range(14)], max_tokens=10))
    assert sizes(driver) == [1, 8]
    assert sizes(driver) == [1, 6]
    assert sizes(driver) == [1, 1]


@pytest.mark.parametrize(("role", "chunk"), [("prefill", 56), ("mixed", 32), ("decode", 16)])
def test_the_role_divides_a_step_that_decodes(role: str, chunk: int) -> None:
    driver = Driver(num_blocks=64, role="mixed")
    driver.start(make_request("a", PROMPT, max_tokens=20))
    driver.step()
    driver.apply(ChangeRole(role))
    driver.start(make_request("b", list(range(100, 190))))
    assert sizes(driver) == [1, chunk + 4 * (role == "prefill")]


def test_without_decodes_the_role_does_not_matter() -> None:
    driver = Driver(num_blocks=64, role="decode")
    driver.start(make_request("a", list(range(90))))
    assert sizes(driver) == [64]


def test_an_unknown_role_is_refused() -> None:
    driver = Driver()
    with pytest.raises(ValueError, match="role must be one of prefill, decode, mixed"):
        driver.apply(ChangeRole("router"))


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_batch_tokens \(8\) must exceed max_running \(8\)"):
        SchedulerLimits(max_model_len=100, max_running=8, max_batch_tokens=8)


def test_max_running_bounds_the_batch() -> None:
    driver = Driver(num_blocks=64, max_running=2)
    for name in "abc":
        driver.start(make_request(name, [ord(name)] * 3, max_tokens=2))
    assert len(driver.step()) == 2
    driver.run()
    assert len(driver.finished) == 3


def test_lane_then_priority_then_arrival() -> None:
    driver = Driver(max_running=1)
    batch = driver.start(make_request("batch", [1], max_tokens=1, lane="batch", priority=9))
    late = driver.start(make_request("plain", [2], max_tokens=1))
    urgent = driver.start(make_request("urgent", [3], max_tokens=1, priority=1))
    driver.run()
    assert list(driver.finished) == [urgent, late, batch]


# -- stopping ------------------------------------------------------------------------------------


def test_stop_tokens() -> None:
    output = undisturbed(PROMPT, 8)
    end = output[3]
    assert end not in output[:3]
    cases = {
        "eos": ({"eos": (end,)}, 4, "stop"),
        "ignored": ({"eos": (end,), "ignore_eos": True}, 8, "length"),
        "id": ({"stop_token_ids": (end,), "ignore_eos": True}, 4, "stop"),
        "minimum": ({"eos": (end,), "min_tokens": 6}, 8, "length"),
    }
    for name, (options, count, reason) in cases.items():
        driver = Driver()
        key = driver.start(make_request(name, PROMPT, max_tokens=8, **options))
        driver.run()
        assert (driver.outputs[key], driver.finished[key]) == (output[:count], reason), name


def test_max_model_len_ends_with_length() -> None:
    driver = Driver(max_model_len=13)
    key = driver.start(make_request("a", PROMPT, max_tokens=50))
    driver.run()
    assert driver.finished[key] == "length"
    assert len(driver.outputs[key]) == 3


def test_max_tokens_counts_over_all_attempts() -> None:
    output = undisturbed(PROMPT, 6)
    driver = Driver()
    key = driver.start(make_request("a", PROMPT, max_tokens=6, accepted=output[:4]))
    driver.run()
    assert driver.outputs[key] == output[4:]
    assert driver.progress[key][0].position == 4


@pytest.mark.parametrize("hold", [False, True])
def test_an_attempt_with_nothing_left_to_do_ends_at_once(hold: bool) -> None:
    output = undisturbed(PROMPT, 4)
    driver = Driver()
    key = driver.start(make_request("a", PROMPT, max_tokens=4, accepted=output), hold=hold)
    assert driver.finished[key] == "length"
    assert driver.progress[key][0].prefill_done is hold
    driver.release(key)
    assert driver.step() == []


def test_scoring_computes_the_prompt_and_draws_nothing() -> None:
    driver = Driver(prefill_chunk=4)
    first = driver.start(make_request("a", PROMPT, max_tokens=1))
    driver.run()
    key = driver.start(make_request("b", PROMPT, max_tokens=0, prompt_logprobs=0))
    driver.run()
    assert driver.outputs[key] == []
    assert driver.finished[key] == "length"
    [*_, last] = driver.progress[key]
    assert last.prompt_logprobs is not None
    told = [None if entry is None else entry.token for entry in last.prompt_logprobs]
    assert told == [None, *PROMPT[1:]]
    assert last.cached_tokens == 0  # although "a" left its blocks
    assert driver.progress[first][0].cached_tokens == 0


def test_prompt_logprobs_survive_preemption_and_are_told_once() -> None:
    driver = Driver(num_blocks=8, prefill_chunk=4)
    grows = driver.start(make_request("grows", [40, 41, 42], max_tokens=20))
    key = driver.start(make_request("b", PROMPT, max_tokens=16, prompt_logprobs=0))
    driver.run()
    assert driver.scheduler.preemptions > 0
    assert driver.outputs[key] == undisturbed(PROMPT, 16)
    assert driver.outputs[grows] == undisturbed([40, 41, 42], 20)
    told = [p.prompt_logprobs for p in driver.progress[key] if p.prompt_logprobs is not None]
    assert len(told) == 1
    assert len(told[0]) == len(PROMPT)


# -- failing -------------------------------------------------------------------------------------


def test_what_can_never_fit_fails_with_both_numbers() -> None:
    driver = Driver(num_blocks=4)
    long = driver.start(make_request("long", list(range(17))))
    assert driver.failed[long].code == "context_length_exceeded"
    assert "need 5 KV blocks of 4 tokens, this worker has 4" in driver.failed[long].message
    longer = driver.start(make_request("longer", list(range(300))))
    assert "has 300 tokens, the context holds 200" in driver.failed[longer].message
    empty = driver.start(make_request("empty", []))
    assert driver.failed[empty].code == "invalid_value"
    grows = driver.start(make_request("grows", list(range(14)), max_tokens=20))
    driver.run()
    assert "17 tokens need 5 KV blocks" in driver.failed[grows].message
    assert driver.outputs[grows] == undisturbed(list(range(14)), 3)
    assert driver.counts().active == 0


def test_a_failed_step_ends_its_sequences_only() -> None:
    driver = Driver(max_running=1)
    lost = driver.start(make_request("a", PROMPT))
    other = driver.start(make_request("b", PROMPT))
    batch = driver.scheduler.schedule(0.0)
    [event] = driver.scheduler.abandon(batch, "internal_error", "broken")
    assert event.key == lost
    driver.scheduler.check_integrity()
    assert driver.counts().active == 0
    driver.run()
    assert driver.outputs[other] == undisturbed(PROMPT, 4)


# -- sharing -------------------------------------------------------------------------------------


def test_a_cached_prefix_is_not_computed_again_but_one_token_always_is() -> None:
    driver = Driver()
    prompt = list(range(12))
    driver.start(make_request("a", prompt))
    driver.run()
    again = driver.start(make_request("b", prompt))
    assert sizes(driver) == [4]
    assert driver.progress[again][0].cached_tokens == 8
    driver.run()
    assert driver.outputs[again] == undisturbed(prompt, 4)


def test_salts_do_not_share() -> None:
    driver = Driver()
    driver.start(make_request("a", PROMPT))
    driver.run()
    driver.start(make_request("b", PROMPT, cache_salt="tenant"))
    assert sizes(driver) == [10]


def test_what_a_running_prefill_computes_is_waited_for_and_shared() -> None:
    driver = Driver(num_blocks=32, prefill_chunk=8)
    prompt = list(range(22))
    keys = [driver.start(make_request(name, prompt)) for name in "abc"]
    other = driver.start(make_request("other", [77, 78]))
    assert sizes(driver) == [8, 2]  # b and c wait, what comes after them does not
    driver.run()
    prefilled = sum(size for step in driver.runner.sizes for size in step if size > 1)
    assert prefilled == 22 + 2 + 2 * 2
    for key in keys:
        assert driver.outputs[key] == undisturbed(prompt, 4)
    assert driver.outputs[other] == undisturbed([77, 78], 4)


def test_who_waited_for_a_prefill_goes_on_when_that_is_cancelled() -> None:
    driver = Driver(prefill_chunk=4)
    first = driver.start(make_request("a", PROMPT))
    second = driver.start(make_request("b", PROMPT))
    assert sizes(driver) == [4]
    driver.release(first)
    assert sizes(driver) == [4]  # from the block that the first left in the cache
    driver.run()
    assert driver.outputs[second] == undisturbed(PROMPT, 4)
    assert first not in driver.finished


# -- running out of blocks -----------------------------------------------------------------------


def test_decodes_that_run_out_preempt_the_newest_and_lose_nothing() -> None:
    driver = Driver(num_blocks=8)
    prompts = {name: [ord(name)] * 7 for name in "abc"}
    keys = {n: driver.start(make_request(n, p, max_tokens=18)) for n, p in prompts.items()}
    driver.run()
    assert driver.scheduler.preemptions > 0
    assert list(driver.finished) == list(keys.values())  # in order of arrival
    for name, key in keys.items():
        assert driver.outputs[key] == undisturbed(prompts[name], 18)


def test_lower_priority_is_preempted_first() -> None:
    driver = Driver(num_blocks=8)
    low = driver.start(make_request("low", [1] * 7, max_tokens=22, priority=-1))
    driver.step()
    high = driver.start(make_request("high", [2] * 7, max_tokens=22))
    driver.run()
    assert list(driver.finished) == [high, low]


def test_admission_leaves_room_for_those_that_grow() -> None:
    driver = Driver(num_blocks=4)
    driver.start(make_request("a", [1] * 7, max_tokens=8))
    driver.step()
    driver.start(make_request("b", [2] * 7))
    assert len(driver.step()) == 1  # its two blocks are there, but "a" needs one of them soon
    driver.run()
    assert driver.scheduler.preemptions == 0
    assert len(driver.finished) == 2


def test_the_first_of_the_queue_is_not_overtaken_for_lack_of_blocks() -> None:
    driver = Driver(num_blocks=6)
    driver.start(make_request("a", [1] * 11, max_tokens=6))
    driver.step()
    big = driver.start(make_request("big", [2] * 20, max_tokens=1))
    small = driver.start(make_request("small", [3], max_tokens=1))
    driver.run()
    assert list(driver.finished)[1:] == [big, small]


def test_cancel_in_every_state_is_idempotent() -> None:
    driver = Driver(prefill_chunk=4, max_running=1)
    running = driver.start(make_request("running", PROMPT))
    waiting = driver.start(make_request("waiting", PROMPT))
    driver.step()
    for key in (waiting, running, running, waiting):
        driver.release(key)
    assert driver.step() == []
    assert driver.counts().active == 0
    assert driver.counts().cached == 1
    load = driver.scheduler.load()
    assert (load.waiting, load.running, load.waiting_tokens) == (0, 0, 0)


def test_starting_twice_changes_nothing() -> None:
    driver = Driver()
    request = make_request("a", PROMPT)
    key = driver.start(request)
    driver.step()
    driver.start(request)
    driver.run()
    assert driver.outputs[key] == undisturbed(PROMPT, 4)


def test_load_counts_what_is_left() -> None:
    driver = Driver(prefill_chunk=4, max_running=1)
    driver.start(make_request("a", PROMPT))
    driver.start(make_request("b", [50] * 5))
    driver.step()
    load = driver.scheduler.load()
    assert (load.waiting, load.running, load.waiting_tokens, load.steps) == (1, 1, 6 + 5, 1)
    assert load.blocks.active * BLOCK >= 10


def test_phases_come_with_the_first_token() -> None:
    driver = Driver(max_running=1, prefill_chunk=4)
    driver.start(make_request("a", PROMPT, max_tokens=2))
    key = driver.start(make_request("b", [50] * 6, max_tokens=3))
    driver.run()
    first, second, _ = driver.progress[key]
    assert first.phases == {"queue": 4.0, "prefill": 2.0}
    assert second.phases is None
    assert second.cached_tokens is None
