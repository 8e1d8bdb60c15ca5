"""/tokenize and /detokenize."""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web

from baton.protocol.errors import BatonError
from baton.router.api.context import API
from baton.router.api.errors import json_response, read_body
from baton.router.api.plan import LONG_TEXT, check_tokens, encode_chat, encode_prompt
from baton.router.api.schemas import DetokenizeRequest, TokenizeRequest
from baton.router.api.validation import parse_body


async def tokenize(request: web.Request) -> web.Response:
    api = request.app[API]
    body = parse_body(await read_body(request), TokenizeRequest)
    api.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise BatonError(
            "missing_parameter", "send either 'prompt' or 'messages'", param="prompt"
        )
    if body.messages is not None:
        encoded = await encode_chat(
            api,
            body.messages,
            add_generation_prompt=body.add_generation_prompt is not False,
            template_kwargs={},
        )
        ids = list(encoded.ids)
    elif body.prompt:
        special = body.add_special_tokens is not False
        encoded = await encode_prompt(api, body.prompt, "prompt", add_special_tokens=special)
        ids = list(encoded.ids)
    else:
        ids = api.tokenizer.encode("", add_special_tokens=body.add_special_tokens is not False)
    card = api.service.model
    return json_response(
        {
            "tokens": ids,
            "count": len(ids),
            "max_model_len": card.max_model_len if card is not None else None,
        }
    )


async def detokenize(request: web.Request) -> web.Response:
    api = request.app[API]
    body = parse_body(await read_body(request), DetokenizeRequest)
    api.check_model(body.model)
    check_tokens(api, body.tokens, "tokens")
    decode = partial(
        api.tokenizer.decode, body.tokens, skip_special_tokens=bool(body.skip_special_tokens)
    )
    text = await asyncio.to_thread(decode) if len(body.tokens) > LONG_TEXT else decode()
    return json_response({"prompt": text})
