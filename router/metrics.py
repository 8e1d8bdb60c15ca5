"""The router's /metrics page: its own metrics, and those that workers send.

`RouterMetrics` has one method per thing that happens; whoever knows of it calls it. Requests are
timed here in the HTTP layer (`time_request`); the dispatcher reports decisions, retries, queues and
phases; the session with a worker reports its Load and WorkerMetrics, and its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics_core import METRIC_TYPES
from prometheus_client.registry import Collector

from baton.protocol.errors import BatonError
from baton.protocol.records import Load, WorkerMetrics

TTFT_BUCKETS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30,
    60,
)
ITL_BUCKETS = (
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5,
)
E2E_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
PHASE_BUCKETS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120,
)

RATIO_BUCKETS = (
    0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2, 3, 5, 10,
)

ATTAINMENT_OF = 1000

FAILURE_BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60,
)


class TimedChoice(Protocol):
    """What the timer keeps and reads of one choice."""

    last_token_time: float | None
    cached_tokens: int

    @property
    def num_tokens(self) -> int: ...


class RouterMetrics:
    """All samples of one router, on a registry of its own. Loop thread only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ttft = self._histogram("ttft_seconds", "From request to first token", TTFT_BUCKETS)
        self.itl = self._histogram("itl_seconds", "Between tokens of a choice", ITL_BUCKETS)
        self.e2e = self._histogram("e2e_seconds", "From request to its end", E2E_BUCKETS)
        self.tokens = self._counter("tokens", "Tokens by kind: prompt, output", "kind")
        self.requests = self._counter(
            "requests", "HTTP requests to generate: completed, cancelled, rejected, failed",
            "outcome",
        )
        self.active_requests = Gauge(
            "baton_active_requests", "HTTP requests being answered", registry=self.registry
        )
        self.cache_hits = self._counter(
            "prefix_cache_hit_tokens", "Prompt tokens found in a prefix cache"
        )
        self._decisions = self._counter("route_decisions", "Decisions", "route", "reason")
        self._prediction_error = self._histogram(
            "prediction_error_ratio", "Actual over predicted latency of an attempt: ttft, itl",
            RATIO_BUCKETS, "target",
        )
        self._choices = self._counter("choices", "Choices by how they ended", "outcome")
        self._retries = self._counter("retries", "Attempts routed again, by reason", "reason")
        self._migrations = self._counter(
            "migrations",
            "Requests moved to another worker while they decode: moved, not_running, unfinished",
            "outcome",
        )
        self._attained: dict[str, deque[bool]] = {}
        self._attainment = Gauge(
            "baton_slo_attainment_ratio",
            f"Of the last {ATTAINMENT_OF} choices, those that kept their ttft, itl, or both",
            ["target"], registry=self.registry,
        )
        self._role_changes = self._counter("role_changes", "Workers that took a role", "role")
        self._lenders = self._counter(
            "lenders_named", "Requests whose prompt another worker was to lend cached blocks for"
        )
        self._phases = self._histogram("phase_seconds", "Time per phase", PHASE_BUCKETS, "phase")
        self._queue_depth = Gauge(
            "baton_queue_depth", "Requests waiting", ["stage"], registry=self.registry
        )
        self._queue_seconds = self._histogram(
            "queue_seconds", "Time spent waiting", PHASE_BUCKETS, "stage"
        )
        self._detection = self._histogram(
            "worker_detection_seconds",
            "From the last word of a worker that died to its loss being noticed, by cause",
            FAILURE_BUCKETS, "cause",
        )
        self._redispatch = self._histogram(
            "redispatch_seconds",
            "From noticing a worker's loss to a request of it being sent again, by what it waited "
            "for: nothing, busy, throttled, excluded, no_worker",
            FAILURE_BUCKETS, "waited_for",
        )
        self._circuit = Gauge(
            "baton_worker_circuit_open",
            "1 while a worker is tried only now and then, because it is slow or fails",
            ["worker"], registry=self.registry,
        )
        self._circuits = self._counter(
            "worker_circuits_opened", "Workers not used for a while: slow, failing", "worker", "why"
        )
        self._workers = _WorkerCollector()
        self.registry.register(self._workers)

    # -- the dispatcher's side ------------------------------------------------------------

    def decision(self, route: str, reason: str) -> None:
        """A choice was routed: "remote" or "local", and why."""
        self._decisions.labels(route, reason).inc()

    def predicted(self, target: str, predicted: float, actual: float) -> None:
        """What became of a prediction of an attempt's "ttft" or "itl"; both in seconds."""
        if predicted > 0:
            self._prediction_error.labels(target).observe(actual / predicted)

    def retry(self, reason: str) -> None:
        """An attempt was declined or lost and is routed again."""
        self._retries.labels(reason).inc()

    def migration(self, outcome: str) -> None:
        """An attempt to move a request from one decode worker to another is over: it has "moved",
        it was "not_running" just then, or the request or its attempt ended first ("unfinished")."""
        self._migrations.labels(outcome).inc()

    def attained(self, target: str, kept: bool) -> None:
        """Whether a choice that ended kept its target: "ttft", "itl" or "both"."""
        last = self._attained.get(target)
        if last is None:
            last = self._attained[target] = deque(maxlen=ATTAINMENT_OF)
            self._attainment.labels(target).set_function(lambda: sum(last) / max(1, len(last)))
        last.append(kept)

    def role_changed(self, role: str) -> None:
        """A worker has this role from now on."""
        self._role_changes.labels(role).inc()

    def lender_named(self) -> None:
        """A request was sent with the name of a worker that has more of its prompt cached."""
        self._lenders.inc()

    def flight_finished(self, outcome: str, phases: Mapping[str, float] | None = None) -> None:
        """A choice ended: "stop", "length", "stop_string", "cancelled" or an error's code; with
        the seconds it spent per phase."""
        self._choices.labels(outcome).inc()
        for phase, seconds in (phases or {}).items():
            self._phases.labels(phase).observe(seconds)

    def queue_depth(self, stage: str, depth: int) -> None:
        self._queue_depth.labels(stage).set(depth)

    def queued(self, stage: str, seconds: float) -> None:
        """A request left a queue after so long."""
        self._queue_seconds.labels(stage).observe(seconds)

    def worker_died(self, cause: str, silence: float) -> None:
        """A worker was lost without a good-bye, so many seconds after its last word."""
        self._detection.labels(cause).observe(silence)

    def redispatched(self, waited_for: str, seconds: float) -> None:
        """A request that a lost worker had was sent again, so long after the loss was noticed."""
        self._redispatch.labels(waited_for).observe(seconds)

    def circuit(self, worker_id: str, is_open: bool, why: str) -> None:
        """A worker is not used for a while ("slow", "failing"), or it is again."""
        self._circuit.labels(worker_id).set(is_open)
        if is_open:
            self._circuits.labels(worker_id, why).inc()

    # -- workers --------------------------------------------------------------------------

    def worker_load(self, worker_id: str, load: Load) -> None:
        """A worker's heartbeat."""
        self._workers.loads[worker_id] = load

    def worker_metrics(self, worker_id: str, record: WorkerMetrics) -> None:
        """A worker's own samples: they replace the ones it sent before."""
        self._workers.records[worker_id] = record

    def worker_gone(self, worker_id: str) -> None:
        """Nothing more is shown of this worker. Idempotent."""
        self._workers.loads.pop(worker_id, None)
        self._workers.records.pop(worker_id, None)

    # -- requests -------------------------------------------------------------------------

    @contextmanager
    def time_request(self) -> Iterator[RequestTimer]:
        """Times one HTTP request and counts how it ended, by what leaves the block."""
        timer = RequestTimer(self)
        self.active_requests.inc()
        try:
            yield timer
        except (asyncio.CancelledError, ConnectionError):
            timer.outcome = "cancelled"
            raise
        except BatonError as error:
            timer.outcome = "rejected" if error.status < 500 else "failed"
            raise
        except Exception as error:
            # What aiohttp raises for a client's fault carries a status.
            rejected = 400 <= getattr(error, "status", 500) < 500
            timer.outcome = "rejected" if rejected else "failed"
            raise
        finally:
            self.active_requests.dec()
            self.requests.labels(timer.outcome).inc()
            if timer.outcome == "completed":
                self.e2e.observe(perf_counter() - timer.start)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"baton_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(
            f"baton_{name}", text, labels, buckets=buckets, registry=self.registry
        )


