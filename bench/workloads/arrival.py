"""A request to come: the one type that simulated and real clients share, so that what is planned
and what is measured are of the very same load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.engine.scripted import script_seed, scripted_token
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request, Targets
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

END_TOKEN = 2
NO_TARGETS = Targets()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to come."""

    at: float
    """Seconds since the start."""
    prompt: Callable[[], bytes]
    """Packed tokens, made when they are needed."""
    length: int
    """Output tokens, the end token included; the router does not know it."""
    limit: int
    """`max_tokens`, which it knows."""
    noise: int
    """Chooses the output tokens, `script_seed`."""
    kind: str = ""
    lane: str = "interactive"
    targets: Targets = NO_TARGETS
    session: str = ""
    """Requests of one conversation have the same."""


def output_tokens(arrival: Arrival) -> bytes:
    """Packed: what it will be answered with where no model is, its end token left out."""
    request = request_of(arrival, "", b"")
    return pack_tokens(scripted_token(request, n) for n in range(arrival.length - 1))


def request_of(arrival: Arrival, name: str, prompt: bytes) -> Request:
    """Its record, as a router would make it."""
    return Request(
        key=RequestKey(name, 0),
        choice=0,
        prompt=prompt,
        sampling=SamplingParams(
            seed=script_seed(arrival.length, arrival.noise), max_tokens=arrival.limit
        ),
        eos_token_ids=(END_TOKEN,),
        lane=arrival.lane,
        targets=arrival.targets,
    )
