"""A plan: what was asked, the layouts that answer it, and why. What `baton plan --json` prints.

    inputs -> candidates -> survivors -> Plan -> table, JSON, HTML, commands

Names that end in `_ms` are milliseconds, `_per_s` per second; None where there is no such figure
(nothing was simulated, or it never ends).
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from baton.protocol.errors import ConfigError

FORMAT = 1
COLOCATED, HYBRID, DISAGGREGATED = "colocated", "hybrid", "disaggregated"
SHAPES = (COLOCATED, HYBRID, DISAGGREGATED)
INFEASIBLE_CODE = 2
"""Exit code where no plan meets the targets."""
SHARES = (0.5, 0.9, 0.95, 0.99)
"""Of which percentiles are given."""


class Estimate(msgspec.Struct, frozen=True):
    """A mean over seeds, and where the true one lies with 95 % confidence; of one seed alone, all
    three are the same."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g}"


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None

    def at(self, share: float) -> Estimate | None:
        """Of one of SHARES."""
        found: Estimate | None = getattr(self, f"p{round(100 * share)}")
        return found


class Question(msgspec.Struct, frozen=True, kw_only=True):
    workload: str
    rate_per_s: float | None
    """None: as much as can be."""
    ttft_ms: float
    itl_ms: float
    e2e_ms: float | None
    attainment: float
    """Share of requests that must keep all targets."""
    gpus: int
    """That there may be."""
    price_per_hour: float | None
    """Of all of these, at most."""
    ranked_by: str
    """"gpu" or "cost"."""
    effort: str
    seed: int
    workers_per_host: int = 1
    """That share the link of their host."""


class LoadFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The workload as the closed forms see it, means over a sample."""

    prompt_tokens: float
    cached_tokens: float
    """Found in one cache without end."""
    output_tokens: float
    burstiness: float
    """Squared variation of what comes between arrivals; 1 is Poisson."""
    sample: int


class KindFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    devices: int
    """Per worker."""
    origin: str
    """"measured", "silicon" or "roofline"."""
    error: float | None
    note: str
    price_per_hour: float | None
    """Of one worker."""
    link_bytes_per_s: float
    """Of a host, in each direction."""
    kv_tokens: int
    """That a worker's memory holds."""
    local_link_bytes_per_s: float | None = None
    """Between workers of one host; None: where each has a host of its own."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of one role."""

    role: str
    workers: int
    devices: int
    """Per worker: the tensor-parallel size."""
    kind: str
    batch_limit: int
    """Sequences that a worker may decode at once within the ITL target and its memory."""
    chunk: int
    """Prompt tokens that a step may hold beside as many decodes as are expected, within the ITL
    target; of workers for prompts, those of a whole step."""
    busy: Estimate | None
    """Share of their time that they compute."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    bytes_per_s: float
    link_bytes_per_s: float
    """That the links can carry."""
    share: float
    exposed_ms: float
    """What a typical hand-off delays the second token."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """By closed forms, at the rate that was asked for, or at capacity."""

    capacity_per_s: float
    bound_per_s: float
    """Where the first resource is used up."""
    attainment: float
    ttft_ms: dict[str, float | None]
    """Mean and percentiles."""
    itl_ms: dict[str, float | None]
    batch: float
    """Sequences on a decoding worker."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of requests, over the runs of all seeds."""

    rate_per_s: float
    requests: int
    """That counted."""
    attainment: Estimate
    goodput_per_s: Estimate
    served: Estimate
    """Share that was not refused and did not fail."""
    ttft_ms: Percentiles
    itl_ms: Percentiles
    """Of requests: the mean of each over its tokens."""
    gap_ms: Percentiles
    """Of single tokens."""
    e2e_ms: Percentiles
    hit_rate: Estimate
    """Of prompt tokens, those found in a cache."""
    handed: Estimate
    """Share of decisions to hand a prompt over."""


