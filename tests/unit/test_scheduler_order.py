"""Who goes first among requests with due times. A step takes one second of the driver's time."""

from __future__ import annotations

from random import Random

import pytest
from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from make_request import make_request

from baton.engine.commands import UseCurve
from baton.engine.order import AGEING
from baton.engine.step_filling import FAR
from baton.protocol.curves import StepCurve
from baton.protocol.ids import RequestKey

CURVE = StepCurve(
    base=0.5, chunk=0.0, token=0.01, pair=0.0, decode=0.0, context=0.0, spread=0.0, steps=100)


def one_by_one(**options: int) -> Driver:
    return Driver(num_blocks=64, max_running=1, **options)


def ask(
    driver: Driver, name: str, due_in: float | None, length: int = 3, **options: int | str
) -> RequestKey:
    """A prompt that shares nothing with others, and one token."""
    rng = Random(name)
    tokens = [rng.randrange(1000, 9000) for _ in range(length)]
    request = make_request(
        name, tokens, due_in=due_in, **{"max_tokens": 1, **options})  # type: ignore[arg-type]
    return driver.start(request)


def names(driver: Driver) -> list[str]:
    return [key.request_id for key in driver.finished]


def parts(driver: Driver) -> dict[str, int]:
    """Tokens of each sequence in the next step."""
    return {item.seq.key.request_id: item.num_tokens for item in driver.step()}


def test_due_first_is_served_first_and_priority_before_that() -> None:
    driver = one_by_one()
    ask(driver, "later", 50.0)
    ask(driver, "batch, soon", 20.0, lane="batch")
    ask(driver, "soonest", 10.0)
    ask(driver, "urgent", 90.0, priority=1)
    ask(driver, "tie", 10.0)
    driver.run()
    assert names(driver) == ["urgent", "soonest", "tie", "batch, soon", "later"]


def test_what_is_late_goes_behind_what_can_still_make_it_and_its_own_priority() -> None:
    driver = one_by_one()
    ask(driver, "late", -1.0)
    ask(driver, "in time", 60.0)
    ask(driver, "late but urgent", -1.0, priority=1)
    driver.run()
    assert names(driver) == ["late but urgent", "in time", "late"]


def test_it_becomes_late_while_it_waits() -> None:
    driver = one_by_one()
    for index in range(3):
        ask(driver, f"first{index}", 9.0, priority=1)
    ask(driver, "misses", 2.5)
    ask(driver, "makes it", 30.0)
    driver.run()
    assert names(driver)[3:] == ["makes it", "misses"]


def test_late_ones_are_overtaken_for_so_long_and_no_longer() -> None:
    """Others that can make it come at every step, also of higher priority."""
    driver = one_by_one()
    late = ask(driver, "late", -1.0)
    for step in range(30):
        ask(driver, f"new{step}", 3.0, priority=step % 2)
        driver.step()
        if late in driver.finished:
            break
    assert driver.now == AGEING + 1
    assert names(driver)[-2:] == ["new4", "late"]


@pytest.mark.parametrize("cached", [False, True])
def test_whether_a_prompt_can_make_it_depends_on_what_is_to_compute(cached: bool) -> None:
    """60 tokens take 0.5 + 0.6 s by the curve."""
    driver = one_by_one()
    tokens = list(range(60))
    if cached:
        driver.start(make_request("before", tokens, max_tokens=1))
        driver.run()
        driver.finished.clear()
    driver.apply(UseCurve(CURVE))
    driver.start(make_request("long", tokens, max_tokens=1, due_in=1.0))
    ask(driver, "short", 1.2)
    driver.run()
    assert names(driver) == (["long", "short"] if cached else ["short", "long"])


def test_what_has_no_target_waits_behind_those_that_have_but_not_for_ever() -> None:
    driver = one_by_one()
    plain = ask(driver, "plain", None)
    for step in range(60):
        ask(driver, f"dated{step}", 10.0)
        driver.step()
        if plain in driver.finished:
            break
    assert driver.now == pytest.approx(30 - 10, abs=2)


def test_an_earlier_due_prompt_goes_before_the_next_chunk_of_another() -> None:
    driver = Driver(num_blocks=64, max_batch_tokens=16, prefill_chunk=16)
    ask(driver, "first", 9.0, 40)
    assert parts(driver) == {"first": 16}
    ask(driver, "hasty", 5.0, 12)
    assert parts(driver) == {"hasty": 12, "first": 4}
    assert parts(driver) == {"first": 16}


def test_what_is_due_far_later_does_not_make_a_step_longer() -> None:
    """All in a step wait for all of it."""
    driver = Driver(num_blocks=64, max_batch_tokens=64, prefill_chunk=32)
    ask(driver, "far", 50.0, 60)
    assert parts(driver) == {"far": 32}
    ask(driver, "hasty", 5.0, 12)
    ask(driver, "soon", 5.0 + FAR - 1, 12)
    assert parts(driver) == {"hasty": 12, "soon": 12}
    assert parts(driver) == {"far": 28}


