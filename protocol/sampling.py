"""What decides the next token, apart from the model: plain values, the same on every worker."""

from __future__ import annotations

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One choice's sampling. Names and ranges are those of the OpenAI API and its usual
    extensions; the router has checked them.

    `seed` is always set (the router draws one if the client did not): the random number for a
    token is a function of (seed, choice, output position) alone.
    """

    seed: int
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    """Number of most likely alternatives reported with each token; None reports nothing, 0 only
    the sampled token's own."""
    prompt_logprobs: int | None = None
    """The same for each prompt token (the first has none). Turns the prefix cache off."""
