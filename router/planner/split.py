"""How many workers read prompts, write tokens, or do both; and what that is worth. Pure.

A split is judged by its attainment: the share of requests whose first token and whose inter-token
latency both keep their targets. Beyond what it can carry it is judged by what it attains if just so
many requests are let in that the others do not suffer, so that splits compare under overload too.

Who does what follows comparative advantage: of workers of several kinds, those that read prompts
relatively fastest read them, so the search is over numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec

from baton.protocol.curves import StepCurve
from baton.router.planner.phases import Decoding, Kind, PhaseModel, Prefilling
from baton.router.planner.tails import Tails, mixed
from baton.router.planner.workload import Workload

_LET_IN = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of what the split can carry at most, of which the best counts under overload."""
_ALL = 0.9995
"""So good that none can be better."""
_NO_PREFILL = Prefilling((), 0.0, 0.0)
_NO_DECODE = Decoding((), 0.0, 0.0, 1.0, 0.0)


T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in steps of at most some milliseconds, between which others may have their turn."""


def finish(steps: Steps[T]) -> T:
    """All of it at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


class Split(NamedTuple):
    """Numbers of workers by role."""

    prefill: int
    decode: int
    mixed: int

    @property
    def workers(self) -> int:
        return self.prefill + self.decode + self.mixed

    @property
    def serves(self) -> bool:
        """Somebody reads prompts and somebody writes."""
        return self.mixed > 0 or (self.prefill > 0 and self.decode > 0)

    def moves_from(self, other: Split) -> int:
        """Workers that change their role."""
        return sum(max(0, mine - theirs) for mine, theirs in zip(self, other, strict=True))

    def __str__(self) -> str:
        parts = [
            f"{count} {role}" for role, count in zip(self._fields, self, strict=True) if count
        ]
        return " + ".join(parts) or "nobody"


