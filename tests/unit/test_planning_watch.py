"""`baton plan --watch`: what it looks at is a fair sample of what comes, and it goes on looking."""

from __future__ import annotations

import asyncio
from random import Random
from statistics import fmean
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from baton.bench.planning import command, watch
from baton.bench.planning.fair import Sample, fair
from baton.bench.planning.live import Look, workload_of
from baton.bench.planning.wishes import Wishes
from baton.protocol.errors import ConfigError
from baton.router.account import Account

WISHES = Wishes(ttft=1.0, itl=0.1)
RATE, SHORT, LONG = 8.0, 2.0, 50.0
"""Per second; seconds that four of five and the fifth request live, ten tokens a second."""
MEAN = 10 * (0.8 * SHORT + 0.2 * LONG)
NOW = 400.0


def account(number: int, arrived: float, life: float, outcome: str = "completed") -> Account:
    return Account(id=f"r{number}", arrived=arrived, lane="interactive", prompt_tokens=100,
                   max_tokens=1000, output_tokens=round(10 * life), ttft=0.1, e2e=life,
                   outcome=outcome)


def history(now: float = NOW, seed: int = 1) -> tuple[list[Account], int]:
    """What ended by now, latest first, and how many run still."""
    rng, at, came = Random(seed), 0.0, []
    while (at := at + rng.expovariate(RATE)) < now:
        came.append(account(len(came), at, LONG if rng.random() < 0.2 else SHORT))
    ended = [one for one in came if one.arrived + (one.e2e or 0.0) <= now]
    ended.sort(key=lambda one: one.arrived + (one.e2e or 0.0), reverse=True)
    return ended, len(came) - len(ended)


def seen(sample: Sample) -> tuple[float, float]:
    """Requests per second and tokens of an answer."""
    workload = workload_of(sample.accounts, WISHES)
    return workload.rate, fmean(item.output for item in workload.items)


# -- which requests --------------------------------------------------------------------------


def test_answers_that_run_still_do_not_make_it_look_idle() -> None:
    ended, running = history()
    assert running > 50
    rate, tokens = seen(fair(ended, forgets=False, in_flight=running, window=100.0))
    assert rate == pytest.approx(RATE, rel=0.1)
    assert tokens == pytest.approx(MEAN, rel=0.1)
    biased = Sample(tuple(sorted((a for a in ended if a.arrived >= NOW - 100.0),
                                 key=lambda one: one.arrived)), ())
    assert seen(biased)[0] < 0.95 * RATE, "or this test shows nothing"
    assert seen(biased)[1] < 0.8 * MEAN


def test_what_the_router_forgot_does_not_make_answers_look_long() -> None:
    """Of what arrived long ago it knows the long ones alone."""
    ended, running = history()
    kept = ended[:1400]
    sample = fair(kept, forgets=True, in_flight=running)
    assert len(sample.accounts) > 500
    assert sample.remarks == ()
    rate, tokens = seen(sample)
    assert rate == pytest.approx(RATE, rel=0.1)
    assert tokens == pytest.approx(MEAN, rel=0.1)


def test_where_nothing_is_known_whole_it_is_said() -> None:
    ended, running = history()
    kept = ended[:300]  # less than a long life
    sample = fair(kept, forgets=True, in_flight=running)
    assert len(sample.accounts) == 300
    assert "--journal FILE has more" in sample.remarks[0]
    assert seen(sample)[1] == pytest.approx(MEAN, rel=0.3), "of what ended, for the load is steady"


def test_more_that_run_than_lengths_explain_are_told_of() -> None:
    ended, running = history()
    assert fair(ended, forgets=False, in_flight=running).remarks == ()
    young = history(now=0.9 * LONG)
    (said,) = fair(young[0], forgets=False, in_flight=young[1]).remarks
    assert said.startswith(f"{young[1]} requests run, ")
    assert "longer than any that ended" in said


def test_few_are_all_there_is() -> None:
    ended, _ = history(now=4.0)
    assert len(fair(ended[:10], forgets=False, in_flight=0).accounts) == 10
    running = [account(n, 1.0, 0.0, "running") for n in range(50)]
    assert fair(running, forgets=False, in_flight=50) == Sample((), ())


async def test_a_look_takes_a_fair_sample() -> None:
    ended, running = history()
    replies: dict[str, Any] = {
        "/admin/overview": {"workers": [], "in_flight": running + 500},
        "/admin/sizing": {"workers": []},
        "/admin/decisions": {"decisions": [msgspec.to_builtins(a) for a in ended[:2000]]},
    }

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(replies[request.path])

    app = web.Application()
    app.router.add_get("/admin/{what}", answer)
    async with TestServer(app) as server:
        look = await watch.fetch(str(server.make_url("")), None)
    assert look.accounts == fair(ended[:2000], forgets=True, in_flight=running).accounts
    assert "requests run" in look.remarks[0]


# -- again and again -------------------------------------------------------------------------


def looks(monkeypatch: pytest.MonkeyPatch, *what: BaseException | None) -> list[float]:
    """What each look comes to. The pauses between them."""
    left, pauses = iter(what), []

    async def fetch(url: str, api_key: str | None, journal: object = None) -> Look:
        await asyncio.sleep(0)
        problem = next(left)
        if problem is not None:
            raise problem
        return Look((), (), 0.0, ())

    monkeypatch.setattr(watch, "fetch", fetch)
    monkeypatch.setattr(watch.time, "sleep", pauses.append)
    return pauses


def test_a_router_that_is_away_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses = looks(monkeypatch, None, ConfigError("no router at http://x: connection refused"),
                   None, KeyboardInterrupt())
    assert command.main(["--watch", "http://x", "--every", "7s"]) == 0
    assert pauses == [7.0, 7.0, 7.0]
    text = capsys.readouterr().out
    assert text.count("0 requests that ended") == 2
    assert "no router at http://x: connection refused; looking again in 7.0s" in text


def test_a_first_look_that_fails_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, ConfigError("no router at http://x"))
    with pytest.raises(ConfigError, match="no router"):
        command.main(["--watch", "http://x"])


def test_once_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, None) == []
    assert command.main(["--watch", "http://x", "--once"]) == 0
