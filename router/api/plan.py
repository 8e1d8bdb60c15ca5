"""A checked request to one plan per choice: prompt ids, sampling, the record to submit."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from baton.protocol.errors import BatonError
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.api.context import Api
from baton.router.api.order import Order
from baton.router.api.schemas import (
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    Message,
    Prompt,
)

T = TypeVar("T")

LONG_TEXT = 20_000
"""Characters from which tokenizing is left to a thread: it takes milliseconds."""

DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    ids: Sequence[int]
    text: str | None
    """As the client gave it; None where it gave ids."""


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    request: Request
    prompt: EncodedPrompt
    stops: Sequence[str]
    echo: str | None = None
    """Text to put before the output."""
    discard_output: bool = False
    """max_tokens is 0: only the prompt was of interest."""
    token_ids: bool = False
    """The client wants those of the output."""
    session: str = ""
    """What the client says it belongs to, see `order.py`."""


async def plan_completion(
    api: Api, request: CompletionRequest, response_id: str, order: Order
) -> list[ChoicePlan]:
    """Choices in the order of their index. Raises BatonError with status 400 or 503."""
    num_choices = len(request.prompt) * (request.n or 1)
    if num_choices > MAX_PROMPTS:
        raise BatonError(
            "invalid_value",
            f"{len(request.prompt)} prompts with n = {request.n} are {num_choices} choices; the "
            f"most is {MAX_PROMPTS}",
            param="n",
        )
    scoring = request.max_tokens == 0
    if scoring and not request.echo:
        raise BatonError(
            "invalid_value", "'max_tokens' may be 0 only with echo", param="max_tokens"
        )
    prompts = await _encode_all(api, request.prompt)
    plans: list[ChoicePlan] = []
    for prompt in prompts:
        limit = api.card().max_model_len
        default = max(1, min(DEFAULT_COMPLETION_TOKENS, limit - len(prompt.ids)))
        max_tokens = default if request.max_tokens is None else request.max_tokens
        _check_context(len(prompt.ids), max_tokens, limit, "max_tokens")
        if scoring and len(prompt.ids) == limit:
            # The engine draws one token even if nobody wants it.
            raise _too_long(len(prompt.ids), 1, limit, "the one token that ends the scoring")
        sampling = _sampling(
            api,
            request,
            max_tokens=max(1, max_tokens),
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if request.echo else None,
        )
        echo = None
        if request.echo:
            echo = (
                api.tokenizer.decode(prompt.ids, skip_special_tokens=False)
                if prompt.text is None
                else prompt.text
            )
        plans += _choices(
            api, request, response_id, order, len(plans), prompt, sampling,
            echo=echo, discard=scoring,
        )
    return plans


async def plan_chat(
    api: Api, request: ChatRequest, response_id: str, order: Order
) -> list[ChoicePlan]:
    """As `plan_completion`."""
    if request.top_logprobs is not None and not request.logprobs:
        raise BatonError(
            "invalid_value", "'top_logprobs' needs 'logprobs' to be true", param="top_logprobs"
        )
    both = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(both) > 1:
        raise BatonError(
            "invalid_value",
            "'max_tokens' and 'max_completion_tokens' differ; send one of them",
            param="max_completion_tokens",
        )
    prompt = await encode_chat(
        api, request.messages, template_kwargs=request.chat_template_kwargs or {}
    )
    limit = api.card().max_model_len
    name = "max_tokens" if request.max_tokens is not None else "max_completion_tokens"
    max_tokens = next(iter(both), None) or max(1, limit - len(prompt.ids))
    _check_context(len(prompt.ids), max_tokens, limit, name)
    sampling = _sampling(
        api,
        request,
        max_tokens=max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=None,
    )
    return _choices(api, request, response_id, order, 0, prompt, sampling)


async def encode_prompt(
    api: Api, prompt: Prompt, param: str, *, add_special_tokens: bool = True
) -> EncodedPrompt:
    """Token ids of one prompt, checked. Raises BatonError(invalid_value)."""
    if not prompt:
        raise BatonError("invalid_value", f"'{param}' must not be empty", param=param)
    if not isinstance(prompt, str):
        check_tokens(api, prompt, param)
        return EncodedPrompt(prompt, None)
    card = api.service.model
    limit = math.inf if card is None else card.max_model_len
    if (fewest := api.tokenizer.fewest_tokens(prompt)) > limit:
        raise BatonError(
            "context_length_exceeded",
            f"'{param}' has at least {fewest} tokens, but the context holds {limit}: shorten it",
            param=param,
        )
    encode = partial(api.tokenizer.encode, prompt, add_special_tokens=add_special_tokens)
    if len(prompt) > LONG_TEXT:
        ids = await asyncio.to_thread(encode)
    else:
        ids = encode()
    if not ids:
        raise BatonError("invalid_value", f"'{param}' must not be empty", param=param)
    return EncodedPrompt(ids, prompt)


async def encode_chat(
    api: Api,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    template_kwargs: dict[str, Any],
) -> EncodedPrompt:
    """Token ids of a chat, through the model's template. Raises BatonError(invalid_value)."""
    reserved = {"messages", "tools", "documents", "add_generation_prompt"} & template_kwargs.keys()
    if reserved:
        raise BatonError(
            "invalid_value",
            f"'chat_template_kwargs' must not hold {', '.join(sorted(reserved))}",
            param="chat_template_kwargs",
        )
    plain = []
    for message in messages:
        # Templates know the role "developer" by its older name.
        role = "system" if message.role == "developer" else message.role
        plain.append({"role": role, "content": message.content})
        if message.name is not None:
            plain[-1]["name"] = message.name
    text = api.tokenizer.render_chat(
        plain, add_generation_prompt=add_generation_prompt, **template_kwargs
    )
    # The template writes the special tokens itself.
    return await encode_prompt(api, text, "messages", add_special_tokens=False)


