"""What a worker's own metrics say of hand-offs."""

from __future__ import annotations

from baton.deploy.worker.metrics import Metrics
from baton.engine.commands import StepStats
from baton.kvtransfer.probe import ProbeResult
from baton.protocol.curves import StepShape
from baton.protocol.records import Scheme


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """By sample name and label values."""
    taken = metrics.take()
    assert taken is not None
    return {(name, *labels.values()): value for _, name, labels, value in taken.samples}


def test_phases_of_a_hand_off_come_from_its_stamps() -> None:
    metrics = Metrics("ucx")
    metrics.send_ended("prefill", "acked", 4, {
        "started": 1.0, "granted": 1.5, "posted": 2.0, "sent": 5.0, "ready": 4.0, "sealed": 5.5,
        "ended": 5.75})
    metrics.receive_ended("request", "admitted", 4, {"handoff_reserve": 0.25, "handoff_wire": 3.0})
    seen = samples(metrics)
    name = "baton_handoff_phase_seconds_sum"
    assert {phase: seen[name, phase] for phase in ("grant", "send", "exposed", "ack")} == {
        "grant": 0.5, "send": 3.0, "exposed": 1.75, "ack": 0.25}
    assert seen[name, "reserve"] == 0.25
    assert seen[name, "wire"] == 3.0
    assert seen["baton_kv_transfer_seconds_sum", "ucx"] == 3.0


def test_failures_are_counted_by_reason_and_what_is_no_failure_is_not() -> None:
    metrics = Metrics("ucx")
    metrics.send_ended("prefill", "finished", 0, {})
    metrics.receive_ended("request", "cancelled", 0, {})
    metrics.receive_ended("loan", "sender_not_cached", 0, {})
    metrics.receive_ended("request", "corrupt", 0, {})
    metrics.receive_ended("loan", "expired", 0, {})
    metrics.send_ended("migration", "peer_lost", 0, {})
    counted = {
        reason: value for (name, *labels), value in samples(metrics).items()
        for reason in labels if name == "baton_kv_transfer_failures_total"}
    assert counted == {"corrupt": 1.0, "loan_expired": 1.0, "peer_lost": 1.0}


def test_what_is_under_way_follows_the_peers_and_falls_back_to_nothing() -> None:
    metrics = Metrics("ucx")
    metrics.handoffs(
        sending={"d": 3}, receiving={"p": 2}, backlog={"d": (5, 640)}, quarantined_bytes=128)
    seen = samples(metrics)
    in_flight = "baton_handoff_messages_in_flight"
    assert seen[in_flight, "d", "send"] == 3
    assert seen[in_flight, "p", "receive"] == 2
    assert seen["baton_handoff_backlog_messages", "d"] == 5
    assert seen["baton_handoff_backlog_bytes", "d"] == 640
    assert seen["baton_kv_quarantined_bytes",] == 128
    metrics.handoffs(sending={}, receiving={}, backlog={}, quarantined_bytes=0)
    seen = samples(metrics)
    assert seen[in_flight, "d", "send"] == seen[in_flight, "p", "receive"] == 0
    assert seen["baton_handoff_backlog_messages", "d"] == 0
    assert seen["baton_kv_quarantined_bytes",] == 0
    metrics.handoffs(sending={}, receiving={}, backlog={}, quarantined_bytes=0)
    assert metrics.take() is None, "nothing new, nothing sent"


def test_the_way_that_was_chosen_is_told_and_one_that_is_given_up_is_not() -> None:
    metrics = Metrics("ucx")
    direct, staged = Scheme(16), Scheme(4, staged=True)
    rates = ((direct, 2e9), (staged, 1e9))
    probes = {"p": ProbeResult(direct, rates)}
    metrics.ways(probes)
    name = "baton_kv_way_bytes_per_second"
    assert samples(metrics)[name, "p", "direct", "16"] == 2e9
    metrics.ways(probes)
    assert metrics.take() is None, "nothing new, nothing sent"
    metrics.ways({"p": ProbeResult(staged, rates)})
    told = {labels: value for labels, value in samples(metrics).items() if labels[0] == name}
    assert told == {(name, "p", "staged", "4"): 1e9}
    metrics.ways({})
    assert not [labels for labels in samples(metrics) if labels[0] == name]


def test_chunks_and_what_they_leave_of_the_target_between_tokens() -> None:
    metrics = Metrics("ucx")
    decodes = StepShape.decodes(2, 100)
    chunks = StepShape.chunk(100) + StepShape.chunk(20)
    metrics.step(StepStats(0.75, decodes + chunks, itl=1.0))
    metrics.step(StepStats(0.5, decodes, itl=0.25))
    metrics.step(StepStats(9.0, chunks))
    seen = samples(metrics)
    assert seen["baton_prefill_chunk_tokens_sum",] == 60 + 60
    assert seen["baton_step_itl_ratio_sum", "prefill"] == 0.75
    assert seen["baton_step_itl_ratio_sum", "decode"] == 2.0
    assert seen["baton_step_itl_ratio_bucket", "prefill", "1.0"] == 1
    assert seen["baton_itl_headroom_seconds",] == -0.25
