"""Whatever is sent, it is a checked request or a BatonError with status 400."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.protocol.errors import BatonError
from baton.router.api.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from baton.router.api.validation import expectation, parse_body

MODELS = [CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest]
NAMES = sorted({name for model in MODELS for name in model.model_fields} | {"tools", "suffix", "x"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["user", "text", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "5", "a"]), inner,
                      max_size=4),
    max_leaves=8,
)


def refusal(data: bytes, model) -> BatonError | None:
    """Anything else that is raised fails the test."""
    try:
        parse_body(data, model)
    except BatonError as error:
        return error
    return None


@given(st.sampled_from(MODELS), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_any_object(model, value):
    error = refusal(json.dumps(value).encode(), model)
    assert error is None or (error.status == 400 and error.message)


@given(st.sampled_from(MODELS), st.binary(max_size=40))
def test_any_bytes(model, data):
    error = refusal(data, model)
    assert error is None or error.status == 400


@pytest.mark.parametrize("depth", [50, 400, 900, 5000])
def test_deep_nesting(depth):
    for inner in ("1", '"\\ud800"'):
        body = '{"metadata": ' + "[" * depth + inner + "]" * depth + "}"
        with pytest.raises(BatonError) as caught:
            parse_body(body.encode(), CompletionRequest)
        assert caught.value.status == 400


@pytest.mark.parametrize("model", MODELS)
def test_every_field_says_what_it_must_be(model):
    for name in model.model_fields:
        assert expectation(model, name), name