class Group(NamedTuple):
    """Workers that are alike."""

    kind: Kind
    size: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to expect of a split. Times in seconds, means over requests."""

    split: Split
    goodput: float
    """Share of all requests that attain their targets."""
    attained_ttft: float
    attained_itl: float
    ttft: float
    itl: float
    capacity: float
    """Requests per second at which the first resource is used up."""
    load: float
    """Rate over capacity."""
    binds: str
    """What is used up first."""
    prefill_at_mixed: float
    """Share of prompts that mixed workers read."""
    decode_at_mixed: float
    batch: float
    """Sequences on a decoding worker."""
    parts: tuple[tuple[float, Tails], ...] = ()
    """Of those let in, by pool and phase, with the shares that these serve."""

    @property
    def tails(self) -> Tails:
        """For percentiles. Worked out when somebody asks."""
        return mixed(*self.parts)


class Fleet:
    """The workers there are, and a workload for them."""

    def __init__(
        self,
        groups: Sequence[Group],
        workload: Workload,
        handoff: float = 0.0,
        *,
        in_order: bool = False,
    ) -> None:
        """`handoff`: seconds of a typical transfer that no computation hides. `in_order`: groups
        come as they are to be used, those that read prompts first and those that decode last."""
        self.workload = workload
        self.workers = sum(group.size for group in groups)
        self._handoff = handoff
        models = [PhaseModel(workload, group.kind, handoff) for group in groups]
        # The relatively fastest readers first.
        order = list(range(len(groups)))
        if not in_order:
            order.sort(key=lambda i: _ratio(models[i].decode_rate, models[i].prefill_rate))
        self.order = tuple(order)
        """Groups by comparative advantage in reading prompts."""
        self._line = [index for index in order for _ in range(groups[index].size)]
        self._kinds = [group.kind for group in groups]
        self._models = models
        self._blends: dict[tuple[str, tuple[int, ...]], PhaseModel] = {}
        self._sums = [
            _running([getattr(models[i], rate) for i in self._line])
            for rate in ("prefill_rate", "decode_rate", "mixed_prefill_rate")
        ]

    def splits(self) -> Iterator[Split]:
        """All that serve."""
        for prefill in range(self.workers + 1):
            for decode in range(self.workers - prefill + 1):
                split = Split(prefill, decode, self.workers - prefill - decode)
                if split.serves:
                    yield split

    def kinds_of(self, split: Split) -> list[dict[str, int]]:
        """For each group, in the order given: how many of it have which role."""
        counts = [{"prefill": 0, "decode": 0, "mixed": 0} for _ in self._kinds]
        for place, index in enumerate(self._line):
            counts[index][_role(split, place)] += 1
        return counts

    def capacity(self, split: Split) -> tuple[float, float, float, str]:
        """(requests per second that the split can carry at most, the share of prompts that
        prefill workers read then, the share of answers that decode workers write, what binds)."""
        first, last = split.prefill, split.prefill + split.mixed
        reading, writing, reading_mixed = self._sums
        prefill = reading[first]
        decode = writing[self.workers] - writing[last]
        both_prefill = reading_mixed[last] - reading_mixed[first]
        both_decode = writing[last] - writing[first]
        if split.mixed == 0:
            most = min(prefill, decode)
            return most, 1.0, 1.0, "prefill" if prefill <= decode else "decode"
        # Mixed workers do what the others cannot; their time is shared between the phases.
        per_prefill, per_decode = 1.0 / both_prefill, 1.0 / both_decode
        low, high = min(prefill, decode), max(prefill, decode)
        slope = per_prefill if prefill <= decode else per_decode
        most = low + 1.0 / slope if slope > 0 else math.inf
        if most > high:
            both = per_prefill + per_decode
            most = (1.0 + prefill * per_prefill + decode * per_decode) / both if both else math.inf
        if most == math.inf:
            return most, 0.0, 0.0, "nothing"
        binds = "all" if most >= high else "prefill" if prefill <= decode else "decode"
        return most, min(1.0, prefill / most), min(1.0, decode / most), binds

    def forecast(
        self, split: Split, rate: float | None = None, *, beat: float = 0.0
    ) -> Forecast:
        """At the workload's rate, or another. One that cannot `beat` this goodput need not be
        judged to the end."""
        wanted = self.workload.rate if rate is None else rate
        limit = self.capacity(split)
        best: Forecast | None = None
        last = math.inf
        for share in _LET_IN:
            let_in = min(wanted, share * limit[0])
            if let_in >= last:
                continue
            if best is not None and let_in <= max(beat, best.goodput) * wanted:
                break  # it cannot attain more than it lets in
            last = let_in
            judged = self._judge(split, wanted, let_in, limit)
            if best is None or judged.goodput > best.goodput:
                best = judged
        assert best is not None
        return best

    def best(self, limit: int | None = None, start: Split | None = None) -> list[Forecast]:
        """`search`, to its end."""
        return finish(self.search(limit, start))

    def search(
        self, limit: int | None = None, start: Split | None = None
    ) -> Steps[list[Forecast]]:
        """The best splits, by goodput; of equals the one with the most to spare. With `limit`:
        only those at most so many moves from `start`. Empty when there is none that serves."""
        near = [
            (self.capacity(split), split)
            for split in self.splits()
            if limit is None or start is None or split.moves_from(start) <= limit
        ]
        # The most to spare first, and then the fewest mixed: who does one thing does it whole.
        near.sort(key=lambda entry: (-round(entry[0][0], 9), entry[1].mixed))
        found: list[Forecast] = []
        best = 0.0
        for (capacity, *_), split in near:
            if capacity < best * self.workload.rate:
                break  # it cannot attain more than it carries, nor can those after it
            found.append(self.forecast(split, beat=best))
            best = max(best, found[-1].goodput)
            yield
            if best >= _ALL:
                break
        found.sort(key=lambda forecast: -round(forecast.goodput, 3))
        return found

    # -- inside --------------------------------------------------------------------------------

    def _judge(
        self, split: Split, wanted: float, rate: float, limit: tuple[float, float, float, str]
    ) -> Forecast:
        capacity, to_prefill, to_decode, binds = limit
        workload = self.workload
        first, last = split.prefill, split.prefill + split.mixed
        reads, writes = _NO_PREFILL, _NO_DECODE
        if split.prefill:
            reads = self._pool("prefill", 0, first).prefill(split.prefill, rate * to_prefill)
        if split.decode:
            writes = self._pool("decode", last, self.workers).decode(split.decode, rate * to_decode)
        reads_both, writes_both = _NO_PREFILL, _NO_DECODE
        if split.mixed:
            pool = self._pool("mixed", first, last)
            reads_both, writes_both = pool.both(
                split.mixed, rate * (1 - to_prefill), rate * (1 - to_decode),
                moved=min(1.0, to_prefill / (1 - to_decode)) if to_decode < 1 else 0.0,
            )
        ttft = [0.0] * len(workload.classes)
        itl = [0.0] * len(workload.classes)
        for index in range(len(workload.classes)):
            if split.prefill:
                ttft[index] += to_prefill * reads.attained[index]
            if to_prefill < 1 and split.mixed:
                ttft[index] += (1 - to_prefill) * reads_both.attained[index]
            if split.decode:
                itl[index] += to_decode * writes.fits * writes.attained[index]
            if to_decode < 1 and split.mixed:
                itl[index] += (1 - to_decode) * writes_both.fits * writes_both.attained[index]
        weights = [group.weight for group in workload.classes]
        joint = sum(w * a * b for w, a, b in zip(weights, ttft, itl, strict=True))
        return Forecast(
            split=split,
            goodput=joint * (rate / wanted if wanted > 0 else 1.0),
            attained_ttft=sum(w * a for w, a in zip(weights, ttft, strict=True)),
            attained_itl=sum(w * a for w, a in zip(weights, itl, strict=True)),
            ttft=_mean(to_prefill, reads.ttft, reads_both.ttft),
            itl=_mean(to_decode, writes.itl, writes_both.itl),
            capacity=capacity,
            load=wanted / capacity if capacity > 0 else math.inf,
            binds=binds,
            prefill_at_mixed=1 - to_prefill,
            decode_at_mixed=1 - to_decode,
            batch=max(writes.batch, writes_both.batch),
            parts=(
                (to_prefill, Tails(first=reads.tail)),
                (1 - to_prefill, Tails(first=reads_both.tail)),
                (to_decode, Tails(between=writes.tail)),
                (1 - to_decode, Tails(between=writes_both.tail)),
            ),
        )

    def _pool(self, role: str, start: int, end: int) -> PhaseModel:
        """Of the workers at these places in the line, as if they were all alike."""
        counts = [0] * len(self._kinds)
        for index in self._line[start:end]:
            counts[index] += 1
        here = [index for index, count in enumerate(counts) if count]
        if len(here) == 1:
            return self._models[here[0]]
        key = (role, tuple(counts))
        if key not in self._blends:
            shares = [counts[i] * _speed(self._models[i], role) for i in here]
            kind = _blend([self._kinds[i] for i in here], shares)
            self._blends[key] = PhaseModel(self.workload, kind, self._handoff)
        return self._blends[key]


def _mean(share: float, one: float, other: float) -> float:
    """Of which a `share` is of the one kind; the other may be infinite where there is none."""
    return (share * one if share > 0 else 0.0) + ((1 - share) * other if share < 1 else 0.0)


def _role(split: Split, place: int) -> str:
    if place < split.prefill:
        return "prefill"
    return "mixed" if place < split.prefill + split.mixed else "decode"


def _ratio(decode: float, prefill: float) -> float:
    return decode / prefill if prefill not in (0.0, math.inf) else 0.0


def _running(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return sums


def _speed(model: PhaseModel, role: str) -> float:
    speed = model.decode_rate if role == "decode" else model.prefill_rate
    return speed if math.isfinite(speed) else 1.0


def _blend(kinds: Sequence[Kind], shares: Sequence[float]) -> Kind:
    """Workers that together get so many requests each; the means of their costs by requests make
    a pool of so many equal ones just as fast."""
    total = sum(shares)
    weights = [share / total for share in shares]

    def mean(name: str) -> float:
        return sum(
            weight * float(getattr(kind.curve, name))
            for weight, kind in zip(weights, kinds, strict=True)
        )

    names = ("base", "chunk", "token", "pair", "decode", "context", "spread")
    curve: StepCurve = msgspec.structs.replace(
        kinds[0].curve, covariance=(), **{name: mean(name) for name in names}
    )
    count = len(kinds)
    return Kind(
        curve,
        sum(kind.kv_tokens for kind in kinds) // count,
        sum(kind.max_running for kind in kinds) // count,
        sum(kind.step_tokens for kind in kinds) // count,
        sum(kind.prefill_chunk for kind in kinds) // count,
    )