class Simulated(Figures, frozen=True, kw_only=True):
    """By the router's and the workers' own code in simulated time, at `rate_per_s`."""

    capacity_per_s: Estimate
    """The highest rate at which the wanted share attains."""
    capacities_per_s: list[float]
    """By seed. Layouts of one plan had the same requests with the same seed."""
    seeds: int


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One layout."""

    name: str
    layout: str
    """As `baton simulate` takes it, such as 2p+1d."""
    shape: str
    pools: list[Pool]
    gpus: int
    price_per_hour: float | None
    feasible: bool
    """It serves the rate that was asked for, at the wanted attainment."""
    capacity_per_s: float
    goodput_per_s: float
    """At the rate that was asked for, or at capacity."""
    goodput_per_gpu: float
    """As `gpus_of` in `limits.py` counts them: where all are to be used, idle ones count."""
    goodput_per_cost: float | None
    """Requests that attain, for each unit of money."""
    divisor: float
    """By which rates are divided to compare choices (`Question.ranked_by`): GPUs, or money for a
    second."""
    binds: str
    """What ends first: prefill, decode, all, link, ttft, itl, e2e or nothing."""
    traffic: Traffic | None
    forecast: Forecast
    simulated: Simulated | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What another wish, workload or cluster would give."""

    what: str
    capacity_per_s: float
    """Of the recommended layout with the change."""
    ratio: float
    """To what it has without."""
    best: str
    """The layout that would be best then."""
    best_shape: str
    text: str


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Where disaggregated and colocated are worth the same."""

    of: str
    """"prompt length", "answer length", "ITL target", "link speed"."""
    unit: str
    here: float
    at: float | None
    """None: the same side wins everywhere between `low` and `high`."""
    low: float
    high: float
    below: str
    """The shape that wins below."""
    above: str
    text: str


class Nearest(msgspec.Struct, frozen=True, kw_only=True):
    """One wish changed, all others kept."""

    change: str
    """"ttft_ms", "itl_ms", "e2e_ms", "rate_per_s", "gpus" or "attainment"."""
    asked: float
    possible: float | None
    """None: it alone does not help."""
    layout: str
    text: str


class Infeasible(msgspec.Struct, frozen=True, kw_only=True):
    constraint: str
    """"ttft", "itl", "e2e", "gpus", "memory"."""
    text: str
    nearest: list[Nearest]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Points of a plot."""

    name: str
    shape: str
    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    question: Question
    load: LoadFacts
    kinds: list[KindFacts]
    choices: list[Choice]
    """The best first."""
    verdict: str
    sensitivity: list[Change]
    break_even: list[BreakEven]
    infeasible: Infeasible | None
    plots: dict[str, list[Line]] = {}
    """"frontier", "ttft", "itl", "busy"."""
    notes: list[str] = []

    @property
    def hosts(self) -> str | None:
        """Who shares a host, in words; None where nobody does."""
        number, kind = self.question.workers_per_host, self.kinds[0]
        if number == 1 or kind.local_link_bytes_per_s is None:
            return None
        return (
            f"{number} workers to a host: {kind.local_link_bytes_per_s / 1e9:.4g} GB/s within, "
            f"{kind.link_bytes_per_s / 1e9:.4g} GB/s for all of them to others"
        )

    @property
    def code(self) -> int:
        """What `baton plan` exits with."""
        return 0 if self.infeasible is None else INFEASIBLE_CODE


def encode(plan: Plan) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


def read_plan(path: Path) -> Plan:
    """A file that `baton plan --json` wrote. Raises ConfigError, one line: also of a plan that
    another version wrote, whose figures would mean something else or nothing."""
    try:
        written = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        plan = msgspec.json.decode(written, type=Plan)
    except msgspec.MsgspecError as error:
        if not _looks_like_one(written):
            raise ConfigError(f"{path} is no plan of `baton plan --json`: {error}") from error
        raise ConfigError(f"{path} is a plan of another version of Baton ({error}): {_AGAIN}"
                          ) from error
    if plan.format != FORMAT:
        raise ConfigError(
            f"{path} has format {plan.format}; this Baton reads {FORMAT}: {_AGAIN}"
        )
    return plan


_AGAIN = "plan again, with the same `baton plan ... --json FILE`"


def _looks_like_one(written: bytes) -> bool:
    try:
        found = msgspec.json.decode(written)
    except msgspec.MsgspecError:
        return False
    return isinstance(found, dict) and {"question", "choices", "verdict"} <= found.keys()


def nearest_share(wanted: float) -> float:
    """Of SHARES."""
    return min(SHARES, key=lambda known: abs(known - wanted))


def ms(seconds: float) -> float | None:
    """Milliseconds, to a microsecond; None of what never ends."""
    return round(seconds * 1e3, 3) if math.isfinite(seconds) else None


def best_of(plan: Plan, shape: str) -> Choice | None:
    """The best choice of a shape."""
    return next((choice for choice in plan.choices if choice.shape == shape), None)
