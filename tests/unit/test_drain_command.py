"""`baton drain` against a router that plays a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from baton.deploy.drain import DrainSettings, run_drain
from baton.protocol.errors import ConfigError


@dataclass
class Router:
    """Each look at the workers takes the next of `looks`; the last one stays."""

    url: str = ""
    looks: list[dict[str, Any] | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)

    async def act(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.keys.add(request.headers.get("Authorization"))
        if request.match_info["worker"] != "d/0":
            return web.json_response({"error": {"message": "no worker 'd9'"}}, status=404)
        return web.json_response({"worker": self.looks.pop(0)})

    async def look(self, request: web.Request) -> web.Response:
        view = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return web.json_response({"workers": [] if view is None else [view]})


def view(outstanding: int, state: str = "draining", epoch: int = 5) -> dict[str, Any]:
    return {"id": "d/0", "epoch": epoch, "state": state, "outstanding": outstanding}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    made = Router()
    app = web.Application()
    app.router.add_post("/admin/workers/{worker}/drain", made.act)
    app.router.add_post("/admin/workers/{worker}/undrain", made.act)
    app.router.add_get("/admin/workers", made.look)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def drain(router: Router, worker: str = "d/0", **options: Any) -> int:
    settings = DrainSettings(worker, router.url, **options)
    return await asyncio.to_thread(run_drain, settings)


async def test_it_watches_until_the_worker_is_empty(
    router: Router, capsys: pytest.CaptureFixture[str]
) -> None:
    router.looks = [view(3), view(3), view(1), view(0)]
    assert await drain(router, api_key="k") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["d/0 has 3 requests left", "d/0 has 1 requests left", "d/0 is empty"]
    assert router.asked == ["/admin/workers/d/0/drain"]
    assert router.keys == {"Bearer k"}


async def test_requests_of_other_routers_count(
    router: Router, capsys: pytest.CaptureFixture[str]
) -> None:
    def theirs(running: int) -> dict[str, Any]:
        return {**view(0), "load": {"waiting": 1, "running": running, "handoffs": 0}}

    router.looks = [theirs(2), theirs(2), {**view(0), "load": {"running": 0}}]
    assert await drain(router) == 0
    assert capsys.readouterr().out.splitlines() == ["d/0 has 3 requests left", "d/0 is empty"]


async def test_it_need_not_watch(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    router.looks = [view(3)]
    assert await drain(router, wait=False) == 0
    assert capsys.readouterr().out == "d/0 is draining, 3 requests left\n"


async def test_undrain(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    router.looks = [view(3, "ready")]
    assert await drain(router, undrain=True) == 0
    assert router.asked == ["/admin/workers/d/0/undrain"]
    assert capsys.readouterr().out == "d/0 takes requests again\n"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (view(0, "lost"), "d/0 is lost"),
        (view(0, "ready"), "d/0 is ready"),
        (view(0, epoch=6), "d/0 is gone"),
        (None, "d/0 is gone"),
    ],
)
async def test_what_is_not_empty_by_draining_is_said(
    router: Router, after: dict[str, Any] | None, said: str
) -> None:
    router.looks = [view(3), after]
    with pytest.raises(ConfigError, match=said):
        await drain(router)


async def test_refusals_are_told(router: Router) -> None:
    with pytest.raises(ConfigError, match="no worker 'd9'"):
        await drain(router, worker="d9")
