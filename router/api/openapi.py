"""/openapi.json, from the same pydantic models that check the requests."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from baton.router.api.errors import json_response
from baton.router.api.order import LANE, SESSION
from baton.router.api.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
)

_POSTS: dict[str, tuple[str, type[BaseModel]]] = {
    "/v1/completions": ("Continue a prompt; with stream, server-sent events", CompletionRequest),
    "/v1/chat/completions": ("Answer a chat; with stream, server-sent events", ChatRequest),
    "/tokenize": ("Text or a chat to token ids", TokenizeRequest),
    "/detokenize": ("Token ids to text", DetokenizeRequest),
}
_GETS = {
    "/v1/models": "The served model, as a list",
    "/v1/models/{model}": "The served model",
    "/health": "Whether the process lives",
    "/ready": "Whether a request can be served now (503 with the reason if not)",
    "/metrics": "Prometheus metrics",
    "/admin/workers": "The workers: role, state, epoch, blocks, load",
    "/admin/overview": "How things stand: lanes against their targets, workers, last requests",
    "/admin/decisions": "The choices that ended last, latest first: ?limit= of them",
    "/admin/sizing": "How the pools are sized: who leads, what was decided and why",
    "/admin/requests/{request}": "One response's way through the workers, and why it went so",
    "/openapi.json": "This page",
}
_ACTIONS = {
    "/admin/workers/{worker}/drain": "Empty a worker: nothing new, and what it has moves away",
    "/admin/workers/{worker}/undrain": "Let a worker take requests again",
    "/admin/workers/{worker}/role": "Choose a worker's role; \"auto\" takes that back",
}
_HEADERS = [
    {"name": name, "in": "header", "required": False, "description": text,
     "schema": {"type": "string"}}
    for name, text in (
        (LANE, "A lane of this server by its name; counts more than service_tier"),
        (SESSION, "As prompt_cache_key"),
    )
]
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = [(model, "validation") for _, model in _POSTS.values()]
    references, definitions = models_json_schema(
        models,  # type: ignore[arg-type]  # the literal "validation" widens to str
        ref_template="#/components/schemas/{model}",
    )
    responses = {
        "200": {"description": "Done"},
        "default": {
            "description": "What was wrong",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        },
    }
    paths: dict[str, Any] = {}
    for path, (summary, model) in _POSTS.items():
        schema = references[(model, "validation")]
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation: dict[str, Any] = {
            "summary": summary, "requestBody": body, "responses": responses,
        }
        if issubclass(model, GenerationRequest):
            operation["parameters"] = _HEADERS
        paths[path] = {"post": operation}
    for path, summary in _GETS.items():
        paths[path] = {"get": _without_body(path, summary, responses)}
    for path, summary in _ACTIONS.items():
        paths[path] = {"post": _without_body(path, summary, responses)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baton", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**definitions["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _without_body(path: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    return operation


async def openapi(request: web.Request) -> web.Response:
    return json_response(document())
