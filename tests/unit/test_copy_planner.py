"""Planned copies against a plain oracle: every pair of small layouts, heads, offsets and counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from baton.kvtransfer.conversion import Converter, Cut
from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.planner import Side, Span, plan_copies
from baton.protocol.kvlayout import AXES, KVLayout

LAYERS, HEADS, DIM = 2, 3, 2
ORDERS = list(itertools.permutations(AXES))


def layout(block_size: int, heads: int, axes: tuple[str, ...], dtype: str = "float32") -> KVLayout:
    return KVLayout(LAYERS, heads, DIM, block_size, dtype, axes)


def elements(side: KVLayout, num_blocks: int, start: int = 0) -> np.ndarray:
    count = num_blocks * side.block_elements
    return np.arange(start, start + count, dtype=np.int32).reshape(num_blocks, -1)


def vector(memory: np.ndarray, side: Side, layer: int, kv: int, head: int, token: int):  # type: ignore[no-untyped-def]
    """The oracle: one head's vector of one token, by the meaning of the axes alone."""
    index, within = divmod(side.first_token + token, side.layout.block_size)
    block = memory[side.blocks[index]].reshape(side.layout.shape)
    first = side.heads.start if side.heads is not None else 0
    place = {"layer": layer, "kv": kv, "head": head - first, "token": within, "dim": slice(None)}
    return block[tuple(place[axis] for axis in side.layout.axes)]


def carry_out(spans: list[Span], source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How often each byte of the target was written."""
    of, to = source.view(np.uint8), target.view(np.uint8)
    written = np.zeros(to.shape, np.uint8)
    for span in spans:
        assert span.length > 0
        there = (span.destination_block, slice(span.destination_offset,
                                               span.destination_offset + span.length))
        here = slice(span.source_offset, span.source_offset + span.length)
        assert span.source_offset + span.length <= of.shape[1]
        assert span.destination_offset + span.length <= to.shape[1]
        to[there] = of[span.source_block, here]
        written[there] += 1
    return written


def check(source: Side, destination: Side, num_tokens: int) -> list[Span]:
    spans = plan_copies(source, destination, num_tokens)
    of = elements(source.layout, max(source.blocks) + 1)
    to = np.full((max(destination.blocks) + 1, destination.layout.block_elements), -1, np.int32)
    written = carry_out(spans, of, to)
    expected = np.full_like(to, -1)
    heads = destination.heads or range(destination.layout.num_kv_heads)
    for layer, kv, head, token in itertools.product(
        range(LAYERS), (0, 1), heads, range(num_tokens)
    ):
        vector(expected, destination, layer, kv, head, token)[:] = vector(
            of, source, layer, kv, head, token)
    assert np.array_equal(to, expected)
    assert written.max(initial=0) <= 1
    for one, other in itertools.pairwise(spans):
        order = destination.blocks.index
        assert (order(one.destination_block), one.destination_offset) < (
            order(other.destination_block), other.destination_offset)
        joins = (
            one.source_block == other.source_block
            and one.destination_block == other.destination_block
            and one.source_offset + one.length == other.source_offset
            and one.destination_offset + one.length == other.destination_offset
        )
        assert not joins, "two spans that could be one"
    return spans


@pytest.mark.parametrize("source_axes", ORDERS)
def test_every_pair_of_axes(source_axes: tuple[str, ...]) -> None:
    for axes in ORDERS:
        check(Side(layout(2, HEADS, source_axes), (4, 1)), Side(layout(3, HEADS, axes), (0, 2)), 4)


@pytest.mark.parametrize("source_size", [1, 2, 3, 4])
def test_every_size_offset_and_count(source_size: int) -> None:
    for size in (1, 2, 3, 4):
        for of_first, to_first in itertools.product(range(source_size), range(size)):
            for tokens in range(7):
                of_blocks = tuple(range(7, 7 - max(1, -(-(of_first + tokens) // source_size)), -1))
                to_blocks = tuple(range(max(1, -(-(to_first + tokens) // size))))
                check(
                    Side(layout(source_size, 1, AXES), of_blocks, of_first),
                    Side(layout(size, 1, AXES), to_blocks, to_first),
                    tokens,
                )


def test_every_range_of_heads() -> None:
    """Both sides hold some heads of a model of 6; the source at least the destination's."""
    for axes in (AXES, ("token", "layer", "kv", "head", "dim"), ("dim", "head", "kv", "layer",
                                                                  "token")):
        for low, high in itertools.combinations(range(7), 2):
            for first, last in itertools.combinations(range(low, high + 1), 2):
                check(
                    Side(layout(2, high - low, AXES), (0, 1), 0, range(low, high)),
                    Side(layout(2, last - first, axes), (1, 0), 1, range(first, last)),
                    3,
                )


def test_equal_layouts_are_one_span_a_block() -> None:
    same = layout(4, HEADS, AXES)
    spans = check(Side(same, (3, 0)), Side(same, (1, 2)), 8)
    assert spans == [
        Span(3, 0, 1, 0, same.block_bytes), Span(0, 0, 2, 0, same.block_bytes)]


def test_what_cannot_be_planned_is_refused() -> None:
    good = layout(4, HEADS, AXES)
    with pytest.raises(ValueError, match="dtype differs"):
        plan_copies(Side(good, (0,)), Side(layout(4, HEADS, AXES, "bfloat16"), (0,)), 1)
    with pytest.raises(ValueError, match="KV heads 0 to 2 are wanted"):
        plan_copies(Side(layout(4, 2, AXES), (0,)), Side(good, (0,)), 1)
    with pytest.raises(ValueError, match="5 tokens, room for 4 at the source"):
        plan_copies(Side(good, (0,)), Side(good, (0, 1)), 5)
    with pytest.raises(ValueError, match="room for 3 at the source"):
        plan_copies(Side(good, (0,), 1), Side(good, (0,)), 4)


@pytest.mark.parametrize("axes", [AXES, ("token", "layer", "kv", "head", "dim"),
                                  ("kv", "dim", "token", "layer", "head")])
@pytest.mark.parametrize("size", [1, 3, 4, 6])
def test_messages_hold_what_the_plan_says(size: int, axes: tuple[str, ...]) -> None:
    """What lies beyond the sender's blocks is zeros, not another request's KV."""
    source, destination = layout(4, HEADS, AXES), layout(size, HEADS, axes)
    memory = elements(source, 6, start=1)
    converter = Converter(source, destination)
    blocks = [5, 2, 3]
    for skip, count in itertools.product(range(4), range(1, 5)):
        cut = Cut(skip, count)
        out = np.full(converter.message_bytes(cut), 7, np.uint8)
        for _ in range(2):  # the second time from the cached plan
            converter.gather(blocks_of(memory.view(np.uint8)), blocks, cut, out)
        expected = np.zeros((count, destination.block_elements), np.int32)
        of, to = Side(source, tuple(blocks), skip), Side(destination, tuple(range(count)))
        spans = plan_copies(of, to, min(of.room, to.room))
        carry_out(spans, memory, expected)
        assert np.array_equal(out.view(np.int32).reshape(expected.shape), expected)
        assert expected.any()


def test_a_converter_refuses_what_cannot_be_mapped() -> None:
    with pytest.raises(ValueError, match="head dimension differs"):
        Converter(layout(4, HEADS, AXES), KVLayout(LAYERS, HEADS, 4, 4, "float32"))
