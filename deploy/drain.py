"""`baton drain`: empty a worker before it is stopped, and watch it get empty."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from baton.deploy.asking import ask, session
from baton.protocol.errors import ConfigError

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class DrainSettings:
    worker: str
    url: str
    api_key: str | None = None
    undrain: bool = False
    wait: bool = True


def run_drain(settings: DrainSettings) -> int:
    """Returns the exit status; with `wait`, once the worker holds nothing of any request, whichever
    router it came from. Ctrl-C ends the watching, not the drain. Raises ConfigError when the router
    cannot be reached or refuses."""
    return asyncio.run(_drain(settings))


async def _drain(settings: DrainSettings) -> int:
    async with session(settings.api_key) as http:
        verb = "undrain" if settings.undrain else "drain"
        path = f"/admin/workers/{quote(settings.worker, safe='')}/{verb}"
        worker = (await ask(http, settings.url, path, "POST"))["worker"]
        if settings.undrain:
            print(f"{settings.worker} takes requests again")
            return 0
        while settings.wait and _left(worker):
            print(f"{settings.worker} has {_left(worker)} requests left", flush=True)
            worker = await _changed(http, settings, worker)
        if not settings.wait:
            print(f"{settings.worker} is draining, {_left(worker)} requests left")
        elif worker["state"] == "draining":
            print(f"{settings.worker} is empty")
        else:  # lost, or somebody wants it again
            raise ConfigError(f"{settings.worker} is {worker['state']}, not draining any more")
        return 0


def _left(worker: dict[str, Any]) -> int:
    """Requests there: what this router knows of, or what the worker says that it has of all."""
    load = worker.get("load") or {}
    there = sum(int(load.get(what, 0)) for what in ("waiting", "running", "handoffs"))
    return max(int(worker["outstanding"]), there)


async def _changed(
    http: aiohttp.ClientSession, settings: DrainSettings, last: dict[str, Any]
) -> dict[str, Any]:
    """The worker's view, as soon as it says something else."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        workers = (await ask(http, settings.url, "/admin/workers"))["workers"]
        mine = [view for view in workers if view["id"] == last["id"]]
        if not mine or mine[0]["epoch"] != last["epoch"]:
            raise ConfigError(f"{settings.worker} is gone")
        if _left(mine[0]) != _left(last) or mine[0]["state"] != last["state"]:
            found: dict[str, Any] = mine[0]
            return found
