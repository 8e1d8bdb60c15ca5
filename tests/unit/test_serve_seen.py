"""Times of tokens follow from when their pieces arrived, and figures from these."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from baton.bench.serve.asking import Asking, Server
from baton.bench.serve.events import answer_of
from baton.bench.serve.lag import ClientLag
from baton.bench.serve.seen import Seen, tokens_within
from baton.bench.serve.served import Served
from baton.protocol.records import Targets

TARGETS = Targets(ttft=1.0, itl=0.1)


def seen(number: int = 0, **changes: Any) -> Seen:
    """Sent 10 ms late, first token after 0.5 s, then 0.3 s with three tokens and 0.1 with one."""
    plain: dict[str, Any] = {
        "kind": "chat", "session": "", "lane": "interactive", "targets": TARGETS,
        "due": float(number), "prompt": 100, "asked": 5, "sent": number + 0.01,
        "outcome": "length", "pieces": [0.5, 0.8, 0.9], "counts": [1, 3, 1], "ended": number + 1.0,
    }
    return Seen(number, **{**plain, **changes})


def served(requests: list[Seen], **changes: Any) -> Served:
    server = Server(url="http://x", model="m", asking=Asking(), max_model_len=None, waited=0.0,
                    first=0.1, counted_by="token ids")
    plain: dict[str, Any] = {"requests": requests, "warmup": 0.0, "end": float(len(requests)),
                             "wall": 99.0, "client": ClientLag(), "server": server}
    return Served(**{**plain, **changes})


# -- one request -----------------------------------------------------------------------------


def test_gaps_are_of_tokens_and_add_up() -> None:
    one = seen()
    assert (one.ttft, one.e2e, one.tokens) == (0.5, 0.9, 5)
    assert one.gaps.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert one.tpot == pytest.approx(0.1)
    assert one.longest_gap == pytest.approx(0.3)  # what a reader waited
    assert one.send_lag == pytest.approx(0.01)
    first = seen(pieces=[0.5, 0.7], counts=[3, 1])
    assert first.gaps.tolist() == pytest.approx([0.0, 0.0, 0.2])
    assert first.gaps.sum() == pytest.approx(first.e2e - first.ttft)


def test_one_token_has_no_gap_and_none_has_no_time() -> None:
    single = seen(pieces=[0.4], counts=[1])
    assert (single.ttft, single.e2e, single.tpot, single.longest_gap) == (0.4, 0.4, None, None)
    assert not single.gaps.size
    assert single.attained()
    nothing = seen(pieces=[], counts=[], outcome="refused")
    assert (nothing.ttft, nothing.e2e, nothing.tokens) == (None, None, 0)
    assert not nothing.attained()


@pytest.mark.parametrize(("changes", "e2e", "attained"), [
    ({}, None, True),
    ({}, 0.9, True),
    ({}, 0.89, False),
    ({"pieces": [1.01, 1.1, 1.2]}, None, False),
    ({"pieces": [0.5, 0.8, 0.91]}, None, False),  # 102.5 ms a token
    ({"outcome": "disconnected"}, None, False),
    ({"outcome": "error lost"}, None, False),
    ({"outcome": "stop"}, None, True),
])
def test_a_request_attains_all_targets_or_misses(
    changes: dict[str, Any], e2e: float | None, attained: bool
) -> None:
    assert seen(**changes).attained(e2e) is attained


def test_the_simulator_judges_it_alike() -> None:
    outcome = seen().outcome_of()
    assert outcome.attained
    assert (outcome.ttft, outcome.itl, outcome.tokens) == (0.5, pytest.approx(0.1), 5)


def test_tokens_count_when_they_arrive() -> None:
    requests = [seen(0), seen(1)]  # tokens at 0.51, 0.81 (3), 0.91 and a second later
    assert tokens_within(requests, 0.0, 10.0) == 10
    assert tokens_within(requests, 0.6, 1.6) == 3 + 1 + 1
    assert tokens_within(requests, 0.91, 1.81) == 1 + 1


# -- figures ---------------------------------------------------------------------------------


def test_refusals_are_misses_and_cancels_are_neither() -> None:
    requests = [
        seen(0), seen(1, outcome="refused", pieces=[], counts=[]),
        seen(2, outcome="cancelled"), seen(3, pieces=[2.0, 2.1, 2.2]),
    ]
    found = served(requests).summary(workers=2, cost_per_hour=3.6)
    assert found["requests"] == 4
    assert found["cancelled"] == 1
    assert found["refused"] == 1
    assert found["attainment"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["goodput_per_s"] == 0.25
    assert found["served"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["ttft_ms"]["mean"] == pytest.approx(1250.0)
    assert found["output_tokens_per_s"] == pytest.approx(10 / 4)  # the last five came after the end
    assert found["per_worker"]["output_tokens_per_s"] == pytest.approx(1.25)
    assert found["per_cost"]["output_tokens"] == 2500
    assert found["ends"] == {"cancelled": 1, "length": 2, "refused": 1}


def test_the_warm_up_does_not_count() -> None:
    requests = [seen(0, pieces=[9.0], counts=[1]), seen(1), seen(2)]
    found = served(requests, warmup=1.0).summary()
    assert found["requests"] == 2
    assert found["seconds"] == 2.0
    assert found["ttft_ms"]["max"] == 500.0


def test_what_ran_when_somebody_stopped_does_not_count() -> None:
    requests = [seen(0), seen(1, outcome="unfinished", pieces=[0.5], counts=[1])]
    assert served(requests, stopped=True).summary()["attainment"] == 1.0
    assert served(requests).summary()["attainment"] == 0.5


def test_intervals_hold_what_they_are_of_and_shrink_with_more_requests() -> None:
    rng = np.random.default_rng(3)

    def some(number: int) -> dict[str, Any]:
        drawn = [seen(n, pieces=[t, t + 0.1], counts=[1, 4])
                 for n, t in enumerate(rng.exponential(0.5, number))]
        return served(drawn).summary()

    few, many = some(40), some(1600)
    for found in (few, many):
        low, high = found["ttft_ms"]["ci"]["p50"]
        assert low <= found["ttft_ms"]["p50"] <= high
        low, high = found["attainment_ci"]
        assert low <= found["attainment"] <= high
    widths = [found["ttft_ms"]["ci"]["mean"][1] - found["ttft_ms"]["ci"]["mean"][0]
              for found in (few, many)]
    assert widths[1] < widths[0] / 3
    # Of the mean of so many exponential values, 95 % lie within 1.96 standard errors.
    assert widths[1] == pytest.approx(2 * 1.96 * 500 / 1600**0.5, rel=0.2)


def test_a_client_that_is_late_is_marked() -> None:
    late = ClientLag(loop=[0.001] * 50 + [0.02] * 50, send=[0.03] * 10, cpu=0.1)
    assert len(late.doubts(0.5, 0.1)) == 1  # 50 of 500 ms are allowed, 20 of 100 are not
    assert len(late.doubts(0.4, 0.1)) == 2
    assert late.doubts(0.6, 0.3) == []
    assert any("of a core" in doubt for doubt in ClientLag(cpu=0.9).doubts(1.0, 1.0))
    found = served([seen(0), seen(1)], client=late).summary()["client"]
    assert found["loop_lag_ms"]["max"] == 20.0
    assert found["doubts"]


def test_what_a_server_predicted_is_compared_with_what_came() -> None:
    headers = {"route": "remote", "reason": "targets", "predicted-ttft-ms": "400.0",
               "predicted-itl-ms": "100.0"}
    found = served([seen(0, headers=headers), seen(1)]).summary()["explained"]
    assert found["route"] == {"remote": 1}
    assert found["predicted_ttft_error"] == pytest.approx(0.2)
    assert found["predicted_itl_error"] == pytest.approx(0.0)


# -- a stream --------------------------------------------------------------------------------


def event(text: str = "", ids: list[int] | None = None, **more: Any) -> bytes:
    choice: dict[str, Any] = {"text": text, "finish_reason": None, **more}
    if ids is not None:
        choice["token_ids"] = ids
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def billed(tokens: int) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens,
             "prompt_tokens_details": {"cached_tokens": 4}}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def test_token_ids_count_and_an_event_has_the_time_of_its_last_byte() -> None:
    first, second = event("a", [1]), event("b c", [2, 3], finish_reason="stop")
    whole = first + second + billed(3) + DONE
    packets = [whole[: len(first) - 3], whole[len(first) - 3 : len(first) + 5],
               whole[len(first) + 5 :]]
    answer = answer_of([1.0, 2.0, 3.0], packets)
    assert (answer.pieces, answer.counts) == ([2.0, 3.0], [1, 2])
    assert (answer.ids, answer.counted_by) == ([1, 2, 3], "token ids")
    assert (answer.finish, answer.prompt, answer.billed, answer.cached) == ("stop", 7, 3, 4)
    # Cut behind the last byte of an event: it is whole without the line's end.
    answer = answer_of([1.0, 2.0], [first[:-2], first[-2:] + second])
    assert answer.pieces == [1.0, 2.0]


def test_several_events_in_a_packet_came_together() -> None:
    answer = answer_of([1.0, 4.0], [event("a", [1]), event("b", [2]) + event("c", [3])])
    assert (answer.pieces, answer.counts) == ([1.0, 4.0, 4.0], [1, 1, 1])


@pytest.mark.parametrize(("events", "tokenize", "counts", "how"), [
    ([event("a"), event("b"), billed(2)], None, [1, 1], "pieces"),
    ([event("a"), event("b")], None, [1, 1], "pieces, unchecked"),
    ([event("aa"), event("bbbb"), billed(6)], None, [2, 4], "share of text"),
    ([event("a b "), event("c d e "), billed(5)], lambda text: len(text.split()), [2, 3],
     "tokenizer"),
    ([event("a", logprobs={"tokens": ["a"]}), event("b c", logprobs={"tokens": ["b", "c"]}),
      billed(3)], None, [1, 2], "log probabilities"),
])
def test_without_ids_tokens_are_counted_by_what_there_is(
    events: list[bytes], tokenize: Any, counts: list[int], how: str
) -> None:
    answer = answer_of([1.0] * len(events), events, tokenize)
    assert (answer.counts, answer.counted_by) == (counts, how)
    assert answer.ids is None


def test_chat_and_reasoning_are_text_and_an_opening_is_no_token() -> None:
    def delta(**fields: str) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": fields}]}).encode() + b"\r\n\r\n"

    packets = [delta(role="assistant", content=""), delta(reasoning_content="hm"),
               delta(content="yes"), billed(2)]
    answer = answer_of([1.0, 2.0, 3.0, 4.0], packets)
    assert (answer.pieces, answer.text) == ([2.0, 3.0], "hmyes")


def test_errors_in_a_stream_are_told_with_what_came_before() -> None:
    error = b'data: {"error": {"code": "lost", "message": "a worker was lost"}}\n\n'
    answer = answer_of([1.0, 2.0], [event("a", [1]), error])
    assert (answer.error, answer.detail, answer.counts) == ("lost", "a worker was lost", [1])
    assert answer_of([1.0], [b"data: {nonsense\n\n"]).error == "unreadable"
    assert answer_of([], []).pieces == []
