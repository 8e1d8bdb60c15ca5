"""Which KV layouts can be mapped onto each other."""

from __future__ import annotations

import itertools

import pytest

from baton.protocol.kvlayout import AXES, KVLayout, why_unmappable

BASE = KVLayout(2, 4, 8, 16, "float32")


def test_block_size_and_order_of_axes_are_no_hindrance() -> None:
    for axes, block_size in itertools.product(itertools.permutations(AXES), (1, 8, 16, 48)):
        other = KVLayout(2, 4, 8, block_size, "float32", axes)
        assert why_unmappable(BASE, other) is None
        assert why_unmappable(other, BASE) is None


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (KVLayout(2, 4, 8, 16, "bfloat16"), "dtype differs: float32 at the source, bfloat16"),
        (KVLayout(3, 4, 8, 16, "float32"), "number of layers differs: 2 at the source, 3"),
        (KVLayout(2, 4, 16, 16, "float32"), "head dimension differs: 8 at the source, 16"),
        (KVLayout(2, 8, 8, 16, "float32"), "heads 0 to 7 are wanted, the source has 0 to 3"),
    ],
)
def test_what_cannot_be_copied_exactly_is_named(other: KVLayout, text: str) -> None:
    why = why_unmappable(BASE, other)
    assert why is not None
    assert text in why


def test_the_source_must_hold_the_heads_of_the_destination() -> None:
    half = KVLayout(2, 2, 8, 16, "float32")
    assert why_unmappable(BASE, half) is None
    assert why_unmappable(half, BASE) is not None
    for first in range(8):
        why = why_unmappable(BASE, half, range(2, 6), range(first, first + 2))
        assert (why is None) == (first in (2, 3, 4))
    with pytest.raises(ValueError, match="are not the 4 KV heads"):
        why_unmappable(BASE, half, range(3))
