"""Bytes of a body to a checked request. Whatever is wrong becomes a BatonError that names the
field and what would be right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from baton.protocol.errors import BatonError
from baton.router.api import unsupported
from baton.router.api.schemas import ChatRequest, CompletionRequest, StreamOptions
from baton.router.api.unsupported import Unsupported

Model = TypeVar("Model", bound=BaseModel)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_UNSUPPORTED: dict[type[BaseModel], Mapping[str, Unsupported]] = {
    CompletionRequest: unsupported.COMPLETION,
    ChatRequest: unsupported.CHAT,
}


def parse_body(body: bytes, model: type[Model]) -> Model:
    """Raises BatonError with status 400."""
    try:
        return check(parse_json(body), model)
    except RecursionError as error:
        raise BatonError("invalid_json", "the body is nested too deeply") from error


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. NaN and infinities pass here, so that the check can name their field."""
    if not body.strip():
        raise BatonError("invalid_json", "the body is empty; send a JSON object")
    try:
        value = json.loads(body)
    except ValueError as error:  # malformed JSON, or bytes that are no UTF-8
        raise BatonError("invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BatonError("invalid_json", f"the body must be a JSON object, got {_shown(value)}")
    if _SURROGATE.search(body):
        _refuse_half_characters(value, "")
    return value


def check(raw: dict[str, Any], model: type[Model]) -> Model:
    """`raw` as a `model`. Removes what asks for nothing from it."""
    _refuse_foreign(raw, model.model_fields, _UNSUPPORTED.get(model, {}), "")
    options = raw.get("stream_options")
    if isinstance(options, dict):
        _refuse_foreign(
            options, StreamOptions.model_fields, unsupported.STREAM_OPTIONS, "stream_options."
        )
    messages = raw.get("messages")
    if isinstance(messages, list):
        for i, message in enumerate(messages):
            if isinstance(message, dict):
                _check_message(message, f"messages[{i}].")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, model) from None


def _check_message(message: dict[str, Any], path: str) -> None:
    if message.get("role") in ("tool", "function"):
        raise BatonError(
            "unsupported_parameter",
            f"'{path}role' is {message['role']!r}, but tools are not supported: send the result "
            "as a user message",
            param=f"{path}role",
        )
    _refuse_foreign(message, ("role", "content", "name"), unsupported.MESSAGE, path)
    if message.get("content") is None and "role" in message:
        raise BatonError(
            "missing_parameter",
            f"'{path}content' is missing; it must be a string or a list of text parts",
            param=f"{path}content",
        )


def _refuse_foreign(
    raw: dict[str, Any],
    known: Iterable[str],
    foreign: Mapping[str, Unsupported],
    path: str,
) -> None:
    """Raises for a parameter that is not `known`; removes foreign ones that ask for nothing."""
    for name in [name for name in raw if name not in known]:
        entry = foreign.get(name)
        if entry is None:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{path}{close[0]}'?" if close else ""
            raise BatonError(
                "unknown_parameter",
                f"unknown parameter '{path}{name:.100}'{hint}",
                param=f"{path}{name:.100}",
            )
        value = raw.pop(name)
        if value is None or any(_same(value, harmless) for harmless in entry.harmless):
            continue
        raise BatonError(
            "unsupported_parameter",
            f"'{path}{name}' is not supported: {entry.advice}",
            param=f"{path}{name}",
        )


def _refuse_half_characters(value: Any, path: str) -> None:
    """JSON can spell one half of a surrogate pair, which no text and no tokenizer knows."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BatonError(
                "invalid_value",
                f"'{path}' holds half of a surrogate pair at character {error.start}, which is no "
                "text",
                param=path,
            ) from error
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_half_characters(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_half_characters(name, f"{path} (a key)" if path else "a key")
            _refuse_half_characters(item, f"{path}.{name}" if path else name)


def _same(value: Any, harmless: Any) -> bool:
    return type(value) is type(harmless) and bool(value == harmless)


def _explain(error: ValidationError, model: type[BaseModel]) -> BatonError:
    """The first error, in our words."""
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    path = _path(location)
    got = _shown(first["input"])
    if first["type"] == "missing":
        expected = expectation(model, path) or "it is required"
        return BatonError("missing_parameter", f"'{path}' is missing: {expected}", param=path)
    if first["type"] in ("unsupported_parameter", "invalid_value"):
        return BatonError(first["type"], f"'{path}' {first['msg']}", param=path)
    expected = expectation(model, path) if len(location) == 1 else ""
    if expected:
        return BatonError("invalid_value", f"'{path}' must be {expected}, got {got}", param=path)
    message = first["msg"]
    root = expectation(model, str(location[0])) if location else ""
    where = f"; {location[0]} is {root}" if root else ""
    return BatonError("invalid_value", f"'{path}': {message}, got {got}{where}", param=path)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


@cache
def expectation(model: type[BaseModel], field: str) -> str:
    """What a field must be, from its schema: "a number from 0 to 2"."""
    schema: dict[str, Any] = model.model_json_schema()["properties"].get(field, {})
    for option in [schema, *schema.get("anyOf", [])]:
        kind = {"number": "a number", "integer": "an integer"}.get(option.get("type", ""))
        if kind:
            return kind + _range(option)
    if any(option.get("type") == "boolean" for option in [schema, *schema.get("anyOf", [])]):
        return "true or false"
    if "description" in schema and not str(schema["description"]).startswith("a label"):
        return str(schema["description"])
    for option in [schema, *schema.get("anyOf", [])]:
        if option.get("type") == "string":
            limit = option.get("maxLength")
            return f"a string of up to {limit} characters" if limit else "a string"
    return ""


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    parts = []
    if low is not None:
        parts.append(f"at least {low}")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"at most {high:g}")
    if below is not None:
        parts.append(f"below {below}")
    return " " + " and ".join(parts) if parts else ""


def _shown(value: Any) -> str:
    """A value as JSON, cut short."""
    if isinstance(value, (list, dict)) and len(value) > 16:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)} items"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
