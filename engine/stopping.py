"""When a sequence has ended, as far as ids and lengths tell (strings are the router's). Pure."""

from __future__ import annotations

from baton.engine.sequence import Sequence


def finish_reason(seq: Sequence, max_model_len: int) -> str | None:
    """ "stop" when its last output token is an end or stop id (not before `min_tokens`), "length"
    when it has all the tokens it may have, over all attempts; None when it goes on."""
    sampling = seq.request.sampling
    tokens = seq.tokens
    num_output = len(tokens) - seq.prompt_len
    if num_output > 0 and num_output >= sampling.min_tokens:
        last = tokens[-1]
        if last in sampling.stop_token_ids:
            return "stop"
        if not sampling.ignore_eos and last in seq.request.eos_token_ids:
            return "stop"
    if num_output >= sampling.max_tokens or len(tokens) >= max_model_len:
        return "length"
    return None
