"""What a run measured: the requests, and the client's proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baton.bench.serve.asking import Server
from baton.bench.serve.figures import figures
from baton.bench.serve.lag import ClientLag
from baton.bench.serve.seen import UNFINISHED, Seen
from baton.bench.serve.server_side import Scrape, difference
from baton.bench.simulator.outcome import Outcome


@dataclass(kw_only=True)
class Served:
    requests: list[Seen]
    """All that were due, warm-up included, in that order."""
    warmup: float
    """Seconds; what was due in them does not count."""
    end: float
    """Seconds since the load began, until when it counts: what is due then was not sent."""
    wall: float
    """Seconds until the last request had ended."""
    client: ClientLag
    server: Server
    scrapes: tuple[Scrape | None, Scrape | None] = (None, None)
    """The server's own metrics after the warm-up and at the end."""
    stopped: bool = False
    """Somebody ended it early."""
    concurrency: int | None = None

    @property
    def counted(self) -> list[Seen]:
        """Those after the warm-up. What ran when somebody ended the run is not among them."""
        return [
            seen for seen in self.requests
            if self.warmup <= seen.due < self.end
            and not (self.stopped and seen.outcome == UNFINISHED)
        ]

    @property
    def seconds(self) -> float:
        """Of the part that counts."""
        return max(1e-9, self.end - self.warmup)

    def outcomes(self) -> list[Outcome]:
        """Those that count, as the simulator says it."""
        return [seen.outcome_of() for seen in self.counted]

    def server_side(self) -> dict[str, Any]:
        """What the server's metrics say of the same time."""
        before, after = self.scrapes
        return {} if before is None or after is None else difference(before, after)

    def summary(
        self,
        *,
        e2e: float | None = None,
        workers: int | None = None,
        cost_per_hour: float | None = None,
    ) -> dict[str, Any]:
        """Plain values; times in milliseconds. `e2e`: one more target, in seconds."""
        found = figures(self, e2e=e2e)
        tokens, goodput = found["output_tokens_per_s"], found["goodput_per_s"]
        if workers:
            found["per_worker"] = {"output_tokens_per_s": round(tokens / workers, 2),
                                   "goodput_per_s": round(goodput / workers, 4)}
        if cost_per_hour:
            found["per_cost"] = {"output_tokens": round(tokens * 3600 / cost_per_hour),
                                 "good_requests": round(goodput * 3600 / cost_per_hour, 1)}
        return found
