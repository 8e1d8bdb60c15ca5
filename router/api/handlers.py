"""The generation endpoints: /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from baton.protocol.errors import BatonError
from baton.router.api.context import API, Api
from baton.router.api.errors import read_body
from baton.router.api.generation import Generation
from baton.router.api.order import order_of
from baton.router.api.plan import ChoicePlan, plan_chat, plan_completion
from baton.router.api.respond import respond_stream, respond_whole
from baton.router.api.schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    StreamOptions,
)
from baton.router.api.shapes import ChatShape, CompletionShape, Shape
from baton.router.api.told import GENERATION
from baton.router.api.validation import Model, parse_body
from baton.router.metrics import RequestTimer

LONG_BODY = 1 << 20
"""Bytes from which parsing is left to a thread."""


async def completions(request: web.Request) -> web.StreamResponse:
    api = request.app[API]
    with api.metrics.time_request() as timer:
        body = await _parse(request, CompletionRequest)
        _check_common(api, body)
        response_id = f"cmpl-{secrets.token_hex(16)}"
        order = order_of(api, request.headers, body)
        plans = await plan_completion(api, body, response_id, order)
        shape = CompletionShape(_head(api, response_id), api.tokenizer, body.logprobs)
        return await _respond(request, api, body, plans, shape, timer)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    api = request.app[API]
    with api.metrics.time_request() as timer:
        body = await _parse(request, ChatRequest)
        _check_common(api, body)
        response_id = f"chatcmpl-{secrets.token_hex(16)}"
        order = order_of(api, request.headers, body)
        plans = await plan_chat(api, body, response_id, order)
        num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        shape = ChatShape(_head(api, response_id), api.tokenizer, num_logprobs)
        return await _respond(request, api, body, plans, shape, timer)


async def _parse(request: web.Request, model: type[Model]) -> Model:
    data = await read_body(request)
    if len(data) > LONG_BODY:
        return await asyncio.to_thread(parse_body, data, model)
    return parse_body(data, model)


def _check_common(api: Api, body: GenerationRequest) -> None:
    api.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        raise BatonError(
            "invalid_value",
            "'stream_options' may be given only with 'stream': true",
            param="stream_options",
        )
    api.card()


def _head(api: Api, response_id: str) -> dict[str, Any]:
    return {
        "id": response_id,
        "created": int(time.time()),
        "model": api.model_name,
        "system_fingerprint": api.card().fingerprint,
    }


async def _respond(
    request: web.Request,
    api: Api,
    body: GenerationRequest,
    plans: Sequence[ChoicePlan],
    shape: Shape,
    timer: RequestTimer,
) -> web.StreamResponse:
    request[GENERATION] = generation = Generation(api, plans, timer)
    if not body.stream:
        return await respond_whole(generation, shape)
    usage = body.stream_options or StreamOptions()
    return await respond_stream(request, generation, shape, timer, usage)
