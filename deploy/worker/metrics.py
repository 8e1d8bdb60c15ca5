"""A worker's own metrics. The router shows them on its /metrics page with a worker label."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from baton.engine.commands import StepStats
from baton.kvtransfer.probe import ProbeResult
from baton.protocol.records import Scheme, WorkerMetrics

_STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_TRANSFER_BUCKETS = (0.00002, 0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)

_SENDER_PHASES = {
    "grant": ("started", "granted"),
    "send": ("posted", "sent"),
    "hidden": ("posted", "ready"),
    "exposed": ("ready", "ended"),
    "ack": ("sealed", "ended"),
}
"""Phase to the stamps between which it lies. "hidden" is how long messages went while the prefill
ran, "exposed" what it did not hide: from its end until the receiver had everything, for a small
message may be called sent before the link has had it."""

_NO_FAILURES = ("finished", "cancelled", "revoked", "sender_finished", "sender_cancelled",
                "all_cached", "not_cached", "sender_not_cached", "not_running")


class Metrics:
    """Collects, and tells when there is something new to send."""

    def __init__(self, transport: str) -> None:
        self._registry = CollectorRegistry()
        self._transport = transport
        self._changed = False
        self._moved: dict[str, float] = {}
        self._under_way: dict[tuple[str, str], float] = {}
        self._backlog: dict[str, tuple[int, int]] = {}
        self._quarantined = 0
        self._ways: dict[str, ProbeResult] = {}
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
        self.chunk_tokens = Histogram(
            "baton_prefill_chunk_tokens",
            "Prompt tokens of the chunks of one step, on average",
            buckets=(*_BATCH_BUCKETS, 512, 1024, 2048, 4096),
            registry=self._registry,
        )
        self.itl_used = Histogram(
            "baton_step_itl_ratio",
            "Duration of a step by the tightest inter-token target of what decodes in it",
            ["stage"],
            buckets=_RATIO_BUCKETS,
            registry=self._registry,
        )
        self.itl_headroom = Gauge(
            "baton_itl_headroom_seconds",
            "What the last such step left of that target; negative: what it took more",
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
            "From a hand-off's first message to the end of its last",
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
        self.loans = Counter(
            "baton_kv_loans",
            'Prompts whose beginning was to be fetched from another cache; "adopted" ones were',
            ["outcome"],
            registry=self._registry,
        )
        self.lent_blocks = Counter(
            "baton_kv_lent_blocks",
            "KV blocks of this cache that others fetched",
            registry=self._registry,
        )
        self.phase_seconds = Histogram(
            "baton_handoff_phase_seconds",
            "Phases of hand-offs that completed, each told by the side that sees it",
            ["phase"],
            buckets=_TRANSFER_BUCKETS,
            registry=self._registry,
        )
        self.early = Counter(
            "baton_handoff_early_messages",
            "Messages of layers that left before the step that computed them was over",
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "baton_handoff_messages_in_flight",
            "Messages of KV blocks that are under way or wait to be sent or to arrive",
            ["peer", "direction"],
            registry=self._registry,
        )
        self.backlog_messages = Gauge(
            "baton_handoff_backlog_messages",
            "Messages of KV blocks that wait for their turn to be sent",
            ["peer"],
            registry=self._registry,
        )
        self.backlog_bytes = Gauge(
            "baton_handoff_backlog_bytes",
            "Their bytes",
            ["peer"],
            registry=self._registry,
        )
        self.quarantined_bytes = Gauge(
            "baton_kv_quarantined_bytes",
            "KV memory that an unfinished operation may still touch",
            registry=self._registry,
        )
        self.way = Gauge(
            "baton_kv_way_bytes_per_second",
            "How blocks come from a sender, and how fast that was when the session opened",
            ["peer", "way", "blocks_per_message"],
            registry=self._registry,
        )

    # -- what happened -----------------------------------------------------------------------

    def step(self, stats: StepStats) -> None:
        shape = stats.shape
        stage = "prefill" if shape.prefill_tokens else "decode"
        self.step_seconds.labels(stage).observe(stats.seconds)
        if shape.decode_sequences:
            self.batch_size.labels("decode").observe(shape.decode_sequences)
        if shape.prefill_tokens:
            self.batch_size.labels("prefill").observe(shape.prefill_tokens)
            self.chunk_tokens.observe(shape.prefill_tokens / shape.prefill_chunks)
        if stats.itl < math.inf:
            self.itl_used.labels(stage).observe(stats.seconds / stats.itl)
            self.itl_headroom.set(stats.itl - stats.seconds)
        self._changed = True

    def send_ended(self, kind: str, outcome: str, blocks: int, stamps: dict[str, float]) -> None:
        """A hand-off to another worker is over. `stamps`: when things happened, in seconds."""
        if outcome == "acked":
            if kind == "loan":
                self.lent_blocks.inc(blocks)
            for phase, (begin, end) in _SENDER_PHASES.items():
                if begin in stamps and end in stamps:
                    seconds = max(0.0, stamps[end] - stamps[begin])
                    self.phase_seconds.labels(phase).observe(seconds)
            if "posted" in stamps and "sent" in stamps:
                seconds = stamps["sent"] - stamps["posted"]
                self.transfer_seconds.labels(self._transport).observe(seconds)
        elif outcome not in _NO_FAILURES:
            self.transfer_failures.labels(_reason(kind, outcome)).inc()
        self._changed = True

    def receive_ended(
        self, kind: str, outcome: str, blocks: int, phases: dict[str, float]
    ) -> None:
        """A hand-off from another worker is over. `phases` in seconds."""
        if kind == "loan":
            self.loans.labels(outcome).inc()
        if outcome in ("admitted", "adopted"):
            for phase, seconds in phases.items():
                name = phase.removeprefix("handoff_")
                self.phase_seconds.labels(name).observe(seconds)
        elif outcome not in _NO_FAILURES:
            self.transfer_failures.labels(_reason(kind, outcome)).inc()
        self._changed = True

    def message_phase(self, phase: str, seconds: float) -> None:
        """Of one message: "queue" until its turn, "post" within the transport's call."""
        self.phase_seconds.labels(phase).observe(seconds)
        self._changed = True

    def sent_early(self, messages: int) -> None:
        """They left before the step that computed them was over."""
        self.early.inc(messages)
        self._changed = True

    def handoffs(
        self,
        *,
        sending: Mapping[str, int],
        receiving: Mapping[str, int],
        backlog: Mapping[str, tuple[int, int]],
        quarantined_bytes: int,
    ) -> None:
        """What is under way now, by peer."""
        now = {
            (peer, direction): float(number)
            for direction, counts in (("send", sending), ("receive", receiving))
            for peer, number in counts.items()
        }
        for place in self._under_way.keys() - now.keys():
            now[place] = 0.0
        for place, number in now.items():
            if self._under_way.get(place) != number:
                self.in_flight.labels(*place).set(number)
                self._changed = True
        self._under_way = now
        for peer in self._backlog.keys() | backlog.keys():
            messages, num_bytes = backlog.get(peer, (0, 0))
            if self._backlog.get(peer) != (messages, num_bytes):
                self.backlog_messages.labels(peer).set(messages)
                self.backlog_bytes.labels(peer).set(num_bytes)
                self._changed = True
        self._backlog = dict(backlog)
        if quarantined_bytes != self._quarantined:
            self._quarantined = quarantined_bytes
            self.quarantined_bytes.set(quarantined_bytes)
            self._changed = True

    def ways(self, probes: Mapping[str, ProbeResult]) -> None:
        """How blocks come from each sender, by node id: the last probe's choice."""
        for peer in self._ways.keys() | probes.keys():
            was, now = self._ways.get(peer), probes.get(peer)
            if was is now:
                continue
            if was is not None:
                self.way.remove(peer, *_way(was.chosen))
            if now is not None:
                self.way.labels(peer, *_way(now.chosen)).set(dict(now.rates)[now.chosen])
            self._changed = True
        self._ways = dict(probes)

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


def _way(scheme: Scheme) -> tuple[str, str]:
    kind = "staged" if scheme.staged else "pulled" if scheme.pulled else "direct"
    return kind, str(scheme.blocks_per_message)


def _reason(kind: str, outcome: str) -> str:
    return f"loan_{outcome}" if kind == "loan" else outcome
