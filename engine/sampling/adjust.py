"""What changes logits before anything is drawn: penalties, bias, and the ban on ending early.

Everything is rebuilt from (request, tokens) at each step; no state is kept between steps.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.engine.sequence import Sequence

_FLOAT32 = np.finfo(np.float32)
_FAR = float(_FLOAT32.max) / 4
"""As far as a penalty moves a logit: differences between logits stay finite."""


def needs_adjustment(seq: Sequence) -> bool:
    params = seq.request.sampling
    return (
        bool(params.logit_bias)
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or seq.num_output < params.min_tokens
    )


def adjust_logits(logits: Tensor, seqs: Rows[Sequence]) -> None:
    """In place on float32 [R, vocab]: penalties, then bias, then bans; row i belongs to
    seqs[i]."""
    _apply_penalties(logits, seqs)
    _apply_bias(logits, seqs)
    _ban_early_end(logits, seqs)


def end_ids(seq: Sequence) -> tuple[int, ...]:
    """The ids that end this sequence."""
    params = seq.request.sampling
    eos = () if params.ignore_eos else seq.request.eos_token_ids
    return (*eos, *params.stop_token_ids)


def _apply_penalties(logits: Tensor, seqs: Rows[Sequence]) -> None:
    for row, seq in enumerate(seqs):
        params = seq.request.sampling
        if params.repetition_penalty != 1.0:
            seen = _on(logits, np.unique(np.asarray(seq.tokens, np.int64)))
            values = logits[row, seen]
            penalty = max(params.repetition_penalty, float(_FLOAT32.tiny))
            changed = torch.where(values > 0, values / penalty, values * penalty)
            logits[row, seen] = changed.clamp_(-_FAR, _FAR)
        if (params.presence_penalty or params.frequency_penalty) and seq.num_output:
            output = np.asarray(seq.tokens[seq.prompt_len :], np.int64)
            unique, counts = np.unique(output, return_counts=True)
            penalties = params.presence_penalty + params.frequency_penalty * counts
            logits[row, _on(logits, unique)] -= _on(logits, penalties.astype(np.float32))


def _apply_bias(logits: Tensor, seqs: Rows[Sequence]) -> None:
    rows, ids, values = [], [], []
    for row, seq in enumerate(seqs):
        for token, bias in seq.request.sampling.logit_bias:
            rows.append(row)
            ids.append(token)
            values.append(bias)
    if rows:
        device = logits.device
        index = (torch.tensor(rows, device=device), torch.tensor(ids, device=device))
        bias_values = torch.tensor(values, dtype=logits.dtype, device=device)
        logits.index_put_(index, bias_values, accumulate=True)


def _ban_early_end(logits: Tensor, seqs: Rows[Sequence]) -> None:
    rows: list[int] = []
    ids: list[int] = []
    for row, seq in enumerate(seqs):
        if seq.num_output < seq.request.sampling.min_tokens:
            banned = end_ids(seq)
            if len(banned) >= logits.shape[1] and len(set(banned)) >= logits.shape[1]:
                continue  # something has to be drawn
            rows += [row] * len(banned)
            ids += banned
    if rows:
        device = logits.device
        logits[torch.tensor(rows, device=device), torch.tensor(ids, device=device)] = float("-inf")


def _on(logits: Tensor, values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).to(logits.device)
