"""The load of a comparison: a named workload, or prompts and answers of fixed lengths.

    chat               a named workload
    512/64             prompts of 512 tokens, answers of 64
    96/192+1536/8:0.2  of which a fifth are of 1,536 and 8
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.arrivals import Fit, arrivals
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.named import WORKLOADS, check_name
from baton.bench.workloads.sessions import Kind
from baton.bench.workloads.workload import Phase, Workload
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

_PART = re.compile(r"(\d+)/(\d+)(?::(0?\.\d+))?")


@dataclass(frozen=True)
class Load:
    name: str
    workload: Workload
    targets: Targets
    """Of all requests."""
    fit: Fit
    warm: float
    """Seconds before what counts."""
    seconds: float
    """That count."""
    e2e: float | None = None
    """Target to the last token, in seconds: one that only who measures knows of."""

    def arrivals(self, rate: float, seed: int) -> list[Arrival]:
        """`rate`: requests per second on average."""
        parts = self.workload.parts(rate, self.warm + self.seconds)
        return list(arrivals(parts, seed, lambda kind: self.targets, self.fit))


def parse_workload(text: str) -> Workload:
    """Raises ConfigError."""
    if "/" not in text:
        check_name(text)
        return WORKLOADS[text]
    found = [_PART.fullmatch(part) for part in text.split("+")]
    shares = [float(each[3]) if each and each[3] else None for each in found]
    left = 1.0 - sum(share or 0.0 for share in shares)
    if not all(found) or shares.count(None) != 1 or left <= 0:
        raise ConfigError(
            f"--load {text!r}: a workload's name, PROMPT/OUTPUT tokens such as 512/64, or several "
            "with + between them, of which all but one have a share, such as 96/192+1536/8:0.2"
        )
    mix = tuple(
        (fixed(int(each[1]), int(each[2])), left if share is None else share)
        for each, share in zip(found, shares, strict=True) if each
    )
    return Workload(text, f"prompts and answers of {text} tokens", (Phase("", mix),))


def fixed(prompt: int, output: int) -> Kind:
    """Requests that are all alike in length, and share nothing. Raises ConfigError."""
    if prompt < 1 or output < 1:
        raise ConfigError(f"{prompt}/{output}: at least one token each")
    return Lengths(prompt=prompt, output=output).workload().kinds[0]
