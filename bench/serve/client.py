"""One request, from its sending to what became of it. Nothing is parsed while its stream runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from random import Random

import aiohttp
import msgspec

from baton.bench.serve.asking import Server
from baton.bench.serve.events import error_of
from baton.bench.serve.reading import Packets, Reader
from baton.bench.serve.seen import CANCELLED, DISCONNECTED, REFUSED, TIMEOUT, Seen
from baton.bench.workloads.arrival import Arrival

REFUSALS = (429, 503)
_AT_ONCE = 0.02
"""Seconds after which a request is cancelled that shall have no token."""


@dataclass(frozen=True, slots=True)
class Cancels:
    """A share of the requests is given up by its client, anywhere between sending and the end.
    Seeded: the same requests each time."""

    share: float = 0.0
    seed: int = 0

    def after(self, number: int, tokens: int) -> int | None:
        """Events after which the request of this number is cancelled, of one that asked for so many
        tokens and if it has so many; None: it is not."""
        rng = Random(f"{self.seed} {number}")
        if rng.random() >= self.share:
            return None
        return int(rng.random() * tokens)


class Client:
    """On one HTTP session, for one server."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        server: Server,
        *,
        reader: Reader,
        patience: float,
        cancels: Cancels | None = None,
    ) -> None:
        """`reader` is given what has ended. `patience`: seconds for a whole request."""
        self._http, self._server, self._reader = http, server, reader
        self._patience, self._cancels = patience, cancels or Cancels()

    async def ask(self, seen: Seen, arrival: Arrival, body: bytes, began: float) -> None:
        """`seen` is complete when it was read. `began`: on the clock of `perf_counter`, when the
        load did. Raises only what cancels the task; what arrived before is read as well."""
        packets, read = Packets(), self._reader.later
        after = self._cancels.after(seen.number, seen.asked)
        headers = self._server.asking.headers(arrival)
        sent = time.perf_counter()
        seen.sent = sent - began
        try:
            async with asyncio.timeout(self._patience if after != 0 else _AT_ONCE):
                async with self._http.post(self._server.path, data=body, headers=headers) as reply:
                    seen.status = reply.status
                    seen.headers = _explained(reply)
                    if reply.status != 200:
                        _refused(seen, await reply.read())
                        return
                    if after is None:
                        await _read(reply.content, sent, packets)
                        read(seen, packets)
                    else:
                        whole = await _read_some(reply.content, sent, packets, after)
                        read(seen, packets, None if whole else CANCELLED)
        except TimeoutError:
            read(seen, packets, TIMEOUT if after != 0 else CANCELLED)
        except (aiohttp.ClientError, OSError) as error:
            read(seen, packets, DISCONNECTED)
            seen.detail = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            read(seen, packets, seen.outcome)
            raise
        finally:
            seen.ended = time.perf_counter() - began


async def _read(content: aiohttp.StreamReader, sent: float, packets: Packets) -> None:
    times, data = packets.times, packets.data
    clock, readany = time.perf_counter, content.readany
    while packet := await readany():
        times.append(clock() - sent)
        data.append(packet)


async def _read_some(
    content: aiohttp.StreamReader, sent: float, packets: Packets, events: int
) -> bool:
    """Up to so many events. Whether the stream ended before."""
    while packet := await content.readany():
        packets.times.append(time.perf_counter() - sent)
        packets.data.append(packet)
        events -= packet.count(b"data:")
        if events <= 0:
            return False
    return True


def _refused(seen: Seen, content: bytes) -> None:
    try:
        code, seen.detail = error_of(msgspec.json.decode(content).get("error"))
    except (msgspec.MsgspecError, AttributeError):
        code, seen.detail = str(seen.status), content[:200].decode(errors="replace")
    seen.outcome = REFUSED if seen.status in REFUSALS else f"error {code}"


def _explained(reply: aiohttp.ClientResponse) -> dict[str, str]:
    return {
        name.lower().removeprefix("x-baton-"): value
        for name, value in reply.headers.items()
        if name.lower().startswith("x-baton-")
    }
