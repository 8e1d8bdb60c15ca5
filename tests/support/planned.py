"""Small plans, for tests of `baton plan`: kinds of workers, and a plan made of plain values."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from simulated import machine

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.plan import (
    Change,
    Choice,
    Estimate,
    Forecast,
    KindFacts,
    Line,
    LoadFacts,
    Percentiles,
    Plan,
    Pool,
    Question,
    Simulated,
    Traffic,
)


def kind(devices: int = 1, *, speed: float = 1.0, name: str = "test", **changes: float
         ) -> WorkerKind:
    """8 ms a step, 0.1 ms a prompt token, 0.2 ms a decoding sequence; `speed` times as fast."""
    made = machine(base=8e-3 / speed, token=1e-4 / speed, decode=2e-4 / speed,
                   context=1e-7 / speed, spread=0.02, **changes)  # type: ignore[arg-type]
    return WorkerKind(
        machine=replace(made, name=name), devices=devices, origin="measured", error=0.02,
        note="made for a test",
    )


def estimate(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value, value - half, value + half)


def percentiles(value: float) -> Percentiles:
    return Percentiles(**dict.fromkeys(("p50", "p90", "p95", "p99"), estimate(value)))


def choice(
    shape: str = "disaggregated",
    roles: dict[str, int] | None = None,
    *,
    capacity: float = 10.0,
    half: float = 1.0,
    feasible: bool = True,
    devices: int = 1,
    batch: int = 20,
) -> Choice:
    roles = roles or {"prefill": 2, "decode": 1}
    gpus = devices * sum(roles.values())
    return Choice(
        name=" + ".join(f"{count} {role}" for role, count in roles.items()),
        layout="+".join(f"{count}{role[0]}" for role, count in roles.items()),
        shape=shape,
        pools=[
            Pool(role=role, workers=count, devices=devices, kind="test",
                 batch_limit=0 if role == "prefill" else batch, chunk=512, busy=estimate(0.7))
            for role, count in roles.items()
        ],
        gpus=gpus,
        price_per_hour=None,
        feasible=feasible,
        capacity_per_s=capacity,
        goodput_per_s=capacity,
        goodput_per_gpu=capacity / gpus,
        goodput_per_cost=None,
        divisor=float(gpus),
        binds="prefill",
        traffic=Traffic(bytes_per_s=1e9, link_bytes_per_s=1e10, share=0.1, exposed_ms=2.0),
        forecast=Forecast(
            capacity_per_s=capacity, bound_per_s=2 * capacity, attainment=0.95,
            ttft_ms={"mean": 100.0, "p95": 200.0}, itl_ms={"mean": 10.0, "p95": 12.0}, batch=5.0,
        ),
        simulated=Simulated(
            capacity_per_s=estimate(capacity, half),
            capacities_per_s=[capacity - half, capacity, capacity + half],
            rate_per_s=capacity, seeds=3, requests=300,
            attainment=estimate(0.95, 0.01), goodput_per_s=estimate(capacity * 0.95),
            served=estimate(1.0), ttft_ms=percentiles(200.0), itl_ms=percentiles(12.0),
            gap_ms=percentiles(15.0), e2e_ms=percentiles(900.0), hit_rate=estimate(0.0),
            handed=estimate(1.0),
        ),
    )


def plan(*choices: Choice, rate: float | None = None, **changes: object) -> Plan:
    made = Plan(
        question=Question(
            workload="400/20", rate_per_s=rate, ttft_ms=300.0, itl_ms=20.0, e2e_ms=None,
            attainment=0.95, gpus=3, price_per_hour=None, ranked_by="gpu", effort="quick", seed=1,
        ),
        load=LoadFacts(prompt_tokens=400, cached_tokens=0, output_tokens=20, burstiness=1.0,
                       sample=1),
        kinds=[KindFacts(name="test", devices=1, origin="measured", error=0.02, note="made",
                         price_per_hour=None, link_bytes_per_s=1e10, kv_tokens=64_000)],
        choices=list(choices) or [choice()],
        verdict="2 prefill + 1 decode serves 10 requests/s.",
        sensitivity=[Change(what="one more prefill worker", capacity_per_s=12.0, ratio=1.2,
                            best="3 prefill + 1 decode", best_shape="disaggregated",
                            text="one more prefill worker: 12 requests/s (+20%)")],
        break_even=[],
        infeasible=None,
        plots={
            name: [
                Line(name="2 prefill + 1 decode, simulated", shape="disaggregated",
                     x=[1.0, 2.0], y=[0.5, 0.8]),
                Line(name="2 prefill + 1 decode, closed form", shape="disaggregated",
                     x=[1.0, 2.0], y=[0.4, 0.7], low=[0.3, 0.6], high=[0.5, 0.9]),
            ]
            for name in ("frontier", "ttft", "itl", "busy")
        },
    )
    return msgspec.structs.replace(made, **changes)