def test_what_is_due_far_later_has_its_turn_when_it_is_far_no_longer() -> None:
    """Others that are due in 3 s come at every step."""
    driver = Driver(num_blocks=64, max_batch_tokens=64, prefill_chunk=32)
    far = ask(driver, "far", 20.0, 12)
    while far not in driver.finished:
        assert driver.now < 20.0
        ask(driver, f"new{driver.now}", 3.0, 12)
        driver.step()
    assert driver.now == 20.0 - FAR - 3.0 + 1


def test_a_running_prompt_that_is_late_lets_others_go_first() -> None:
    driver = Driver(num_blocks=64, max_batch_tokens=16, prefill_chunk=16)
    ask(driver, "late", 1.5, 60)
    driver.step()
    driver.step()
    ask(driver, "in time", 9.0, 12)
    assert parts(driver) == {"in time": 12, "late": 4}


def test_a_prompt_of_many_steps_leaves_half_of_each_to_shorter_ones() -> None:
    driver = Driver(num_blocks=256, max_model_len=900, max_batch_tokens=64, prefill_chunk=64)
    long = ask(driver, "long", 5.0, 600)
    assert parts(driver) == {"long": 64}
    for name in "abc":
        ask(driver, name, 8.0, 20)
    assert parts(driver) == {"a": 20, "b": 12, "long": 32}
    assert parts(driver) == {"b": 8, "c": 20, "long": 36}  # what they do not need it gets
    assert parts(driver) == {"long": 64}
    driver.run()
    assert driver.outputs[long] == undisturbed(driver.tokens(long), 1)


def test_prompts_of_one_size_go_one_after_the_other() -> None:
    driver = Driver(num_blocks=512, max_model_len=900, max_batch_tokens=64, prefill_chunk=64)
    ask(driver, "one", 90.0, 600)
    ask(driver, "two", 91.0, 600)
    assert parts(driver) == {"one": 64}


def test_half_of_the_time_is_left_where_time_is_what_is_short() -> None:
    driver = Driver(num_blocks=256, max_model_len=900, max_batch_tokens=256, prefill_chunk=256)
    driver.apply(UseCurve(CURVE))
    driver.start(make_request("decodes", [1, 2, 3], max_tokens=100, itl=1.5, due_in=5.0))
    driver.step()
    ask(driver, "long", 30.0, 600)
    assert parts(driver) == {"decodes": 1, "long": 100}
    ask(driver, "short", 40.0, 90)
    ask(driver, "other", 41.0, 90)
    driver.now += 0.5  # the stream is as far as it should be
    assert parts(driver) == {"decodes": 1, "short": 48, "long": 52}


def test_one_sequence_has_no_more_than_its_share_of_the_pool_while_others_wait() -> None:
    driver = Driver(num_blocks=32, max_model_len=120)
    huge = ask(driver, "huge", 10.0, 17 * BLOCK)
    ask(driver, "small", 11.0, 20, max_tokens=3)
    assert set(parts(driver)) == {"small"}
    assert set(parts(driver)) == {"small", "huge"}  # nobody waits any more
    driver.run()
    assert huge in driver.finished


def test_two_that_are_too_large_do_not_wait_for_each_other() -> None:
    driver = Driver(num_blocks=32, max_model_len=120)
    ask(driver, "one", 10.0, 17 * BLOCK)
    ask(driver, "two", 11.0, 18 * BLOCK)
    assert parts(driver) == {"one": 64}


def test_too_large_a_share_is_had_when_it_has_aged() -> None:
    driver = Driver(num_blocks=32, max_model_len=120, max_running=2, max_batch_tokens=16)
    huge = ask(driver, "huge", 2.0, 17 * BLOCK)
    for step in range(40):
        ask(driver, f"a{step}", 20.0, 16)
        ask(driver, f"b{step}", 20.0, 16)
        driver.step()
        if any(seq.key == huge for seq in driver.scheduler._table.running):
            break
    assert 2.0 + AGEING <= driver.now <= 2.0 + AGEING + 4


def test_what_decodes_keeps_its_rank_when_its_due_time_passes() -> None:
    driver = Driver(num_blocks=64)
    key = ask(driver, "a", 3.0, max_tokens=30)
    driver.step()
    rank = driver.scheduler._table.running[0].rank
    for _ in range(12):
        driver.step()
    assert driver.scheduler._table.running[0].rank == rank
    driver.run()
    assert driver.finished[key] == "length"


def test_who_computes_what_another_waits_for_goes_as_early_as_that_one() -> None:
    driver = Driver(num_blocks=128, max_batch_tokens=16, prefill_chunk=16)
    shared = list(range(48))
    driver.start(make_request("late", [*shared, 1], max_tokens=1, due_in=0.5))
    driver.step()
    waits = driver.start(make_request("waits", [*shared, 2], max_tokens=1, due_in=6.0))
    for index in range(20):
        ask(driver, f"later{index}", 9.0, 16)
        driver.step()
        if waits in driver.finished:
            break
    assert driver.now <= 6.0
