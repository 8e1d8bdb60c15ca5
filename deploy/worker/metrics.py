"""A worker's own metrics. The router shows them on its /metrics page with a worker label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from baton.engine.commands import StepStats
from baton.protocol.records import WorkerMetrics

_STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_TRANSFER_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Collects, and tells when there is something new to send."""

    def __init__(self, transport: str) -> None:
        self._registry = CollectorRegistry()
        self._transport = transport
        self._changed = False
        self._moved: dict[str, float] = {}
        self.step_seconds = Histogram(
            "baton_step_seconds",
            "Duration of one engine step",
            ["stage"],
            buckets=_STEP_BUCKETS,
            registry=self._registry,
        )
        self.batch_size = Histogram(
            "baton_batch_size",
            "Sequences (decode) or tokens (prefill) of one step",
            ["stage"],
            buckets=_BATCH_BUCKETS,
            registry=self._registry,
        )
        self.transfer_bytes = Counter(
            "baton_kv_transfer_bytes",
            "KV bytes sent to other workers, by what carried them",
            ["transport"],
            registry=self._registry,
        )
        self.transfer_seconds = Histogram(
            "baton_kv_transfer_seconds",
            "From the grant to the receiver's acknowledgement",
            ["transport"],
            buckets=_TRANSFER_BUCKETS,
            registry=self._registry,
        )
        self.transfer_failures = Counter(
            "baton_kv_transfer_failures",
            "Hand-offs that did not complete, by reason",
            ["reason"],
            registry=self._registry,
        )
        self.phase_seconds = Histogram(
            "baton_handoff_phase_seconds",
            "Receiver's view of a hand-off, by phase",
            ["phase"],
            buckets=_TRANSFER_BUCKETS,
            registry=self._registry,
        )

    # -- what happened -----------------------------------------------------------------------

    def step(self, stats: StepStats) -> None:
        stage = "prefill" if stats.prefill_tokens else "decode"
        self.step_seconds.labels(stage).observe(stats.seconds)
        if stats.decode_sequences:
            self.batch_size.labels("decode").observe(stats.decode_sequences)
        if stats.prefill_tokens:
            self.batch_size.labels("prefill").observe(stats.prefill_tokens)
        self._changed = True

    def send_ended(self, outcome: str, blocks: int, seconds: float | None) -> None:
        if outcome == "acked":
            if seconds is not None:
                self.transfer_seconds.labels(self._transport).observe(seconds)
        elif outcome not in ("finished", "cancelled", "revoked"):
            self.transfer_failures.labels(outcome).inc()
        self._changed = True

    def receive_ended(self, outcome: str, blocks: int, phases: dict[str, float]) -> None:
        if outcome == "admitted":
            for phase, seconds in phases.items():
                self.phase_seconds.labels(phase).observe(seconds)
        elif outcome not in ("sender_finished", "sender_cancelled", "cancelled"):
            self.transfer_failures.labels(outcome).inc()
        self._changed = True

    def bytes_sent(self, totals: Mapping[str, float]) -> None:
        """Cumulative bytes by carrier, as the transport counts them."""
        for carrier, total in totals.items():
            grown = total - self._moved.get(carrier, 0.0)
            if grown > 0:
                self.transfer_bytes.labels(carrier).inc(grown)
                self._moved[carrier] = total
                self._changed = True

    # -- on the wire -------------------------------------------------------------------------

    def take(self) -> WorkerMetrics | None:
        """All samples, if anything changed since the last call."""
        if not self._changed:
            return None
        self._changed = False
        families: list[Metric] = list(self._registry.collect())
        return WorkerMetrics(
            samples=tuple(
                (family.name, sample.name, dict(sample.labels), float(sample.value))
                for family in families
                for sample in family.samples
                if not sample.name.endswith("_created")
            ),
            types={family.name: (family.type, family.documentation) for family in families},
        )