def check_tokens(api: Api, tokens: Sequence[int], param: str) -> None:
    """Raises BatonError(invalid_value) for an id outside the vocabulary."""
    size = api.vocab_size()
    if tokens and (min(tokens) < 0 or max(tokens) >= size):
        i = next(i for i, token in enumerate(tokens) if not 0 <= token < size)
        raise BatonError(
            "invalid_value",
            f"'{param}[{i}]' must be a token id from 0 to {size - 1}, got {tokens[i]}",
            param=param,
        )


async def _encode_all(api: Api, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
    single = len(prompts) == 1
    encoded = []
    for i, prompt in enumerate(prompts):
        encoded.append(await encode_prompt(api, prompt, "prompt" if single else f"prompt[{i}]"))
        if i % 16 == 15:
            await asyncio.sleep(0)  # let running streams have their turn
    return encoded


def _check_context(prompt_len: int, max_tokens: int, limit: int, name: str) -> None:
    if prompt_len + max_tokens > limit:
        raise _too_long(prompt_len, max_tokens, limit, name)


def _too_long(prompt_len: int, max_tokens: int, limit: int, name: str) -> BatonError:
    return BatonError(
        "context_length_exceeded",
        f"the prompt's {prompt_len} tokens and the {max_tokens} of {name} are "
        f"{prompt_len + max_tokens}, but the context holds {limit}: shorten the prompt or lower "
        "max_tokens",
        param="prompt" if prompt_len >= limit else name,
    )


def _sampling(
    api: Api,
    request: GenerationRequest,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise BatonError(
            "invalid_value",
            f"'min_tokens' must be at most max_tokens ({max_tokens}), got {min_tokens}",
            param="min_tokens",
        )
    check_tokens(api, request.stop_token_ids or (), "stop_token_ids")
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    return SamplingParams(
        seed=seed,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_or(request.temperature, 1.0),
        top_k=max(0, _or(request.top_k, 0)),
        top_p=_or(request.top_p, 1.0),
        min_p=_or(request.min_p, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        logit_bias=_logit_bias(api, request.logit_bias or {}),
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _logit_bias(api: Api, given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    size = api.vocab_size()
    biases: dict[int, float] = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdigit() and len(key) < 12 and int(key) < size):
            raise BatonError(
                "invalid_value",
                f"'logit_bias' has the key {key[:40]!r}; keys must be token ids from 0 to "
                f"{size - 1}",
                param="logit_bias",
            )
        biases[int(key)] = bias
    return tuple(sorted(biases.items()))


def _choices(
    api: Api,
    request: GenerationRequest,
    response_id: str,
    order: Order,
    first_index: int,
    prompt: EncodedPrompt,
    sampling: SamplingParams,
    *,
    echo: str | None = None,
    discard: bool = False,
) -> list[ChoicePlan]:
    """The n choices of one prompt. They share the seed and differ by `choice`."""
    packed = pack_tokens(prompt.ids)
    return [
        ChoicePlan(
            request=Request(
                key=RequestKey(f"{response_id}/{first_index + choice}", 0),
                choice=choice,
                prompt=packed,
                sampling=sampling,
                eos_token_ids=tuple(api.tokenizer.eos_token_ids),
                cache_salt=request.cache_salt or "",
                lane=order.lane,
                priority=order.priority,
            ),
            prompt=prompt,
            stops=request.stop or (),
            echo=echo,
            discard_output=discard,
            token_ids=bool(request.return_token_ids),
            session=order.session,
        )
        for choice in range(request.n or 1)
    ]
