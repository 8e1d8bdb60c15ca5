"""What was found of a layout, as an entry of a plan."""

from __future__ import annotations

import math

from msgspec.structs import asdict

from baton.bench.planning.candidates import Candidate, closed_of, device_of
from baton.bench.planning.estimates import estimate, share, shortened
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Role, kind_name
from baton.bench.planning.limits import Limits
from baton.bench.planning.outcomes import figures_of
from baton.bench.planning.plan import (
    SHARES,
    Choice,
    Estimate,
    Forecast,
    Pool,
    Simulated,
    Traffic,
    ms,
)
from baton.bench.planning.processes import Setting
from baton.bench.planning.run import RunFigures
from baton.bench.planning.survivors import Survivor, rate_for
from baton.bench.planning.wishes import Wishes
from baton.protocol.curves import StepShape
from baton.router.planner import split


def choice_of(survivor: Survivor, limits: Limits, setting: Setting) -> Choice:
    layout, kinds = survivor.candidate.layout, setting.kinds
    capacity = survivor.capacity
    rate = rate_for(survivor, limits)
    enough = capacity > 0 and (limits.rate is None or capacity >= limits.rate)
    goodput = limits.rate if limits.rate is not None and enough else capacity
    money = limits.money_of(layout, kinds)
    return Choice(
        name=layout.name(kinds),
        layout=layout.code(kinds),
        shape=layout.shape,
        pools=[_pool(pool, survivor, setting, rate) for pool in layout.pools],
        gpus=layout.devices(kinds),
        price_per_hour=limits.price(layout, kinds),
        feasible=enough,
        capacity_per_s=shortened(capacity),
        goodput_per_s=shortened(goodput),
        goodput_per_gpu=shortened(goodput / limits.gpus_of(layout, kinds)),
        goodput_per_cost=shortened(goodput / money) if money else None,
        divisor=shortened(limits.divisor(layout, kinds)),
        binds=_binds(survivor, setting, rate),
        traffic=_traffic(survivor.candidate, rate),
        forecast=forecast_of(survivor.candidate, setting.wishes, rate),
        simulated=_simulated(survivor, rate),
    )


def forecast_of(candidate: Candidate, wishes: Wishes, rate: float) -> Forecast:
    """By closed forms alone."""
    closed = closed_of(candidate, wishes.attainment)
    found: split.Forecast = candidate.model.forecast(rate)
    tails = found.tails
    return Forecast(
        capacity_per_s=shortened(closed.rate),
        bound_per_s=shortened(candidate.model.bound),
        attainment=shortened(found.goodput),
        ttft_ms={"mean": ms(found.ttft), **{_p(q): ms(tails.ttft(q)) for q in SHARES}},
        itl_ms={"mean": ms(found.itl), **{_p(q): ms(tails.itl(q)) for q in SHARES}},
        batch=shortened(found.batch),
    )


def limits_of(
    role: str, kind: WorkerKind, wishes: Wishes, context: float, batch: float
) -> tuple[int, int]:
    """(sequences that a worker may decode at once, prompt tokens that a step may hold beside
    `batch` of them), within the ITL target and the memory. `context`: tokens of a sequence."""
    curve, limits = kind.machine.curve, kind.machine.limits
    device = device_of(kind).kind
    budget = wishes.itl / math.exp(min(0.3, curve.spread) / 2)
    most = min(limits.max_running, int(device.kv_tokens / context) if context >= 1 else 1 << 30)
    each = curve.decode + curve.context * context
    if each > 0:
        most = min(most, max(1, int((budget - curve.base) / each)))
    if role == "prefill":
        return 0, limits.max_batch_tokens
    beside = StepShape.decodes(round(batch), round(batch * context))
    room = max(0, limits.max_batch_tokens - round(batch))
    return most, curve.largest_chunk(budget, beside, limit=room)


# -- inside ----------------------------------------------------------------------------------


def _pool(pool: Role, survivor: Survivor, setting: Setting, rate: float) -> Pool:
    kind = setting.kinds[pool.kind]
    found = survivor.candidate.model.forecast(rate)
    batch, chunk = limits_of(
        pool.role, kind, setting.wishes, setting.workload.context, found.batch
    )
    return Pool(
        role=pool.role,
        workers=pool.workers,
        devices=kind.devices,
        kind=kind_name(setting.kinds, pool.kind) if len(setting.kinds) > 1 else kind.machine.name,
        batch_limit=batch,
        chunk=chunk,
        busy=share(_busy(s, pool.role) for s in survivor.seen) if survivor.seen else None,
    )


def _busy(seen: RunFigures, role: str) -> float:
    """Of a slice in which workers do both, all are as busy as each."""
    return seen.busy.get(role, seen.busy.get("mixed", 0.0))


def _binds(survivor: Survivor, setting: Setting, rate: float) -> str:
    """Just beyond what it carries: what was missed there, and whose fault that is. Misses of TTFT
    and refusals are of who reads prompts, misses of ITL of who writes."""
    closed = closed_of(survivor.candidate, setting.wishes.attainment)
    missed: dict[str, int] = {}
    for seen in survivor.seen:
        for what, count in seen.missed.items():
            missed[what] = missed.get(what, 0) + count
    counted = sum(seen.requests for seen in survivor.seen)
    spared = survivor.capacity > 0 and rate < 0.8 * survivor.capacity
    if spared or not counted or not any(missed.values()):
        return closed.binds
    if closed.binds == "link":
        return "link"
    late = missed.get("ttft", 0) + missed.get("refused", 0)
    slow, long = missed.get("itl", 0), missed.get("e2e", 0)
    if long > 1.5 * max(late, slow):
        return "e2e"
    target = "itl" if slow > late else "ttft"
    if survivor.candidate.layout.pool("mixed") is not None:
        return target
    # A first token waits for room to decode in, too.
    return "decode" if target == "itl" or closed.binds in ("decode", "itl") else "prefill"


def _traffic(candidate: Candidate, rate: float) -> Traffic | None:
    found = candidate.model.traffic(rate)
    if found is None:
        return None
    return Traffic(
        bytes_per_s=shortened(found.bytes_per_second),
        link_bytes_per_s=shortened(found.capacity),
        share=shortened(found.share),
        exposed_ms=ms(found.exposed) or 0.0,
    )


def _simulated(survivor: Survivor, rate: float) -> Simulated | None:
    if not survivor.seen:
        return None
    border = estimate(survivor.rates)
    return Simulated(
        capacity_per_s=Estimate(border.value, max(0.0, border.low), border.high),
        capacities_per_s=[shortened(found) for found in survivor.rates],
        seeds=len(survivor.seen),
        **asdict(figures_of(survivor.seen, rate)),
    )


def _p(wanted: float) -> str:
    return f"p{round(100 * wanted)}"

