"""What people and tools see of a worker's measured speed. Pure."""

from __future__ import annotations

import msgspec

from baton.protocol.records import Curves


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a step: `base`, and for each prompt with a chunk, prompt token, pair of tokens
    attended over, decoding sequence, and token that these attend to."""

    base: float
    chunk: float
    token: float
    pair: float
    decode: float
    context: float
    spread: float
    """Standard deviation of the logarithm of actual over predicted."""
    steps: int
    """Seen since the worker started."""


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    latency: float
    """Seconds."""
    bandwidth: float
    """Bytes per second."""
    spread: float
    transfers: int


class CurvesView(msgspec.Struct, frozen=True, kw_only=True):
    step: StepView | None
    links: dict[str, LinkView]
    """By the receiver's worker id."""


def curves_view(curves: Curves) -> CurvesView:
    step = curves.step
    return CurvesView(
        step=None
        if step is None
        else StepView(**{name: getattr(step, name) for name in StepView.__struct_fields__}),
        links={
            peer: LinkView(**{name: getattr(link, name) for name in LinkView.__struct_fields__})
            for peer, link in curves.links
        },
    )
