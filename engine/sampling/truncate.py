"""top-k, top-p and min-p: which tokens stay in the draw.

In the order min-p, top-k, top-p, each on the distribution that the one before leaves. All three
keep a prefix of the tokens sorted by probability, so together they come down to one threshold per
row. Tokens as likely as the last one kept stay too, so that the result does not depend on the
order in which a sort happens to leave equals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baton.protocol.sampling import SamplingParams

# Most distributions are decided by their first few tokens, and finding these is 25 times faster
# than sorting a vocabulary. Rows that are not are looked at again, wider each time.
_FIRST_LOOK = 256
_WIDER = 16


def truncates(params: SamplingParams, vocab: int) -> bool:
    return 0 < params.top_k < vocab or params.top_p < 1.0 or params.min_p > 0.0


def truncate(probs: Tensor, params: Sequence[SamplingParams]) -> None:
    """Zero in place what is cut from float32 probabilities [R, vocab]; does not renormalise."""
    vocab = probs.shape[1]
    pending = [row for row, own in enumerate(params) if truncates(own, vocab)]
    width = min(vocab, _FIRST_LOOK)
    while pending:
        index = torch.tensor(pending, device=probs.device)
        chosen = probs[index]
        top = chosen.topk(width, dim=1).values
        kept, decided = _kept(top, [params[row] for row in pending], vocab)
        threshold = top.gather(1, kept[:, None] - 1)
        # An undecided row keeps everything for now.
        threshold.masked_fill_(~decided[:, None], 0.0)
        probs[index] = chosen.masked_fill_(chosen < threshold, 0.0)
        pending = [row for row, done in zip(pending, decided.tolist(), strict=True) if not done]
        width = min(vocab, width * _WIDER)


def _kept(top: Tensor, params: Sequence[SamplingParams], vocab: int) -> tuple[Tensor, Tensor]:
    """How many of the leading probabilities [R, width] stay, int64 [R], at least 1; and whether
    the width was enough to tell, bool [R]."""
    device, width = top.device, top.shape[1]
    top_k = torch.tensor([own.top_k or vocab for own in params], device=device).clamp(max=vocab)
    top_p = torch.tensor([own.top_p for own in params], dtype=torch.float64, device=device)
    min_p = torch.tensor([own.min_p for own in params], dtype=torch.float32, device=device)

    by_min_p = (top >= min_p[:, None] * top[:, :1]).sum(1)
    unlimited = torch.where(min_p > 0, by_min_p, vocab)
    count = torch.minimum(unlimited, top_k).clamp(min=1)
    # A count that reaches the edge may go on beyond it.
    known = (count < width) | (top_k <= width) | torch.tensor(width == vocab, device=device)

    mass = top.double().cumsum(1)
    within = mass.gather(1, (count.clamp(max=width) - 1)[:, None])
    within = torch.where((count >= vocab)[:, None] & (width < vocab), 1.0, within)
    known |= count >= vocab
    # Kept as long as what comes before it falls short of top_p.
    before = mass - top
    by_top_p = (before < top_p[:, None] * within).sum(1)
    by_top_p = torch.where(top_p >= 1.0, count, by_top_p.clamp(min=1))
    kept = torch.minimum(count, by_top_p)
    decided = known & ((kept < width) | (count <= width) | (width == vocab))
    return kept.clamp(min=1, max=width), decided