class RequestTimer:
    """The stamps of one HTTP request, from which its latencies are derived."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics
        self.start = perf_counter()
        self.outcome = "completed"

    def prompt(self, tokens: int) -> None:
        self._metrics.tokens.labels("prompt").inc(tokens)

    def tokens(self, choice: TimedChoice, count: int) -> None:
        """So many tokens of this choice arrived now."""
        if count == 0:
            return
        now = perf_counter()
        last, choice.last_token_time = choice.last_token_time, now
        if last is None:
            self._metrics.ttft.observe(now - self.start)
            count -= 1
            last = now
        if count:
            gap = (now - last) / count
            for _ in range(count):
                self._metrics.itl.observe(gap)

    def finished(self, choices: Iterable[TimedChoice]) -> None:
        for choice in choices:
            self._metrics.tokens.labels("output").inc(choice.num_tokens)
            self._metrics.cache_hits.inc(choice.cached_tokens)


class _WorkerCollector(Collector):
    """What workers last reported, with a worker label added to samples that lack one."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self.records: dict[str, WorkerMetrics] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape; families come and go with the workers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._from_loads()
        yield from self._from_records()

    def _from_loads(self) -> Iterator[Metric]:
        blocks = GaugeMetricFamily(
            "baton_kv_blocks", "KV blocks by state", labels=["worker", "state"]
        )
        work = GaugeMetricFamily(
            "baton_worker_requests", "Requests on a worker", labels=["worker", "state"]
        )
        tokens = GaugeMetricFamily(
            "baton_worker_waiting_tokens", "Prompt tokens not computed yet", labels=["worker"]
        )
        age = GaugeMetricFamily(
            "baton_worker_step_age_seconds", "Since the last step, with work pending",
            labels=["worker"],
        )
        pool = GaugeMetricFamily("baton_pool_workers", "Workers by role", labels=["role"])
        roles = {"prefill": 0, "decode": 0, "mixed": 0}
        for worker, load in self.loads.items():
            for state in load.blocks.__struct_fields__:
                blocks.add_metric([worker, state], getattr(load.blocks, state))
            work.add_metric([worker, "waiting"], load.waiting)
            work.add_metric([worker, "running"], load.running)
            work.add_metric([worker, "handoff"], load.handoffs)
            tokens.add_metric([worker], load.waiting_tokens)
            age.add_metric([worker], load.step_age)
            roles[load.role] = roles.get(load.role, 0) + 1
        for role, count in roles.items():
            pool.add_metric([role], count)
        yield from (blocks, work, tokens, age, pool)

    def _from_records(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for worker, record in self.records.items():
            for family, name, labels, value in record.samples:
                metric = families.get(family)
                if metric is None:
                    kind, text = record.types.get(family, ("unknown", ""))
                    known = kind if kind in METRIC_TYPES else "unknown"
                    metric = families[family] = Metric(family, text, known)
                metric.add_sample(name, {"worker": worker, **labels}, value)
        yield from families.values()
