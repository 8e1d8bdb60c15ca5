"""When to cut by layers, and how: the model of the pipe, exhaustively on small shapes, and the
decision over hand-offs that it predicts."""

from __future__ import annotations

import itertools

import pytest

from baton.kvtransfer.handoff.messages import (
    SMALLEST,
    Messages,
    can_cut,
    count_messages,
    cut_by_layers,
    layer_bytes,
)
from baton.kvtransfer.overlap import (
    _ENOUGH,
    _GIVEN_UP,
    _RECENT,
    Chunk,
    Cutting,
    Link,
    Observed,
    Overlap,
    predict_exposed,
)
from baton.protocol.curves import LinkCurve
from baton.protocol.ids import RequestKey
from baton.protocol.kvlayout import AXES, KVLayout
from baton.protocol.records import Grant, Scheme

CUTTING = Cutting(num_layers=30, block_bytes=1000)


def link(byte: float, latency: float = 0.0, message: float = 0.0) -> Link:
    return Link(LinkCurve(latency=latency, byte=byte, spread=0.1, transfers=9), message)


# -- cuts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
def test_every_layer_of_every_granted_block_is_in_one_message(staged: bool) -> None:
    for layers, blocks, step, cached, per_message, block_tokens in itertools.product(
        range(1, 7), range(6), range(8), range(3), (1, 2, 5), (1, 512, 4096)
    ):
        layout = KVLayout(layers, 1, 8, block_tokens, "float32")
        scheme = cut_by_layers(Scheme(per_message, staged), step, layout)
        grant = Grant(
            key=RequestKey("r", 0), operation=1, cached_blocks=cached,
            num_blocks=cached + blocks, first_tag=100, scheme=scheme,
        )  # fmt: skip
        messages = Messages.of(grant, layers)
        seen: list[tuple[int, int]] = []
        for message in range(messages.count):
            first, stop = messages.span(message)
            low, high = messages.layers(message) or (0, layers)
            assert 0 < (stop - first) * (high - low) <= per_message * layers
            seen += itertools.product(range(first, stop), range(low, high))
        assert sorted(seen) == list(
            itertools.product(range(cached, cached + blocks), range(layers))
        )
        assert messages.count == count_messages(blocks, scheme, layers)
        assert len({messages.tag(m) for m in range(messages.count)}) == messages.count


def test_layers_of_a_block_follow_each_other_first_layers_first() -> None:
    scheme = cut_by_layers(Scheme(2), 2, KVLayout(5, 8, 64, 64, "float32"))
    assert scheme == Scheme(2, layers_per_message=2)
    messages = Messages(0, 5, 7, scheme, 5)
    assert [(messages.span(m), messages.layers(m)) for m in range(messages.count)] == [
        (span, layers)
        for span in ((0, 2), (2, 4), (4, 5))
        for layers in ((0, 2), (2, 4), (4, 5))
    ]


