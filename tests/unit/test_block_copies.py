"""Copies of scattered blocks on a thread of their own, in C and without it; and what is said about
them between processes."""

from __future__ import annotations

import asyncio
from array import array

import numpy as np
import pytest
from transports import until

from baton.kernels.native.copying import PythonCopier, Rows, make_copier
from baton.kvtransfer.shared import wire
from baton.kvtransfer.shared.wire import Offer, unpack

SIZE = 3 << 20


def test_what_is_no_message_is_refused() -> None:
    data = wire.pack_offer(1, 5, 1, 4096, 4096, 4096, array("I", [0, 1]))
    offer = unpack(data)
    assert isinstance(offer, Offer)
    assert offer.fits(3 * 4096)
    assert not offer.fits(3 * 4096 - 1)
    for wrong in (b"", b"\xff", data[:-1], data[:20], b"\x07abc", b"\x01short"):
        with pytest.raises(wire.WireError):
            unpack(wrong)


@pytest.mark.parametrize("native", [True, False])
async def test_copies_fit_any_rows(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of any width, stride and place, in C and without it."""
    loop = asyncio.get_running_loop()
    copier = make_copier(loop) if native else PythonCopier(loop)
    if native and copier.name != "native":
        copier.close()
        pytest.skip("no C compiler here")
    lane = copier.lane()
    draw = np.random.default_rng(11)
    memory = draw.integers(0, 256, 1 << 20, dtype=np.uint8)
    for _ in range(60):
        wide, narrow = (int(each) for each in draw.integers(1, 3000, 2))
        size = wide * int(draw.integers(1, 40))
        count = -(-size // narrow)
        pad, start = (int(each) for each in draw.integers(0, 70, 2))
        target = np.full(start + (narrow + pad) * (count + 3), 9, np.uint8)
        order = draw.permutation(count + 3)[:count].astype(np.uint32)
        picked = draw.permutation((len(memory) - start) // (wide + pad))[: size // wide]
        source = Rows(memory.ctypes.data + start, wide + pad, wide,
                      array("I", picked.astype(np.uint32).tobytes()))
        into = Rows(target.ctypes.data + start, narrow + pad, narrow,
                    array("I", order.tobytes()))
        done: list[int] = []
        copier.submit(lane, source, into, size, lambda done=done: done.append(1), None)
        await until(lambda done=done: done, "the copy")
        wanted = np.concatenate(
            [memory[start + i * (wide + pad) :][:wide] for i in picked.tolist()]
        )
        expected = np.full_like(target, 9)
        for row, place in enumerate(order.tolist()):
            piece = wanted[row * narrow : (row + 1) * narrow]
            at = start + place * (narrow + pad)
            expected[at : at + len(piece)] = piece
        assert np.array_equal(target, expected)
    copier.end_lane(lane)
    copier.close()
    copier.close()


@pytest.mark.parametrize("native", [True, False])
async def test_a_sender_with_little_does_not_wait_for_one_with_much(native: bool) -> None:
    """Lanes take turns. In the order of submission, the small copy would always be the last."""
    loop = asyncio.get_running_loop()
    copier = make_copier(loop) if native else PythonCopier(loop)
    source, target = np.ones(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    one = array("I", [0])
    places = []
    for _ in range(20):
        much, little = copier.lane(), copier.lane()
        order: list[str] = []
        rows = (Rows(source.ctypes.data, 0, SIZE, one), Rows(target.ctypes.data, 0, SIZE, one))
        for _ in range(30):
            copier.submit(much, *rows, SIZE, lambda order=order: order.append("much"))
        copier.submit(little, *rows, 100, lambda order=order: order.append("little"))
        await until(lambda order=order: len(order) == 31, "all copies")
        places.append(order.index("little"))
        for lane in (much, little):
            copier.end_lane(lane)
        if places[-1] < 30:
            break
    assert min(places) < 30, places
    copier.close()
