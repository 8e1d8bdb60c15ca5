"""A cluster with a load whose right answers are known: where faults are tried.

    run undisturbed -> run again, break something at a moment -> compare -> repair -> all at rest
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from baton.bench.faults.judge import Oracle, Verdict
from baton.bench.faults.load import Ask, Load, prefill_rate, run
from baton.bench.faults.parts import ROUTER, Parts
from baton.bench.faults.stalls import stall_limit
from baton.bench.faults.watcher import Watcher

REPAIR_SECONDS = 60.0
TRIES = 5
"""Loads that may have ended, because the machine stood still, when their moment was noticed."""

_salts = count()


class Ground:
    """`oracle`: of another cluster with the same model, otherwise made here."""

    def __init__(
        self,
        parts: Parts,
        asks: Sequence[Ask],
        *,
        concurrency: int,
        seed: int = 0,
        oracle: Oracle | None = None,
    ) -> None:
        self.parts = parts
        self.asks = list(asks)
        self.concurrency = concurrency
        self.random = random.Random(seed)
        run(parts.url, self.asks[: concurrency // 4 or 1], self.salt(), concurrency)  # warm
        if oracle is None:
            oracle = Oracle(asks, run(parts.url, self.asks, self.salt(), concurrency))
        self.oracle = oracle
        self.total = sum(len(output) for output in oracle.outputs)
        self.longest = max(len(ask.prompt) + ask.max_tokens for ask in asks)
        """Tokens of a request, prompt and output: what has to be computed again at most."""
        self.prompts = concurrency * sum(len(ask.prompt) for ask in asks) / len(asks)
        """Tokens of all prompts that may be ahead of one in a queue."""
        self.rate = prefill_rate(parts.url, self.asks[:concurrency], self.salt())

    def salt(self) -> str:
        """A fresh one: what was asked before is in no cache."""
        return f"run-{next(_salts)}"

    def load(self) -> Load:
        """The whole load once more, started."""
        return Load(self.parts.url, self.asks, self.salt(), self.concurrency).start()

    def moment(self, low: float = 0.05, high: float = 0.8) -> float:
        """A random share of the load's tokens."""
        return self.random.uniform(low, high)

    def reach(self, load: Load, share: float) -> None:
        """Wait until so much of the load is done."""
        while load.tokens < share * self.total and load.finished < len(load.seen):
            time.sleep(0.002)

    def under_way(self, share: float) -> Load:
        """The load, when so much of it is done."""
        for _ in range(TRIES):
            load = self.load()
            self.reach(load, share)
            if load.in_flight:
                break
            load.wait()
        return load

    def at_stake(self, load: Load, name: str) -> int:
        """How many tokens have to be computed again if this worker is lost now: those of the
        streams that it holds, of average length."""
        view = self.parts.views().get(name)
        return 0 if view is None else int(view["outstanding"] * load.length)

    @contextmanager
    def disturbed(
        self, verdict: Verdict, *, at: float | None = None, may_fail: bool = False
    ) -> Iterator[tuple[Load, Watcher]]:
        """Runs the load; the body, entered at a moment of it, breaks something. Afterwards the
        verdict holds what the streams show."""
        before = self._handed_over()
        with Watcher(self.parts) as watcher:
            load = self.under_way(self.moment() if at is None else at)
            verdict.in_flight = max(verdict.in_flight, load.in_flight)
            yield load, watcher
            seen = load.wait()
        known = verdict.notes.get("handed_over", 0)
        verdict.notes["handed_over"] = known + self._handed_over() - before
        self.repair()
        self.oracle.judge(self.parts.url, verdict, seen, may_fail=may_fail)

    def _handed_over(self) -> int:
        """Requests that were to be, so far."""
        return int(self.parts.total("baton_route_decisions_total", 'route="remote"'))

    def repair(self) -> None:
        """Everything runs and is joined, whatever was done to it."""
        if not self.parts.router.running:
            self.parts.router.start()
        self.parts.wait(self._joined, "all workers joined", REPAIR_SECONDS)

    def _joined(self) -> bool:
        for part in self.parts.workers.values():
            if not part.running:  # perhaps it was only just about to end
                part.start()
        return all(map(self.parts.is_ready, self.parts.workers))

    def settle(self, verdict: Verdict) -> Verdict:
        """The end of each fault: nothing is held any more, and everything serves."""
        self.repair()
        verdict.left = self.parts.wait_clean()
        verdict.check(not verdict.left, f"still held: {verdict.left}")
        return verdict

    def limit_stall(self, verdict: Verdict, detection: float, tokens: float) -> None:
        """Judge the longest stall by what had to be recomputed. Gaps that are there undisturbed
        are no stall."""
        limit = stall_limit(detection, tokens, self.rate) + self.oracle.stall
        verdict.stall_limit = limit
        verdict.notes["recomputed_tokens"] = round(tokens)
        verdict.notes["prefill_tokens_per_second"] = round(self.rate)
        assert verdict.stall is not None
        verdict.check_time("longest stall of a stream", verdict.stall, limit)

    def attempt(self, what: Callable[[], bool], seconds: float) -> float | None:
        """Seconds until `what` first held, None if it did not."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            if what():
                return time.monotonic() - began
            time.sleep(0.01)
        return None

    def victim(self, role: str) -> str:
        """A random worker of this role."""
        names = [name for name in self.parts.workers if name.startswith(role)]
        return self.random.choice(names)


__all__ = ["ROUTER", "Ground"]
