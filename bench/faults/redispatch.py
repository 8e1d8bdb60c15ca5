"""How long requests of a lost worker waited to be sent again, by the router's own histogram."""

from __future__ import annotations

import math
import re
from collections import Counter

from baton.bench.faults.judge import Verdict
from baton.bench.faults.parts import Parts
from baton.bench.faults.stalls import REDISPATCH

_BUCKET = re.compile(r'baton_redispatch_seconds_bucket\{(.*)\}')
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Redispatches:
    """A reading of the histogram: (what was waited for, upper bound in seconds) to count."""

    def __init__(self, parts: Parts) -> None:
        self.buckets: Counter[tuple[str, float]] = Counter()
        for sample, value in parts.samples().items():
            found = _BUCKET.fullmatch(sample)
            if found:
                labels = dict(_LABEL.findall(found[1]))
                self.buckets[labels["waited_for"], float(labels["le"])] = int(value)

    def judge(self, verdict: Verdict, before: Redispatches) -> None:
        """What was sent since. A request that waited for nothing must have gone within REDISPATCH;
        one that found no room, or was held back so that others keep their pace, is told apart."""
        new = self.buckets - before.buckets  # the counts that grew
        waits = {reason: count for (reason, bound), count in new.items() if bound == math.inf}
        for reason, count in waits.items():
            known = verdict.notes.setdefault("redispatched", {})
            known[reason] = known.get(reason, 0) + count
        if "nothing" in waits:
            slowest = min(
                bound for (reason, bound), count in new.items()
                if reason == "nothing" and count == waits[reason]
            )
            verdict.redispatch = max(verdict.redispatch or 0.0, slowest)
        if verdict.redispatch is not None:
            verdict.check_time("redispatch", verdict.redispatch, REDISPATCH)
