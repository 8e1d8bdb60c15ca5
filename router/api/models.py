"""/v1/models: the one model that is served."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from baton.router.api.context import API, Api
from baton.router.api.errors import json_response


async def list_models(request: web.Request) -> web.Response:
    return json_response({"object": "list", "data": [_model(request.app[API])]})


async def get_model(request: web.Request) -> web.Response:
    api = request.app[API]
    api.check_model(request.match_info["model"])
    return json_response(_model(api))


def _model(api: Api) -> dict[str, Any]:
    card = api.service.model
    return {
        "id": api.model_name,
        "object": "model",
        "created": api.created,
        "owned_by": "baton",
        "max_model_len": card.max_model_len if card is not None else None,
    }