def test_messages_stay_large_enough_to_wait_for_their_receive() -> None:
    for per_message, layers, step in itertools.product((1, 2, 64), (12, 30), (1, 2, 5)):
        layout = KVLayout(layers, 3, 64, 16, "float32")
        scheme = cut_by_layers(Scheme(per_message), step, layout)
        size = scheme.blocks_per_message * layout.block_bytes * step // layers
        assert size >= min(SMALLEST, per_message * layout.block_bytes // 2)
        assert scheme.blocks_per_message >= per_message


def test_a_group_of_layers_is_one_span_of_a_block_where_layers_come_first() -> None:
    layout = KVLayout(6, 2, 4, 8, "float32")
    assert can_cut(layout)
    assert layer_bytes(layout, (0, 6)) == (0, layout.block_bytes)
    assert layer_bytes(layout, (2, 3)) == (
        2 * layout.strides()["layer"] * 4, 3 * layout.strides()["layer"] * 4)  # fmt: skip
    assert not can_cut(KVLayout(1, 2, 4, 8, "float32"))
    assert not can_cut(KVLayout(6, 2, 4, 8, "float32", (AXES[1], AXES[0], *AXES[2:])))


# -- the model of the pipe ---------------------------------------------------------------------


def slow_pipe(
    chunks: tuple[Chunk, ...], byte: float, latency: float, groups: int, num_layers: int
) -> float:
    """The same in small steps of time: bytes leave one layer's worth at a time."""
    step = -(-num_layers // groups) if groups > 1 else num_layers
    count = -(-num_layers // step)
    ready: list[tuple[float, float]] = []
    now = 0.0
    for chunk in chunks:
        for group in range(count):
            ready.append((now + chunk.seconds * (group + 1) / count, chunk.blocks * 1000 / count))
        now += chunk.seconds
    clock, tick = 0.0, 0.001
    waiting = [(at, size) for at, size in ready if size]
    if not waiting:
        return 0.0
    while waiting:
        at, size = waiting[0]
        if at > clock + tick / 2:
            clock += tick
            continue
        clock += size * byte
        waiting.pop(0)
    return max(0.0, clock + latency - now)


def test_the_pipe_agrees_with_a_slow_one() -> None:
    for seconds, blocks, byte, layers in itertools.product(
        (0.05, 0.2), (0, 3, 40), (1e-6, 5e-6, 2e-5), (0, 15, 5, 1)
    ):
        chunks = (Chunk(seconds, blocks), Chunk(0.1, 10))
        groups = CUTTING.groups(layers)
        expected = slow_pipe(chunks, byte, 0.004, groups, 30)
        found = predict_exposed(chunks, link(byte, 0.004), CUTTING, layers)
        assert found == pytest.approx(expected, abs=0.02 * 0.3 + 0.005)


def test_cutting_hides_what_the_step_covers_and_no_more() -> None:
    chunk = (Chunk(1.0, 100),)
    for byte in (1e-6, 1e-5, 3e-5):
        whole = predict_exposed(chunk, link(byte), CUTTING)
        assert whole == pytest.approx(byte * 100_000)
        for layers in CUTTING.choices():
            groups = CUTTING.groups(layers)
            expected = max(whole / groups, whole - 1.0 + 1.0 / groups)
            assert predict_exposed(chunk, link(byte), CUTTING, layers) == pytest.approx(expected)


# -- the decision ------------------------------------------------------------------------------


def hand_off(
    pair: Overlap, way: Link, cutting: Cutting = CUTTING, *, slowed: float = 1.0,
    worse: float = 0.0,
) -> None:  # fmt: skip
    """One of 100 blocks in a chunk, which goes as the model says. `slowed`: the step, by cuts."""
    layers = pair.layers_per_message
    chunks = (Chunk(0.4 * (slowed if layers else 1.0), 100),)
    exposed = predict_exposed(chunks, way, cutting, layers) + (worse if layers else 0.0)
    pair.observe(Observed(chunks, exposed, layers), way)


def test_a_fast_link_is_left_alone() -> None:
    pair = Overlap(CUTTING)
    for _ in range(30):
        hand_off(pair, link(3e-7))  # 30 of 400 ms
    assert pair.layers_per_message == 0


def test_a_slow_link_is_cut_after_some_hand_offs_and_stays_so() -> None:
    pair = Overlap(CUTTING)
    chosen = []
    for _ in range(40):
        hand_off(pair, link(2e-6))  # 200 of 400 ms
        chosen.append(pair.layers_per_message)
    assert chosen[: _ENOUGH - 1] == [0] * (_ENOUGH - 1)
    assert chosen[-1] > 0
    assert len(set(chosen[_ENOUGH:])) == 1, "it makes up its mind once"
    gained = 0.2 - predict_exposed((Chunk(0.4, 100),), link(2e-6), CUTTING, chosen[-1])
    assert gained > 0.15


def test_whole_blocks_are_tried_again_now_and_then() -> None:
    pair = Overlap(CUTTING)
    chosen = []
    for _ in range(3 * _GIVEN_UP):
        hand_off(pair, link(2e-6))
        chosen.append(pair.layers_per_message > 0)
    assert 0 < chosen[2 * _ENOUGH :].count(False) <= 3 * _ENOUGH


def test_dear_messages_make_for_fewer_groups() -> None:
    large = Cutting(num_layers=30, block_bytes=10 << 20)  # so many messages come of many groups
    chosen = []
    for message in (0.0, 1e-4, 1e-3):
        pair = Overlap(large)
        for _ in range(9):
            hand_off(pair, link(2e-3 / large.block_bytes, message=message), large)
        chosen.append(large.groups(pair.layers_per_message))
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1] > 1


def test_it_goes_back_where_whole_blocks_would_do_by_far() -> None:
    pair = Overlap(CUTTING)
    for _ in range(9):
        hand_off(pair, link(2e-6))
    assert pair.layers_per_message
    for _ in range(2 * _RECENT):
        hand_off(pair, link(3e-7))  # 30 ms of 400: below a tenth, above half of it
    assert pair.layers_per_message, "no hunting around the border"
    for _ in range(2 * _RECENT):
        hand_off(pair, link(1e-7))
    assert pair.layers_per_message == 0


@pytest.mark.parametrize("harm", [{"slowed": 1.6}, {"worse": 0.3}])
def test_it_gives_up_where_cutting_does_not_help(harm: dict[str, float]) -> None:
    pair = Overlap(CUTTING)
    cut = 0
    for _ in range(_GIVEN_UP // 2):
        hand_off(pair, link(2e-6), **harm)
        cut += pair.layers_per_message > 0
    assert pair.layers_per_message == 0
    assert _ENOUGH <= cut <= _RECENT + 1
    for _ in range(_GIVEN_UP):
        hand_off(pair, link(2e-6))
    assert pair.layers_per_message > 0, "and tries again later"


def test_without_a_link_or_a_prefill_nothing_is_concluded() -> None:
    pair = Overlap(CUTTING)
    for _ in range(9):
        pair.observe(Observed((Chunk(0.4, 100),), 0.3, 0), None)
        pair.observe(Observed((Chunk(0.0, 100),), 0.3, 0), link(2e-6))
    assert pair.layers_per_message == 0


def test_a_fixed_number_of_groups_is_kept() -> None:
    for fixed, layers in ((1, 0), (2, 15), (4, 8), (100, 1)):
        pair = Overlap(CUTTING, fixed)
        for _ in range(9):
            hand_off(pair, link(2e-6))
        assert pair.layers_per_message == layers
