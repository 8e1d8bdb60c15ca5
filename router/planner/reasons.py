"""What a decision about roles was, and why, in words and numbers. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from baton.router.planner.moves import Move
from baton.router.planner.observation import Estimate
from baton.router.planner.split import Forecast, Split


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision. Times in seconds on the controller's clock."""

    at: float
    trigger: str
    """"interval", "shift", "workers" or "starvation"."""
    current: Split
    chosen: Split
    moves: tuple[Move, ...]
    reason: str
    estimate: Estimate | None = None
    here: Forecast | None = None
    """What to expect of the current split."""
    best: Forecast | None = None
    """And of the best other one in reach."""

    @property
    def summary(self) -> tuple[str, Split, Split | None, str]:
        """Equal for decisions that say the same."""
        best = None if self.best is None else self.best.split
        binds = "" if self.here is None else self.here.binds
        return self.reason.partition(":")[0], self.current, best, binds

    def line(self) -> str:
        """For the log."""
        if not self.moves:
            return f"roles stay ({self.trigger}), {self.current}: {self.reason}"
        moves = ", ".join(f"{m.worker} {m.before} -> {m.role}" for m in self.moves)
        return f"roles ({self.trigger}), {self.current} -> {self.chosen} [{moves}]: {self.reason}"

    def as_json(self, now: float) -> dict[str, object]:
        """For people and tools; `age` in seconds, infinities as null."""
        return {
            "age": round(now - self.at, 3),
            "trigger": self.trigger,
            "current": self.current._asdict(),
            "chosen": self.chosen._asdict(),
            "moves": [move._asdict() for move in self.moves],
            "reason": self.reason,
            "workload": None if self.estimate is None else _workload(self.estimate),
            "expected_now": None if self.here is None else _forecast(self.here),
            "expected_best": None if self.best is None else _forecast(self.best),
        }


def skipped(now: float, trigger: str, current: Split, reason: str) -> Entry:
    return Entry(now, trigger, current, current, (), reason)


def explain(current: Split, here: Forecast, found: Forecast, worst: float, cost: float) -> str:
    """Why another split is worth its moves, or not."""
    if worst > cost:
        text = (
            f"{found.split} attains {found.goodput:.1%} where {current} attains "
            f"{here.goodput:.1%}: {_binding(here)}"
        )
        if found.split.prefill == 0:
            text += "; disaggregation does not pay for this traffic"
        return text
    if max(here.goodput, found.goodput) < 0.01:
        which = "inter-token" if here.attained_itl < here.attained_ttft else "first-token"
        return (
            f"no split in reach keeps the {which} target: {current} takes {here.ttft:.3g} s to the "
            f"first token and {here.itl:.3g} s between tokens"
        )
    if here.goodput >= 0.995:
        return f"all targets are kept: {here.load:.0%} of what {current} can carry"
    return (
        f"nothing is surely better: {current} attains {here.goodput:.1%}, {found.split} "
        f"{found.goodput:.1%}, at least {worst:+.1%} within the error, a move costs {cost:.1%}"
    )


def _binding(here: Forecast) -> str:
    what = {
        "prefill": "reading prompts binds",
        "decode": "writing tokens binds",
        "all": "everything is used",
        "nothing": "nothing binds",
    }[here.binds]
    return f"{what} at {here.load:.0%} of capacity"


def _workload(estimate: Estimate) -> dict[str, object]:
    work = estimate.workload
    return {
        "requests_per_second": _number(work.rate),
        "prompt_tokens_to_compute": _number(work.tokens),
        "output_tokens": _number(1 + work.gaps),
        "burstiness": _number(work.burstiness),
        "requests": estimate.count,
        "seconds": _number(estimate.seconds),
        "prefill_error": _number(estimate.prefill_error),
        "decode_error": _number(estimate.decode_error),
    }


def _forecast(forecast: Forecast) -> dict[str, object]:
    return {
        "split": forecast.split._asdict(),
        "goodput": _number(forecast.goodput),
        "attained_ttft": _number(forecast.attained_ttft),
        "attained_itl": _number(forecast.attained_itl),
        "ttft": _number(forecast.ttft),
        "itl": _number(forecast.itl),
        "capacity": _number(forecast.capacity),
        "binds": forecast.binds,
        "batch": _number(forecast.batch),
    }


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
