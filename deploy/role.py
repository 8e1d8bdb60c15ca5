"""`baton role`: choose a worker's role by hand, and see that it has it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from baton.deploy.asking import ask, session
from baton.protocol.errors import ConfigError

AUTO = "auto"
_LOOK_SECONDS = 0.1
_PATIENCE = 5.0
"""Seconds for a worker to take a role: it does so within one step and a message each way."""


@dataclass(frozen=True, slots=True)
class RoleSettings:
    worker: str
    role: str
    """Or "auto"."""
    url: str
    api_key: str | None = None


def run_role(settings: RoleSettings) -> int:
    """Returns the exit status, once the worker has the role. Raises ConfigError when the router
    cannot be reached or refuses, or the worker does not take it."""
    return asyncio.run(_role(settings))


async def _role(settings: RoleSettings) -> int:
    async with session(settings.api_key) as http:
        path = f"/admin/workers/{quote(settings.worker, safe='')}/role"
        before = (await ask(http, settings.url, path, "POST", {"role": settings.role}))["worker"]
        for _ in range(round(_PATIENCE / _LOOK_SECONDS)):
            mine = await _worker(http, settings)
            if settings.role == AUTO and not mine["pinned"]:
                print(f"{settings.worker} stays {mine['role']} until the controller changes it")
                return 0
            if mine["role"] == settings.role and mine["pinned"]:
                print(f"{settings.worker}: {before['role']} -> {mine['role']}")
                return 0
            await asyncio.sleep(_LOOK_SECONDS)
        raise ConfigError(
            f"{settings.worker} is still {mine['role']} after {_PATIENCE:g} s; its log may say why"
        )


async def _worker(http: aiohttp.ClientSession, settings: RoleSettings) -> dict[str, Any]:
    workers = (await ask(http, settings.url, "/admin/sizing"))["workers"]
    mine: list[dict[str, Any]] = [view for view in workers if view["id"] == settings.worker]
    if not mine:
        raise ConfigError(f"{settings.worker} is gone")
    return mine[0]
