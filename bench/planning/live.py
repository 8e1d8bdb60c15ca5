"""A running cluster beside what was planned for it: how far predictions are off, and what to
change. Pure: what the router told in, findings out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from baton.bench.planning.fair import FEWEST, Sample
from baton.bench.planning.figures import figure
from baton.bench.planning.journals import seen_of
from baton.bench.planning.loads import dispersion
from baton.bench.planning.plan import Plan, nearest_share
from baton.bench.planning.run import RunFigures
from baton.bench.planning.wishes import Wishes
from baton.bench.quantiles import quantile
from baton.protocol.curves import StepCurve
from baton.router.account import Account
from baton.router.planner.moves import Move, WorkerState, choose, groups_of, split_of
from baton.router.planner.phases import Kind
from baton.router.planner.split import Fleet, Forecast, Split
from baton.router.planner.workload import Item, Workload

LEAST_GAIN = 0.02
"""Share of all requests that a change must gain, as the controller wants it."""
_EXPOSED_TOKENS = 512
_BLOCK = 16
"""Tokens, where no account says."""
_ALIKE = 0.25
"""Relative difference from the plan that is worth a word."""


@dataclass(frozen=True)
class Look:
    """The cluster, at one time. Workers are those whose speed is known."""

    workers: tuple[WorkerState, ...]
    unknown: tuple[str, ...]
    """Workers whose speed is not known yet."""
    handoff: float
    """Seconds of a typical transfer that nothing hides."""
    accounts: tuple[Account, ...]
    """Requests that ended, in the order of their arrival."""
    remarks: tuple[str, ...] = ()
    """On these."""

    @property
    def split(self) -> Split:
        return split_of(self.workers)


@dataclass(frozen=True)
class Compared:
    """One figure. Times in seconds."""

    what: str
    planned: float | None
    """By the plan; None without one."""
    expected: float | None
    """By closed forms, of the workers there are and the requests that came."""
    seen: float
    unit: str

    @property
    def off(self) -> float | None:
        """What was seen over what the plan said, or else closed forms, less one."""
        base = self.planned if self.planned is not None else self.expected
        return None if not base or not math.isfinite(base) else self.seen / base - 1


@dataclass(frozen=True)
class Errors:
    """Of the router's own predictions, request by request: relative, seen over predicted."""

    what: str
    requests: int
    median: float
    """Of the absolute error."""
    p90: float
    bias: float
    """The middle of seen over predicted, less one: above 0, it took longer."""


@dataclass(frozen=True)
class Findings:
    requests: int
    compared: list[Compared]
    errors: list[Errors]
    moves: list[Move]
    """That it would make."""
    best: Forecast | None
    here: Forecast | None
    remarks: list[str]


def look_of(overview: dict[str, Any], sizing: dict[str, Any], sample: Sample) -> Look:
    """From /admin/overview, /admin/sizing, and a sample of /admin/decisions or a journal."""
    accounts = sample.accounts
    pinned = {worker["id"] for worker in sizing.get("workers", []) if worker.get("pinned")}
    block = next((a.block_size for a in accounts if a.block_size), _BLOCK)
    workers, unknown, handoffs = [], [], []
    for view in overview["workers"]:
        curves = view.get("curves") or {}
        step = curves.get("step")
        for link in (curves.get("links") or {}).values():
            handoffs.append(link)
        if step is None:
            unknown.append(view["id"])
            continue
        load = view.get("load") or {}
        workers.append(WorkerState(
            name=view["id"],
            role=view["role"],
            kind=Kind(StepCurve(**step), view["num_blocks"] * block, view["max_running"]),
            pinned=view["id"] in pinned,
            decoding=int(load.get("running", 0)) if view["role"] != "prefill" else 0,
            prefilling=int(load.get("waiting", 0)),
        ))
    return Look(
        tuple(workers), tuple(unknown), _handoff(handoffs, accounts), accounts, sample.remarks
    )


def compare(look: Look, plan: Plan | None, usual: Wishes) -> Findings:
    """`usual`: targets where requests had none."""
    count = len(look.accounts)
    remarks = [f"{name}: its speed is not known yet" for name in look.unknown]
    remarks += look.remarks
    if count < FEWEST or not look.workers or not look.split.serves:
        why = (f"{count} requests have ended: at least {FEWEST} are needed"
               if count < FEWEST else f"{look.split} cannot serve")
        return Findings(count, [], [], [], None, None, [*remarks, why])
    wishes = _wishes(plan, usual)
    workload = wishes.within(workload_of(look.accounts, wishes))
    fleet = Fleet(groups_of(look.workers), workload, look.handoff)
    here = fleet.forecast(look.split)
    best, moves = _better(fleet, look, here)
    seen = seen_of(look.accounts, wishes)
    return Findings(
        requests=count,
        compared=_compared(seen, here, plan, workload, wishes.attainment),
        errors=prediction_errors(look.accounts),
        moves=moves,
        best=best,
        here=here,
        remarks=[*remarks, *_remarks(look, plan)],
    )


