"""Questions of the command line to a running router, over its HTTP endpoint."""

from __future__ import annotations

from typing import Any

import aiohttp

from baton.protocol.errors import ConfigError

REQUEST_SECONDS = 10.0


def session(api_key: str | None) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    return aiohttp.ClientSession(headers=headers, timeout=timeout)


async def ask(
    http: aiohttp.ClientSession, url: str, path: str, method: str = "GET", body: object = None
) -> dict[str, Any]:
    """The JSON object that it answers with. Raises ConfigError when the router cannot be reached
    or refuses."""
    base = url.rstrip("/")
    try:
        async with http.request(method, base + path, json=body) as response:
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no router at {base}: {error or type(error).__name__}") from error
    if response.status != 200:
        told = answer.get("error") if isinstance(answer, dict) else None
        said = told.get("message") if isinstance(told, dict) else response.reason
        raise ConfigError(f"{base} refused: {said}")
    assert isinstance(answer, dict)
    return answer
