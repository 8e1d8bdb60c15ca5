"""From logits to tokens.

The next token is a function of (logits, request record, tokens so far) alone: penalties are
rebuilt from the tokens, and randomness is counter-based. Greedy batches take one argmax; the rest
is vectorised over the rows that need it.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from baton.engine.sampling.adjust import adjust_logits, needs_adjustment
from baton.engine.sampling.randomness import uniforms
from baton.engine.sampling.truncate import truncate
from baton.engine.sequence import Sequence
from baton.protocol.records import TokenLogprobs


def sample(
    logits: Tensor, seqs: Rows[Sequence]
) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Draw the next token of each sequence. logits: float32 [R, vocab], row i for seqs[i], may be
    overwritten. Log-probabilities come with the rows whose request asks for them."""
    adjusted = [row for row, seq in enumerate(seqs) if needs_adjustment(seq)]
    if len(adjusted) == len(seqs):
        adjust_logits(logits, seqs)
    elif adjusted:
        index = torch.tensor(adjusted, device=logits.device)
        part = logits[index]
        adjust_logits(part, [seqs[row] for row in adjusted])
        logits[index] = part
    tokens = logits.argmax(dim=1)
    random = [row for row, seq in enumerate(seqs) if seq.request.sampling.temperature > 0]
    if random:
        index = torch.tensor(random, device=logits.device)
        tokens[index] = _draw(logits[index], [seqs[row] for row in random])
    chosen: list[int] = tokens.tolist()
    return chosen, _sample_logprobs(logits, chosen, seqs)


def _draw(logits: Tensor, seqs: Rows[Sequence]) -> Tensor:
    """Inverse of the cumulative distribution over token ids at one uniform number per row: int64
    [R]."""
    params = [seq.request.sampling for seq in seqs]
    smallest = torch.finfo(torch.float32).tiny  # what is smaller may count as 0, and 0 / 0 is NaN
    temperature = torch.tensor(
        [max(own.temperature, smallest) for own in params], device=logits.device
    )
    # Subtracting the maximum first keeps tiny temperatures from overflowing.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature[:, None]
    probs = scaled.softmax(dim=1)
    truncate(probs, params)
    cumulative = probs.double().cumsum(dim=1)
    point = uniforms(
        [own.seed for own in params],
        [seq.request.choice for seq in seqs],
        [seq.num_output for seq in seqs],
    )
    total = cumulative[:, -1:]
    target = torch.from_numpy(point).to(logits.device)[:, None] * total
    # The first id whose cumulative probability exceeds the target, which has probability > 0. A
    # product that rounds up to the total itself means the last such id.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Only logits that are not numbers lead beyond the vocabulary.
    return found.clamp_(max=logits.shape[1] - 1)


def _sample_logprobs(
    logits: Tensor, tokens: list[int], seqs: Rows[Sequence]
) -> list[TokenLogprobs | None]:
    result: list[TokenLogprobs | None] = [None] * len(seqs)
    wanted = [row for row, seq in enumerate(seqs) if seq.request.sampling.logprobs is not None]
    if wanted:
        counts = [seqs[row].request.sampling.logprobs or 0 for row in wanted]
        index = torch.tensor(wanted, device=logits.device)
        found = token_logprobs(logits[index], [tokens[row] for row in wanted], counts)
        for row, own in zip(wanted, found, strict=True):
            result[row] = own
    return result


def token_logprobs(logits: Tensor, tokens: Rows[int], counts: Rows[int]) -> list[TokenLogprobs]:
    """For each row of float32 logits [R, vocab]: the log-probability of tokens[i], and the
    counts[i] most likely alternatives, best first."""
    logprobs = logits.log_softmax(dim=1)
    own = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(max(counts), logits.shape[1]), dim=1)
    ids, values = best.indices.tolist(), best.values.tolist()
    return [
        TokenLogprobs(token, value, tuple(zip(row_ids[:count], row_values[:count], strict=True)))
        for token, value, row_ids, row_values, count in zip(
            tokens, own, ids, values, counts, strict=True
        )
    ]