def workload_of(accounts: Sequence[Account], wishes: Wishes) -> Workload:
    """What came, as the planner takes it."""
    items = tuple(
        Item(
            account.prompt_tokens,
            min(account.cached_tokens or 0, account.prompt_tokens - 1),
            max(1, account.output_tokens),
            account.ttft_target or wishes.ttft,
            account.itl_target or wishes.itl,
        )
        for account in accounts
        if account.prompt_tokens > 0
    )
    times = [account.arrived for account in accounts]
    rate = (len(times) - 1) / max(1e-3, times[-1] - times[0])
    return Workload(rate, items, dispersion(times))


def prediction_errors(accounts: Sequence[Account]) -> list[Errors]:
    """Of the last decision of each request that was served."""
    pairs: dict[str, list[tuple[float, float]]] = {"TTFT": [], "ITL": []}
    for account in accounts:
        if not account.attempts or account.attempts[-1].predicted is None:
            continue
        last, predicted = account.attempts[-1], account.attempts[-1].predicted
        assert predicted is not None
        if account.ttft is not None and predicted.get("ttft"):
            # From when it was sent; what came before is known, not predicted.
            pairs["TTFT"].append((predicted["ttft"] + last.at, account.ttft))
        if account.itl is not None and predicted.get("itl"):
            pairs["ITL"].append((predicted["itl"], account.itl))
    found = []
    for what, both in pairs.items():
        if both:
            ratios = [seen / guess - 1 for guess, seen in both]
            absolute = [abs(ratio) for ratio in ratios]
            found.append(Errors(what, len(both), median(absolute),
                                quantile(absolute, 0.9) or 0.0, median(ratios)))
    return found


# -- inside ----------------------------------------------------------------------------------


def _better(fleet: Fleet, look: Look, here: Forecast) -> tuple[Forecast | None, list[Move]]:
    for found in fleet.best():
        moves = choose(look.workers, found.split)
        if moves is None:
            continue
        if not moves or found.goodput < here.goodput + LEAST_GAIN:
            return found, []
        return found, moves
    return None, []


def _handoff(links: Sequence[dict[str, Any]], accounts: Sequence[Account]) -> float:
    """What the router expected of hand-offs, the middle of all that were; without any, the
    latency of the links."""
    expected = [
        attempt.predicted["exposed"]
        for account in accounts
        for attempt in account.attempts
        if attempt.prefill is not None and attempt.predicted and "exposed" in attempt.predicted
    ]
    if expected:
        return median(expected)
    return min((link["latency"] for link in links), default=0.0)


def _wishes(plan: Plan | None, usual: Wishes) -> Wishes:
    if plan is None:
        return usual
    question = plan.question
    return Wishes(
        ttft=question.ttft_ms / 1e3,
        itl=question.itl_ms / 1e3,
        e2e=None if question.e2e_ms is None else question.e2e_ms / 1e3,
        attainment=question.attainment,
    )


def _compared(
    seen: RunFigures, here: Forecast, plan: Plan | None, workload: Workload, share: float
) -> list[Compared]:
    tails = here.tails
    share = nearest_share(share)  # a plan has no others
    best = None if plan is None else plan.choices[0]
    simulated = None if best is None else best.simulated

    def planned(name: str) -> float | None:
        if simulated is None:
            return None
        found = getattr(simulated, name).at(share)
        return None if found is None else found.value / 1e3

    def mean(values: list[int]) -> float:
        return sum(values) / max(1, len(values))

    found = [
        Compared("requests per second", None if simulated is None else simulated.rate_per_s,
                 None, seen.came, ""),
        Compared("prompt tokens", None if plan is None else plan.load.prompt_tokens, None,
                 mean([item.prompt for item in workload.items]), ""),
        Compared("output tokens", None if plan is None else plan.load.output_tokens, None,
                 mean([item.output for item in workload.items]), ""),
        Compared("attained", None if simulated is None else simulated.attainment.value,
                 here.goodput, seen.attainment, ""),
    ]
    for what, name, values, expected in (
        ("TTFT", "ttft_ms", seen.ttft, tails.ttft(share)),
        ("ITL", "itl_ms", seen.itl, tails.itl(share)),
    ):
        if values:
            found.append(Compared(
                f"{what} of {share:.0%}", planned(name), expected,
                quantile(values, share) or 0.0, "s",
            ))
    return found


def _remarks(look: Look, plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    best = plan.choices[0]
    wanted = {pool.role: pool.workers for pool in best.pools}
    there = {role: count for role, count in look.split._asdict().items() if count}
    remarks = []
    if wanted != there:
        remarks.append(f"planned were {best.name}, there are {look.split}")
    load = plan.load
    for what, planned, seen in (
        ("prompts", load.prompt_tokens, [a.prompt_tokens for a in look.accounts]),
        ("answers", load.output_tokens, [a.output_tokens for a in look.accounts]),
    ):
        mean = sum(seen) / len(seen)
        if planned > 0 and abs(mean / planned - 1) > _ALIKE:
            remarks.append(
                f"{what} have {figure(mean)} tokens where {figure(planned)} were planned for: "
                "plan again with --trace JOURNAL"
            )
    return remarks
