"""Output where no model is: tokens that follow from a request's seed and the position. Pure.

The upper bits of the seed say after how many tokens the request ends, so a load generator decides
it and the router does not know it, as with a model.
"""

from __future__ import annotations

from baton.protocol.records import Request

_NOISE_BITS = 32
_VOCABULARY = 30_000
"""Tokens are below this and above _SPECIAL, where models have ordinary words."""
_SPECIAL = 1_000


def script_seed(length: int, noise: int) -> int:
    """A seed whose request ends with an end token after `length` tokens, that included; 0: with
    its `max_tokens` only. `noise` chooses the tokens."""
    return (length << _NOISE_BITS) | (noise & ((1 << _NOISE_BITS) - 1))


def scripted_token(request: Request, position: int) -> int:
    """The output token at this position. The end token is the first of the request's own."""
    seed = request.sampling.seed
    length = seed >> _NOISE_BITS
    if length and position >= length - 1 and request.eos_token_ids:
        return request.eos_token_ids[0]
    return _SPECIAL + (seed * 2_654_435_761 + position * 40_503) % (_VOCABULARY - _SPECIAL)


def plain_tokens(request: Request, position: int) -> int:
    """How many output tokens from this position on neither are the end token nor stop it; its
    `max_tokens` apart."""
    if request.sampling.stop_token_ids:
        return 0
    length = request.sampling.seed >> _NOISE_BITS
    return length - 1 - position if length and request.eos_token_ids else _VOCABULARY


def scripted_tokens(request: Request, position: int, count: int) -> list[int]:
    """`scripted_token` of so many positions, all of them `plain_tokens`."""
    span = _VOCABULARY - _SPECIAL
    start = (request.sampling.seed * 2_654_435_761 + position * 40_503) % span
    return [_SPECIAL + at % span for at in range(start, start + count * 40_503, 40_503)]
