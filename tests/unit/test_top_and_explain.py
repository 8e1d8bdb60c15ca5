"""What terminals show of a cluster and of a request."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from baton.deploy.explain import render_account
from baton.deploy.top import render

SIZING: dict[str, Any] = {"mode": "auto", "leads": True, "leader": "router-0", "last": None}
WORKER: dict[str, Any] = {
    "id": "decode-0", "role": "decode", "state": "ready", "outstanding": 3, "num_blocks": 100,
    "load": {"running": 3, "waiting": 1, "waiting_tokens": 400, "backlog_seconds": 0.25,
             "step_age": 0.0},
    "blocks": {"free": 50, "cached": 20, "active": 25, "held": 5, "quarantined": 0},
}
LANE: dict[str, Any] = {
    "name": "interactive", "waiting": 2, "ttft": 0.3, "itl": 0.04,
    "summary": {
        "requests": 10, "per_second": 1.5, "refused": 1, "failed": 0, "attained": 0.95,
        "ttft": {"p50": 0.2, "p95": 0.5, "p99": 0.6},
        "itl": {"p50": 0.02, "p95": None, "p99": None},
    },
}
ATTEMPT: dict[str, Any] = {
    "at": 0.002, "route": "remote", "reason": "split", "prefill": "prefill-0",
    "decode": "decode-0",
    "predicted": {"queue": 0.01, "prefill": 0.15, "ttft": 0.17, "itl": 0.02},
    "others": [{
        "route": "local", "prefill": None, "decode": "decode-1", "predicted": {"ttft": 0.9},
    }],
}
ACCOUNT: dict[str, Any] = {
    "id": "chatcmpl-1/0", "lane": "interactive", "outcome": "completed", "finish": "stop",
    "arrived": 1.0, "prompt_tokens": 512, "cached_tokens": 128, "max_tokens": 64,
    "output_tokens": 60, "ttft_target": 0.3, "itl_target": 0.04, "ttft": 0.182, "itl": 0.021,
    "phases": {"queue": 0.001, "prefill": 0.16}, "attempts": [ATTEMPT],
}


def shown(what: Any) -> str:
    console = Console(width=220, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def overview(**changes: Any) -> dict[str, Any]:
    return {
        "model": "tiny", "in_flight": 3, "queue": 2, "lanes": [LANE], "workers": [WORKER],
        "decisions": [ACCOUNT], **changes,
    }


def test_top_shows_all_that_is_asked_for() -> None:
    text = shown(render(overview(), SIZING, "http://here"))
    for part in (
        "tiny at http://here, 3 in flight, 2 waiting here", "95.0%", "200.0ms", "500.0ms",
        "400 tokens, 250.0ms", "30%", "prefill-0 to decode-0", "split", "nothing decided yet",
    ):
        assert part in text, part


def test_top_of_a_cluster_that_has_nothing_yet() -> None:
    silent = {**WORKER, "load": None, "blocks": None}
    idle = {**LANE, "summary": None}
    text = shown(render(
        overview(model=None, workers=[silent], lanes=[idle], decisions=[]), SIZING, "u"
    ))
    assert "no model yet" in text
    assert "decode-0" in text


@pytest.mark.parametrize(("sizing", "said"), [
    ({"mode": "off"}, "off: roles stay as they are"),
    ({"leads": False}, "auto, led by router-0"),
    ({"last": {"age": 4.0, "moves": [], "reason": "all is well"}},
     "auto, 4.0s ago: roles stay; all is well"),
    ({"last": {"age": 4.0, "moves": [{"worker": "decode-0", "role": "mixed"}], "reason": "x"}},
     "auto, 4.0s ago: decode-0 to mixed; x"),
])
def test_top_says_how_pools_are_sized(sizing: dict[str, Any], said: str) -> None:
    assert said in shown(render(overview(), {**SIZING, **sizing}, "u"))


def test_explain_shows_expected_actual_target_and_what_was_not_taken() -> None:
    lines = shown(render_account(ACCOUNT)).splitlines()
    assert "512 tokens (128 cached), output 60 of at most 64" in lines[1]
    assert "prefill-0 to decode-0, because split" in lines[2]
    first = next(line for line in lines if line.strip().startswith("first token"))
    assert first.split() == ["first", "token", "170.0ms", "180.0ms", "300.0ms", "900.0ms"]
    assert "all on decode-1" in "\n".join(lines)
    assert "on the workers: queue 1.0ms, prefill 160.0ms" in lines[-2]


def test_explain_of_one_that_was_refused() -> None:
    refused = {
        "id": "x/0", "lane": "batch", "outcome": "refused", "finish": "overloaded",
        "arrived": 1.0, "prompt_tokens": 5, "max_tokens": 1,
    }
    text = shown(render_account(refused))
    assert "refused (overloaded)" in text
    assert "it was never sent to a worker" in text
