"""What operators and their tools ask: /health, /ready, /metrics, /admin/..."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from baton.protocol.errors import BatonError
from baton.router.api.context import API
from baton.router.api.errors import json_response
from baton.router.api.service import Pools

DEFAULT_LIMIT = 50
MAX_LIMIT = 2000


async def health(request: web.Request) -> web.Response:
    """The process lives."""
    return json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """A request would be served now; 503 with the reason otherwise."""
    service = request.app[API].service
    if service.ready:
        return json_response({"status": "ready"})
    count = len(service.worker_views())
    if count == 0:
        reason = "no worker has joined yet"
    else:
        reason = f"none of the {count} known workers takes requests now; see /admin/workers"
    return json_response({"status": "not ready", "reason": reason}, status=503)


async def metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    page = encode(request.app[API].metrics.registry)
    return web.Response(body=page, headers={"Content-Type": content_type})


async def workers(request: web.Request) -> web.Response:
    views = request.app[API].service.worker_views()
    return json_response({"workers": [msgspec.to_builtins(view) for view in views]})


async def overview(request: web.Request) -> web.Response:
    """How things stand, in one look: what `baton top` shows."""
    return json_response(msgspec.to_builtins(request.app[API].service.overview()))


async def decisions(request: web.Request) -> web.Response:
    """The accounts of the choices that ended last, latest first; `?limit=` of them."""
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise BatonError(
            "invalid_value", f"'limit' must be from 1 to {MAX_LIMIT}, got {text[:40]!r}",
            param="limit",
        )
    accounts = request.app[API].service.latest(int(text))
    return json_response({"decisions": [msgspec.to_builtins(account) for account in accounts]})


async def explain(request: web.Request) -> web.Response:
    """All that is known of one response's way through the workers."""
    accounts = request.app[API].service.explain(request.match_info["request"])
    return json_response({"choices": [msgspec.to_builtins(account) for account in accounts]})


async def drain(request: web.Request) -> web.Response:
    """Empty a worker: nothing new for it, what it has moves away. Answers at once."""
    return _drain(request, undo=False)


async def undrain(request: web.Request) -> web.Response:
    """The worker takes requests again."""
    return _drain(request, undo=True)


def _drain(request: web.Request, *, undo: bool) -> web.Response:
    view = request.app[API].service.drain(request.match_info["worker"], undo=undo)
    return json_response({"worker": msgspec.to_builtins(view)})


async def sizing(request: web.Request) -> web.Response:
    """How the pools are sized: who leads, what was decided and why."""
    view = _pools(request).view(asyncio.get_running_loop().time())
    return json_response(view)


async def role(request: web.Request) -> web.Response:
    """A person chooses a worker's role ("auto" takes it back). Answers at once; the worker's view
    shows the role once it has it."""
    pools = _pools(request)
    body = await _object(request)
    wanted = body.get("role")
    if not isinstance(wanted, str):
        raise BatonError("invalid_value", 'the body must be {"role": "..."}', param="role")
    worker = request.match_info["worker"]
    pools.set_role(worker, wanted)
    views = request.app[API].service.worker_views()
    view = next(view for view in views if view.id == worker)
    return json_response({"worker": msgspec.to_builtins(view)})


async def _object(request: web.Request) -> dict[str, object]:
    try:
        body = msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise BatonError("invalid_value", f"the body is not JSON: {error}") from error
    return body if isinstance(body, dict) else {}


def _pools(request: web.Request) -> Pools:
    pools = request.app[API].pools
    if pools is None:
        raise BatonError("not_found", "this router does not size the pools")
    return pools
