"""The probe of schemes, over a transport of this process; and the rule that stands without it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from transports import Ends, until

from baton.kvtransfer import probe
from baton.kvtransfer.probe import (
    CLEARLY,
    FAR_MORE,
    ProbeReceiver,
    ProbeResult,
    answer_probe,
    candidates,
    choose,
    rule,
)
from baton.kvtransfer.tags import TagIssuer
from baton.protocol.records import DIRECT, Probe, ProbeRound, Scheme
from baton.protocol.wire import from_wire, to_wire


@pytest.mark.parametrize("name", ["inproc", "ucx"])
@pytest.mark.parametrize("block_bytes", [96, 12 << 10, 360 << 10, 8 << 20])
async def test_a_probe_tries_every_candidate(
    name: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = probe.SCRATCH_NEAR if block_bytes > 96 else 1 << 16  # or it is 43,690 messages
    monkeypatch.setattr(probe, "SCRATCH_NEAR", scratch)
    ends = Ends(name)
    results: list[ProbeResult] = []
    receiver = ProbeReceiver(ends.b, TagIssuer().issue, block_bytes, results.append)
    record = receiver.start(same_host=True)
    told = from_wire(to_wire(record))
    assert told == record
    assert isinstance(told, Probe)
    answer_probe(told, ends.to_b, ends.a)
    await until(lambda: results, "the probe's result")
    (result,) = results
    assert [scheme for scheme, _ in result.rates] == candidates(block_bytes, scratch)
    assert all(rate > 0 for _, rate in result.rates)
    assert result.chosen == choose(result.rates)
    size = told.block_bytes * told.num_blocks
    assert ends.a.bytes_sent() == {ends.to_b.carriers: size * len(told.rounds)}
    assert ends.b.totals.received.failures == 0
    await ends.close()


@pytest.mark.parametrize("block_bytes", [12 << 10, 360 << 10, 8 << 20])
async def test_what_is_pulled_is_tried_beside_the_rest(block_bytes: int) -> None:
    ends = Ends("shared")
    results: list[ProbeResult] = []
    receiver = ProbeReceiver(ends.b, TagIssuer().issue, block_bytes, results.append)
    record = receiver.start(same_host=True)
    assert isinstance(record, Probe)
    answer_probe(record, ends.to_b, ends.a)
    await until(lambda: results, "the probe's result")
    (result,) = results
    tried = candidates(block_bytes, 4 << 20, pulls=True)
    assert [scheme for scheme, _ in result.rates] == tried
    pulled = [each.scheme.pulled for each in record.rounds]
    assert pulled[0]
    assert True in pulled[1:]
    assert False in pulled
    # No round's first message comes after its last.
    assert all(0 < each.begun <= each.ended for each in receiver._rounds)
    size = record.block_bytes * record.num_blocks
    begins = len(pulled) - sum(pulled)
    assert ends.a.bytes_sent()["shared"] == size * sum(pulled)
    assert sum(ends.a.bytes_sent().values()) == size * len(pulled) + begins
    assert ends.b.totals.received.failures == 0
    await ends.close()


async def test_a_round_that_was_found_all_at_once_is_as_long_as_it_can_have_been() -> None:
    """Its receiver stood still meanwhile."""
    ends = Ends("inproc")
    results: list[ProbeResult] = []
    receiver = ProbeReceiver(ends.b, TagIssuer().issue, 4 << 20, results.append)
    receiver.start(same_host=True)
    for number, state in enumerate(receiver._rounds):
        state.begun, state.ended = number + 0.99, number + 1.0
    receiver._rounds[2].begun = receiver._rounds[2].ended
    receiver._report()
    rates = [rate for _, rate in results[0].rates]
    size = 4 << 20
    assert rates == pytest.approx([size / 0.01, size / 1.0, *[size / 0.01] * (len(rates) - 2)])
    await ends.close()


def test_ucx_displaces_what_is_pulled_only_if_far_faster() -> None:
    pulled, other, plain = Scheme(4, pulled=True), Scheme(1, pulled=True), Scheme(4)
    assert choose([(pulled, 10.0), (other, 11.0), (plain, 10.0 * FAR_MORE)]) == pulled
    assert choose([(pulled, 10.0), (other, 13.0), (plain, 38.0)]) == other
    assert choose([(pulled, 10.0), (other, 9.0), (plain, 31.0)]) == plain


async def test_nonsense_is_refused_and_costs_no_memory() -> None:
    ends = Ends("inproc")
    good = ProbeRound(DIRECT, 1)
    for wrong in (
        Probe(first_tag=1, block_bytes=1 << 40, num_blocks=1 << 20, rounds=(good,)),
        Probe(first_tag=1, block_bytes=0, num_blocks=1, rounds=(good,)),
        Probe(first_tag=1, block_bytes=-8, num_blocks=-8, rounds=(good,)),
        Probe(first_tag=1, block_bytes=8, num_blocks=8, rounds=(ProbeRound(Scheme(0, False), 1),)),
        Probe(first_tag=1, block_bytes=8, num_blocks=8, rounds=()),
    ):
        with pytest.raises(ValueError, match="a probe of"):
            answer_probe(wrong, ends.to_b, ends.a)
    await asyncio.sleep(0)
    assert sum(ends.a.bytes_sent().values()) == 0
    await ends.close()


def test_only_a_clear_winner_displaces_what_is_preferred() -> None:
    first, second, third = Scheme(4, False), Scheme(16, False), DIRECT
    assert choose([(first, 10.0), (second, 10.0 * CLEARLY), (third, 11.0)]) == first
    assert choose([(first, 10.0), (second, 13.0), (third, 14.0)]) == second
    assert choose([(first, 1.0), (second, 2.0), (third, 9.0)]) == third


@pytest.mark.parametrize("block_bytes", np.geomspace(1, 64 << 20, 40).astype(int).tolist())
def test_the_rule_fits_what_it_is_for(block_bytes: int) -> None:
    host, device = rule(block_bytes, scatters=True), rule(block_bytes, scatters=False)
    assert not host.staged
    assert host.blocks_per_message * block_bytes <= 1 << 20 or host.blocks_per_message == 1
    assert device == DIRECT or (device.staged and block_bytes < 128 << 10)
    assert host == candidates(block_bytes, 4 << 20)[0]
    pulled, converted = (
        rule(block_bytes, scatters=True, pulls=True, converts=each) for each in (False, True)
    )
    assert pulled.pulled
    assert pulled == candidates(block_bytes, 4 << 20, pulls=True)[0]
    assert converted.pulled
    assert converted.blocks_per_message == host.blocks_per_message, "fits into a staging buffer"
    assert rule(block_bytes, scatters=False, pulls=True) == device
