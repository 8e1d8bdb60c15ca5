"""What a simulated worker is made of: how long its steps and transfers take, what it can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import ModelCard


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One kind of worker, and the links from it."""

    name: str
    curve: StepCurve
    """A step takes its `seconds`, times lognormal noise of its `spread`."""
    link: LinkCurve
    """To any other worker; one transfer at a time leaves a host, and one reaches it. A host has
    one worker unless the cluster says otherwise."""
    layout: KVLayout
    num_blocks: int
    limits: SchedulerLimits
    knows_itself: bool = True
    """It starts with its curve; otherwise with none, and then it has one only by learning."""
    adapts: bool = True
    """Its scheduler uses the curve; otherwise chunks are what the limits say."""
    local_link: LinkCurve | None = None
    """To the other workers of its host, where it has any, past the host's link: one transfer at a
    time leaves a worker, and one reaches it. None: as fast as `link`."""

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            fingerprint=f"simulated {self.name}",
            name=self.name,
            max_model_len=self.limits.max_model_len,
            vocab_size=32_000,
            dtype=self.layout.dtype,
        )

    def link_to(self, *, same_host: bool) -> LinkCurve:
        return (same_host and self.local_link) or self.link

    def slower(self, factor: float) -> Machine:
        """The same, so many times slower, links apart."""
        return replace(self, curve=self.curve.scaled(factor))

    def limited(self, limits: SchedulerLimits) -> Machine:
        return replace(self, limits=limits)
