"""A load on a server that answers by script: what is sent, when, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from scripted_server import Script, scripted

from baton.bench.serve.asking import Asking, find
from baton.bench.serve.client import Cancels
from baton.bench.serve.progress import line
from baton.bench.serve.report import show
from baton.bench.serve.run import serve
from baton.bench.serve.text import Writer, corpus, measured
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.arrivals import Fit, arrivals
from baton.bench.workloads.lengths import Lengths
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import pack_tokens, unpack_tokens

FIT = Fit(vocabulary=500)


def some(number: int, *, every: float = 0.005, length: int = 4) -> Iterator[Arrival]:
    """Prompts of three tokens that begin with the number."""
    for n in range(number):
        yield Arrival(n * every, lambda n=n: pack_tokens([n, 1, 2]), length, 99, n,
                      targets=Targets(ttft=60.0))


async def test_every_request_is_sent_as_planned_and_its_answer_counted() -> None:
    async with scripted(chunks) as server:
        served = await serve(server.url, some(6, length=6))
    assert sorted(body["prompt"] for body in server.bodies) == [[n, 1, 2] for n in range(6)]
    assert {body["max_tokens"] for body in server.bodies} == {6}
    assert all(body["ignore_eos"] and body["temperature"] == 0 for body in server.bodies)
    assert [seen.due for seen in served.requests] == [n * 0.005 for n in range(6)]
    for seen in served.requests:
        assert (seen.outcome, seen.tokens, seen.prompt) == ("length", 6, 3)
        assert seen.ids == [100, 101, 102, 103, 104, 105]
        assert seen.sent >= seen.due
        assert sum(seen.counts) - 1 == len(seen.gaps)
        assert seen.gaps.sum() == pytest.approx(seen.e2e - seen.ttft)
    assert [seen.counts for seen in served.requests[:2]] == [[1, 3, 2], [1] * 6]
    found = served.summary()
    assert (found["attainment"], found["counted_by"]) == (1.0, ["token ids"])
    assert found["client"]["loop_lag_ms"] is None or found["client"]["loop_lag_ms"]["max"] >= 0


def chunks(number: int) -> Script:
    return Script(chunks=(1, 3, 2)) if number == 0 else Script()


async def test_a_gap_is_what_the_server_waited_between_chunks() -> None:
    script = Script(chunks=(1, 2, 1), delays=(0.0, 0.06, 0.02))
    async with scripted([script]) as server:
        [seen] = (await serve(server.url, some(1))).requests
    assert seen.counts == [1, 2, 1]
    gaps = [b - a for a, b in pairwise(seen.pieces)]
    # Never shorter than what was slept, but for where the first of two was stamped late.
    assert seen.e2e >= 0.08
    assert seen.gaps.tolist() == pytest.approx([gaps[0] / 2, gaps[0] / 2, gaps[1]])
    assert seen.longest_gap == max(gaps)


async def test_what_goes_wrong_is_a_miss_and_named() -> None:
    scripts = [
        Script(status=503), Script(status=429), Script(status=500), Script(error_after=2),
        Script(cut_after=1), Script(finish="stop"), Script(finish=None),
    ]
    async with scripted(scripts) as server:
        served = await serve(server.url, some(8))
    assert [seen.outcome for seen in served.requests] == [
        "refused", "refused", "error overloaded", "error lost", "disconnected", "stop",
        "disconnected", "length",
    ]
    assert [seen.tokens for seen in served.requests] == [0, 0, 0, 2, 1, 4, 4, 4]
    assert served.requests[3].detail == "a worker was lost"
    found = served.summary()
    assert (found["refused"], found["attainment"], found["served"]) == (2, 0.25, 0.25)


async def test_a_server_that_is_silent_times_out() -> None:
    never = asyncio.Event()
    async with scripted([Script(wait=never)]) as server:
        served = await serve(server.url, some(2), patience=0.2)
        assert [seen.outcome for seen in served.requests] == ["timeout", "length"]
        never.set()


async def test_nobody_answers() -> None:
    async with scripted() as server:
        found = await find(server.url, Asking())
    served = await serve(server.url, some(2), server=found)
    assert {seen.outcome for seen in served.requests} == {"disconnected"}
    assert all("Connect" in seen.detail for seen in served.requests)
    with pytest.raises(ConfigError, match="does not answer"):
        await find(server.url, Asking())


async def test_nothing_and_nothing_but_refusals_have_figures_and_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with scripted(lambda number: Script(status=429)) as server:
        empty = await serve(server.url, [])
        refused = await serve(server.url, some(3))
    assert (empty.summary()["requests"], empty.summary()["attainment"]) == (0, None)
    found = refused.summary()
    assert (found["refused"], found["attainment"], found["ttft_ms"]) == (3, 0.0, None)
    for served in (empty, refused):
        show(served, served.summary())
    assert "refused 3" in capsys.readouterr().out


async def test_a_line_says_how_it_is_doing() -> None:
    lines, runs = [], []

    def script(number: int) -> Script:
        lines.append(line(runs[0]))
        return Script(status=503) if number == 0 else Script()

    async with scripted(script) as server:
        await serve(server.url, some(3, every=0.02), seconds=9.0, watch=runs.append)
    assert "s of 9" in lines[0]
    assert "open  0 done  0 refused or failed" in lines[0]
    assert "0 open  2 done  1 refused or failed" in line(runs[0])
    assert "TTFT" in line(runs[0])


# -- loops -----------------------------------------------------------------------------------


async def test_an_open_loop_waits_for_nobody() -> None:
    hold, calls = asyncio.Event(), []

    def script(number: int) -> Script:
        calls.append(number)
        if len(calls) == 5:
            hold.set()
        return Script(wait=hold)

    async with scripted(script) as server:
        served = await serve(server.url, some(5))
    assert server.most_open == 5
    assert all(seen.served for seen in served.requests)


async def test_a_closed_loop_has_so_many_open_and_no_more() -> None:
    hold, calls = asyncio.Event(), []

    def script(number: int) -> Script:
        calls.append(number)
        if len(calls) == 3:
            hold.set()
        # Whoever else there is comes while the first three are held.
        return Script(wait=hold, delays=(0.1,) if len(calls) <= 3 else ())

    async with scripted(script) as server:
        served = await serve(server.url, some(12, every=0.0), concurrency=3)
    assert server.most_open == 3
    assert len(served.requests) == 12
    assert all(seen.served for seen in served.requests)
    assert served.end == served.wall >= max(seen.ended for seen in served.requests)


async def test_a_load_ends_when_it_should() -> None:
    async with scripted() as server:
        served = await serve(server.url, some(500, every=1 / 64), warmup=0.125, seconds=0.25)
    assert len(served.requests) == 24
    assert len(served.counted) == 16
    assert served.seconds == 0.25


async def test_what_has_not_ended_after_the_drain_is_a_miss() -> None:
    never = asyncio.Event()
    async with scripted([Script(), Script(wait=never)]) as server:
        served = await serve(server.url, some(2), drain=0.2)
        never.set()
    assert [seen.outcome for seen in served.requests] == ["length", "unfinished"]
    assert served.summary()["attainment"] == 0.5


async def test_stopping_keeps_what_was_measured() -> None:
    never, stop, runs = asyncio.Event(), asyncio.Event(), []

    def script(number: int) -> Script:
        return Script() if number < 3 else Script(wait=never)

    async def stop_when_three_have_ended_and_another_runs() -> None:
        while not (  # noqa: ASYNC110  (what a run has seen brings no event)
            any(body["prompt"][0] == 3 for body in server.bodies)
            and sum(seen.ended is not None for seen in runs[0].seen) == 3
        ):
            await asyncio.sleep(0.002)
        stop.set()

    async with scripted(script) as server:
        stopping = asyncio.create_task(stop_when_three_have_ended_and_another_runs())
        served = await serve(server.url, some(1_000_000, every=0.02), stop=stop, watch=runs.append)
        await stopping
        never.set()
    assert served.stopped
    assert 3 < len(served.requests) < 1_000_000
    found = served.summary()
    assert (found["requests"], found["attainment"]) == (3, 1.0)


async def test_a_bug_in_a_workload_is_not_swallowed() -> None:
    def broken() -> bytes:
        raise RuntimeError("no such prompt")

    async with scripted() as server:
        with pytest.raises(RuntimeError, match="no such prompt"):
            await serve(server.url, [Arrival(0.0, broken, 4, 9, 1)])
        with pytest.raises(RuntimeError, match="no such prompt"):
            await serve(server.url, [Arrival(0.0, broken, 4, 9, 1)], concurrency=1)


async def test_cancels_are_as_many_as_asked_for_and_leave_at_their_token() -> None:
    cancels = Cancels(0.3, seed=1)
    after = {n: cancels.after(n, 8) for n in range(60)}
    gone = {n: events for n, events in after.items() if events is not None}
    assert 8 <= len(gone) <= 30
    assert min(gone.values()) == 0
    assert max(gone.values()) > 4

    def script(number: int) -> Script:
        return Script(stall_after=gone.get(number))

    async with scripted(script) as server:
        served = await serve(server.url, some(60, every=0.002, length=8), cancels=cancels)
    for seen in served.requests:
        if seen.number in gone:
            assert (seen.outcome, seen.tokens) == ("cancelled", gone[seen.number])
        else:
            assert (seen.outcome, seen.tokens) == ("length", 8)
    assert served.summary()["attainment"] == 1.0
    # Who leaves before the first token may never have been heard.
    assert sum(events > 0 for events in gone.values()) <= server.cancelled <= len(gone)


# -- conversations ---------------------------------------------------------------------------


def turns(number: int) -> list[Arrival]:
    workload = Lengths(prompt=20, output=5, turns=number).workload()
    stream = list(arrivals(workload.parts(1.0, 60.0), 1, fit=FIT))
    mine = [a for a in stream if a.session == stream[0].session]
    assert len(mine) == number
    return [replace(a, at=0.01 * n) for n, a in enumerate(mine)]


async def test_a_turn_has_the_real_answers_before_it_and_waits_for_them() -> None:
    planned = turns(3)
    async with scripted(lambda number: Script(delays=(0.03,))) as server:
        served = await serve(server.url, planned)
    prompts = [body["prompt"] for body in server.bodies]
    assert [len(prompt) for prompt in prompts] == [20, 20 + 4 + 20, 2 * 24 + 20]
    assert [len(prompt) for prompt in prompts] == [len(a.prompt()) // 4 for a in planned]
    answer = [100, 101, 102, 103]  # the last of five is where the next turn begins
    assert prompts[1] == prompts[0] + answer + unpack_tokens(planned[1].prompt())[-20:]
    assert prompts[2][: len(prompts[1]) + 4] == prompts[1] + answer
    assert [seen.held for seen in served.requests] == [False, True, True]
    for before, after in pairwise(served.requests):
        assert after.sent >= before.ended
    assert served.summary()["held"] == 2


async def test_a_turn_whose_answer_failed_goes_on_without_it() -> None:
    planned = turns(2)
    async with scripted([Script(status=503), Script()]) as server:
        served = await serve(server.url, planned)
    assert [seen.outcome for seen in served.requests] == ["refused", "length"]
    assert len(server.bodies[1]["prompt"]) == 40


async def test_a_conversation_in_messages() -> None:
    async with scripted() as server:
        await serve(server.url, turns(2), asking=Asking(style="chat"),
                    write=Writer(corpus(), 4.0))
    first, second = (body["messages"] for body in server.bodies)
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[0] == first[0]
    assert second[1]["content"] == "t0 t1 t2 t3 t4 "
    assert 60 <= len(first[0]["content"]) <= 81


# -- what a server can be told ---------------------------------------------------------------


async def test_fields_that_a_server_rejects_are_left_out() -> None:
    rejects = ("return_token_ids", "ignore_eos")
    async with scripted(rejects=rejects) as server:
        served = await serve(server.url, some(1))
    assert not set(rejects) & set(server.bodies[0])
    assert served.server.ends_early
    assert served.requests[0].counted_by == "pieces"
    assert served.server.max_model_len == 4096


async def test_a_server_that_tells_little_is_counted_by_its_text() -> None:
    async with scripted([Script(chunks=(1, 3))], tells_ids=False) as server:
        [seen] = (await serve(server.url, some(1))).requests
    assert (seen.tokens, seen.counted_by) == (4, "share of text")


async def test_its_own_metrics_are_of_the_time_that_counts() -> None:
    """The first of four turns was asked before it, and ends when it has begun."""
    asked, scraped, runs, times = asyncio.Event(), asyncio.Event(), [], []

    def script(number: int) -> Script:
        asked.set()
        return Script(wait=scraped)

    async def scraping() -> None:
        times.append(runs[0].now)
        await asked.wait()
        scraped.set()

    async with scripted(script, scraping=scraping) as server:
        served = await serve(server.url, turns(4), warmup=0.02, watch=runs.append)
    assert times[0] >= 0.02
    side = served.server_side()
    [(name, value)] = side["times"].items()
    assert name == "fake_wait_seconds{phase=queue}"
    assert value["mean_ms"] == 250.0
    assert value["count"] == 3
    assert side["counters"] == {"fake_tokens": 3}


async def test_what_it_explains_and_the_models_it_has() -> None:
    script = Script(headers=(("x-baton-route", "remote"), ("x-other", "1")))
    async with scripted([script]) as server:
        [seen] = (await serve(server.url, some(1))).requests
        with pytest.raises(ConfigError, match=r"no model 'other', but: scripted"):
            await find(server.url, Asking(), "other")
    assert seen.headers == {"route": "remote"}


async def test_text_is_shared_where_tokens_are_and_as_long_as_the_server_counts() -> None:
    async def tokens_of(text: str) -> int | None:
        return 30 + len(text) // 5

    write: Any = await measured(corpus(), tokens_of)
    head, one, other = (pack_tokens(range(n, n + 128)) for n in (0, 1000, 2000))
    a, b = write(head + one), write(head + other)
    assert a[:500] == b[:500]
    assert a[800:] != b[800:]
    assert len(a) == pytest.approx(5 * 256, rel=0.05)
    assert len(write(pack_tokens(range(10)))) == pytest.approx(50, abs=8)
