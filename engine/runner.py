"""Runs one step of a model: from what the scheduler chose to the next tokens.

Owned by the engine thread. Holds no state of its own between steps: the KV is in `KVMemory`, the
tokens are in the sequences. Nothing is changed in the sequences either; the scheduler does that.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.engine.batch import BatchItem, StepResult
from baton.engine.commands import LayersDone
from baton.engine.kv_memory import KVMemory
from baton.engine.layer_marks import LayerMarks
from baton.engine.models.llama import LlamaModel
from baton.engine.sampler import sample, token_logprobs
from baton.engine.sequence import Sequence
from baton.kernels.attention_batch import AttentionBatch, PrefillChunk
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request, TokenLogprobs
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# Prompt log-probabilities need logits for every prompt token; so many rows are made at a time.
_LOGPROB_ROWS = 128


class ModelRunner:
    def __init__(self, model: LlamaModel, memory: KVMemory) -> None:
        """`memory` has the layout that the model wants, on the model's device."""
        self.model = model
        self.memory = memory
        self.marks: LayerMarks | None = None
        """Told of layers in the midst of a step, if it wants to know."""
        self._block_size = memory.layout.block_size

    @torch.inference_mode()
    def step(self, items: Items[BatchItem]) -> StepResult:
        """Compute the KV of all items and draw a token where an item says so. The blocks of each
        sequence must cover its tokens up to num_computed + num_tokens."""
        result = StepResult(
            tokens=[None] * len(items),
            logprobs=[None] * len(items),
            prompt_logprobs=[None] * len(items),
        )
        if not items:
            return result
        # Decode rows come first, as AttentionBatch wants it; `order` finds the way back.
        order = sorted(range(len(items)), key=lambda index: items[index].num_tokens != 1)
        ordered = [items[index] for index in order]
        tokens, batch = self._prepare(ordered)
        after_layer = None if self.marks is None else self.marks.begin(ordered)
        hidden = self.model.forward(tokens, batch, self.memory.layer_views, after_layer)

        ends = np.cumsum([item.num_tokens for item in ordered])
        sampling = [place for place, item in enumerate(ordered) if item.sample]
        if sampling:
            rows = self._index(ends[sampling] - 1)
            logits = self.model.logits(hidden[rows])
            drawn, logprobs = sample(logits, [ordered[place].seq for place in sampling])
            for place, token, own in zip(sampling, drawn, logprobs, strict=True):
                result.tokens[order[place]] = token
                result.logprobs[order[place]] = own
        for place, item in enumerate(ordered):
            if item.seq.request.sampling.prompt_logprobs is not None:
                start = int(ends[place]) - item.num_tokens
                result.prompt_logprobs[order[place]] = self._prompt_logprobs(hidden, start, item)
        return result

    def tell_layers(self, publish: Callable[[LayersDone], None]) -> LayerMarks:
        """From now on, of those sequences that the returned marks are told to watch."""
        layout = self.memory.layout
        mark = _mark_on_device if self.model.device.type == "cuda" else None
        self.marks = LayerMarks(
            publish, block_size=layout.block_size, num_layers=layout.num_layers, mark=mark
        )
        return self.marks

    def warm_up(self, *, prefill_tokens: int = 64, batch: int = 16) -> None:
        """Run each kind of step once, so that the first request does not pay for what is set up
        at first use. Writes into any block of the pool, so call it before serving."""
        capacity = self.memory.num_blocks * self._block_size
        length = max(1, min(prefill_tokens, capacity))
        prompt = _warm_up_sequence(length, list(range(self._blocks_for(length))), computed=0)
        self.step([BatchItem(prompt, length, True)])
        for size in sorted({1, batch}):
            # They overwrite each other's blocks, which hurts nobody.
            rows = [
                _warm_up_sequence(length, prompt.block_ids, computed=length - 1)
                for _ in range(size)
            ]
            self.step([BatchItem(seq, 1, True) for seq in rows])

    # -- preparing -----------------------------------------------------------------------------

    def _prepare(self, items: Items[BatchItem]) -> tuple[Tensor, AttentionBatch]:
        """(token ids [T], batch) for items whose one-token ones come first."""
        num_decode = sum(item.num_tokens == 1 for item in items)
        decodes, chunks = items[:num_decode], items[num_decode:]
        tokens: list[int] = []
        positions: list[Int64] = []
        slots: list[Int64] = []

        contexts = np.array([item.seq.num_computed + 1 for item in decodes], np.int32)
        tables = self._tables(decodes, contexts)
        if num_decode:
            tokens += [item.seq.tokens[item.seq.num_computed] for item in decodes]
            last = contexts.astype(np.int64) - 1
            blocks = tables[np.arange(num_decode), last // self._block_size].astype(np.int64)
            positions.append(last)
            slots.append(blocks * self._block_size + last % self._block_size)

        prefills = []
        start = num_decode
        for item in chunks:
            seq, begin = item.seq, item.seq.num_computed
            end = begin + item.num_tokens
            chunk_blocks = np.array(seq.block_ids[: self._blocks_for(end)], np.int32)
            place = np.arange(begin, end, dtype=np.int64)
            tokens += seq.tokens[begin:end]
            positions.append(place)
            slots.append(
                chunk_blocks[place // self._block_size].astype(np.int64) * self._block_size
                + place % self._block_size
            )
            prefills.append(PrefillChunk(start, end - begin, end, self._index(chunk_blocks)))
            start += end - begin

        batch = AttentionBatch(
            positions=self._index(np.concatenate(positions)),
            slots=self._index(np.concatenate(slots)),
            num_decode=num_decode,
            block_tables=self._index(tables),
            context_lens=self._index(contexts),
            host_context_lens=tuple(contexts.tolist()),
            prefills=tuple(prefills),
        )
        return self._index(np.array(tokens, np.int64)), batch

    def _tables(self, decodes: Items[BatchItem], contexts: Int32) -> Int32:
        width = self._blocks_for(int(contexts.max(initial=0)))
        tables = np.zeros((len(decodes), width), np.int32)
        for row, item in enumerate(decodes):
            used = item.seq.block_ids[: self._blocks_for(item.seq.num_computed + 1)]
            tables[row, : len(used)] = used
        return tables

    def _blocks_for(self, tokens: int) -> int:
        return self.memory.layout.blocks_for(tokens)

    def _index(self, values: Int32 | Int64) -> Tensor:
        return torch.from_numpy(values).to(self.model.device, non_blocking=True)

    # -- prompt log-probabilities --------------------------------------------------------------

    def _prompt_logprobs(
        self, hidden: Tensor, start: int, item: BatchItem
    ) -> tuple[TokenLogprobs, ...] | None:
        """Of the prompt tokens that the rows from `start` on predict; None when there are none."""
        seq = item.seq
        first = seq.num_computed + 1
        targets = seq.tokens[first : min(first + item.num_tokens, seq.prompt_len)]
        if not targets:
            return None
        count = seq.request.sampling.prompt_logprobs or 0
        found: list[TokenLogprobs] = []
        for begin in range(0, len(targets), _LOGPROB_ROWS):
            part = targets[begin : begin + _LOGPROB_ROWS]
            rows = hidden[start + begin : start + begin + len(part)]
            found += token_logprobs(self.model.logits(rows), part, [count] * len(part))
        return tuple(found)


def _mark_on_device() -> Callable[[], bool]:
    event = torch.cuda.Event()
    event.record()
    return event.query


def _warm_up_sequence(length: int, blocks: list[int], *, computed: int) -> Sequence:
    request = Request(
        key=RequestKey("warm-up", 0),
        choice=0,
        prompt=pack_tokens([0] * length),
        sampling=SamplingParams(seed=0, max_tokens=1, temperature=1.0, top_p=0.9),
    )
    seq = Sequence.from_request(request, hold=False)
    seq.block_ids = blocks
    seq.num_computed = computed
    return seq
