"""What the scheduler hands to the model runner for one step, and gets back."""

from __future__ import annotations

from collections.abc import Sequence as Items

import msgspec

from baton.engine.sequence import Sequence
from baton.protocol.curves import StepShape, attention_pairs
from baton.protocol.records import TokenLogprobs


class BatchItem(msgspec.Struct, frozen=True):
    """Compute tokens [seq.num_computed, seq.num_computed + num_tokens) of a sequence, whose blocks
    are allocated. `sample`: these are its last tokens, so draw the next one."""

    seq: Sequence
    num_tokens: int
    sample: bool


class StepResult(msgspec.Struct, frozen=True):
    """One entry per item of the batch, in its order."""

    tokens: list[int | None]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[tuple[TokenLogprobs, ...] | None]
    """For items whose sampling asks for it: entry j is for the prompt token at index
    seq.num_computed + j + 1, as far as there are such."""


def step_shape(batch: Items[BatchItem]) -> StepShape:
    """Of a step, before it is completed. A single token is a decode row to the runner, wherever
    it comes from."""
    decodes = decode_context = chunks = tokens = pairs = 0
    for item in batch:
        past, count = item.seq.num_computed, item.num_tokens
        if count == 1:
            decodes += 1
            decode_context += past + 1
        else:
            chunks += 1
            tokens += count
            pairs += attention_pairs(count, past)
    return StepShape(chunks, tokens, pairs, decodes, decode_context)
