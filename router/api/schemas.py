"""The requests of the API, as pydantic models. Their ranges are the only ones: validation errors
and /openapi.json are derived from them.

Every optional field may be null, which means its default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_N = 128
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 1024
MAX_LABEL = 512

Prompt = str | list[int]
"""One prompt: text, or token ids."""

Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Label = Annotated[str, StringConstraints(max_length=MAX_LABEL)]


def _parse_prompts(value: Any) -> list[Prompt]:
    """The four shapes of `prompt`, told apart by the first item of a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if len(value) > MAX_PROMPTS:
            raise PydanticCustomError(
                "invalid_value", f"has {len(value)} prompts, the most is {MAX_PROMPTS}"
            )
        if all(isinstance(item, str) for item in value) or all(
            isinstance(item, list) and all(type(token) is int for token in item) for item in value
        ):
            return list(value)
    if value == []:
        raise PydanticCustomError("invalid_value", "must not be empty")
    raise PydanticCustomError(
        "invalid_value",
        "must be a string, a list of strings, a list of token ids (integers), or a list of such "
        "lists",
    )


def _parse_content(value: Any) -> Any:
    """A message's content: a string, or parts of type "text", which are joined."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for i, part in enumerate(value):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise PydanticCustomError(
                "invalid_value", f'part {i} must be an object such as {{"type": "text", "text": …}}'
            )
        if part["type"] != "text":
            raise PydanticCustomError(
                "unsupported_parameter",
                f"part {i} is of type {part['type']!r:.40}; this model reads only parts of type "
                "'text'",
            )
        unknown = sorted(set(part) - {"type", "text"})
        if unknown or not isinstance(part.get("text"), str):
            raise PydanticCustomError(
                "invalid_value",
                f"part {i} must hold 'type' and 'text' (a string), and nothing else",
            )
        texts.append(part["text"])
    return "".join(texts)


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Model):
    include_usage: bool | None = None
    continuous_usage_stats: Annotated[
        bool | None, Field(description="with include_usage: each event says what was used by then")
    ] = None


class GenerationRequest(_Model):
    """What completions and chat completions share."""

    model: str | None = Field(None, description="the served model's name")
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(
        None,
        description="an object with include_usage and continuous_usage_stats (true or false); "
        "only with stream",
    )
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31, description="0 and -1 are off")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="an object from token ids to a bias from -100 to 100"
    )
    seed: Int | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            BeforeValidator(_one_or_many),
            Field(max_length=MAX_STOPS),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "string", "minLength": 1},
                        {
                            "type": "array",
                            "items": {"type": "string", "minLength": 1},
                            "maxItems": MAX_STOPS,
                        },
                    ]
                }
            ),
        ]
        | None
    ) = Field(
        None, description=f"a string or a list of up to {MAX_STOPS} strings, none of them empty"
    )
    stop_token_ids: Annotated[list[int], Field(max_length=1024)] | None = Field(
        None, description="a list of up to 1024 token ids"
    )
    ignore_eos: bool | None = None
    return_token_ids: bool | None = Field(
        None, description="true adds token_ids, those of the output, to each choice"
    )
    cache_salt: Label | None = Field(
        None, description="requests share cached prefixes only with those of the same salt"
    )
    service_tier: Literal["auto", "default", "priority", "flex"] | None = Field(
        None,
        description="one of auto, default (lane interactive), priority (before the others of it) "
        "and flex (lane batch)",
    )
    prompt_cache_key: Label | None = Field(
        None,
        description="requests with the same one go to the same workers where that costs nothing",
    )
    user: Label | None = Field(None, description="a label; not used")
    safety_identifier: Label | None = Field(None, description="a label; not used")
    metadata: dict[str, Label] | None = Field(
        None, description="an object from strings to strings: labels; not used"
    )


class CompletionRequest(GenerationRequest):
    prompt: Annotated[
        list[Prompt],
        PlainValidator(_parse_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "array", "items": {"type": "integer"}},
                    {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer"}},
                    },
                ]
            }
        ),
    ]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class Message(_Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | None, BeforeValidator(_parse_content)] = None
    name: Label | None = None


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description="a list of at least one message"
    )
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="an object of variables for the model's chat template"
    )


class TokenizeRequest(_Model):
    """Either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="a list of at least one message"
    )
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None


class DetokenizeRequest(_Model):
    model: str | None = None
    tokens: list[int] = Field(description="a list of token ids")
    skip_special_tokens: bool | None = None
