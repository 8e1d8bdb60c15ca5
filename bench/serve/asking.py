"""How requests are put to a server: where, as what, and what the server can be told.

What a server takes is found out by a first request, which is no part of any figure: fields that it
rejects are left out from then on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import msgspec

from baton.bench.serve.events import answer_of, error_of, one_line
from baton.bench.workloads.arrival import Arrival
from baton.engine.scripted import script_seed
from baton.protocol.errors import ConfigError

STYLES = {"ids": "/v1/completions", "text": "/v1/completions", "chat": "/v1/chat/completions"}
_OPTIONAL = ("return_token_ids", "ignore_eos", "stream_options")
"""Fields that not every server takes, the first to be given up first."""
_EXPLAIN = "x-baton-explain"
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How requests look. Complete after `Server.found`."""

    style: str = "ids"
    """One of STYLES: token ids, text to be continued, or messages."""
    api_key: str | None = None
    scripted: bool = False
    """For paced workers: the seed says when an answer ends, the router does not know it. Else
    `max_tokens` says it, and end tokens are ignored."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields of each request; they replace others of their name."""
    without: frozenset[str] = frozenset()
    """Fields that the server does not take."""

    def headers(self, arrival: Arrival | None = None) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity",
                   _EXPLAIN: "1"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        if arrival is not None and arrival.lane != "interactive":
            headers["x-baton-lane"] = arrival.lane
        return headers

    def body(self, model: str, prompt: object, arrival: Arrival) -> bytes:
        """`prompt`: token ids, text or messages, as the style is."""
        fields: dict[str, Any] = {
            "model": model,
            "messages" if self.style == "chat" else "prompt": prompt,
            "max_tokens": arrival.length,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "return_token_ids": True,
        }
        if self.scripted:
            del fields["ignore_eos"]
            fields |= {"max_tokens": arrival.limit,
                       "seed": script_seed(arrival.length, arrival.noise)}
        fields |= self.extra
        for name in self.without:
            fields.pop(name, None)
        return msgspec.json.encode(fields)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers, and how it is asked."""

    url: str
    model: str
    asking: Asking
    max_model_len: int | None
    waited: float
    """Seconds until it was there, from when we looked for it first."""
    first: float
    """Seconds that its first answer took, of one short prompt and a few tokens."""
    counted_by: str
    """How tokens are counted, `events`."""

    @property
    def path(self) -> str:
        return self.url + STYLES[self.asking.style]

    @property
    def ends_early(self) -> bool:
        """It does not take `ignore_eos`, so answers may be shorter than asked for."""
        return "ignore_eos" in self.asking.without


def session(seconds: float | None = None) -> aiohttp.ClientSession:
    """No bound on connections; `seconds` for whole requests."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        auto_decompress=False,
    )


async def find(
    url: str, asking: Asking, model: str | None = None, wait: float = 0.0
) -> Server:
    """`model`: its name; the first one served without it. `wait`: seconds that the server may take
    until it is there. Raises ConfigError that says what was tried."""
    url = url.rstrip("/").removesuffix("/v1")
    began = time.perf_counter()
    async with session(120.0) as http:
        listed = await _models(http, url, asking, began + wait)
        waited = time.perf_counter() - began
        chosen = next((m for m in listed if m.get("id") == model), None) if model else listed[0]
        if chosen is None and listed:
            names = ", ".join(str(m.get("id")) for m in listed)
            raise ConfigError(f"{url} serves no model {model!r}, but: {names}")
        name = str((chosen or {}).get("id", model))
        while True:
            asked = time.perf_counter()
            status, reply, counted = await _try(http, url, asking, name)
            if status == 200:
                break
            if status == 503 and asked < began + wait:
                await asyncio.sleep(_LOOK_SECONDS)  # it listens, and its workers are to come
                waited = time.perf_counter() - began
                continue
            asking = _less(url, asking, status, reply)
        return Server(
            url=url, model=name, asking=asking, max_model_len=_context(chosen or {}),
            waited=waited, first=time.perf_counter() - asked, counted_by=counted,
        )


async def _models(
    http: aiohttp.ClientSession, url: str, asking: Asking, until: float
) -> list[dict[str, Any]]:
    while True:
        try:
            async with http.get(f"{url}/v1/models", headers=asking.headers()) as reply:
                content = await reply.read()
                problem = f"status {reply.status}, no model: {one_line(content)}"
                if reply.status == 200 and (models := _listed(content)):
                    return models
                if reply.status in (401, 403):
                    raise ConfigError(f"{url} wants an --api-key: {problem}")
        except ValueError as error:
            problem = str(error)
        except (aiohttp.ClientError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        if time.perf_counter() >= until:
            raise ConfigError(f"{url}/v1/models does not answer with a model: {problem}")
        await asyncio.sleep(_LOOK_SECONDS)


def _context(model: dict[str, Any]) -> int | None:
    told = model.get("max_model_len")
    return told if isinstance(told, int) and told > 0 else None


def _listed(content: bytes) -> list[dict[str, Any]]:
    """Raises ValueError for what is no list of models in OpenAI's form."""
    try:
        answer = msgspec.json.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"it says no JSON, but: {one_line(content)}") from error
    models = (answer.get("data") or []) if isinstance(answer, dict) else None
    if not isinstance(models, list) or not all(
        isinstance(model, dict) and isinstance(model.get("id"), str) for model in models
    ):
        raise ValueError(f'it says {one_line(content)}, where {{"data": [{{"id": ...}}]}} is meant')
    return models


async def _try(
    http: aiohttp.ClientSession, url: str, asking: Asking, model: str
) -> tuple[int, bytes, str]:
    """Status, the answer, and how its tokens can be counted."""
    prompts: dict[str, object] = {
        "ids": list(range(5, 15)), "text": "Once upon a time",
        "chat": [{"role": "user", "content": "Once upon a time"}],
    }
    arrival = Arrival(0.0, lambda: b"", 4, 4, 1)
    body = asking.body(model, prompts[asking.style], arrival)
    try:
        async with http.post(
            url + STYLES[asking.style], data=body, headers=asking.headers()
        ) as reply:
            content, status = await reply.read(), reply.status
    except (aiohttp.ClientError, OSError) as error:
        raise ConfigError(f"{url} does not answer a first request: {type(error).__name__} {error}"
                          ) from error
    answer = answer_of([0.0], [content])
    if status == 200 and (answer.error is not None or not (answer.pieces or answer.finish)):
        said = answer.detail or one_line(content) or "nothing"
        raise ConfigError(f"{url} answers a first request with no stream of tokens: {said}")
    return status, content, answer.counted_by


def _less(url: str, asking: Asking, status: int, reply: bytes) -> Asking:
    """Asking for less, if that may be what is wrong. Raises ConfigError if it is not."""
    left = [name for name in _OPTIONAL if name not in asking.without]
    text = reply.decode(errors="replace")
    if status in (400, 422) and left:
        named = [name for name in left if name in text]
        return replace(asking, without=asking.without | {named[0] if named else left[0]})
    with suppress(msgspec.MsgspecError, AttributeError):
        _, text = error_of(msgspec.json.decode(reply).get("error"))
    raise ConfigError(f"{url} answers a first request with status {status}: {text[:300]}")
