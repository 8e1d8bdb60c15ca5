"""Every failure as OpenAI's error object, whoever raised it; and the bearer key."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from baton.protocol.errors import BatonError
from baton.router.api.context import API

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics", "/openapi.json"})
"""No key is asked for here: load balancers and scrapers have none."""

BODY_SECONDS = 60.0
"""For a whole request body, from its headers on."""
_REQUEST_ID_HEADER = re.compile(r"[\x21-\x7e]{1,200}")


def error_object(error: BatonError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def json_response(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def error_response(error: BatonError, headers: dict[str, str] | None = None) -> web.Response:
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(error_object(error), status=error.status, headers=headers)


def internal_error(request: web.BaseRequest) -> BatonError:
    """For an exception that is a fault of ours; logs it. Call from an except block."""
    log.exception("%s %s failed", request.method, request.path)
    return BatonError("internal_error", "an internal error; the server's log has the details")


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """An `on_response_prepare` signal, so that streams have them too."""
    response.headers["Server"] = "baton"
    response.headers["x-request-id"] = request.get(REQUEST_ID) or "-"


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id, checks the key, and turns what is raised into a response."""
    try:
        request[REQUEST_ID] = secrets.token_hex(16)
        _take_request_id(request)
        _check_key(request)
        return await handler(request)
    except BatonError as error:
        if error.status >= 500:
            log.warning("%s %s: %s: %s", request.method, request.path, error.code, error.message)
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_aiohttp(request, error)
    except ConnectionError:
        raise
    except Exception:
        return error_response(internal_error(request))


def _take_request_id(request: web.Request) -> None:
    given = request.headers.get("x-request-id")
    if given is None:
        return
    if not _REQUEST_ID_HEADER.fullmatch(given):
        raise BatonError(
            "invalid_value",
            "the x-request-id header must be 1 to 200 printable ASCII characters without spaces",
            param="x-request-id",
        )
    request[REQUEST_ID] = given


def _check_key(request: web.Request) -> None:
    key = request.app[API].api_key
    if key is None or request.path in OPEN_PATHS:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Both sides as bytes, because compare_digest refuses text that is not ASCII.
    matches = hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), key.encode("utf-8")
    )
    if scheme.lower() != "bearer" or not matches:
        wrong = "is wrong" if given else "is missing"
        raise BatonError(
            "invalid_api_key", f"the API key {wrong}: send it as 'Authorization: Bearer <key>'"
        )


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error_response(_too_large(request.client_max_size))
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return error_response(
            BatonError("method_not_allowed", f"{request.path} takes {allowed}, not {error.method}"),
            {"Allow": allowed},
        )
    if isinstance(error, web.HTTPNotFound):
        paths = sorted({route.resource.canonical for route in request.app.router.routes()
                        if route.resource is not None})
        return error_response(
            BatonError("not_found", f"{request.path} is not served here; served: "
                       + ", ".join(paths))
        )
    code = "invalid_value" if error.status < 500 else "internal_error"
    response = error_response(BatonError(code, error.text or error.reason))
    response.set_status(error.status)
    return response


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", "") or error).split())


def _too_large(limit: int) -> BatonError:
    return BatonError("body_too_large", f"the body is larger than the limit of {limit} bytes")


async def read_body(request: web.Request) -> bytes:
    """Raises BatonError: body_too_large, before reading where the length is declared;
    body_too_slow."""
    limit = request.client_max_size
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise BatonError(
            "body_too_slow", f"the body was not complete within {BODY_SECONDS:g} s"
        ) from None
    except web.RequestPayloadError as error:
        raise BatonError(
            "invalid_value", f"the body cannot be read: {_one_line(error)}"
        ) from error
