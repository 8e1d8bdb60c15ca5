"""What KV blocks travel over from one worker to another."""

from __future__ import annotations

from baton.protocol.curves import LinkCurve
from baton.protocol.errors import ConfigError
from baton.protocol.units import parse_bytes, parse_duration

LATENCY = 0.5e-3
"""Seconds of a hand-off that no byte explains, where none are stated."""
_SPREAD = 0.1


def link_of(bytes_per_second: float, latency: float = LATENCY) -> LinkCurve:
    return LinkCurve(latency=latency, byte=1 / bytes_per_second, spread=_SPREAD, transfers=100)


def parse_link(text: str) -> LinkCurve:
    """`25GB/s`, or `25GB/s,1ms` with the latency of a transfer. Raises ConfigError."""
    speed, _, latency = text.partition(",")
    try:
        if not speed.endswith("/s"):
            raise ValueError("a speed ends in /s")
        rate = parse_bytes(speed.removesuffix("/s"))
        if rate <= 0:
            raise ValueError("a link of no speed")
        return link_of(rate, parse_duration(latency) if latency else LATENCY)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no link such as 25GB/s or 25GB/s,1ms: {error}") from error
