"""Staging buffers: bounded, in order, replaced when lost."""

from __future__ import annotations

import pytest

from baton.kvtransfer.staging import StagingBuffers


def test_those_who_wait_are_served_in_order_and_buffers_are_used_again() -> None:
    buffers = StagingBuffers(64, 2)
    got: list[tuple[str, int]] = []
    held = []

    def use(name: str):  # type: ignore[no-untyped-def]
        def taken(buffer) -> None:  # type: ignore[no-untyped-def]
            got.append((name, id(buffer)))
            held.append(buffer)

        return taken

    for name in "abcd":
        buffers.take(use(name))
    assert [name for name, _ in got] == ["a", "b"]
    assert buffers.waiting == 2
    with pytest.raises(AssertionError):
        buffers.check_integrity()
    buffers.give_back(held[1])
    buffers.give_back(held[0])
    assert [name for name, _ in got] == ["a", "b", "c", "d"]
    assert len({address for _, address in got}) == 2
    assert buffers.allocated_bytes == 128
    for buffer in held[2:]:
        buffers.give_back(buffer)
    buffers.check_integrity()


def test_lost_buffers_are_replaced_up_to_as_many_again() -> None:
    buffers = StagingBuffers(8, 2)
    held = []
    for _ in range(10):
        buffers.take(held.append)
        if len(held) <= 4:
            buffers.lose()
    assert len(held) == 4, "two, and two in place of lost ones"
    assert buffers.waiting == 6
    for _ in range(2):
        buffers.forget(was_lost=True)
    for buffer in held[:2]:
        buffers.give_back(buffer, was_lost=True)
    while buffers.waiting:
        buffers.give_back(held.pop())
    assert buffers.allocated_bytes <= 2 * 8 * 2


def test_a_lost_buffer_that_comes_back_leaves_no_more_than_before() -> None:
    buffers = StagingBuffers(8, 1)
    first, second = [], []
    buffers.take(first.append)
    buffers.lose()
    buffers.take(second.append)
    assert buffers.allocated_bytes == 16
    buffers.give_back(first[0], was_lost=True)
    assert buffers.allocated_bytes == 8
    buffers.give_back(second[0])
    buffers.check_integrity()
    assert buffers.allocated_bytes == 8
