"""A model runner without a model, which knows what lies in every slot of its KV memory.

The next token is a function of all tokens before it. A slot holds the digest of the tokens up to
it, so a step that reads a block which was never written, or was reused by somebody else, raises
`StaleBlock` instead of going unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

from baton.engine.batch import BatchItem, StepResult
from baton.protocol.records import TokenLogprobs

VOCAB = 50


class StaleBlock(AssertionError):
    """A block does not hold what the sequence that reads it computed."""


def digests(tokens: Sequence[int]) -> list[int]:
    """Entry i stands for tokens[: i + 1]."""
    result: list[int] = []
    digest = 0
    for token in tokens:
        digest = crc32(token.to_bytes(4, "little"), digest)
        result.append(digest)
    return result


def next_token(tokens: Sequence[int]) -> int:
    return digests(tokens)[-1] % VOCAB


def undisturbed(prompt: Sequence[int], count: int) -> list[int]:
    """The output of a sequence that nothing ever happened to."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeRunner:
    """`before_step(items)` may raise or wait. `sizes` records the tokens of each item of each
    step. A block is [layer, slot]; what is in a slot differs from layer to layer."""

    def __init__(self, num_blocks: int, block_size: int, num_layers: int = 1) -> None:
        self.block_size = block_size
        self.num_layers = num_layers
        self.memory: list[list[int | None]] = [
            [None] * (num_layers * block_size) for _ in range(num_blocks)
        ]
        self.before_step: Callable[[Sequence[BatchItem]], None] = lambda items: None
        self.sizes: list[list[int]] = []

    def step(self, items: Sequence[BatchItem]) -> StepResult:
        self.before_step(items)
        self.sizes.append([item.num_tokens for item in items])
        tokens: list[int | None] = []
        prompt_logprobs: list[tuple[TokenLogprobs, ...] | None] = []
        for item in items:
            seq = item.seq
            start, end = seq.num_computed, seq.num_computed + item.num_tokens
            assert item.num_tokens > 0
            assert end <= len(seq.tokens)
            assert item.sample == (
                end == len(seq.tokens) and seq.request.sampling.max_tokens > 0
            )
            self.fill(seq.block_ids, seq.tokens, start, end)
        for item in items:  # reads come after all writes, as they may in one real step
            seq = item.seq
            end = seq.num_computed + item.num_tokens
            self.check(seq.block_ids, seq.tokens, end)
            tokens.append(next_token(seq.tokens) if item.sample else None)
            wanted = seq.request.sampling.prompt_logprobs is not None
            prompt_logprobs.append(
                tuple(
                    TokenLogprobs(token, -1.0, ())
                    for token in seq.tokens[seq.num_computed + 1 : end + 1]
                )
                if wanted
                else None
            )
        return StepResult(tokens, [None] * len(items), prompt_logprobs)

    def compute_layer(self, items: Sequence[BatchItem], layer: int) -> None:
        """A part of a step, before the whole of it: only this layer is written."""
        for item in items:
            seq = item.seq
            start = seq.num_computed
            self._fill(seq.block_ids, seq.tokens, start, start + item.num_tokens, layer)

    def fill(self, blocks: Sequence[int], tokens: Sequence[int], start: int, end: int) -> None:
        """Write the KV of tokens[start:end]."""
        for layer in range(self.num_layers):
            self._fill(blocks, tokens, start, end, layer)

    def _fill(
        self, blocks: Sequence[int], tokens: Sequence[int], start: int, end: int, layer: int
    ) -> None:
        wanted = digests(tokens)
        for position in range(start, end):
            block, slot = divmod(position, self.block_size)
            place = layer * self.block_size + slot
            self.memory[blocks[block]][place] = wanted[position] + layer

    def check(self, blocks: Sequence[int], tokens: Sequence[int], end: int) -> None:
        """Raises StaleBlock unless the KV of tokens[:end] is in `blocks`."""
        for position, wanted in enumerate(digests(tokens)[:end]):
            block, slot = divmod(position, self.block_size)
            column = self.memory[blocks[block]][slot :: self.block_size]
            if any(value != wanted + layer for layer, value in enumerate(column)):
                raise StaleBlock(f"block {blocks[block]} is wrong at position {position}")
