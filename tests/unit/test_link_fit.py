"""Fitting link curves: latency and bandwidth of each peer."""

from __future__ import annotations

import math
import random

import pytest

from baton.kvtransfer.link_fit import LinkFit, LinkFits


def transfer(rng: random.Random, latency: float, byte: float) -> tuple[int, float]:
    num_bytes = int(2 ** rng.uniform(12, 27))
    seconds = (latency + byte * num_bytes) * math.exp(rng.gauss(0, 0.1))
    return num_bytes, seconds * (rng.uniform(10, 100) if rng.random() < 0.05 else 1)


@pytest.mark.parametrize(("latency", "byte"), [(20e-6, 1e-10), (2e-3, 1e-9), (1e-4, 8e-9)])
@pytest.mark.parametrize("seed", range(3))
def test_latency_and_bandwidth_come_back(latency: float, byte: float, seed: int) -> None:
    rng = random.Random(seed)
    fit = LinkFit()
    for _ in range(300):
        fit.observe(*transfer(rng, latency, byte))
    curve = fit.curve()
    assert curve.latency == pytest.approx(latency, rel=0.15)
    assert curve.byte == pytest.approx(byte, rel=0.1)
    assert 0.05 < curve.spread < 0.2
    low, high = curve.interval(1 << 20)
    assert low < latency + byte * (1 << 20) < high


def test_transfers_of_one_size_tell_about_that_size() -> None:
    rng = random.Random(3)
    fit = LinkFit()
    for _ in range(100):
        fit.observe(1 << 20, 1.5e-3 * math.exp(rng.gauss(0, 0.1)))
    assert fit.curve().seconds(1 << 20) == pytest.approx(1.5e-3, rel=0.05)
    known = fit.curve().interval(1 << 20)
    unknown = fit.curve().interval(1 << 30)
    assert unknown[1] / unknown[0] > 1.1 * known[1] / known[0]


def test_each_peer_has_its_own_and_the_idle_ones_go_first() -> None:
    fits: LinkFits[str] = LinkFits(limit=2)
    fits.observe("near", 1000, 1e-3)
    fits.observe("far", 1000, 1.0)
    fits.observe("near", 1000, 1e-3)
    assert [peer for peer, _ in fits.curves()] == ["far", "near"]
    fits.observe("new", 1000, 1e-2)
    assert [peer for peer, _ in fits.curves()] == ["near", "new"]
    near, new = (curve for _, curve in fits.curves())
    assert near.seconds(1000) == pytest.approx(1e-3, rel=0.1)
    assert new.seconds(1000) == pytest.approx(1e-2, rel=0.1)
    fits.forget("near")
    fits.observe("new", 0, 1.0)
    fits.observe("newer", 10, 0.0)
    assert [peer for peer, _ in fits.curves()] == ["new"]
    assert fits.curves()[0][1].transfers == 1
