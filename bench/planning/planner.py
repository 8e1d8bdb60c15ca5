"""From what was asked to a plan: closed forms over all layouts, simulation of the few that are
left, and what both say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from baton.bench.planning.break_even import break_even
from baton.bench.planning.candidates import all_candidates
from baton.bench.planning.choices import choice_of
from baton.bench.planning.closed import Answer, World
from baton.bench.planning.coarse import coarser
from baton.bench.planning.doubts import doubts, repeated
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.infeasible import infeasible
from baton.bench.planning.layout import kind_name
from baton.bench.planning.limits import Limits
from baton.bench.planning.loads import Load, Trace
from baton.bench.planning.plan import (
    SHAPES,
    Choice,
    KindFacts,
    LoadFacts,
    Plan,
    Question,
)
from baton.bench.planning.plots import plots_of
from baton.bench.planning.processes import EFFORTS, Setting, processes
from baton.bench.planning.progress import Tell
from baton.bench.planning.sensitivity import same_devices, sensitivity
from baton.bench.planning.survivors import Survivor, simulate
from baton.bench.planning.verdict import verdict
from baton.bench.planning.wishes import Wishes
from baton.protocol.errors import ConfigError
from baton.router.planner.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All that a plan depends on."""

    kinds: tuple[WorkerKind, ...]
    load: Load
    wishes: Wishes
    limits: Limits
    effort: str = "normal"
    seed: int = 1
    jobs: int | None = None
    """Processes; None: one per core."""


def make_plan(asked: Asked, tell: Tell = lambda more, done: None) -> Plan:
    """`tell` hears how many more simulations there are, and of each that is done. Raises
    ConfigError when the limits allow no layout at all."""
    workload = asked.load.sample(asked.wishes.targets)
    seen = asked.wishes.within(workload)
    coarse = None
    if EFFORTS[asked.effort].coarse:
        kinds, coarse = coarser(asked.kinds, seen, asked.wishes)
        asked = replace(asked, kinds=kinds)
    candidates = all_candidates(asked.kinds, asked.limits, seen)
    if not candidates:
        raise ConfigError(_too_few(asked))
    setting = Setting(
        kinds=asked.kinds, load=asked.load, workload=seen, wishes=asked.wishes,
        effort=EFFORTS[asked.effort], seed=asked.seed,
    )
    with processes(setting, asked.jobs, tell) as run:
        survivors, factors = simulate(candidates, asked.limits, setting, run)
    choices = [choice_of(survivor, asked.limits, setting) for survivor in survivors]
    world = World(kinds=asked.kinds, limits=asked.limits, workload=workload,
                  wishes=asked.wishes, factors=factors)
    best = survivors[0].candidate.layout
    here = same_devices(world, best)
    failed = not choices[0].feasible
    most = Answer(best, survivors[0].capacity)
    return Plan(
        question=_question(asked),
        load=_load_facts(workload),
        kinds=_kind_facts(asked),
        choices=choices,
        verdict=verdict(choices, asked.limits.rate, by_cost=asked.limits.by_cost),
        sensitivity=sensitivity(world, best),
        break_even=break_even(here),
        infeasible=infeasible(world, most if survivors[0].capacity > 0 else None)
        if failed else None,
        plots=plots_of(here, survivors, asked.limits),
        notes=_notes(asked, len(candidates), choices, survivors, factors)
        + ([] if coarse is None else [coarse]),
    )


# -- inside ----------------------------------------------------------------------------------


def _too_few(asked: Asked) -> str:
    least = min(kind.devices for kind in asked.kinds)
    if asked.limits.cost is not None:
        return (
            f"--cost {asked.limits.cost:g} an hour pays for no worker: the cheapest has {least} "
            "devices; see --price"
        )
    return f"--gpus {asked.limits.gpus}: the smallest worker has {least} devices; see --tp"


def _question(asked: Asked) -> Question:
    wishes, limits = asked.wishes, asked.limits
    return Question(
        workload=asked.load.name,
        rate_per_s=limits.rate,
        ttft_ms=round(1e3 * wishes.ttft, 3),
        itl_ms=round(1e3 * wishes.itl, 3),
        e2e_ms=None if wishes.e2e is None else round(1e3 * wishes.e2e, 3),
        attainment=wishes.attainment,
        gpus=limits.gpus,
        price_per_hour=limits.cost,
        ranked_by="cost" if limits.by_cost else "gpu",
        effort=asked.effort,
        seed=asked.seed,
        workers_per_host=asked.kinds[0].per_host,
    )


def _load_facts(workload: Workload) -> LoadFacts:
    count = len(workload.items)

    def mean(values: Sequence[int]) -> float:
        return float(f"{sum(values) / count:.5g}")

    return LoadFacts(
        prompt_tokens=mean([item.prompt for item in workload.items]),
        cached_tokens=mean([item.cached for item in workload.items]),
        output_tokens=mean([item.output for item in workload.items]),
        burstiness=float(f"{workload.burstiness:.3g}"),
        sample=count,
    )


def _kind_facts(asked: Asked) -> list[KindFacts]:
    facts = []
    for place, kind in enumerate(asked.kinds):
        price, machine = asked.limits.prices[place], kind.machine
        facts.append(KindFacts(
            name=kind_name(asked.kinds, place) if len(asked.kinds) > 1 else machine.name,
            devices=kind.devices,
            origin=kind.origin,
            error=kind.error,
            note=kind.note,
            price_per_hour=None if price is None else price * kind.devices,
            link_bytes_per_s=float(f"{min(machine.link.bandwidth, 1e18):.5g}"),
            kv_tokens=machine.num_blocks * machine.layout.block_size,
            local_link_bytes_per_s=None if kind.per_host == 1 else float(
                f"{min(machine.link_to(same_host=True).bandwidth, 1e18):.5g}"
            ),
        ))
    return facts


def _notes(
    asked: Asked,
    candidates: int,
    choices: Sequence[Choice],
    survivors: Sequence[Survivor],
    factors: dict[str, float],
) -> list[str]:
    notes = [
        f"{candidates} layout{'s' if candidates > 1 else ''} by closed forms, the best of each "
        "shape simulated"
    ]
    told = [f"{factors[s]:.2f} for {s}" for s in SHAPES if s in factors]
    if told:
        notes.append(
            "simulated over closed form: " + ", ".join(told)
            + "; sensitivity and break-even are closed forms corrected by it"
        )
    notes += doubts(survivors, asked.kinds, asked.wishes.attainment)
    if isinstance(asked.load, Trace):
        notes += repeated(asked.load, survivors)
        if asked.load.left_out:
            notes.append(
                f"{asked.load.left_out} of {len(asked.load.requests)} requests of the trace are "
                "longer than the model allows and were left out"
            )
    for kind in {kind.origin: kind for kind in asked.kinds}.values():
        if kind.origin == "roofline":
            notes.append(
                "step times are a roofline, not measured: expect errors of tens of percent"
            )
    if any(kind.devices > 1 for kind in asked.kinds) and any(
        pool.devices > 1 for choice in choices for pool in choice.pools
    ):
        notes.append("Baton's own workers have one device each: tensor parallelism is another "
                     "server's")
    return notes
